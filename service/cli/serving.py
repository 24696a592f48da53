"""`remit init` and `remit serve`."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.connect import Json, context
from service.cli.screen import err, out, print_json
from service.errors import StartError

if TYPE_CHECKING:
    from service.app import Listening


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write; made when it is missing.")] = Path(),
    json: Json = False,
) -> None:
    """Write commented settings, two example people, and every key that a first start needs."""
    from service.sections import initial

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
    # gRPC has no setting for the versions of TLS. It reads this one when it is imported: the cipher suites of TLS 1.2,
    # of which only one is left that needs a shared secret which nobody has. Those of TLS 1.3 are not touched by it.
    # INVARIANT: nothing imported gRPC before, or old versions would be spoken.
    if "grpc" in sys.modules:
        raise StartError("gRPC was imported before the versions of TLS were set")
    os.environ["GRPC_SSL_CIPHER_SUITES"] = "PSK-AES128-CBC-SHA"
    # Keys are in memory, and a crash must not write them to a file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from service import telemetry

    settings = context(ctx).settings
    telemetry.configure(debug=debug)

    def ready(listening: Listening) -> None:
        found = {"callers": listening.callers, "administrators": listening.administrators}
        if listening.services is not None:
            found["services"] = listening.services
        if json:
            print_json({name: str(address) for name, address in found.items()})
            return
        where = [f"{name} on {address}" for name, address in found.items()]
        security = "over TLS 1.3" if settings.listen.tls is not None else "in plaintext, on this machine alone"
        text = f"Remit serves {', '.join(where[:-1])} and {where[-1]}, {security}. Stop it with Ctrl-C."
        err.print(text, markup=False)

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
