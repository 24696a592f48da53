"""`remit witness …`: another machine's eye on the audit log: it remembers, compares and cosigns."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.connect import As, Json, Token, context
from service.cli.screen import complain, out, print_json
from service.errors import StartError

if TYPE_CHECKING:
    from remit.client import AuditorClient

    from service.audit.checkpoint import Checkpoint
    from service.audit.witness import Witness

app = typer.Typer(
    no_args_is_help=True, help="Watch an audit log from another machine (role `auditor`).", rich_markup_mode=None
)

KeyFile = Annotated[Path, typer.Option(help="The witness's own key.")]


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The witness's name, such as witness.example.com/remit.")],
    key: KeyFile = Path("witness.key"),
) -> None:
    """Make the key of a witness, and its public half beside it."""
    from service.audit.checkpoint import NoteError
    from service.audit.cosign import Cosigner
    from service.files import durable_file

    public = key.with_suffix(".pub")
    if key.exists() or public.exists():
        raise StartError(f"{key if key.exists() else public} exists: a key is never overwritten")
    try:
        made = Cosigner.create(key, name)
        durable_file.create(public, f"{made.verifier.text}\n".encode(), 0o644)
    except NoteError as err:
        raise StartError(f"`{name}` is no name of a witness: expected one without spaces and `+`") from err
    except OSError as err:
        raise StartError(f"{key} cannot be written: {err.strerror}") from err
    out.print(f"{key} is the witness's secret; hand {public} to auditors:\n{made.verifier.text}")


@app.command()
def run(
    ctx: typer.Context,
    log_key: Annotated[Path, typer.Option(help="The log's public key, audit.pub, as it was handed over.")],
    state: Annotated[Path, typer.Option(help="What this witness remembers; a folder of its own.")],
    key: KeyFile = Path("witness.key"),
    every_s: Annotated[float, typer.Option("--every", help="Seconds between two looks.", min=1)] = 60.0,
    silence_s: Annotated[float, typer.Option("--silence", help="Seconds without an answer that are told.")] = 600.0,
    once: Annotated[bool, typer.Option(help="Look once and end.")] = False,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Look at the log again and again, and cosign what follows from all that was seen. Ends with 1 when it does not."""
    from remit.client import UnavailableError

    from service.audit import Verifier
    from service.audit.checkpoint import NoteError
    from service.audit.cosign import Cosigner
    from service.audit.witness import Witness

    try:
        verifier = Verifier.parse(log_key.read_text())
    except OSError as err:
        raise StartError(f"{log_key} cannot be read: {err.strerror}") from err
    except (NoteError, UnicodeDecodeError) as err:
        raise StartError(f"{log_key} is not the public key of an audit log") from err
    witness = Witness(state, verifier, Cosigner.load(key))
    heard, told = time.monotonic(), False
    try:
        with context(ctx).auditor(token, person) as auditor:
            while True:
                try:
                    _report(_look(witness, auditor), json=json)
                    heard, told = time.monotonic(), False
                except UnavailableError as err:
                    if once:
                        raise
                    if time.monotonic() - heard > silence_s and not told:
                        told = True
                        complain(f"the log has been silent for {silence_s:.0f} s: {err}")
                if once:
                    return
                time.sleep(every_s)
    finally:
        witness.close()


def _look(witness: Witness, auditor: AuditorClient) -> Checkpoint:
    def prove(first: int) -> tuple[bytes, tuple[bytes, ...]]:
        from remit.client import NotFoundError

        try:
            proof = auditor.get_consistency_proof(first)
        except NotFoundError:
            return auditor.get_checkpoint().checkpoint, ()  # it was larger a moment ago: that proves nothing
        return proof.checkpoint, proof.hashes

    return witness.look(auditor.get_checkpoint().checkpoint, prove)


def _report(seen: Checkpoint, *, json: bool) -> None:
    if json:
        print_json({"origin": seen.origin, "size": seen.size, "root": seen.root})
    else:
        out.print(f"seen and cosigned: {seen.size:,} records of {seen.origin}, root {seen.root.hex()[:16]}…")
