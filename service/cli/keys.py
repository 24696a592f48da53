"""`remit keys …`: how keys stand, changing them, and taking content away for good, through the running service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service.cli.connect import As, Json, Token, context
from service.cli.screen import err, out, print_json, since
from service.errors import StartError

if TYPE_CHECKING:
    from remit.client import ShredCertificate, ShredRequest

_MANY_USES = 2**31

app = typer.Typer(no_args_is_help=True, help="Keys and shredding (role `key-admin`).", rich_markup_mode=None)


@app.command()
def status(ctx: typer.Context, token: Token = "", person: As = "", json: Json = False) -> None:
    """Show how all keys stand: which is in use, how often each was used, what is left to re-wrap."""
    with context(ctx).admin(token, person) as admin:
        found = admin.get_key_status()
    if json:
        print_json(found)
        return
    out.print(f"key-encryption key {found.key_encryption_key} in {escape(found.provider)}")
    if found.older_source_keys:
        out.print(f"[yellow]a rotation was broken off[/]: {found.older_source_keys} keys to go, `remit keys rotate`")
    table = Table("source", "documents", "to re-wrap", "wrapping key made", "wraps", "seals", "most for one", box=None)
    for one in found.sources:
        numbers = (one.wraps, one.seals, one.most_seals)
        table.add_row(
            one.source, f"{one.documents:,}", f"{one.behind:,}", since(one.made_at), *(f"{n:,}" for n in numbers)
        )
    out.print(table)
    for one in found.sources:
        if max(one.wraps, one.seals, one.most_seals) > _MANY_USES:
            out.print(f"[yellow]{escape(one.source)}: a key was used more than half as often as it may be[/] (2^32)")
    for backup in found.backups:
        out.print(f"backup {backup.backup_id} of the key store, {since(backup.made_at)}, in {escape(backup.folder)}")
    if found.index_rebuild_pending:
        out.print("[yellow]the index may hold vectors of shredded documents[/]: it is made anew, as by a start")


@app.command()
def create(ctx: typer.Context, json: Json = False) -> None:
    """Make the key-encryption key where `keys.provider` says, which has none yet. `remit init` did so for a file."""
    from service.keys import create_key

    key_id = create_key(context(ctx).settings.keys)
    if json:
        print_json({"key_encryption_key": key_id})
    else:
        out.print(f"key-encryption key {key_id} was made", markup=False)


@app.command("seal-secret")
def seal_secret(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file to write, which an option `…_sealed` names.")],
    replace: Annotated[bool, typer.Option("--replace", help="Write it in the place of another.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Seal what is in it with the newest key.")] = False,
) -> None:
    """Seal a password or another secret of standard input with the key-encryption key, for sources and directories."""
    from connectors.secret import SecretError
    from service.keys import ProviderError, open_provider
    from service.keys.sealed import SealedSecret
    from service.keys.sealed import seal_secret as seal

    provider = open_provider(context(ctx).settings.keys)
    try:
        if again:
            text = SealedSecret(file.absolute(), lambda: provider).read()
        else:
            typed = sys.stdin.isatty()
            text = typer.prompt("secret", hide_input=True, err=True) if typed else sys.stdin.read().rstrip("\r\n")
        seal(provider, text, file.absolute(), replace=replace or again)
    except (SecretError, ProviderError) as err:
        raise StartError(str(err)) from err
    finally:
        provider.close()
    out.print(f"{file} is sealed with key {provider.key_id}", markup=False)


@app.command()
def rotate(ctx: typer.Context, token: Token = "", person: As = "", json: Json = False) -> None:
    """Make a new key-encryption key, and new wrapping keys for every source; `rewrap` moves the documents' keys."""
    with context(ctx).admin(token, person) as admin:
        done = admin.rotate_keys()
    if json:
        print_json(done)
        return
    out.print(f"key-encryption key {done.key_encryption_key} is in use")
    for retired in done.retired:
        out.print(f"{retired} was set aside: keep it as long as backups of the key store from before are to be read")
    out.print("next: `remit keys rewrap`")


@app.command()
def rewrap(
    ctx: typer.Context,
    batch: Annotated[int, typer.Option(help="How many keys at a time, 1 to 100,000.")] = 10_000,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Move the keys of all documents to the newest wrapping keys. Break it off at any time; it goes on from there."""
    with context(ctx).admin(token, person) as admin:
        while remaining := admin.rewrap_keys(batch):
            if not json:
                err.print(f"{remaining:,} to go")
    if json:
        print_json({"remaining": 0})
    else:
        out.print("every key is under the newest wrapping key of its source; the older ones are gone")


Document = Annotated[str, typer.Argument(help="The document's id.", show_default=False)]
Source = Annotated[str, typer.Option(help="All of this source instead.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def shred(
    ctx: typer.Context,
    document_id: Document = "",
    source: Source = "",
    yes: Yes = False,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Destroy the keys of a document, or of a whole source, and print a certificate. This cannot be undone.

    Where it takes two persons, as by default, this asks for it, and another one approves: `remit keys approve`.
    """
    what = _target(document_id, source)
    if not yes and not typer.confirm(f"Destroy the keys of {what}? This cannot be undone.", err=True):
        raise StartError("nothing was shredded")
    with context(ctx).admin(token, person) as admin:
        if admin.get_key_status().shred_approvals > 1:
            asked = admin.request_shredding(document_id=document_id, source=source)
            if json:
                print_json(asked)
            else:
                _asked(asked, document_id, source)
            return
        done = admin.shred_source(source) if source else admin.shred_document(document_id)
    if json:
        print_json(done)
    else:
        _certificate(done, what)


@app.command()
def requests(ctx: typer.Context, token: Token = "", person: As = "", json: Json = False) -> None:
    """List what was asked to be shredded and waits for a second person."""
    with context(ctx).admin(token, person) as admin:
        found = admin.list_shred_requests()
    if json:
        print_json({"requests": found})
        return
    table = Table("request", "what", "asked by", "until", box=None)
    for one in found:
        until = one.expires_at.isoformat(timespec="minutes")
        table.add_row(one.request_id, escape(_named(one.document_id, one.source)), escape(one.requested_by), until)
    out.print(table)


@app.command()
def approve(
    ctx: typer.Context,
    request_id: Annotated[str, typer.Argument(help="The id of the request.")],
    document_id: Document = "",
    source: Source = "",
    yes: Yes = False,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Shred what somebody else asked for, named again here, and print a certificate. This cannot be undone."""
    what = _target(document_id, source)
    if not yes and not typer.confirm(f"Destroy the keys of {what}? This cannot be undone.", err=True):
        raise StartError("nothing was shredded")
    with context(ctx).admin(token, person) as admin:
        done = admin.approve_shredding(request_id, document_id=document_id, source=source)
    if json:
        print_json(done)
    else:
        _certificate(done, what)


@app.command()
def withdraw(
    ctx: typer.Context,
    request_id: Annotated[str, typer.Argument(help="The id of the request.")],
    token: Token = "",
    person: As = "",
) -> None:
    """End a request for shredding."""
    with context(ctx).admin(token, person) as admin:
        admin.withdraw_shredding(request_id)
    out.print(f"request {request_id} has ended", markup=False)


def _target(document_id: str, source: str) -> str:
    """What is named, for people. Raises StartError unless it is one thing."""
    if bool(document_id) == bool(source):
        raise StartError("name either a document by its id or a source with `--source`")
    return _named(document_id, source)


def _named(document_id: str, source: str) -> str:
    return f"document `{document_id}`" if document_id else f"source `{source}`"


def _asked(asked: ShredRequest, document_id: str, source: str) -> None:
    until = asked.expires_at.isoformat(timespec="minutes")
    out.print(f"{escape(_named(document_id, source))}: a second person has to approve, until {until}:")
    what = f"--source {source}" if source else document_id
    out.print(f"  remit keys approve {asked.request_id} {what}", markup=False, soft_wrap=True)


def _certificate(done: ShredCertificate, what: str) -> None:
    at = done.shredded_at.isoformat(timespec="seconds")
    out.print(f"{escape(what)}: {done.documents:,} keys were destroyed at {at}, record `{done.response_id}`")
    if done.approved_by != done.requested_by:
        out.print(f"asked for by {escape(done.requested_by)}, approved by {escape(done.approved_by)}")
    out.print("still to come, until no copy anywhere can be read:")
    for backup in done.backups:
        at = backup.made_at.isoformat(timespec="seconds")
        out.print(f"  backup {backup.backup_id} of the key store, of {at}, in {escape(backup.folder)}, must expire")
    out.print("  copies of the key store that were made by other means must expire")
    if done.index_rebuild_pending:
        out.print(
            "  the index is being made anew; until `remit keys status` says no more, its files may hold the vectors"
        )
    if done.same_content:
        out.print(f"[yellow]left alone[/]: {done.same_content} other documents with the same content")
    out.print("What the source still has is read again by the next run: remove it there first.")
