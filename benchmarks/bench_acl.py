"""How fast the access model decides, and how much memory its compiled form takes.

Run: `python -m benchmarks.bench_acl`. Writes `acl.json` (42,000 ACLs, 200,000 chunks) and `acl_1m.json` (1,000,000).
Each organisation is measured in a process of its own, so that peak memory is its own.

The organisation: 8,000 principals (3,000 users, 5,000 groups). A tree of folders up to 20 deep, one for 20 ACLs; six of
seven have their parent's rules, the others their own. Seven of ten ACLs are a folder's files by owner and group; three
of ten are shared with people one by one and nearly unique, some with a deny in front, some expiring.
Cold: the index never saw the caller. 30 callers one right after the other, medians; warm-up is one other caller.
Cached: it did, the very same value; "resolved anew": an equal value, whose hash nobody has asked for.
Building counts one document and its chunks with each ACL, or more; the changes come in batches of 20,000.
Peak memory is that of the process above what it had with everything imported; the batch in hand is part of it, and so
is what the organisation itself takes: `workload_rss_mb` is the same run without an index.
Other changes are measured after a question, so that what a reader still holds is copied before it changes.
"""

from __future__ import annotations

import json
import random
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from acl.changes import AclPut, Change, DocumentPut, ScopePut
from acl.decide import decide
from acl.dialects.ntfs import file_clauses, named_in
from acl.dialects.posix import file_clause
from acl.model import NEVER, AclId, Caller, Clause, Effect, Rule, ScopeId, Unknown
from acl.principal import Principal, realm
from acl.readable import Readable, ReadableIndex
from benchmarks.memory import forget_peak, peak_mb
from benchmarks.report import Report

SEED = 20261122
AT = datetime(2030, 1, 1, tzinfo=UTC)
REALM = realm("posix", "corp")
USERS = [Principal(REALM, f"uid-{20000 + n}") for n in range(3000)]
GROUPS = [Principal(REALM, f"gid-{50000 + n}") for n in range(4999)]
OTHER = Principal(REALM, "other")
BATCH = 20_000
_T = TypeVar("_T")
_R = TypeVar("_R")


def _allow(*principals: Principal, expires_at: datetime = NEVER) -> Rule:
    return Rule(Effect.ALLOW, frozenset(principals), expires_at)


def _deny(*principals: Principal) -> Rule:
    return Rule(Effect.DENY, frozenset(principals))


class Organisation:
    """An organisation of a given number of ACLs, as batches of changes."""

    def __init__(self, acls: int, chunks: int) -> None:
        self.acls = acls
        self.chunks = chunks
        self.random = random.Random(SEED)
        self.folders = acls // 20
        self.depth: list[int] = []
        self.clause: list[int] = []
        self.restricted: list[int] = []

    def _folder_clause(self, owner: int, group: int, public: bool) -> Clause:
        last = _allow(OTHER) if public else _deny(OTHER)
        return Clause((_allow(USERS[owner]), _allow(GROUPS[group]), last))

    def scopes(self) -> Iterator[list[Change]]:
        """The folders. A folder's clause is remembered by the folder that brought it in."""
        pick = self.random
        clauses: dict[int, Clause] = {}
        batch: list[Change] = []
        for n in range(self.folders):
            parent = None if n < 20 else pick.randrange(max(0, n - 2000), n)
            while parent is not None and self.depth[parent] >= 19:
                parent = pick.randrange(n)
            self.depth.append(0 if parent is None else self.depth[parent] + 1)
            if parent is not None and pick.random() < 6 / 7:
                self.clause.append(self.clause[parent])
            else:
                public = parent is None or (self.depth[parent] < 3 and pick.random() < 0.7)
                clauses[n] = self._folder_clause(pick.randrange(3000), pick.randrange(4999), public)
                self.clause.append(n)
                if not public:
                    self.restricted.append(n)
            batch.append(
                ScopePut(_scope(n), None if parent is None else _scope(parent), clauses[self.clause[n]], f"folder {n}")
            )
            if len(batch) == BATCH:
                yield batch
                batch = []
        yield batch

    def documents(self) -> Iterator[list[Change]]:
        """The ACLs, and a document or more for each, with its chunks."""
        pick = self.random
        modes = [
            Clause(tuple(rules))
            for owner in range(0, 3000, 3)
            for group in (owner % 4999, owner * 7 % 4999)
            for rules in (
                [_allow(USERS[owner]), _allow(GROUPS[group]), _deny(OTHER)],
                [_allow(USERS[owner]), _allow(GROUPS[group]), _allow(OTHER)],
            )
        ]
        batch: list[Change] = []
        ordinal = row = 0
        per_acl = self.chunks / self.acls
        for n in range(1, self.acls + 1):
            if pick.random() < 0.7:
                own = modes[int(len(modes) * pick.random() ** 2)]
                scope: ScopeId | None = _scope(n // 20 % self.folders)
            else:
                own = self._shared()
                scope = None if pick.random() < 0.5 else _scope(pick.randrange(self.folders))
            batch.append(AclPut(AclId(n), scope, own))
            while row < n * per_acl:
                size = min(pick.randrange(1, 10), max(1, self.chunks - row)) if per_acl > 2 else 1
                batch.append(DocumentPut(ordinal, AclId(n), ((row, row + size),)))
                ordinal, row = ordinal + 1, row + size
            if len(batch) >= BATCH:
                yield batch
                batch = []
        yield batch

    def _shared(self) -> Clause:
        pick = self.random
        people = frozenset(USERS[int(3000 * pick.random() ** 2)] for _ in range(pick.randrange(1, 5)))
        rules = [Rule(Effect.ALLOW, people)]
        if pick.random() < 0.5:
            rules.append(_allow(GROUPS[int(4999 * pick.random() ** 2)]))
        if pick.random() < 0.05:
            rules.insert(0, _deny(GROUPS[pick.randrange(4999)]))
        if pick.random() < 0.02:
            rules.append(
                _allow(USERS[pick.randrange(3000)], expires_at=AT + timedelta(hours=pick.randrange(-50, 1000)))
            )
        return Clause(tuple(rules))


def _scope(n: int) -> ScopeId:
    return ScopeId(f"fs:1a2b3c:{1000000 + n}:{1700000000 + n}")


def caller(size: int, number: int) -> Caller:
    """One of many callers with `size` principals: a user, other, and groups."""
    pick = random.Random(SEED * 1000 + number)
    if size >= 8000:
        # One more that nobody names, so that no two callers are the same.
        held = [OTHER, *USERS, *GROUPS, Principal(REALM, f"uid-{number}")]
    else:
        held = [OTHER, USERS[number], *pick.sample(GROUPS, size - 2)]
    # Equal values, not the same objects, as from a directory.
    fresh = frozenset(Principal(p.realm, "".join(p.id)) for p in held)
    return Caller(f"user-{number}", fresh, frozenset({REALM}), AT, AT + timedelta(days=900))


def _ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def measure(acls: int, chunks: int) -> dict[str, tuple[float, int]]:
    """Build an organisation and measure it. Returns values with sample sizes, by metric."""
    found: dict[str, tuple[float, int]] = {}
    before_mb = forget_peak()
    organisation = Organisation(acls, chunks)
    index = ReadableIndex()
    spent = 0.0
    for batches in (organisation.scopes(), organisation.documents()):
        for batch in batches:
            spent += _ms(lambda batch=batch: index.apply("files", batch))  # type: ignore[misc]
    found["build_s"] = spent / 1e3, 1
    found["build_s_per_million"] = spent / 1e3 / acls * 1e6, 1
    built_mb = peak_mb()
    index.readable(caller(50, 2999), AT).chunks  # noqa: B018 (warm-up)
    for size in (50, 200, 2000, 8000):
        callers = [caller(size, number) for number in range(30)]
        answers, times = _timed(lambda who: index.readable(who, AT), callers)
        _, rows = _timed(lambda answer: answer.chunks, answers)
        found[f"readable_cold_{size}_p50_ms"] = statistics.median(times), len(times)
        found[f"readable_cold_{size}_first_ms"] = times[0], 1
        found[f"rows_cold_{size}_p50_ms"] = statistics.median(rows), len(rows)
        found[f"permitted_chunks_{size}"] = statistics.median(a.chunk_count for a in answers), len(answers)
        if size == 2000:
            cached = [_ms(lambda who=who: index.readable(who, AT)) for who in callers for _ in range(100)]  # type: ignore[misc]
            found["readable_cached_p50_ms"] = statistics.median(cached), len(cached)
            again, _ = _timed(lambda who: caller(*who), [(size, number) for number in range(30)])
            _, cached = _timed(lambda who: index.readable(who, AT), again)
            found["readable_cached_resolved_anew_p50_ms"] = statistics.median(cached), len(cached)
            found["decide_p50_us"] = _decide(index, list(zip(callers, answers, strict=True))[:10])
    found.update(_clause_change(index, organisation))
    found.update(_other_changes(index, organisation))
    found["peak_rss_mb"] = built_mb - before_mb, 1
    found["peak_rss_after_queries_mb"] = peak_mb() - before_mb, 1
    return found


def _timed(call: Callable[[_T], _R], values: list[_T]) -> tuple[list[_R], list[float]]:
    """The results of a call for each value, one right after the other, and the milliseconds that each took."""
    results, times = [], []
    for value in values:
        start = time.perf_counter()
        results.append(call(value))
        times.append((time.perf_counter() - start) * 1e3)
    return results, times


def _decide(index: ReadableIndex, asked: list[tuple[Caller, Readable]]) -> tuple[float, int]:
    times = []
    for who, answer in asked:
        for acl_id in [*list(answer.acl_ids)[:200], *range(1, 200)]:
            value = index.acl(AclId(acl_id))
            start = time.perf_counter()
            decide(value, who, AT)
            times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times), len(times)


def _clause_change(index: ReadableIndex, organisation: Organisation) -> dict[str, tuple[float, int]]:
    """A folder with 100,000 chunks below it gets other rules, again and again."""
    row, ordinal, acl_id = organisation.chunks + 10_000, organisation.chunks + 10_000, organisation.acls + 1
    changes: list[Change] = [ScopePut(_scope(-1), _scope(0), Clause((_allow(GROUPS[1]),)))]
    for n in range(100):
        changes.append(ScopePut(_scope(-2 - n), _scope(-1), Clause((_allow(GROUPS[1]),))))
        changes.append(AclPut(AclId(acl_id + n), _scope(-2 - n), Clause((_allow(OTHER),))))
        changes += [DocumentPut(ordinal + k, AclId(acl_id + n), ((row + 5 * k, row + 5 * k + 5),)) for k in range(200)]
        ordinal, row = ordinal + 200, row + 1000
    index.apply("files", changes)
    who = caller(2000, 1)
    applied, answered = [], []
    for n in range(200):
        clause = Clause((_allow(GROUPS[n % 4999], USERS[n]), _deny(OTHER)))
        applied.append(_ms(lambda clause=clause: index.apply("files", [ScopePut(_scope(-1), _scope(0), clause)])))  # type: ignore[misc]
        answered.append(_ms(lambda: index.readable(who, AT)))
    return {
        "clause_change_ms": (statistics.median(applied), len(applied)),
        "clause_change_first_ms": (applied[0], 1),
        "readable_after_change_p50_ms": (statistics.median(answered), len(answered)),
    }


def _other_changes(index: ReadableIndex, organisation: Organisation) -> dict[str, tuple[float, int]]:
    """A folder moves, an ACL gets other rules, a document gets another ACL, each after a question."""
    who = caller(2000, 1)
    far = organisation.chunks + 10_000
    rules = [Clause((_allow(GROUPS[n], USERS[n]),)) for n in range(100)]
    kinds: dict[str, Callable[[int], Change]] = {
        "scope_move_ms": lambda n: ScopePut(_scope(-2), _scope(n), rules[1]),
        "acl_change_ms": lambda n: AclPut(AclId(organisation.acls + 1), _scope(-2), rules[n]),
        "document_move_ms": lambda n: DocumentPut(far, AclId(n + 1), ((far, far + 5),)),
    }
    found: dict[str, tuple[float, int]] = {}
    for metric, change in kinds.items():
        times = []
        for n in range(100):
            index.readable(who, AT)
            changes = [change(n)]
            times.append(_ms(lambda changes=changes: index.apply("files", changes)))  # type: ignore[misc]
        found[metric] = statistics.median(times), len(times)
    return found


def workload(acls: int, chunks: int) -> float:
    """The peak memory in MB of the organisation's changes alone."""
    before_mb = forget_peak()
    organisation = Organisation(acls, chunks)
    for batches in (organisation.scopes(), organisation.documents()):
        for _ in batches:
            pass
    return peak_mb() - before_mb


TARGETS = {
    "readable_cached_p50_ms": "<= 0.02",
    "clause_change_ms": "<= 0.2",
    "build_s_per_million": "<= 5",
    "decide_p50_us": "<= 10",
}


def main() -> None:
    """Measure both organisations and write the reports."""
    for name, acls, chunks in (("acl", 42_000, 200_000), ("acl_1m", 1_000_000, 1_000_000)):
        if len(sys.argv) > 1 and sys.argv[1] != name:
            continue
        values: dict[str, tuple[float, int]] = _in_process("--measure", acls, chunks)
        values["workload_rss_mb"] = _in_process("--workload", acls, chunks), 1
        report = Report(name, SEED)
        for metric, (value, n) in values.items():
            report.add(metric, value, _unit(metric), _target(metric, acls), n)
        if name == "acl":
            report.add("posix_clause_us", *_posix())
            report.add("ntfs_descriptors_per_s", *_ntfs())
        report.write()


def _in_process(what: str, acls: int, chunks: int) -> Any:
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_acl", what, str(acls), str(chunks)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    ).stdout
    return json.loads(out)


def _posix() -> tuple[float, str, str, int]:
    none = 2**32 - 1
    listed = [(1, 7, none), (2, 4, 5), (2, 0, 6), (4, 5, none), (8, 4, 9), (16, 7, none), (32, 0, none)]
    entries = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in listed)
    times = [_ms(lambda: file_clause(0o770, 1, 2, entries, "corp")) * 1e3 for _ in range(2000)]
    assert not isinstance(file_clause(0o770, 1, 2, entries, "corp"), Unknown)
    return statistics.median(times), "us", "", len(times)


def _sid(*numbers: int) -> bytes:
    return struct.pack(f"<BB6s{len(numbers)}I", 1, len(numbers), b"\0\0\0\0\0\5", *numbers)


def _ntfs() -> tuple[float, str, str, int]:
    """Descriptors as a file server has them: three to ten entries, most inherited, some with a deny in front."""
    pick = random.Random(SEED)
    samples: list[bytes] = []
    for _ in range(20_000):
        entries = b""
        count = pick.randrange(3, 11)
        for number in range(count):
            deny = number == 0 and pick.random() < 0.2
            mask = pick.choice([0x1F01FF, 0x1301BF, 0x1200A9])
            body = struct.pack("<I", mask) + _sid(21, 1, 2, 3, 1000 + pick.randrange(5000))
            entries += struct.pack("<BBH", deny, 0x10, 4 + len(body)) + body
        owner = _sid(21, 1, 2, 3, 1000 + pick.randrange(3000))
        dacl = struct.pack("<BBHHH", 2, 0, 8 + len(entries), count, 0) + entries
        samples.append(struct.pack("<BBHIIII", 1, 0, 0x8004, 20, 0, 0, 20 + len(owner)) + owner + dacl)
    name = named_in(realm("ad"))
    start = time.perf_counter()
    translated = [file_clauses(sample, name) for sample in samples]
    spent = time.perf_counter() - start
    assert not any(isinstance(found, Unknown) for found in translated)
    return len(samples) / spent, "1/s", ">= 20000", len(samples)


def _unit(metric: str) -> str:
    if metric.startswith("permitted"):
        return "chunks"
    return next((unit for unit in ("ms", "us", "mb") if metric.endswith(f"_{unit}")), "s")


def _target(metric: str, acls: int) -> str:
    large = acls >= 1_000_000
    if metric.startswith("readable_cold_"):
        return "<= 5" if large else {"2000": "<= 0.3", "8000": "<= 1.5"}.get(metric.split("_")[2], "")
    if metric.startswith("rows_cold_"):
        return "<= 3"
    if metric == "peak_rss_mb":
        return "<= 50" if large else ""
    return TARGETS.get(metric, "")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(int(sys.argv[2]), int(sys.argv[3]))))
    elif sys.argv[1:2] == ["--workload"]:
        print(json.dumps(workload(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
