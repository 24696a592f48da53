"""The root of the command line: options before the command, the commands by name, and how each error ends.

Exit codes: 0 done; 1 refused, not found or not available; 2 wrong input or settings; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from service.cli import (
    access,
    audit,
    backup,
    config,
    directory,
    doctor,
    evidence,
    hold,
    index,
    keys,
    people,
    prove,
    retrieval,
    serving,
    sources,
    witness,
)
from service.cli.connect import Context
from service.cli.screen import complain
from service.errors import RemitError, StartError

app = typer.Typer(
    name="remit",
    help="Permission-inheriting retrieval. Start with `remit init`, then `remit serve`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(sources.app, name="source")
app.add_typer(access.app, name="access")
app.add_typer(config.app, name="config")
app.add_typer(audit.app, name="audit")
audit.app.add_typer(hold.hold, name="hold")
app.add_typer(hold.canary, name="canary")
app.add_typer(directory.app, name="directory")
app.add_typer(keys.app, name="keys")
app.add_typer(evidence.app, name="evidence")
app.add_typer(prove.app, name="prove")
app.add_typer(index.app, name="index")
app.add_typer(witness.app, name="witness")
app.command("init")(serving.init)
app.command("serve")(serving.serve)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("doctor")(doctor.doctor)
app.command("token")(people.token)
app.command("whoami")(people.whoami)
app.command("search")(retrieval.search)


@app.callback()
def root(
    ctx: typer.Context,
    config: Annotated[Path, typer.Option("--config", "-c", envvar="REMIT_CONFIG", help="The settings.")] = Path(
        "remit.yaml"
    ),
    address: Annotated[
        str, typer.Option(envvar="REMIT_ADDRESS", help="host:port of the service; else that of the settings.")
    ] = "",
    ca: Annotated[
        Path | None, typer.Option(envvar="REMIT_CA", help="PEM file to verify the service by.", show_default=False)
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(envvar="REMIT_CERTIFICATE", help="PEM file of a service account's chain.", show_default=False),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(envvar="REMIT_KEY", help="PEM file of its private key.", show_default=False)
    ] = None,
) -> None:
    """Read the options before the command."""
    ctx.obj = Context(config, address, ca, certificate, key)


def main() -> None:
    """Run a command and exit."""
    # gRPC's core writes lines of its own to standard error, in its own words, beside what we say.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app()
    except StartError as err:
        for line in str(err).splitlines():
            complain(line)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone: nothing more to say, and nothing to flush into.
        sys.stderr.close()
        sys.exit(1)
    except (RemitError, OSError, ValueError) as err:
        complain(str(err) or type(err).__name__)
        sys.exit(1)
    except Exception as err:
        # The client is imported only by commands that call the service: its errors are known here by name alone.
        from remit.client import InvalidRequestError
        from remit.client import RemitError as ClientError

        if not isinstance(err, ClientError):
            raise
        complain(str(err))
        sys.exit(2 if isinstance(err, InvalidRequestError) else 1)
