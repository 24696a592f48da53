"""What the audit log costs a search, how fast it is written and verified, and how fast it answers an auditor.

    python -m benchmarks.bench_audit                     # a million records; needs about 3 GB under --folder
    python -m benchmarks.bench_audit --records 100000
    python -m benchmarks.bench_audit --search-only       # what a search pays, into a file of its own, in a minute

A search is the whole service over gRPC on one event loop, with a hash embedding and an exact index in memory, so that
little else is measured; phases with the log and with nothing in its place alternate. `audit_p50_ms` and `audit_p95_ms`
are with 32 callers who read each answer for half a second at the mean; `saturated_…` with 32 who never pause, where
whatever a search costs is waited for 32 times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from remit.v1 import retrieval_pb2

from benchmarks.memory import now_mb, peak_mb
from benchmarks.report import Report
from service.api.wrapper import Entry
from service.audit import (
    Actor,
    Asked,
    AuditKey,
    AuditLog,
    AuditReader,
    Authority,
    Call,
    Kind,
    Pass,
    Record,
    Returned,
    remit_audit_verify,
    segments,
    verify,
)
from service.audit.checkpoint import Checkpoint, Signer
from service.audit.index import Wanted
from service.audit.merkle import HASH_BYTES, Tree, leaf_hash, root
from service.audit.record import SALT_BYTES, Envelope, envelope
from tests.service.harness import SALES, Service, allow, serving
from tests.support.audit_bodies import BODIES, opened

SEED: Final = 20261125
CALLERS: Final = 32
PAUSE_S: Final = 0.5
PASSAGES: Final = 5
DOCUMENTS: Final = 20_000
PEOPLE: Final = 500
POPULAR: Final = "document-popular"


class Silent:
    """In the log's place: nothing is written down."""

    async def record(self, entry: Entry) -> None:
        """See `service.api.wrapper.Auditor`."""


def search_record(drawn: random.Random, number: int) -> Record:
    """The record of a search with five passages, as the service writes it."""
    names = [f"document-{drawn.randrange(DOCUMENTS):05d}" for _ in range(PASSAGES - 1)]
    names.append(POPULAR if number % 10 == 0 else f"document-{drawn.randrange(DOCUMENTS):05d}")
    person = f"u-{drawn.randrange(PEOPLE)}"
    matches = (Pass("v1:27:ab34", 0, "posix:corp:gid-20101"), Pass("own", 1, "posix:corp:gid-20101"))
    returned = [
        Returned(rank, "company", name, "3", f"{name}-{rank}", f"{drawn.getrandbits(256):064x}", 0, 900, 17, matches, 9)
        for rank, name in enumerate(names, 1)
    ]
    return Call(
        Kind.QUERY,
        "remit.v1.RetrievalService/Search",
        f"{drawn.getrandbits(128):032x}",
        "OK",
        timedelta(milliseconds=7),
        peer="ipv4:10.0.0.7:51234",
        actor=Actor("https://issuer.example", f"sub-{person}", f"{drawn.getrandbits(64):x}", "people", person),
        authority=Authority("00" * 32, 214, ("posix:corp", "static:people"), timedelta(seconds=3)),
        asked=Asked("11" * 32, 42, 5, "sha256:22", sealed="c2VhbGVk" * 12),
        returned=returned,
        epochs={"company": 4711},
        candidates=10,
    ).record()


# --- what a search pays ---


async def _phase(service: Service, search: Any, seconds: float, pause_s: float) -> list[float]:
    """Latencies in ms of searches by 32 callers, each of whom reads an answer for `pause_s` at the mean."""
    drawn = random.Random(SEED)
    metadata = (("authorization", f"Bearer {service.token('alice')}"),)
    data = retrieval_pb2.SearchRequest(query="plan", limit=10).SerializeToString()
    found: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < end:
            if pause_s:
                await asyncio.sleep(drawn.expovariate(1 / pause_s))
                began = time.perf_counter()
            await search(data, metadata=metadata, timeout=60)
            found.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return found


@asynccontextmanager
async def _company(folder: Path) -> AsyncIterator[tuple[Service, Any]]:
    async with serving(folder) as service:
        for number in range(40):
            service.add(f"plan{number}", f"the plan of sales number {number}", allow(SALES))
        service.sync()
        channel = grpc.aio.insecure_channel(str(service.callers), [("grpc.enable_http_proxy", 0)])
        yield service, channel.unary_unary("/remit.v1.RetrievalService/Search")
        await channel.close()


async def added(folder: Path, report: Report, phases: int, seconds: float) -> None:
    """Searches with and without the log, in turn: callers that pause, then callers that never do."""
    async with _company(folder) as (service, search):
        await _phase(service, search, 1.0, 0)
        await _compared(report, service, search, phases, seconds, "", PAUSE_S)
        await _compared(report, service, search, max(phases // 2, 1), seconds, "saturated_", 0)


async def _compared(
    report: Report, service: Service, search: Any, phases: int, seconds: float, name: str, pause_s: float
) -> None:
    wrapper = service.wrapper
    real = wrapper._auditor
    kept, cpu = {True: list[float](), False: list[float]()}, {True: 0.0, False: 0.0}
    for number in range(phases * 2):
        audited = number % 2 == 0
        wrapper._auditor = real if audited else Silent()
        began = time.process_time()
        kept[audited] += await _phase(service, search, seconds, pause_s)
        cpu[audited] += time.process_time() - began
    wrapper._auditor = real
    with_, without = (statistics.quantiles(kept[one], n=100) for one in (True, False))
    count = len(kept[True])
    spent = {one: cpu[one] / len(kept[one]) * 1000 for one in kept}
    aims = ("", "") if name else ("<= 2", "<= 10")
    report.add(f"{name}search_p50_ms", with_[49], "ms", n=count)
    report.add(f"{name}search_p95_ms", with_[94], "ms", n=count)
    report.add(f"{name}search_without_audit_p50_ms", without[49], "ms", n=len(kept[False]))
    report.add(f"{name}search_without_audit_p95_ms", without[94], "ms", n=len(kept[False]))
    report.add(f"{name}audit_p50_ms", with_[49] - without[49], "ms", aims[0], n=count)
    report.add(f"{name}audit_p95_ms", with_[94] - without[94], "ms", aims[1], n=count)
    report.add(f"{name}audit_cpu_ms", spent[True] - spent[False], "ms CPU a search", n=count)


def _disk(folder: Path) -> float:
    """The median time to append a record to a file and make it durable, which no log can be quicker than."""
    handle = os.open(folder / "probe", os.O_WRONLY | os.O_CREAT, 0o600)
    times = []
    for _ in range(300):
        began = time.perf_counter()
        os.write(handle, bytes(6000))
        os.fdatasync(handle)
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(0.005)
    os.close(handle)
    return statistics.median(times)


# --- writing ---


async def written(folder: Path, report: Report, count: int) -> None:
    """Records a second that become durable, appended by 256 callers at once."""
    log = AuditLog(folder, KEY.signer, BODIES)
    drawn = random.Random(SEED)
    waits: list[float] = []
    ready = [search_record(drawn, number) for number in range(2000)]
    left = iter(range(count))

    async def caller() -> None:
        for number in left:
            began = time.perf_counter()
            await log.append(ready[number % len(ready)])
            waits.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(256)))
    took = time.perf_counter() - began
    log.close()
    report.add("records_per_second", count / took, "records/s", ">= 5000", n=count)
    report.add("append_p50_ms", statistics.median(waits), "ms", n=count)


# --- a large log ---

KEY: Final = AuditKey(Signer("remit-audit/bench", Ed25519PrivateKey.from_private_bytes(bytes(range(32)))))


def fill(folder: Path, count: int) -> None:
    """A log of `count` searches over a year, written without waiting for the disk."""
    drawn = random.Random(SEED)
    writer, tree, last = segments.Writer(folder, 0), Tree(), bytes(HASH_BYTES)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for first in range(0, count, 4096):
        records, leaves = list[bytes](), list[bytes]()
        for number in range(first, min(first + 4096, count)):
            at = start + timedelta(seconds=30 * number)
            made = search_record(drawn, number)
            data = envelope(made, Envelope(number, last, drawn.randbytes(SALT_BYTES), "00", at, number))
            records.append(BODIES.seal(made, number, at.date(), data))
            last = leaf_hash(data)
            leaves.append(last)
            tree.append(last)
        writer.append(first, records, leaves)
    writer.put_checkpoint(Checkpoint(KEY.verifier.name, tree.size, tree.root()).sign(KEY.signer))
    writer.close()


def large(folder: Path, report: Report, count: int) -> None:
    """A million records: verified, indexed, and asked, each by a process of its own."""
    log = folder / "log"
    log.mkdir(mode=0o700)
    fill(log, count)
    size = sum(path.stat().st_size for path in log.rglob("*") if path.is_file())
    report.add("log_mb", size / 1e6, "MB", n=count)

    report.add("verify_records_s", _verified_from_leaves(log, count), "records/s", ">= 200000", n=count)
    began = time.perf_counter()
    assert verify(log, KEY.verifier, BODIES).ok
    report.add("verify_whole_records_s", count / (time.perf_counter() - began), "records/s", n=count)

    found = json.loads(
        subprocess.run(
            [sys.executable, "-m", "benchmarks.bench_audit", "--ask", str(log), "--records", str(count)],
            capture_output=True,
            check=True,
        ).stdout
    )
    report.add("index_records_s", found["indexed"], "records/s", n=count)
    report.add("index_mb", found["index_mb"], "MB", n=count)
    report.add("who_saw_p50_ms", found["who_saw"], "ms", "<= 200", n=200)
    report.add("who_saw_p95_ms", found["who_saw_p95"], "ms", n=200)
    report.add("who_saw_popular_p50_ms", found["popular"], "ms", "<= 200", n=20)
    report.add("what_did_p50_ms", found["what_did"], "ms", n=100)
    report.add("inclusion_proof_p50_ms", found["proof"], "ms", n=100)
    report.add("index_memory_mb", found["memory_mb"], "MB", "<= 100", n=count)
    report.add("peak_rss_mb", found["peak_rss_mb"], "MB", n=count)


def _verified_from_leaves(folder: Path, count: int) -> float:
    """Leaves a second that give the signed root: the median of three."""
    leaves = segments.read_leaves(folder)
    split = [leaves[at : at + HASH_BYTES] for at in range(0, len(leaves), HASH_BYTES)]
    signed = Checkpoint.open(segments.read_checkpoint(folder) or b"", KEY.verifier)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        assert root(split) == signed.root
        times.append(time.perf_counter() - began)
    return count / statistics.median(times)


def ask(folder: Path, count: int) -> None:
    """Build the index over a log and ask it, in a process whose memory is that of nothing else."""
    log = AuditLog(folder, KEY.signer, BODIES)
    reader = AuditReader(log, folder, KEY)
    before = now_mb()
    began = time.perf_counter()
    while not reader._index.follow(reader.size):
        pass
    indexed = time.perf_counter() - began
    drawn = random.Random(SEED + 1)
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def timed(wanted: Wanted) -> float:
        began = time.perf_counter()
        reader.page(wanted, first=0, last=reader.size - 1, limit=100, newest=True)
        return (time.perf_counter() - began) * 1000

    def window() -> tuple[datetime, datetime]:
        since = start + timedelta(seconds=drawn.uniform(0, 30 * count / 2))
        return since, since + timedelta(seconds=30 * count / 4)

    reader.page(Wanted(document_id="document-00000"), first=0, last=reader.size - 1, limit=1, newest=True)
    saw = [
        timed(Wanted(document_id=f"document-{drawn.randrange(DOCUMENTS):05d}", since=since, until=until))
        for since, until in (window() for _ in range(200))
    ]
    popular = [
        timed(Wanted(document_id=POPULAR, since=since, until=until)) for since, until in (window() for _ in range(20))
    ]
    did = [timed(Wanted(person=f"u-{drawn.randrange(PEOPLE)}")) for _ in range(100)]
    proofs = []
    for _ in range(100):
        began = time.perf_counter()
        reader.inclusion(drawn.randrange(count))
        proofs.append((time.perf_counter() - began) * 1000)
    memory = now_mb() - before
    index_mb = sum(path.stat().st_size for path in folder.glob("index.sqlite*")) / 1e6
    reader.close()
    log.close()
    found = {
        "indexed": count / indexed,
        "index_mb": index_mb,
        "who_saw": statistics.median(saw),
        "who_saw_p95": statistics.quantiles(saw, n=20)[18],
        "popular": statistics.median(popular),
        "what_did": statistics.median(did),
        "proof": statistics.median(proofs),
        "memory_mb": memory,
        "peak_rss_mb": peak_mb(),
    }
    print(json.dumps(found))


def exported(folder: Path, report: Report, count: int) -> None:
    """The one-file program over an export."""
    from service.audit import export
    from tests.service.test_audit_export import Header, Sent

    log = folder / "small"
    log.mkdir(mode=0o700)
    fill(log, count)
    note = (log / "checkpoint").read_bytes()
    target = folder / f"export-{secrets.token_hex(4)}"
    with export.draft(target) as draft:
        records = (Sent(data, leaf_hash(data)) for data in opened(log))
        draft.write(Header(0, count, note, KEY.verifier.text, [], []), records)
    began = time.perf_counter()
    assert remit_audit_verify.verify(target, KEY.verifier.text).problem is None
    report.add("verify_export_records_s", count / (time.perf_counter() - began), "records/s", n=count)


def main() -> None:
    """Measure and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--phases", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="where the logs are made; the temporary folder by default")
    parser.add_argument("--search-only", action="store_true")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ask is not None:
        ask(asked.ask, asked.records)
        return
    report = Report("audit_search" if asked.search_only else "audit", SEED)
    folder = Path(tempfile.mkdtemp(prefix="remit-bench-audit-", dir=asked.folder))
    try:
        asyncio.run(added(folder / "search", report, asked.phases, asked.seconds))
        if asked.search_only:
            report.add("disk_append_p50_ms", _disk(folder), "ms", n=300)
            report.add("load_average", os.getloadavg()[0], "processes")
            report.write()
            return
        asyncio.run(written(folder / "written", report, 50_000))
        exported(folder, report, 100_000)
        large(folder, report, asked.records)
    finally:
        shutil.rmtree(folder)
    report.write()


if __name__ == "__main__":
    main()
