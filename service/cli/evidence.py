"""`remit evidence …`: show on this machine, with this installation, that a promise holds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer
from rich.markup import escape

from service.cli.connect import Json
from service.cli.screen import err, out, print_json

app = typer.Typer(no_args_is_help=True, help="Show that promises hold, on this machine.", rich_markup_mode=None)


@app.command("at-rest")
def at_rest(json: Json = False) -> None:
    """Ingest random words in a temporary deployment and search every byte that it wrote. Exit code 1 when one is there.

    Your own data is not touched.
    """
    from service.upkeep import at_rest as drill

    if not json:
        err.print("ingesting random words in a deployment of its own, and searching every byte that it writes …")
    with tempfile.TemporaryDirectory(prefix="remit-at-rest-") as folder:
        found = drill.run(Path(folder))
    if json:
        print_json({"ok": found.ok, "report": found})
    else:
        out.print(
            f"searched {found.files} files, {found.size_bytes:,} bytes and {found.unpacked} compressed streams for "
            f"{len(found.places)} words: {', '.join(found.places)}"
        )
        for hit in found.hits:
            out.print(f"[red]in the clear[/]: {hit.word} in {escape(str(hit.path))} ({hit.form})")
        for path in found.vectors:
            out.print(
                f"[yellow]vectors in the clear[/]: {escape(str(path))}: put the data folder on an encrypted volume"
            )
        if found.ok:
            out.print("[green]none found[/] in UTF-8, UTF-16, hexadecimal, base64 or compressed")
    if not found.ok:
        raise typer.Exit(1)
