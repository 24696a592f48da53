"""`remit audit …`: read and verify the log's files, here or in a copy elsewhere. Nothing is written."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.json import JSON

from service.cli.connect import Context, Json, context
from service.cli.screen import out, print_json
from service.errors import StartError

app = typer.Typer(no_args_is_help=True, help="Read and verify the audit log's files.", rich_markup_mode=None)

Folder = Annotated[
    Path | None, typer.Option(help="The log's folder; else `audit` of the data folder.", show_default=False)
]


@app.command()
def verify(
    ctx: typer.Context,
    folder: Folder = None,
    key: Annotated[
        Path | None, typer.Option(help="The public key; else audit.pub beside the audit key.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Check every record against the signed tree; name the first that is wrong. Exit code 1 when one is."""
    from service.audit import Verifier
    from service.audit import verify as check
    from service.audit.checkpoint import NoteError

    found = context(ctx)
    public = key if key is not None else found.settings.keys.audit.with_suffix(".pub")
    try:
        verifier = Verifier.parse(public.read_text())
    except OSError as err:
        raise StartError(f"{public} cannot be read: {err.strerror}; name the public key with `--key`") from err
    except (NoteError, UnicodeDecodeError) as err:
        raise StartError(f"{public} is not the public key of an audit log") from err
    report = check(_folder(found, folder), verifier)
    if json:
        print_json({"ok": report.ok, "report": report})
    elif report.problem is None:
        out.print(
            f"[green]verified[/]: {report.records:,} records of {report.origin}, "
            f"{report.covered:,} under the signed checkpoint {report.root.hex()[:16]}…"
        )
    else:
        out.print(f"[red]not what was signed[/]: {report.problem}")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def show(
    ctx: typer.Context,
    response_id: Annotated[str, typer.Argument(help="The response's id.")],
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Show the record of one answer: what was returned, to whom, and why."""
    from service.audit import AuditTamperedError, find

    try:
        found = find(_folder(context(ctx), folder), response_id)
    except AuditTamperedError as err:
        raise StartError(str(err)) from err
    if found is None:
        raise StartError(f"the log has no record of a response `{response_id}`")
    if json:
        print_json({"index": found.index, "leaf": found.leaf, "record": found.record})
    else:
        out.print(f"record {found.index}, leaf {found.leaf.hex()}")
        out.print(JSON(json_module.dumps(found.record, ensure_ascii=False)))


def _folder(found: Context, folder: Path | None) -> Path:
    chosen = folder if folder is not None else found.settings.data / "audit"
    if not chosen.is_dir():
        raise StartError(f"{chosen} is not a folder with an audit log")
    return chosen
