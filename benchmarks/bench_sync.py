"""What a sync costs beside reading and embedding: `python -m benchmarks.bench_sync [--only PART]…`.

Documents are made by number, so that the source itself holds nothing, a hundred in each folder, with forty own clauses.

memory: the peak of a process that does the first run over all of them, hash embedder, above what it held before, and
the same for a tenth; the difference is what counts.
permissions: passes over what is stored, unchanged, and with other rules for a tenth of the documents.
container: the outermost one is narrowed, from the batch that holds it to durable, in turns with the smallest commit of
SQLite on the same disk; then the first question of somebody whom it excludes. Each change begins where a complete run
ended, so that nothing else is held. What is measured does not wait for company: a walk gathers changes for 0.2 s.
overhead: files of this machine, cut to at most two passages, with the real extractor and the real model; the share of
the time in which nothing was embedded.

All of it takes ten minutes on a quiet machine of two cores. Some parts alone keep the numbers of others in the file, if
these are of the same commit. How fast connectors walk what did not change (`filesystem_rescan_files_s`,
`smb_rescan_files_s`) is measured by `benchmarks.bench_connectors`.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from acl.model import Clause, ScopeId
from benchmarks import memory
from benchmarks.report import Report
from connectors.base import Change, Cursor, Finding, ScanComplete, ScopeChange, Upsert
from service.access.index import Access
from service.embed.embedder import Embedder, HashEmbedder, Vectors, open_embedder, passage_tokens, tokenizer_path
from service.keys import FileKey, create_key_file
from service.settings import EmbeddingSettings
from service.stores.catalog import open_stores
from service.stores.folder import open_folder
from service.stores.records import RunState, SyncPass
from service.sync.breaker import BreakerLimits
from service.sync.engine import Policy, SyncEngine
from service.sync.met import Met
from service.sync.questions import Questions
from service.sync.runs import Progress
from service.sync.texts import Extractor as Extracts
from service.sync.walk import Walk
from service.text.extract import Extractor
from tests.service.sync_support import FREE, ParagraphExtractor, allow, caller

SOURCE: Final = "company"
SEED: Final = 0
PARTS: Final = ("memory", "permissions", "container", "overhead")
ROUNDS: Final = 5
_A_FOLDER: Final = 100
_CLAUSES: Final = [allow(1, number) for number in range(2, 42)]
_ROOT: Final = ScopeId("root")
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_TREES: Final = ("/usr/share/doc", "/usr/lib/python3", "/usr/share/perl", "/usr/share/vim")
_MOST_BYTES: Final = 1600
"""Of a real document: about two passages."""
_TELL_S: Final = 10.0


class Numbered:
    """A source of documents that are made when they are asked for. changed: every n-th has other rules; 0: none."""

    def __init__(self, documents: int) -> None:
        self.documents = documents
        self.changed = 0
        self.root: Clause = allow(*range(1, 50))

    def check(self) -> list[Finding]:
        """Nothing to find."""
        return []

    def changes(self, cursor: Cursor | None) -> Iterator[Change]:
        """Send everything."""
        yield ScopeChange(_ROOT, None, self.root, "/")
        everybody = allow(*range(1, 50))
        for number in range(self.documents):
            folder = ScopeId(f"folder-{number // _A_FOLDER}")
            if number % _A_FOLDER == 0:
                yield ScopeChange(folder, _ROOT, everybody, f"/{folder}")
            own = _CLAUSES[(number + bool(self.changed and number % self.changed == 0)) % len(_CLAUSES)]
            name = f"document {number}.txt"
            where = f"{folder}/{name}"
            yield Upsert(f"{number:x}", folder, own, "1", name, where, "text/plain", 200, _EPOCH)
        yield ScanComplete({})

    def read(self, document: Upsert, limit_bytes: int) -> bytes:
        """Make the text."""
        text = f"# {document.name}\n\nThe text of {document.location}, which nobody else has, {document.native_id}."
        return text.encode()

    def close(self) -> None:
        """Nothing is held."""


class Files(Numbered):
    """Real texts."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        super().__init__(len(texts))
        self._texts = texts

    def read(self, document: Upsert, limit_bytes: int) -> bytes:
        """Return one."""
        return self._texts[int(document.native_id, 16)]


class Timed:
    """An embedder that says how long it worked."""

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner
        self.digest, self.dimension = inner.digest, inner.dimension
        self.busy_s = 0.0
        self.passages = 0

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        begin = time.perf_counter()
        try:
            return self._inner.embed(texts)
        finally:
            self.busy_s += time.perf_counter() - begin
            self.passages += len(texts)

    def close(self) -> None:
        """Close the inner one."""
        self._inner.close()


class Bench:
    """An opened data folder over one source."""

    def __init__(self, path: Path, source: Numbered, extractor: Extracts, embedder: Embedder, stack: ExitStack) -> None:
        create_key_file(path / "kek")
        folder = open_folder(path / "data")
        stack.callback(folder.close)
        self.keys, self.catalog = open_stores(folder, path / "keystore", FileKey(path / "kek"), datetime.now(UTC))
        stack.callback(self.keys.close)
        stack.callback(self.catalog.close)
        self.catalog.bind_model(embedder.digest, embedder.dimension)
        self.catalog.add_source(SOURCE, "numbered")
        self.source = source
        self.engine = SyncEngine(
            self.catalog,
            self.keys,
            lambda name: source,
            extractor,
            embedder,
            limit_bytes=2**20,
            now=lambda: datetime.now(UTC),
            policy=lambda name: Policy(FREE.breaker),
        )

    def first(self, documents: int) -> float:
        """Do the first run, which takes a while, and say how far it is; how long it took."""
        begin = time.perf_counter()
        run = self.engine.open(SOURCE)
        ended = threading.Event()
        teller = threading.Thread(target=_tell, args=(run.progress, documents, ended))
        teller.start()
        try:
            done = run.execute()
        finally:
            ended.set()
            teller.join()
        assert done.state is RunState.SUCCEEDED, done.failure
        return time.perf_counter() - begin

    def sync(self, sync_pass: SyncPass) -> float:
        """Run one sync over what is stored; how long it took."""
        begin = time.perf_counter()
        run = self.engine.run(SOURCE, sync_pass)
        assert run.state is RunState.SUCCEEDED, run.failure
        return time.perf_counter() - begin


def say(what: str) -> None:
    """Tell whoever waits."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def _tell(progress: Progress, documents: int, ended: threading.Event) -> None:
    while not ended.wait(_TELL_S):
        say(f"first run: {progress.snapshot().counts.stored} of {documents} documents")


def first_run(documents: int, tell: Any, parts: Collection[str]) -> None:
    """In a process of its own: the first run, and then what else is measured over what it stored."""
    quiet()
    with tempfile.TemporaryDirectory(prefix="remit-bench-") as path, ExitStack() as stack:
        bench = Bench(
            Path(path), Numbered(documents), ParagraphExtractor(extracted=Forgetful()), HashEmbedder(64), stack
        )
        before = memory.forget_peak()
        took = bench.first(documents)
        found: dict[str, object] = {"peak_mb": memory.peak_mb() - before, "took_s": took}
        if "permissions" in parts:
            found |= permissions(bench)
        if "container" in parts:
            found |= container(bench, Path(path))
        tell.send(json.dumps(found))


def quiet() -> None:
    """Leave out what a run says at its end."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


class Forgetful(list[str]):
    """What the extractor of the tests would remember."""

    def append(self, text: str) -> None:
        """Forget it."""


def permissions(bench: Bench) -> dict[str, object]:
    """Passes for permissions."""
    documents = bench.source.documents
    unchanged: list[float] = []
    worked: list[float] = []
    for number in range(ROUNDS):
        say(f"permissions: pass {number + 1} of {ROUNDS + 1}")
        processor = time.process_time()
        unchanged.append(documents / bench.sync(SyncPass.PERMISSIONS))
        worked.append(documents / (time.process_time() - processor))
    say("permissions: a tenth changed")
    bench.source.changed = 10
    tenth = documents / bench.sync(SyncPass.PERMISSIONS)
    return {"unchanged": unchanged, "unchanged_processor": worked, "a_tenth": tenth}


def container(bench: Bench, path: Path) -> dict[str, object]:
    """The outermost container changes: its row, and the next question."""
    say("container: its rules change")
    lease = {SyncPass.PERMISSIONS: timedelta(days=1)}
    access = Access(bench.catalog, {SOURCE: lease}, lambda: datetime.now(UTC))
    somebody = caller_now(1)
    durable: list[float] = []
    worked: list[float] = []
    asked: list[float] = []
    floor: list[float] = []
    least = least_commits(path / "least.sqlite")
    with access.snapshot() as snapshot:
        permitted = len(snapshot.permitted(somebody, frozenset()).documents)
    assert permitted > 0
    for number in range(4 * ROUNDS):
        floor.append(next(least))
        opening = bench.catalog.open_run(SOURCE, datetime.now(UTC))
        progress = Progress(opening.run)
        walk = Walk(
            bench.catalog,
            bench.keys,
            opening,
            progress,
            Met(),
            todo=lambda todo: None,
            mark=lambda mark: None,
            on_commit=lambda: None,
            settings="",
            limits=BreakerLimits(),
            questions=Questions(opening.run, progress, lambda stop: None),
        )
        # Narrower each time: somebody is out from the first.
        walk.apply(ScopeChange(_ROOT, None, allow(*range(3, 49 - number)), "/"))
        processor = time.process_time()
        begin = time.perf_counter()
        walk.flush()
        committed = time.perf_counter()
        worked.append((time.process_time() - processor) * 1000)
        with access.snapshot() as snapshot:
            left = snapshot.permitted(somebody, frozenset()).documents
        asked.append((time.perf_counter() - committed) * 1000)
        durable.append((committed - begin) * 1000)
        assert len(left) == 0, "in force on the next question"
        with bench.catalog.writer(SOURCE, opening.fence) as writer:
            # As at the end of a complete run.
            scope = next(scope for scope, known in walk.containers.to_release().items() if known.parent is None)
            writer.rules.release({scope: None})
            writer.rules.drop_unused()
    return {"durable_ms": durable, "processor_ms": worked, "asked_ms": asked, "least_ms": floor}


def least_commits(path: Path) -> Iterator[float]:
    """Commit a row to a database of the same kind each time; how many milliseconds that took."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE rows (body BLOB)"):
            connection.execute(statement).close()
        while True:
            begin = time.perf_counter()
            connection.execute("INSERT INTO rows VALUES (?)", (b"x" * 200,)).close()
            yield (time.perf_counter() - begin) * 1000


def caller_now(number: int) -> Any:
    """A caller of the tests, valid now."""
    now = datetime.now(UTC)
    return replace(caller(number), resolved_at=now, expires_at=now + timedelta(days=1))


def overhead(report: Report, count: int) -> None:
    """The first run over real texts with the real model."""
    settings = EmbeddingSettings("model", None)
    say("overhead: looking for texts")
    texts = real_texts(count)
    with tempfile.TemporaryDirectory(prefix="remit-bench-") as path, ExitStack() as stack:
        embedder = Timed(open_embedder(settings))
        stack.callback(embedder.close)
        extractor = Extractor(tokenizer_path(settings), passage_tokens(settings))
        stack.callback(extractor.close)
        embedder.embed(["warm"] * 64)
        embedder.busy_s, embedder.passages = 0.0, 0
        bench = Bench(Path(path), Files(texts), extractor, embedder, stack)
        took = bench.first(len(texts))
        share = 1 - embedder.busy_s / took
        report.add("sync_overhead_share", share, "of the time", "<= 0.15", n=len(texts))
        report.add("first_sync_documents_s", len(texts) / took, "documents/s", n=len(texts))
        report.add("first_sync_passages", embedder.passages, "passages", n=len(texts))


def real_texts(count: int) -> list[bytes]:
    """Different pieces of text files of this machine, each at most two passages long."""
    found: dict[bytes, None] = {}
    for root in (
        "/usr/share/doc",
        "/usr/lib/python3",
        "/usr/share/perl",
        "/usr/share/vim",
        str(Path(os.__file__).parent),
    ):
        for path in sorted(Path(root).rglob("*")):
            if len(found) >= count:
                return list(found)[:count]
            if path.suffix in {".txt", ".md", ".rst", ".py", ".pod", ""} and path.is_file() and not path.is_symlink():
                try:
                    text = path.read_text()
                except (OSError, UnicodeDecodeError):
                    continue
                for start in range(0, min(len(text), 8 * _MOST_BYTES), _MOST_BYTES):
                    piece = text[start : start + _MOST_BYTES].strip()
                    if len(piece) > _MOST_BYTES // 4:
                        found[piece.encode()] = None
    return list(found)[:count]


def alone(documents: int, parts: Collection[str] = ()) -> dict[str, Any]:
    """Measure in a fresh process."""
    say(f"first run over {documents} documents")
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=first_run, args=(documents, there, parts))
    process.start()
    there.close()
    try:
        found: dict[str, Any] = json.loads(here.recv())
    finally:
        process.join()
    return found


def stored(report: Report, count: int, parts: Collection[str]) -> None:
    """What is measured over documents that are made by number."""
    many = alone(count, parts)
    if "permissions" in parts:
        report.add("permission_pass_docs_s", statistics.median(many["unchanged"]), "documents/s", ">= 20000", n=ROUNDS)
        worked_s = statistics.median(many["unchanged_processor"])
        report.add("permission_pass_docs_processor_s", worked_s, "documents/s of processor", n=ROUNDS)
        report.add("permission_pass_a_tenth_changed_docs_s", many["a_tenth"], "documents/s", n=count)
    if "container" in parts:
        durable, next_ms, worked = many["durable_ms"], many["asked_ms"], many["processor_ms"]
        report.add("scope_change_durable_ms", statistics.median(durable), "ms", "<= 5", n=len(durable))
        report.add("scope_change_durable_processor_ms", statistics.median(worked), "ms of processor", n=len(worked))
        report.add("scope_change_durable_max_ms", max(durable), "ms", n=len(durable))
        report.add("least_commit_ms", statistics.median(many["least_ms"]), "ms", n=len(many["least_ms"]))
        report.add("scope_change_next_question_ms", statistics.median(next_ms), "ms", n=len(next_ms))
    report.add("first_run_hash_docs_s", count / many["took_s"], "documents/s", n=count)
    if "memory" in parts:
        few = alone(count // 10)
        report.add("peak_rss_mb", many["peak_mb"], "MB", f"<= {few['peak_mb'] + 300:.0f}", n=count)
        report.add("peak_rss_a_tenth_mb", few["peak_mb"], "MB", n=count // 10)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--real", type=int, default=10_000, help="real documents, for `overhead`")
    asked = parser.parse_args()
    parts = frozenset(asked.only or PARTS)
    quiet()
    report = Report("sync", SEED)
    report.add("load_average", os.getloadavg()[0], "processes")
    if parts != frozenset(PARTS):
        report.go_on()
    if parts - {"overhead"}:
        stored(report, asked.documents, parts)
        report.write()
    if "overhead" in parts:
        overhead(report, asked.real)
        report.write()
    say("done")


if __name__ == "__main__":
    main()
