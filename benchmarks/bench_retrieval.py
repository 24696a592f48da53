"""Searching under permissions: Remit, and other systems beside it, in one run.

Run: `make bench-retrieval`, or `python -m benchmarks.bench_retrieval [--quick] [--chunks N …] [--skip PART …]` with the
extra `bench` installed. Writes `retrieval.json` and `retrieval.svg`, and `search.json` for the whole service (see
`benchmarks.end_to_end`, which measures that alone). What is expensive is kept in the cache (see `benchmarks.vectors`),
finished parts of a run too: the same command goes on where it was ended. Each report names the commit that it is of.

For each number of chunks: 384 dimensions, 40,000 ACLs, callers who may read from 0.01 % to all of it (see
`benchmarks.permissions`); 40 queries a caller, one at a time, two of them before as warm-up. Latencies are those of
finding candidates: for Remit from the caller's permitted rows through the index process and back, 20 candidates as the
service asks for; for the others of their whole query for ten. Recall is held against an exact search.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from benchmarks import end_to_end, equal_recall, peers, workloads
from benchmarks.permissions import SHARES, Caller, Organisation
from benchmarks.plot import plot
from benchmarks.report import Report, commit
from benchmarks.truth import LIMIT, Rows, quality, truths
from benchmarks.vectors import DIMENSION, SEED, Vectors, cache, made, real
from service.index.base import Add, FeedItem, Remove
from service.index.edge import EdgeIndex
from service.index.follow import follow
from service.index.planner import SearchPath, Tuning

QUERIES: Final = 40
PEERS_UP_TO: Final = {"lancedb": 100_000, "wardowl": 100_000}
"""The rest is measured at any number of chunks."""
WORKLOADS_UP_TO: Final = 100_000

Metrics = dict[str, tuple[float, str, str, int]]
"""By name: value, unit, target, sample size."""


class World:
    """Vectors, permissions, queries, and what is true of them, for one number of chunks."""

    def __init__(self, chunks: int, queries: int) -> None:
        self.vectors = made(chunks)
        self.organisation = Organisation(self.vectors)
        pool = np.array(made(2_000, SEED + 1))
        by_kind = {kind: self.organisation.queries(kind, queries, pool) for kind in SHARES}
        self.callers = self.organisation.callers
        self.asked = {name: by_kind[caller.kind] for name, caller in self.callers.items()}
        self.true: dict[str, Rows] = truths(self.vectors, self.organisation, self.asked)


def measure(
    world: World, system: str, enter: Callable[[Caller], Callable[[Vectors], list[int]]], queries: int
) -> Metrics:
    """Latency and quality of one system for every caller."""
    found: Metrics = {}
    for name, caller in world.callers.items():
        asked = world.asked[name][:queries]
        search = enter(caller)
        answers, spent = [], []
        for query in asked[:2]:
            search(query)
        for query in asked:
            start = time.perf_counter()
            answers.append(search(query)[:LIMIT])
            spent.append((time.perf_counter() - start) * 1e3)
        permitted = set(world.organisation.rows(caller).tolist())
        leaks = sum(row not in permitted for rows in answers for row in rows)
        got = quality(world.vectors, asked, world.true[name][:queries], answers)
        where = f"{system}_{len(world.vectors)}_{name}"
        found[f"p50_ms_{where}"] = (statistics.median(spent), "ms", "", len(spent))
        found[f"p95_ms_{where}"] = (float(np.percentile(spent, 95)), "ms", "", len(spent))
        found[f"recall_at_10_{where}"] = (got.recall, "", "", len(spent))
        found[f"recall_within_0.005_{where}"] = (got.within, "", "", len(spent))
        found[f"score_regret_{where}"] = (got.regret, "cosine", "", len(spent))
        found[f"leaks_{where}"] = (leaks, "chunks", "== 0", len(spent))
        _say(f"{where:40s} p50 {found[f'p50_ms_{where}'][0]:9.3f} ms   recall {got.recall:.4f}   leaks {leaks}")
    return found


class Feed:
    """A catalog's feed over vectors, then changes: its own reader."""

    def __init__(self, vectors: Vectors, changes: list[FeedItem] | None = None) -> None:
        self.vectors, self.changes = vectors, changes or []

    @property
    def feed_seq(self) -> int:
        """The last item."""
        return len(self.vectors) + len(self.changes)

    def feed(self, after: int, limit: int) -> list[FeedItem]:
        """Return items."""
        part = np.array(self.vectors[after : after + limit])
        items: list[FeedItem] = [Add(after + n + 1, after + n, 0, vector) for n, vector in enumerate(part)]
        rest = max(0, after - len(self.vectors))
        return items or self.changes[rest : rest + limit]

    @contextmanager
    def reader(self) -> Iterator[Feed]:
        """Return itself."""
        yield self


def remit(world: World, queries: int) -> Metrics:
    """Remit's index process with everything in it."""
    chunks = len(world.vectors)
    folder = cache() / f"remit-{chunks}-{SEED}"
    found: Metrics = {}
    start = time.perf_counter()
    index = EdgeIndex(folder, incarnation="bench", dimension=DIMENSION)
    if follow(Feed(world.vectors), index):
        found[f"build_s_remit_{chunks}"] = (time.perf_counter() - start, "s", "", 1)
        index.close()
        start = time.perf_counter()
        index = EdgeIndex(folder, incarnation="bench", dimension=DIMENSION)
    found[f"start_s_remit_{chunks}"] = (time.perf_counter() - start, "s", "", 1)

    def enter(caller: Caller) -> Callable[[Vectors], list[int]]:
        rows = BitMap(world.organisation.rows(caller).tolist())
        rows.run_optimize()
        return lambda query: [hit.row for hit in index.search(query, rows, 2 * LIMIT).candidates]

    try:
        found |= measure(world, "remit", enter, queries)
        found |= _near_and_far(world, enter)
        if chunks <= WORKLOADS_UP_TO:
            _say("remit: role workloads")
            found |= workloads.measure(index, world.vectors, world.asked["random-1"])
        found[f"anonymous_mb_remit_{chunks}"] = (_memory_mb(index.pid, "RssAnon"), "mb", "<= 1024", 1)
        found[f"peak_rss_mb_{chunks}"] = (_memory_mb(index.pid, "VmHWM"), "mb", "", 1)
    finally:
        index.close()
    return found


def approximate(world: World, queries: int) -> Metrics:
    """Remit where the deployment allows `approximate`, asked for it in every search."""
    chunks = len(world.vectors)
    folder = cache() / f"approximate-{chunks}-{SEED}"
    found: Metrics = {}
    if not (folder / "graph").exists():
        # Without a graph first: what is there at a start is put into it by all threads together.
        index = EdgeIndex(folder, incarnation="bench", dimension=DIMENSION)
        follow(Feed(world.vectors), index)
        index.close()
    start = time.perf_counter()
    index = EdgeIndex(folder, incarnation="bench", dimension=DIMENSION, tuning=Tuning(approximate=True))
    index.flush()
    found[f"start_s_approximate_{chunks}"] = (time.perf_counter() - start, "s", "", 1)
    paths: list[SearchPath] = []

    def enter(caller: Caller) -> Callable[[Vectors], list[int]]:
        rows = BitMap(world.organisation.rows(caller).tolist())
        rows.run_optimize()

        def search(query: Vectors) -> list[int]:
            proposal = index.search(query, rows, 2 * LIMIT, approximate=True)
            paths.append(proposal.path)
            return [hit.row for hit in proposal.candidates]

        return search

    try:
        found |= measure(world, "approximate", enter, queries)
        taken = paths.count(SearchPath.GRAPH) / len(paths)
        found[f"by_graph_share_approximate_{chunks}"] = (taken, "", "", len(paths))
        found[f"anonymous_mb_approximate_{chunks}"] = (_memory_mb(index.pid, "RssAnon"), "mb", "", 1)
    finally:
        index.close()
    return found


def shown(chunks: int, queries: int) -> Metrics:
    """How often an answer differs when nothing but what is hidden does: with `approximate`, and without.

    clustered: vectors as everywhere here, in which a graph misses hardly anything. texts: embeddings of real ones,
    fewer of them. scattered: without any structure, the worst that a graph can meet.
    """
    draw = np.random.default_rng(SEED)
    scattered = draw.standard_normal((2 * chunks + queries, DIMENSION), np.float32)
    scattered /= np.linalg.norm(scattered, axis=1, keepdims=True)
    clustered = np.concatenate([np.array(made(2 * chunks)), np.array(made(2_000, SEED + 1))[:queries]])
    found: Metrics = {}
    for kind, every in (("clustered", clustered), ("texts", real()), ("scattered", scattered)):
        for share in (0.5, 0.2):
            permitted = draw.random((len(every) - queries) // 2) < share
            for asked, differ in _differences(every, permitted).items():
                name = f"differs_by_hidden_{'approximate' if asked else 'default'}_{kind}_{share}"
                found[name] = (differ, "", "" if asked else "== 0", queries)
                _say(f"{name} {differ}")
    return found


def _differences(every: Vectors, permitted: NDArray[np.bool_]) -> dict[bool, float]:
    """The share of answers that differ between two corpora, by whether they may be approximate.

    every: the chunks of one, what stands in the place of the hidden ones in the other, and queries.
    """
    chunks = len(permitted)
    one, other, asked = every[:chunks].copy(), every[:chunks].copy(), every[2 * chunks :]
    other[~permitted] = every[chunks : 2 * chunks][~permitted]
    rows = BitMap(np.nonzero(permitted)[0].tolist())
    answers: dict[bool, list[list[object]]] = {True: [], False: []}
    for vectors in (one, other):
        folder = cache() / "shown"
        shutil.rmtree(folder, ignore_errors=True)
        index = EdgeIndex(folder, incarnation="bench", dimension=DIMENSION, tuning=Tuning(approximate=True))
        try:
            follow(Feed(vectors), index)
            for approximate, found in answers.items():
                found.append([index.search(query, rows, LIMIT, approximate=approximate).candidates for query in asked])
        finally:
            index.close()
            shutil.rmtree(folder, ignore_errors=True)
    return {key: sum(a != b for a, b in zip(*found, strict=True)) / len(asked) for key, found in answers.items()}


def _near_and_far(world: World, enter: Callable[[Caller], Callable[[Vectors], list[int]]]) -> Metrics:
    """The same count of permitted chunks, with the hidden ones anywhere or all those near the query; by turns."""
    found: Metrics = {}
    for share in (0.08, 0.2, 0.5):
        near, far = (world.callers[f"{kind}-{share:g}"] for kind in ("random", "hostile"))
        searches = [enter(near), enter(far)]
        spent: list[list[float]] = [[], []]
        for query in [*world.asked[far.name]] * 3:
            for search, times in zip(searches, spent, strict=True):
                start = time.perf_counter()
                search(query)
                times.append((time.perf_counter() - start) * 1e3)
        ratio = statistics.median(spent[1]) / statistics.median(spent[0])
        name = f"hidden_near_vs_anywhere_{len(world.vectors)}_{share:g}"
        found[name] = (max(ratio, 1 / ratio), "x", "<= 1.2", len(spent[0]))
    return found


def stall(chunks: int) -> Metrics:
    """The longest wait for a search while much is added and removed, as `Follower` does it."""
    vectors = made(chunks)
    count, churn = chunks // 2, min(20_000, chunks // 4)
    changes: list[FeedItem] = []
    for n in range(churn):
        changes.append(Add(count + 2 * n + 1, count + n, 0, np.array(vectors[count + n])))
        changes.append(Remove(count + 2 * n + 2, n))
    folder = cache() / "stall"
    shutil.rmtree(folder, ignore_errors=True)
    index = EdgeIndex(folder, incarnation="bench", dimension=DIMENSION, tuning=Tuning())
    try:
        follow(Feed(vectors[:count]), index)
        rows = BitMap(range(0, count + churn, 3))
        quiet: list[float] = []
        busy: list[float] = []
        query = np.array(vectors[-1])

        def search(times: list[float]) -> None:
            start = time.perf_counter()
            index.search(query, rows, 2 * LIMIT)
            times.append((time.perf_counter() - start) * 1e3)

        for _ in range(200):
            search(quiet)
        thread = threading.Thread(
            target=follow, args=(Feed(vectors[:count], changes), index), kwargs={"durably": False}
        )
        start = time.perf_counter()
        thread.start()
        while thread.is_alive():
            search(busy)
        rate = len(changes) / (time.perf_counter() - start)
    finally:
        index.close()
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "stall_max_ms": (max(busy), "ms", "<= 50", len(busy)),
        "stall_p99_ms": (float(np.percentile(busy, 99)), "ms", "", len(busy)),
        "stall_quiet_max_ms": (max(quiet), "ms", "", len(quiet)),
        "changes_per_s_under_searches": (rate, "1/s", "", len(changes)),
    }


def service(quick: bool) -> Metrics:
    """The whole service, which has a report of its own."""
    end_to_end.report(quick=quick)
    return {}


def peer(world: World, name: str, queries: int) -> Metrics:
    """One of the other systems."""
    chunks = len(world.vectors)
    if name == "pgvector":
        server = peers.Postgres(cache() / f"pgvector-{chunks}-{SEED}", world.vectors, world.organisation)
        try:
            found = _built(name, chunks, server.build_s)
            for policy in ("join", "array"):
                session = server.policy(policy)
                # Some of its queries take a tenth of a second: fewer of them are enough to see that.
                found |= measure(world, f"pgvector_{policy}", _entered(session), max(5, queries // 2))
                session.close()
            return found | equal_recall.measure(world.vectors, world.organisation, world.asked, world.true, server)
        finally:
            server.close()
    kinds: dict[str, Any] = {"edge": peers.EdgeDefault, "lancedb": peers.Lance, "wardowl": peers.Wardowl}
    other = kinds[name](cache() / f"{name}-{chunks}-{SEED}", world.vectors, world.organisation)
    try:
        asked = queries if name == "edge" else max(5, queries // 2)
        return _built(name, chunks, other.build_s) | measure(world, name, _entered(other), asked)
    finally:
        other.close()


def _entered(other: peers.Peer) -> Callable[[Caller], Callable[[Vectors], list[int]]]:
    def enter(caller: Caller) -> Callable[[Vectors], list[int]]:
        other.enter(caller)
        return other.search

    return enter


def _built(name: str, chunks: int, seconds: float) -> Metrics:
    return {f"build_s_{name}_{chunks}": (seconds, "s", "", 1)} if seconds else {}


def summary(metrics: Metrics) -> Metrics:
    """The numbers that targets are set for."""
    found: Metrics = {}
    recalls = {n: v for n, v in metrics.items() if n.startswith("recall_at_10_remit_")}
    if recalls:
        found["remit_recall_at_10_min"] = (min(v[0] for v in recalls.values()), "", ">= 0.99", len(recalls))
        leaks = [v[0] for n, v in metrics.items() if n.startswith("leaks_remit_")]
        found["remit_leaks"] = (sum(leaks), "chunks", "== 0", len(leaks))
    for name, value in metrics.items():
        if not name.startswith("p50_ms_remit_"):
            continue
        chunks, kind, share = name.removeprefix("p50_ms_remit_").replace("-", "_").split("_")
        if kind != "random":
            continue
        target = _target(int(chunks), float(share))
        found[f"remit_candidates_p50_ms_{chunks}_{share}"] = (value[0], "ms", target, value[3])
        others = [metrics.get(f"p50_ms_pgvector_{policy}_{chunks}_{kind}-{share}") for policy in ("join", "array")]
        times = [other[0] for other in others if other is not None]
        if times:
            # Against the quicker of the two policies, whatever its recall.
            ratio = min(times) / value[0]
            aim = ">= 10" if float(share) <= 0.03 else ">= 5" if float(share) <= 0.08 else ">= 2"
            suffix = "" if chunks == "100000" else f"_{chunks}"
            found[f"vs_pgvector_rls_{share}{suffix}"] = (ratio, "x", aim, value[3])
    return found | equal_recall.ratios(metrics)


def _target(chunks: int, share: float) -> str:
    if chunks >= 1_000_000:
        return "<= 1.5" if share <= 0.01 else "<= 5" if share <= 0.05 else "<= 10"
    return "<= 0.3" if share <= 0.01 else "<= 1" if share <= 0.1 else "<= 1.5"


def _memory_mb(pid: int | None, what: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


class Run:
    """Parts of one run; finished ones are kept until the code or the options change."""

    def __init__(self, options: list[str]) -> None:
        key = f"{commit()}-{'-'.join(options)}".replace("/", "_")
        self._path = cache() / f"run-{key}.json"
        self._parts: dict[str, Metrics] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def part(self, name: str, work: Callable[[], Metrics], *, ours: bool = True) -> None:
        """Do a part, or take it from an earlier run of the same command.

        ours: its failure ends the run. Another system's is said, and the next run tries it again.
        """
        if name in self._parts:
            _say(f"{name}: done before")
            return
        _say(f"{name} …")
        start = time.perf_counter()
        try:
            self._parts[name] = work()
        except Exception as err:  # a peer that fails is said and left out; ours is raised
            if ours:
                raise
            _say(f"{name} FAILED and is left out: {type(err).__name__}: {err}")
            return
        self._path.write_text(json.dumps(self._parts))
        _say(f"{name}: {time.perf_counter() - start:.0f} s")

    @property
    def metrics(self) -> Metrics:
        """Everything so far."""
        return {name: value for part in self._parts.values() for name, value in part.items()}


def main() -> None:
    """Measure what the options say and write the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="20,000 chunks, few queries: two or three minutes")
    parser.add_argument("--chunks", type=int, nargs="*", help="instead of 100,000 and 1,000,000")
    parser.add_argument("--skip", nargs="*", default=[], help="of remit, approximate, stall, service, or a peer")
    given = parser.parse_args()
    sizes = given.chunks or ([20_000] if given.quick else [100_000, 1_000_000])
    queries = 10 if given.quick else QUERIES
    run = Run([*map(str, sizes), *(["quick"] if given.quick else [])])
    skip = set(given.skip)
    for size in sizes:
        world: list[World] = []

        def here(size: int = size, world: list[World] = world) -> World:
            if not world:
                world.append(World(size, queries))
            return world[0]

        if "remit" not in skip:
            run.part(f"remit {size}", lambda here=here: remit(here(), queries))  # type: ignore[misc]
        if "approximate" not in skip:
            run.part(f"approximate {size}", lambda here=here: approximate(here(), queries))  # type: ignore[misc]
        if size == sizes[0]:
            if "approximate" not in skip:
                run.part("shown", lambda: shown(10_000, 100 if given.quick else 500))
            if "stall" not in skip:
                run.part("stall", lambda: stall(sizes[0]))
            if "service" not in skip:
                run.part("service", lambda: service(given.quick))
        for name in ("edge", "lancedb", "pgvector", "wardowl"):
            if name not in skip and size <= PEERS_UP_TO.get(name, size):
                run.part(
                    f"{name} {size}",
                    lambda name=name, here=here: peer(here(), name, queries),  # type: ignore[misc]
                    ours=False,
                )
        _write(run, given.quick)


def _write(run: Run, quick: bool) -> None:
    report = Report("retrieval_quick" if quick else "retrieval", SEED)
    metrics = run.metrics
    for name, (value, unit, target, n) in {**summary(metrics), **metrics}.items():
        report.add(name, value, unit, target, n)
    path = report.write()
    plot(metrics, path.with_suffix(".svg"))


if __name__ == "__main__":
    os.environ.setdefault("LANCE_LOG", "error")
    main()
