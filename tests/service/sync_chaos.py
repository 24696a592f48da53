"""Breaks syncs at random points and checks what each left. `make chaos-sync`, and `test_sync_chaos.py`.

A round is a source that changes and a data folder. Each sync is a process forked from this one, so that everything is
imported once. After a good first run the source changes and a run is broken, a few times over:

    kill     the process is killed (SIGKILL) before a database statement drawn by lot
    full     the disk, a memory file system of a size drawn by lot, has no room left (needs root)
    hang     the source does not answer any more, in its listing or in a read, until the process is killed or gives up
    lie      the source says things twice, in a wrong order, or after its end; lists a part as if it were all
    partial  the listing ends early; containers, rules or texts cannot be read in full
    gone     the source raises, foreseen errors and others, in its listing or in reads

Each time these claims are held: no passage without rules; none served under other rules than those of its text; none
twice; the index's feed and the keys fit. At last the source is whole again: the next runs, with what the breaker holds
approved by a person, end in the state of a run over a fresh folder, in which nothing is lost.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, event

from acl.model import ScopeId
from benchmarks.report import Report
from connectors.base import ScanComplete, Upsert
from connectors.errors import FatalError, RetriableError
from connectors.testing.hostile import Faults, MemoryScope
from service.stores.records import RunState, SyncPass
from service.stores.stops import StopState
from service.sync import texts, walk
from service.sync.breaker import BreakerLimits
from service.sync.engine import Policy
from tests.service.sync_kill import USERS, History, check, final
from tests.service.sync_support import SOURCE, World, allow, open_world

FAULTS: Final = ("kill", "full", "hang", "lie", "partial", "gone")
_BROKEN_RUNS: Final = 2
_STATEMENTS: Final = 420
_PATIENCE_S: Final = 60
_POLICY: Final = Policy(BreakerLimits(max_widening=0.3, max_purge=0.3, max_joining=0.3, least=8))
_TEAM: Final = ScopeId("team")


class Source(History):
    """A source with a folder of a team in it, whose rules change as well; it lets nobody in who is not in the root."""

    def __init__(self, seed: str) -> None:
        self.count = 16
        super().__init__(seed, self.count, checkpoint_every=4)
        self.source.scopes[_TEAM] = MemoryScope(ScopeId("root"), allow(*USERS), "/team")

    def shake(self) -> None:
        """Change documents, and who may enter the team's folder."""
        self.drift(changed=4, removed=2)
        members = self.random.sample(USERS, self.random.randint(1, 3))
        self.source.scopes[_TEAM] = MemoryScope(ScopeId("root"), allow(*members), "/team")
        for name in self.random.sample(sorted(self.source.documents), 3):
            self.move(name, self.random.choice([ScopeId("root"), _TEAM]))


def fork(work: Callable[[], object], kill_after_s: float | None = None) -> None:
    """Do something in a child and wait for its end, whatever that is; it may be killed after a time."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(_PATIENCE_S)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
        finally:
            os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        raise AssertionError("a run did not end")


def sync(folder: Path, source: Source, sync_pass: SyncPass) -> None:
    """Run one sync; it may fail."""
    with open_world(folder, source.source, _POLICY) as world:
        world.sync(sync_pass)


def broken(fault: str, folder: Path, source: Source, drawn: random.Random) -> None:
    """Run one sync that the fault breaks."""
    sync_pass = drawn.choice([SyncPass.CONTENT, SyncPass.CONTENT, SyncPass.PERMISSIONS])
    faults = source.source.faults = Faults()

    def run() -> None:
        sync(folder, source, sync_pass)

    at = drawn.randint(0, 2 + source.count)
    match fault:
        case "kill":
            statement = drawn.randint(1, _STATEMENTS)
            fork(lambda: _dying(statement, run))
        case "full":
            used = int(subprocess.check_output(["du", "-s", "-k", str(folder)]).split()[0])
            _resize(folder, f"{used + drawn.randint(4, 400)}k")
            fork(run)
            _resize(folder, "64m")
        case "hang":
            in_listing = drawn.random() < 0.5

            def hang(number: object) -> None:
                if not in_listing or number == at:
                    time.sleep(0.3)
                    raise RetriableError("no answer within the deadline")

            faults.before_change = hang if in_listing else None
            faults.during_read = None if in_listing else hang
            fork(run, drawn.choice([None, drawn.uniform(0.05, 0.3)]))
        case "lie":
            _lie(faults, source, drawn)
            fork(run)
        case "partial":
            _withhold(faults, source, drawn, at)
            fork(run)
        case _:
            errors = [
                RetriableError("gone"),
                FatalError("the password is wrong"),
                OSError(errno.EIO, "gone"),
                KeyError(),
            ]
            if drawn.random() < 0.7:
                faults.fail_at, faults.error = at, drawn.choice(errors)
            else:
                faults.read_error = RetriableError("gone")
            fork(run)
    source.source.faults = Faults()


def _dying(statement: int, run: Callable[[], None]) -> None:
    count = 0

    def die(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", die)
    event.listen(Engine, "commit", die)
    run()


def _lie(faults: Faults, source: Source, drawn: random.Random) -> None:
    names = sorted(source.source.documents)
    match drawn.choice(["twice", "order", "more", "less", "much less", "orphans"]):
        case "twice":
            faults.repeat = drawn.randint(2, 3)
        case "order":
            faults.scopes_last = True
        case "more":
            again = Upsert(names[0], None, allow(*USERS), "0", names[0], names[0], "text/plain", 1, source.epoch)
            faults.after_complete = (again, ScanComplete({}))
        case "less":
            faults.withhold_documents = set(drawn.sample(names, 3))
        case "much less":
            faults.withhold_documents = set(drawn.sample(names, len(names) - 2))
        case _:
            faults.withhold_scopes = {drawn.choice([ScopeId("root"), _TEAM])}


def _withhold(faults: Faults, source: Source, drawn: random.Random, at: int) -> None:
    names = sorted(source.source.documents)
    match drawn.choice(["early", "incomplete", "unknown", "unreadable", "changing"]):
        case "early":
            faults.stop_at = at
        case "incomplete":
            faults.withhold_documents = set(drawn.sample(names, 4))
            faults.incomplete_scopes = {ScopeId("root"), _TEAM}
        case "unknown":
            faults.unknown_scopes = {drawn.choice([ScopeId("root"), _TEAM])}
        case "unreadable":
            faults.unreadable = set(drawn.sample(names, 4))
        case _:
            faults.changing = set(drawn.sample(names, 4))


def _resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def _converged(world: World, ended: Counter[str]) -> dict[str, Any]:
    """Run until nothing was left over by a broken run and nothing is held; a person approves what is."""
    for _ in range(6):
        run = world.sync()
        assert run.state is RunState.SUCCEEDED, run.failure
        ended["resumed"] += run.resumed
        with world.catalog.reader() as reader:
            stops = reader.stops(SOURCE)
        if not run.resumed and not stops:
            return final(world)
        for stop in stops:
            world.catalog.decide_stop(stop.hold_id, StopState.APPROVED, "u-1", world.clock())
    raise AssertionError(f"it does not settle: {stops}")


def round_of(fault: str, seed: int, folder: Path) -> Counter[str]:
    """One round in an empty folder; how its broken runs ended. Raises AssertionError when a claim does not hold."""
    # Small batches, so that there are many places to break at, and every checkpoint.
    walk.MOST_CHANGES = 5  # type: ignore[misc]
    texts._BATCH_DOCUMENTS = 4  # type: ignore[misc]
    texts._BATCH_S = 0.02  # type: ignore[misc]
    walk.CHECKPOINT_EVERY = timedelta(0)  # type: ignore[misc]
    source = Source(f"{fault} {seed}")
    ended = Counter[str]()
    home = folder / "broken"
    home.mkdir()
    if fault == "full":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "remit", str(home)], check=True)
    try:
        fork(lambda: sync(home, source, SyncPass.CONTENT))
        for _ in range(_BROKEN_RUNS):
            source.shake()
            broken(fault, home, source, source.random)
            with open_world(home, source.source, _POLICY) as world:
                check(world, source)
                with world.catalog.reader() as reader:
                    runs, stops = reader.runs(SOURCE, 1), reader.stops(SOURCE)
            ended.update([run.state.value for run in runs])
            ended["resumed"] += sum(run.resumed for run in runs)
            ended["held by the breaker"] += len(stops)
        with open_world(home, source.source, _POLICY) as world:
            settled = _converged(world, ended)
            check(world, source)
        fresh = folder / "fresh"
        fresh.mkdir()
        with open_world(fresh, source.source, _POLICY) as world:
            whole = _converged(world, Counter())
        assert settled == whole, f"another state than that of a run over a fresh folder: {settled} {whole}"
        assert whole["documents"] == len(source.source.documents), "something is lost"
        return ended
    finally:
        if fault == "full":
            subprocess.run(["umount", "--lazy", str(home)], check=True)


def main() -> int:
    """Run rounds, each fault in turn; 1 when a claim did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=204)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", choices=FAULTS, action="append")
    parser.add_argument("--report", action="store_true", help="write benchmarks/results/chaos_sync.json")
    asked = parser.parse_args()
    faults = asked.fault or [f for f in FAULTS if f != "full" or os.geteuid() == 0]
    held, ended, failed = Counter[str](), Counter[str](), 0
    # Nothing here is about a disk that loses what it was told to keep: memory is quicker.
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    for number in range(asked.rounds):
        fault = faults[number % len(faults)]
        with tempfile.TemporaryDirectory(prefix="remit-chaos-", dir=where) as folder:
            try:
                ended += round_of(fault, asked.seed * 1_000_000 + number, Path(folder))
                held[fault] += 1
            except (AssertionError, OSError, ValueError, RetriableError) as err:
                failed += 1
                print(f"round {number} ({fault}): {type(err).__name__}: {err}", file=sys.stderr)
    print(f"{sum(held.values())} of {asked.rounds} rounds held: {dict(held)}; the broken runs: {dict(ended)}")
    if asked.report:
        report = Report("chaos_sync", asked.seed)
        for fault in faults:
            report.add(f"rounds_held_{fault}", held[fault], "rounds", n=held[fault])
        report.add("rounds_failed", failed, "rounds", "0", n=asked.rounds)
        for what, count in sorted(ended.items()):
            report.add(f"broken_runs_{what.replace(' ', '_')}", count, "runs", n=_BROKEN_RUNS * asked.rounds)
        report.write()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
