"""`remit audit …`: what was answered, to whom and why; and whether any of it was changed since.

Commands ask the running service, as somebody with the role `auditor`, and each of them is itself recorded there.
With `--folder`, `show` and `verify` read the files of a log that lie here, such as a copy, and no service is asked.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from service.cli.audit_screen import kind_of, plain, print_answer, print_records
from service.cli.connect import As, Context, Json, Token, context
from service.cli.screen import out, print_json
from service.errors import StartError

if TYPE_CHECKING:
    from remit.client.audit_values import AuditRecord

    from service.audit import Opener, Verifier
    from service.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Read and verify the audit log (role `auditor`).", rich_markup_mode=None)

CLASSES: Final = ("query", "access", "admin", "ingest", "control", "heartbeat", "audit", "on_behalf", "standing")
_PAGE: Final = 1000

Folder = Annotated[
    Path | None, typer.Option(help="Files of a log, such as a copy; no service is asked.", show_default=False)
]
Key = Annotated[
    Path | None, typer.Option(help="The public key; else audit.pub beside the audit key.", show_default=False)
]
From = Annotated[str, typer.Option("--from", help="From this time on, such as 2026-11-25 or 2026-11-25T10:00Z.")]
To = Annotated[str, typer.Option("--to", help="Before this time.")]
Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]


@app.command()
def show(
    ctx: typer.Context,
    response_id: Annotated[str, typer.Argument(help="The response's id.")],
    folder: Folder = None,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Show exactly what source data one answer used, who asked, and why each passage was allowed."""
    found = _local(context(ctx), folder, response_id) if folder is not None else _asked(ctx, response_id, token, person)
    if not found:
        raise StartError(f"the log has no record of a response `{response_id}`")
    if json:
        records = [{"index": one.index, "leaf": one.leaf_hash, **plain(one)} for one in found]
        print_json(records[0] if len(records) == 1 else records)
    else:
        print_answer(found)


def _local(asked: Context, folder: Path, response_id: str) -> tuple[AuditRecord, ...]:
    from remit.client.audit_values import AuditRecord, ExpiredBody

    from service.audit import AuditTamperedError, find

    try:
        found = find(_existing(folder), response_id, _opener(asked.settings))
    except AuditTamperedError as err:
        raise StartError(str(err)) from err
    if found is None:
        return ()
    gone = None if found.expired is None else ExpiredBody(found.expired.kind, found.expired.day)
    return (AuditRecord(found.index, found.data, found.leaf, gone),)


def _opener(settings: Settings) -> Opener:
    """What opens the bodies of records with this installation's keys, whether its service runs or not."""
    from service import audit_keys
    from service.audit import AuditKey
    from service.keys import open_provider

    try:
        return audit_keys.opener(settings.keys.store, open_provider(settings.keys), AuditKey.load(settings.keys.audit))
    except StartError as err:
        raise StartError(f"{err}; without keys, `remit audit verify --leaves-only` checks leaves and root") from err


def _asked(ctx: typer.Context, response_id: str, token: str, person: str) -> tuple[AuditRecord, ...]:
    from remit.client import NotFoundError

    with context(ctx).auditor(token, person) as auditor:
        try:
            return auditor.get_audit_record(response_id)
        except NotFoundError:
            return ()


@app.command("query-text")
def query_text(
    ctx: typer.Context,
    response_id: Annotated[str, typer.Argument(help="The response's id.")],
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Open the text of one search's query (role `audit-reader-content`); that is itself recorded."""
    from remit.client import NotFoundError

    with context(ctx).auditor(token, person) as auditor:
        try:
            text = auditor.get_query_text(response_id)
        except NotFoundError as err:
            raise StartError(f"the log has no search `{response_id}`, or its text was not kept") from err
    if json:
        print_json({"response_id": response_id, "query": text})
    else:
        out.print(text, markup=False)


@app.command("list")
def list_records(
    ctx: typer.Context,
    kind: Annotated[list[str] | None, typer.Option("--class", help=f"Only {', '.join(CLASSES)}; repeatable.")] = None,
    since: From = "",
    until: To = "",
    limit: Limit = 50,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """List records, the newest first."""
    kinds = _classes(kind)
    _list(ctx, token, person, json, limit, _when("--from", since), _when("--to", until), classes=kinds)


@app.command("who-saw")
def who_saw(
    ctx: typer.Context,
    document_id: Annotated[str, typer.Argument(metavar="DOCUMENT", help="The document's id.")],
    since: From = "",
    until: To = "",
    limit: Limit = 1000,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """List the answers in which a document was returned, and to whom, the newest first."""
    _list(ctx, token, person, json, limit, _when("--from", since), _when("--to", until), document_id=document_id)


@app.command("what-did")
def what_did(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="The account's id, or the subject of the credential.")],
    since: From = "",
    until: To = "",
    limit: Limit = 1000,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """List what somebody asked for, denied and failed calls included, the newest first."""
    _list(ctx, token, person, json, limit, _when("--from", since), _when("--to", until), user=user)


def _list(
    ctx: typer.Context,
    token: str,
    person: str,
    json: bool,
    limit: int,
    since: datetime | None,
    until: datetime | None,
    *,
    document_id: str = "",
    user: str = "",
    classes: tuple[str, ...] = (),
) -> None:
    found: list[AuditRecord] = []
    page_token = ""
    with context(ctx).auditor(token, person) as auditor:
        while True:
            page = auditor.list_audit_records(
                document_id=document_id,
                person=user,
                classes=classes,
                start_time=since,
                end_time=until,
                page_size=min(limit, _PAGE),
                page_token=page_token,
            )
            found += page.records
            page_token = page.next_page_token
            if not page_token or len(found) >= limit:
                break
    more = bool(page_token) or len(found) > limit
    found = found[:limit]
    if json:
        print_json({"records": [{"index": one.index, **plain(one)} for one in found], "more": more})
        return
    print_records(found)
    if more:
        out.print(f"[dim]there are more: raise `--limit`, now {limit}, or narrow with `--from` and `--to`[/]")


@app.command()
def tail(
    ctx: typer.Context,
    kind: Annotated[list[str] | None, typer.Option("--class", help=f"Only {', '.join(CLASSES)}; repeatable.")] = None,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Print records as they are written, until interrupted. With --json one line each."""
    kinds = _classes(kind) or CLASSES
    with (
        context(ctx).auditor(token, person) as auditor,
        auditor.export_audit_records(first_index=2**62, follow=True) as (_, records),
    ):
        for one in records:
            if kind_of(one) not in kinds:
                continue
            if json:
                print_json({"index": one.index, **plain(one)})
            else:
                print_records([one], header=False)


@app.command()
def verify(
    ctx: typer.Context,
    folder: Folder = None,
    key: Key = None,
    seen: Annotated[
        Path | None, typer.Option(help="A checkpoint that was kept from before.", show_default=False)
    ] = None,
    leaves_only: Annotated[
        bool, typer.Option("--leaves-only", help="With --folder: without the keys of the bodies.")
    ] = False,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Check every record against the signed tree; name the first that is wrong. Exit code 1 when one is."""
    from service.audit import Period, Received, verify_stretch
    from service.audit import verify as check
    from service.audit.checkpoint import Checkpoint, NoteError

    verifier = _verifier(context(ctx), key)
    try:
        kept = None if seen is None else Checkpoint.open(_last_note(_bytes(seen)), verifier)
    except NoteError as err:
        raise StartError(f"{seen} is not a checkpoint of `{verifier.name}`: {err}") from err
    if folder is not None:
        report = check(_existing(folder), verifier, None if leaves_only else _opener(context(ctx).settings), kept)
    else:
        with (
            context(ctx).auditor(token, person) as auditor,
            auditor.export_audit_records() as (header, records),
        ):
            received = (
                Received(
                    one.data,
                    one.leaf_hash,
                    None if one.expired is None else Period(one.expired.record_class, one.expired.day),
                )
                for one in records
            )
            report = verify_stretch(header.checkpoint, received, verifier, kept)
    if json:
        print_json({"ok": report.ok, "report": report})
    elif report.problem is None:
        out.print(
            f"[green]verified[/]: {report.records:,} records of {report.origin}, "
            f"{report.covered:,} under the signed checkpoint {report.root.hex()[:16]}…"
        )
        if report.expired:
            out.print(f"expired by retention: {report.expired:,} of them; their leaves are what was signed")
        if report.unopened:
            out.print(f"[yellow]not looked into[/]: {report.unopened:,} of them; their leaves are what was signed")
        if kept is None:
            out.print("[dim]held against no checkpoint that was kept elsewhere: see `remit audit checkpoint`[/]")
        else:
            out.print(f"the kept checkpoint over {kept.size:,} records is the beginning of this log")
    else:
        out.print(f"[red]not what was signed[/]: {report.problem}")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def checkpoint(ctx: typer.Context, token: Token = "", person: As = "") -> None:
    """Print the latest signed checkpoint. Keep it where the service's administrators cannot change it."""
    with context(ctx).auditor(token, person) as auditor:
        typer.echo(auditor.get_checkpoint().checkpoint, nl=False)


@app.command()
def export(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A new folder; `remit-audit-verify` checks it elsewhere.")],
    since: From = "",
    until: To = "",
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Write a stretch of the log with its proofs into a new folder, to be verified without Remit."""
    from service.audit import export as exports

    with (
        exports.draft(folder) as made,
        context(ctx).auditor(token, person) as auditor,
        auditor.export_audit_records(start_time=_when("--from", since), end_time=_when("--to", until)) as (
            header,
            records,
        ),
    ):
        made.write(header, records)
    if json:
        print_json({"folder": folder, "first": header.first_index, "stop": header.stop_index})
        return
    count = header.stop_index - header.first_index
    out.print(f"exported {count:,} records to {folder}: check them with `remit-audit-verify {folder} --key audit.pub`")


def _verifier(found: Context, key: Path | None) -> Verifier:
    from service.audit import Verifier
    from service.audit.checkpoint import NoteError

    public = key if key is not None else found.settings.keys.audit.with_suffix(".pub")
    try:
        return Verifier.parse(public.read_text())
    except OSError as err:
        raise StartError(f"{public} cannot be read: {err.strerror}; name the public key with `--key`") from err
    except (NoteError, UnicodeDecodeError) as err:
        raise StartError(f"{public} is not the public key of an audit log") from err


def _last_note(data: bytes) -> bytes:
    """The last note of a file that has one, or many with an empty line after each, as `audit.checkpoints` writes it."""
    parts = data.rstrip(b"\n").split(b"\n\n")
    return b"\n\n".join(parts[-2:]) + b"\n"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise StartError(f"{path} cannot be read: {err.strerror}") from err


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise StartError(f"{folder} is not a folder with an audit log")
    return folder


def _classes(given: list[str] | None) -> tuple[str, ...]:
    for one in given or ():
        if one not in CLASSES:
            raise StartError(f"`{one}` is no class of records: expected one of {', '.join(CLASSES)}")
    return tuple(given or ())


def _when(option: str, text: str) -> datetime | None:
    """A time of the command line; without a zone it is this machine's."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as err:
        raise StartError(f"`{option} {text}` is not a time: expected one such as 2026-11-25T10:00Z") from err
