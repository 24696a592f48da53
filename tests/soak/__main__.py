"""`python -m tests.soak`: a service that changes under load for a given time, killed and broken on the way, and the
offline checker over all that it told. `make soak` and `make chaos-service`; a short one is in the suite.

In the first quarter it is killed and restarted, and its feed is cut. Then churn and load go on without a restart: a
quarter to warm up, because caches of SQLite fill for five minutes under this load, and the second half in which memory
and latency are measured. With `--kills` it is killed so many times and nothing else is measured but recovery.

What must hold at the end: no leak; every answer that was delivered has its record in a log that verifies; clients saw
nothing but answers and UNAVAILABLE.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from remit.v1 import retrieval_pb2

from benchmarks.report import Report
from service import audit_keys, settings
from service.audit import AuditKey, verify
from service.keys import open_provider
from service.stores.catalog import KEYS
from tests.soak.checker import Verdict, check
from tests.soak.load import Load, Told
from tests.soak.measure import Measured, p95
from tests.soak.server import Server
from tests.soak.watch import processes, sizes
from tests.soak.world import World
from tests.support.audit_bodies import recorded

_GOOD: Final = {"OK", "UNAVAILABLE"}
_KEYWORD, _DENSE = retrieval_pb2.SEARCH_MODE_KEYWORD, retrieval_pb2.SEARCH_MODE_DENSE


@dataclass
class Outcome:
    """What a soak came to."""

    verdict: Verdict
    codes: Counter[str]
    decided: Counter[str]
    answers: int
    unrecorded: int
    log: str
    kills: int
    keyword_s: list[float] = field(default_factory=list)
    dense_s: list[float] = field(default_factory=list)
    measured: Measured | None = None
    syncs: int = 0

    @property
    def problems(self) -> list[str]:
        """Why it did not hold; empty when it did."""
        found = []
        if self.verdict.leaks:
            found.append(f"{self.verdict.leaks} leaks: {'; '.join(self.verdict.examples)}")
        if self.unrecorded:
            found.append(f"{self.unrecorded} answers have no record")
        if self.log:
            found.append(f"the audit log does not verify: {self.log}")
        if not self.codes.keys() <= _GOOD:
            found.append(f"clients saw {dict(self.codes)}")
        if not self.verdict.passages or not self.verdict.allowed:
            found.append("nothing was returned, so nothing was checked")
        return found


@dataclass(frozen=True)
class Plan:
    """minutes: of load. kills: with SIGKILL; None for a few in the first quarter. people: who search."""

    minutes: float
    seed: int
    kills: int | None
    people: int
    documents: int
    embedding: str
    pause_s: float


def soak(plan: Plan, folder: Path) -> Outcome:
    """Run one in an empty folder, and check it."""
    server = Server(folder, plan.embedding)
    world = World(folder, plan.seed, people=plan.people, documents=plan.documents)
    history = folder / "history.jsonl"
    with history.open("w") as file:
        told = Told(file)
        try:
            outcome = asyncio.run(_run(plan, server, world, told))
        finally:
            server.close()
        told.write({"world": world.everything()})
    outcome.verdict = check(history)
    outcome.unrecorded, outcome.log = _records(server, set(told.responses))
    outcome.answers = len(told.responses)
    return outcome


async def _run(plan: Plan, server: Server, world: World, told: Told) -> Outcome:
    server.start()
    await asyncio.to_thread(server.wait)
    load, draw = Load(server, told, plan.seed), random.Random(f"{plan.seed} faults")
    outcome = Outcome(Verdict(), told.codes, told.decided, 0, 0, "", 0)
    assert await _synced(load, world, outcome), server.last_words()
    await load.learn()
    ended = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            for person in world.people:
                group.create_task(load.searches(person, plan.pause_s, ended))
            group.create_task(load.probes(world.people, 0.1, ended))
            if plan.kills is not None:
                await _kill(plan.kills, server, load, world, outcome, draw)
            else:
                await _shake(plan.minutes * 60, server, load, world, outcome, draw)
            ended.set()
    finally:
        await load.close()
    if outcome.measured is not None:
        since = outcome.measured.memory[0][0]
        outcome.measured.latencies = [one for one in told.latencies if one[0] >= since]
    return outcome


async def _shake(
    length: float, server: Server, load: Load, world: World, outcome: Outcome, draw: random.Random
) -> None:
    """Change everything for so many seconds: a quarter with kills and faults, one to warm up, a half to measure."""
    began = time.monotonic()
    calm, warm, end = began + length / 4, began + length / 2, began + length
    next_kill = began + min(20.0, length / 8)
    next_word, words = began, length / 20
    while (now := time.monotonic()) < end:
        await _step(load, world, outcome, draw, faults=now < calm)
        if now < calm and now > next_kill:
            await _kill(1, server, load, world, outcome, draw)
            next_kill = time.monotonic() + min(60.0, length / 8)
        if now >= warm:
            await _look(server, world, outcome)
        if now >= next_word:
            phase = "kills and faults" if now < calm else "warming up" if now < warm else "measuring"
            recent = [one for one in load.told.latencies if one[0] > now - words] or [(0.0, 0.0)]
            print(
                f"{now - began:6.0f} of {length:.0f} s, {phase}: {load.told.decisions:,} decisions, "
                f"{outcome.syncs} runs, {outcome.kills} kills, p95 {p95(recent) * 1000:.0f} ms, "
                f"{dict(load.told.codes)}, {dict(load.told.decided)}",
                flush=True,
            )
            next_word = now + words
    if outcome.measured is not None:
        await _look(server, world, outcome, last=True)


async def _look(server: Server, world: World, outcome: Outcome, *, last: bool = False) -> None:
    """Look at memory, and at the first and the last time at tables, files and the world as well."""
    first = outcome.measured is None
    measured = outcome.measured = outcome.measured or Measured()
    measured.memory.append((time.monotonic(), await asyncio.to_thread(processes, server.pid)))
    if first or last:
        data, keys = server.folder / "data", settings.load(server.config).keys.store / KEYS
        measured.sizes.append((time.monotonic(), await asyncio.to_thread(sizes, data, keys)))
        measured.world.append((len(world.there), world.held))


async def _step(load: Load, world: World, outcome: Outcome, draw: random.Random, *, faults: bool) -> None:
    """One change of the world, or a fault in place of it, and the run that brings it."""
    if faults and draw.random() < 0.15:
        world.break_feed()
        assert not await load.sync(), "a feed that was cut made a run that succeeded"
        world.write_feed()
    world.churn_rules()
    await _synced(load, world, outcome)
    await load.decide(draw)
    await load.learn()
    for _ in range(draw.randint(1, 3)):
        world.churn_groups()
        await asyncio.sleep(draw.uniform(0.2, 0.8))


async def _synced(load: Load, world: World, outcome: Outcome) -> bool:
    began = time.monotonic()
    if not await load.sync():
        return False
    outcome.syncs += 1
    for timeline in (world.documents, world.scopes):
        timeline.settle(began, time.monotonic())
    return True


async def _kill(count: int, server: Server, load: Load, world: World, outcome: Outcome, draw: random.Random) -> None:
    """Kill it under load, sometimes within a run, start it again, and see when it answers."""
    for _ in range(count):
        world.churn_rules()
        run = asyncio.create_task(_synced(load, world, outcome))
        await asyncio.sleep(draw.uniform(0.05, 1.0))
        await asyncio.to_thread(server.end, signal.SIGKILL)
        at = time.monotonic()
        server.start()
        person = world.people[0]
        keyword, dense = await asyncio.gather(
            load.until_answered(person, _KEYWORD, at), load.until_answered(person, _DENSE, at)
        )
        outcome.keyword_s.append(keyword)
        outcome.dense_s.append(dense)
        outcome.kills += 1
        if count > 1:
            print(
                f"kill {outcome.kills} of {count}: keyword {keyword:.1f} s, dense {dense:.1f} s; "
                f"{load.told.decisions:,} decisions, {dict(load.told.codes)}",
                flush=True,
            )
        await run
        await _synced(load, world, outcome)
        await load.decide(draw)
        await load.learn()


def _records(server: Server, delivered: set[str]) -> tuple[int, str]:
    """How many delivered answers have no record, and why the log does not verify."""
    config = settings.load(server.config)
    key = AuditKey.load(config.keys.audit)
    bodies = audit_keys.opener(config.keys.store, open_provider(config.keys), key)
    answered = {str(one["body"].get("response_id", "")) for one in recorded(config)}
    report = verify(config.data / "audit", key.verifier, bodies)
    return len(delivered - answered), "" if report.ok else str(report.problem)


def main() -> int:
    """Run one; 1 when something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=None, help="kill it so many times under load instead")
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--embedding", choices=("hash", "model"), default="hash")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two calls of one person, on average")
    parser.add_argument("--report", action="store_true", help="write benchmarks/results/")
    asked = parser.parse_args()
    plan = Plan(asked.minutes, asked.seed, asked.kills, asked.people, asked.documents, asked.embedding, asked.pause)
    with tempfile.TemporaryDirectory(prefix="remit-soak-") as folder:
        outcome = soak(plan, Path(folder))
    verdict = outcome.verdict
    print(
        f"{verdict.decisions:,} decisions checked, {verdict.passages:,} of them passages; {verdict.allowed:,} probes "
        f"said yes, {verdict.denied:,} said no for a while; {outcome.answers:,} answers, {outcome.syncs} runs, "
        f"{outcome.kills} kills, {dict(outcome.decided)}; {dict(outcome.codes)}"
    )
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    report = Report("soak" if plan.kills is None else "chaos_service", plan.seed)
    if plan.kills is None:
        report.add("soak_decisions", verdict.decisions, "decisions", ">= 1000000")
        report.add("soak_leaks", verdict.leaks, "leaks", "0", n=verdict.decisions)
        if outcome.measured is not None:
            outcome.measured.add_to(report)
    if outcome.keyword_s:
        report.add("recovery_s", max(outcome.keyword_s), "s", "<= 5", n=len(outcome.keyword_s))
        report.add("recovery_dense_s", max(outcome.dense_s), "s", "<= 15", n=len(outcome.dense_s))
        report.add("recovery_p50_s", statistics.median(outcome.keyword_s), "s", n=len(outcome.keyword_s))
    report.add("answers_without_record", outcome.unrecorded, "answers", "0", n=outcome.answers)
    if asked.report:
        report.write()
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
