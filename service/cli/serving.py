"""`remit init` and `remit serve`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.connect import Json, context
from service.cli.screen import err, out, print_json

if TYPE_CHECKING:
    from service.app import Listening


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write; made when it is missing.")] = Path(),
    json: Json = False,
) -> None:
    """Write commented settings, two example people, and every key that a first start needs."""
    from service import initial

    files = initial.write(folder)
    if json:
        print_json({"files": files})
        return
    for path in files:
        out.print(f"wrote {path}", markup=False)
    settings = folder / "remit.yaml"
    option = "" if folder == Path() else f" --config {settings}"
    out.print(f"\nNext: name a folder under `sources` in {settings}, then\n", markup=False)
    out.print(f"  remit{option} serve", markup=False)
    out.print(f"  remit{option} source sync company --as alice", markup=False)
    out.print(f'  remit{option} search "a question" --as bob', markup=False)


def serve(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line with both addresses once ready.")] = False,
    debug: Annotated[bool, typer.Option(help="Log more.")] = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM. The service's log goes to standard error."""
    from service import telemetry

    settings = context(ctx).settings
    telemetry.configure(debug=debug)

    def ready(listening: Listening) -> None:
        callers, administrators = str(listening.callers), str(listening.administrators)
        if json:
            print_json({"callers": callers, "administrators": administrators})
        else:
            err.print(f"Remit serves callers on {callers} and administrators on {administrators}. Stop it with Ctrl-C.")

    async def run() -> None:
        from service.app import open_app

        app = await open_app(settings)
        try:
            await app.serve(ready)
        finally:
            app.close()

    if not json:
        err.print(f"opening {settings.data} and loading the model …", markup=False)
    asyncio.run(run())
