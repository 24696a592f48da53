"""What questions about access cost, what a refusal costs, and what idle connections cost.

    python -m benchmarks.bench_access

The whole service over gRPC with its audit log, on one event loop with the one caller that asks, so a number holds both
ends and the loopback between them. 500 documents in containers six deep, with clauses of twenty rules; 400 people in
nested groups; who is asked about, and what, is drawn anew for each call. A refusal for a role is as dear as it gets: it
is told only when its record is durable. Idle connections are held by another process; the memory is the service's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from google.protobuf.message import Message
from remit.v1 import access_pb2, review_pb2

from acl.model import Clause, Effect, Rule
from acl.principal import Principal
from benchmarks.memory import now_mb
from benchmarks.report import Report
from service.limits import CallLimits
from tests.service.harness import CORP, EVERYBODY, PEOPLE, UNHURRIED, Outcome, Service, allow, serving

SEED: Final = 20261125
DOCUMENTS: Final = 500
PERSONS: Final = 400
GROUPS: Final = 60
CALLS: Final = 1000
IDLE: Final = 10_000


def _people() -> str:
    """The harness's people, and many others: each in three groups, each group in another one."""
    users, _, groups = PEOPLE.partition("groups:\n")
    lines = []
    for n in range(PERSONS):
        held = ", ".join(f"g{one}" for one in sorted({n % GROUPS, n * 7 % GROUPS, n * 11 % GROUPS}))
        lines.append(
            f"  - {{id: p-{n}, name: person{n}, display_name: Person {n}, uid: {30000 + n}, gid: 30000, "
            f"groups: [{held}]}}\n"
        )
    nested = [f"  - {{id: g{n}, gid: {40000 + n}{f', member_of: [g{n // 2}]' if n else ''}}}\n" for n in range(GROUPS)]
    return users + "".join(lines) + "groups:\n" + groups + "".join(nested)


def _group(number: int) -> Principal:
    return Principal(CORP, f"gid-{40000 + number}")


def _clause(drawn: random.Random) -> Clause:
    rules = [
        Rule(Effect.DENY if drawn.random() < 0.1 else Effect.ALLOW, frozenset({_group(drawn.randrange(GROUPS))}))
        for _ in range(20)
    ]
    return Clause(tuple(rules))


def _fill(service: Service, drawn: random.Random) -> None:
    service.people(_people())
    for number in range(40):
        above = "root"
        for depth in range(5):
            name = f"c{number}-{depth}"
            service.scope(name, allow(EVERYBODY), above)
            above = name
    for number in range(DOCUMENTS):
        service.add(f"document{number}", f"text {number}", _clause(drawn), f"c{drawn.randrange(40)}-4")
    service.sync()


async def _timed(count: int, call: Callable[[], Awaitable[Outcome]], code: str) -> tuple[list[float], float]:
    """Latencies in ms, and the processor's time of a call in ms, both ends."""
    for _ in range(50):  # warm
        await call()
    found: list[float] = []
    busy = time.process_time()
    for _ in range(count):
        began = time.perf_counter()
        outcome = await call()
        found.append((time.perf_counter() - began) * 1000)
        assert outcome.code == code, outcome
    return found, (time.process_time() - busy) * 1000 / count


async def questions(folder: Path, report: Report) -> None:
    """Explain, check, list, who."""
    drawn = random.Random(SEED)
    async with serving(folder / "remit") as service:
        _fill(service, drawn)
        ids = list(service.document_ids().values())
        rita = service.token("rita")

        def asked(method: str, make: Callable[[], Message]) -> Callable[[], Awaitable[Outcome]]:
            return lambda: service.call(method, make(), token=rita)

        def explain() -> Message:
            user = review_pb2.UserRef(user=f"person{drawn.randrange(PERSONS)}")
            return review_pb2.ExplainUserAccessRequest(user=user, document_id=drawn.choice(ids))

        found, _ = await _timed(CALLS, asked("ReviewService/ExplainUserAccess", explain), "OK")
        report.add("explain_p50_ms", statistics.median(found), "ms", "<= 5", n=CALLS)
        report.add("explain_p95_ms", statistics.quantiles(found, n=20)[-1], "ms", n=CALLS)

        def check() -> Message:
            return access_pb2.CheckAccessRequest(document_ids=drawn.sample(ids, 100))

        found, _ = await _timed(200, asked("AccessService/CheckAccess", check), "OK")
        report.add("check_100_p50_ms", statistics.median(found), "ms", n=200)

        def who() -> Message:
            return review_pb2.ListReadersRequest(document_id=drawn.choice(ids))

        found, _ = await _timed(20, asked("ReviewService/ListReaders", who), "OK")
        report.add("who_of_400_people_p50_ms", statistics.median(found), "ms", n=20)


async def refusals(folder: Path, report: Report) -> None:
    """Without a role, without a credential that verifies, and beyond a limit."""
    async with serving(folder / "remit", limits=UNHURRIED) as service:
        alice = service.token("alice")
        found, busy = await _timed(
            CALLS, lambda: service.call("SourceService/ListSources", token=alice), "PERMISSION_DENIED"
        )
        report.add("refused_p50_ms", statistics.median(found), "ms", "<= 1", n=CALLS)
        report.add("refused_cpu_ms", busy, "ms", n=CALLS)
        bad = alice[:-4] + "AAAA"
        found, busy = await _timed(CALLS, lambda: service.call("AccessService/GetCaller", token=bad), "UNAUTHENTICATED")
        report.add("refused_unproven_p50_ms", statistics.median(found), "ms", "<= 1", n=CALLS)
        report.add("refused_unproven_cpu_ms", busy, "ms", n=CALLS)
    async with serving(folder / "limited", limits=CallLimits(calls_per_second=1, burst=1)) as service:
        alice = service.token("alice")
        found = []
        for _ in range(CALLS):
            began = time.perf_counter()
            outcome = await service.call("AccessService/GetCaller", token=alice)
            if outcome.code == "RESOURCE_EXHAUSTED":
                found.append((time.perf_counter() - began) * 1000)
        report.add("refused_by_rate_p50_ms", statistics.median(found), "ms", "<= 1", n=len(found))


async def idle(folder: Path, report: Report) -> None:
    """Connections that were opened and say nothing; and that somebody is answered meanwhile."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, IDLE * 2 + 1000), most))
    async with serving(folder / "remit") as service:
        token = service.token("alice")
        await service.call("AccessService/GetCaller", token=token)
        before = now_mb()
        held = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.bench_access", "--hold", str(service.callers.port)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert held.stdout is not None
        assert held.stdin is not None
        assert (await held.stdout.readline()).strip() == str(IDLE).encode()
        found, _ = await _timed(100, lambda: service.call("AccessService/GetCaller", token=token), "OK")
        after = now_mb()
        held.stdin.close()
        await held.wait()
    report.add("idle_connections_memory_mb", after, "MB", "<= 1000", n=IDLE)
    report.add("idle_connections_added_mb", after - before, "MB", n=IDLE)
    report.add("idle_connections_call_p50_ms", statistics.median(found), "ms", n=100)


def hold(port: int) -> None:
    """Open connections as HTTP/2 clients do, say how many, and keep them until standard input ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, IDLE * 2 + 1000), most))
    empty_settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    kept: list[socket.socket] = []
    for _ in range(IDLE):
        one = socket.create_connection(("127.0.0.1", port), timeout=60)
        one.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
        assert one.recv(9)[3] == 4, "the service does not speak HTTP/2"  # its SETTINGS: it has taken the connection
        kept.append(one)
    print(len(kept), flush=True)
    sys.stdin.read()


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hold", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold is not None:
        hold(arguments.hold)
        return
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    report = Report("access", SEED)
    for part in (questions, refusals, idle):
        with tempfile.TemporaryDirectory(prefix="remit-access-") as folder:
            asyncio.run(part(Path(folder), report))
    print(f"written to {report.write()}")


if __name__ == "__main__":
    main()
