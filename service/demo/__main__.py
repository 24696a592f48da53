"""`python -m service.demo`: Remit does its job on real files with real permissions, in five parts.

Everything that is shown is checked; the first thing that does not hold ends it with a sentence and exit code 1.
It leaves nothing behind and nothing running, unless it is asked to with `--keep`.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Final

from remit.client import RemitError, SyncState
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.demo import layout, people
from service.demo.evidence import audit, closed
from service.demo.question import QUESTION, ask, on_disk
from service.demo.refusals import refuse
from service.demo.revocations import ENTRY, FOLDER, revoke, sync
from service.demo.screen import BrokenClaimError, Screen
from service.demo.stage import Stage, StageError
from service.errors import StartError
from service.files import facl

WHO: Final = ("alice", "bob", "grace")

_CLIENT: Final = """\
from subprocess import check_output

from remit.client import Client

remit = ["{python}", "-m", "service.cli", "--config", "{config}"]
token = check_output([*remit, "token", "bob"], text=True).strip()
with Client("{callers}", token=token, insecure_loopback=True) as client:
    for hit in client.search("What does the Helios discount do to the margin?", limit=3).hits:
        print(f"{{hit.score:.2f}}", hit.chunk.document.location)
"""


def main() -> int:
    """Run the demo; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m service.demo", description="See Remit do its job.")
    parser.add_argument("--keep", action="store_true", help="leave folder and server, and say how to use and stop them")
    keep = parser.parse_args().keep
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    screen = Screen()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    stage = Stage(keep=keep)
    kept = False
    try:
        play(screen, stage, keep=keep)
        kept = keep
    except KeyboardInterrupt:
        print("\nremit: stopped; the server is ended and the files are removed", file=sys.stderr)
        return 130
    except BrokenClaimError as err:
        print(f"\nremit: this does not hold: {err}", file=sys.stderr)
        return 1
    except (StageError, StartError, layout.LayoutError) as err:
        print(f"\nremit: {err}", file=sys.stderr)
        return 2
    except RemitError as err:
        print(f"\nremit: the service did not answer as it should: {err}", file=sys.stderr)
        print(f"remit: the last line of its log: {stage.last_words()}", file=sys.stderr)
        return 1
    finally:
        # A second Ctrl-C must not leave a server behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stage.close(keep=kept)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def play(screen: Screen, stage: Stage, *, keep: bool) -> None:
    """All parts in their order. Raises what `main` turns into exit codes."""
    begun = time.perf_counter()
    screen.act(0, "Files, a server, a sync")
    set_up(screen, stage)
    first_sync(screen, stage)
    tokens = {name: stage.token(name) for name in WHO}

    screen.act(1, "One question, two people")
    screen.say(f"“{QUESTION}”", "bold")
    screen.say("Ranked by meaning and by words; the number is the nearness in meaning.")
    screen.say("Below each passage: for every list on its way the group that let the reader in, and how it is held.")
    screen.say()
    answers = {name: stage.ask(name, QUESTION) for name in ("alice", "bob")}
    found = ask(screen, answers)

    screen.act(2, "The rules are the file system's own")
    on_disk(screen, stage.files.company, found["bob"][0])

    screen.act(3, "What you may not see does not exist")
    refuse(screen, stage.calls, tokens, found["bob"][0])

    screen.act(4, "Taken away is gone on the next question")
    revoke(screen, stage, tokens, found)

    screen.act(5, "Nothing left unrecorded")
    audit(screen, stage, answers["alice"].response_id)

    if not keep:
        stage.stop()
        closed(screen, stage)
    screen.say()
    screen.say(f"All {screen.claims} claims held, in {time.perf_counter() - begun:.0f} seconds.", "bold")
    if keep:
        leave(screen, stage)


def set_up(screen: Screen, stage: Stage) -> None:
    """Lay out the files and start the server."""
    stage.lay_out()
    company = stage.files.company
    formats = Counter(path.suffix.removeprefix(".") for path in company.rglob("*") if path.is_file())
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(formats.items()))
    screen.say(f"Nordlicht Instruments, a company of {len(people.PEOPLE)} accounts, in {company}")
    screen.say(f"{formats.total()} documents ({kinds})")
    screen.say(f"in {len(layout.FOLDERS)} folders. Each has a POSIX access control list on disk, for ids above 20000.")
    screen.say()
    begun = time.perf_counter()
    with screen.console.status("starting the server") if screen.moves else _Quiet():
        stage.serve()
    elapsed = time.perf_counter() - begun
    screen.say(f"The server runs (process {stage.pid}, {stage.addresses[0]}), started in {elapsed:.1f} s.")


class _Quiet:
    """In place of a spinner where nothing can spin."""

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...


def first_sync(screen: Screen, stage: Stage) -> None:
    """Sync the company, with a bar, and check that everything arrived."""
    begun = time.perf_counter()
    wanted = sum(1 for _ in layout.documents())
    columns = (TextColumn("Sync"), BarColumn(40), MofNCompleteColumn(), TextColumn("documents"), TimeElapsedColumn())
    with Progress(*columns, console=screen.console, disable=not screen.moves, transient=True) as progress:
        bar = progress.add_task("sync", total=wanted)
        runs = stage.sync()
        run = next(runs)
        for run in runs:
            progress.update(bar, completed=run.counts.stored + run.counts.unchanged + run.counts.skipped)
    problems = "; ".join(f"{p.location}: {p.reason}" for p in run.problems)
    screen.claim(
        f"synced {run.counts.stored} documents with {run.counts.chunks} passages, and the rules of {run.counts.scopes} "
        f"folders, in {time.perf_counter() - begun:.1f} s",
        run.state is SyncState.SUCCEEDED and run.counts.stored == wanted and not run.problems,
        f"the sync should store all {wanted} documents, and stored {run.counts.stored}: {run.failure or problems}",
    )


def leave(screen: Screen, stage: Stage) -> None:
    """Give Bob his group and the folder its entry back, and say how to go on and how to stop."""
    people.write(stage.people)
    folder = stage.files.company / FOLDER
    facl.allow_only(folder, [*layout.FOLDERS[FOLDER].entries])
    assert ENTRY in facl.read(folder)
    sync(stage)
    base, company = stage.files.base, stage.files.company
    folders = f"{base}" if company.is_relative_to(base) else f"{base} {company}"
    screen.say()
    screen.say("Bob has his group and the folder its entry back. Folder and server stay:")
    screen.say()
    screen.paste(f"    callers  {stage.addresses[0]}\n    config   {stage.config}\n    people   {stage.people}")
    screen.say()
    screen.say("Stop it with:")
    screen.say()
    screen.paste(f"    kill {stage.pid} && sleep 5 && rm -r {folders}")
    screen.say()
    screen.say(f"Or paste this into {Path(sys.executable)}:")
    screen.say()
    screen.paste(_CLIENT.format(config=stage.config, python=sys.executable, callers=stage.addresses[0]))


if __name__ == "__main__":
    sys.exit(main())
