"""Sync a tree that nobody here wrote, and hold what the service says against what the kernel does.

Run as root: `python -m benchmarks.bench_real_input [--tree /usr/share/doc]`. It copies the tree, gives the copy to a
dozen users and groups with modes and POSIX ACLs drawn from a seed, and then

1. syncs a part of at most 10,000 passages with the bundled model, and again with nothing changed
2. syncs all of it with the hash embedding (the subject is not the embedding), and again with nothing changed
3. serves it and asks GetDocument for random pairs of user and file; the kernel opens the same file as the same user

Passages a second and the share of embedding are those of step 1; everything else is of step 2.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from remit.client import Client, NotFoundError

from benchmarks.report import Report
from connectors.filesystem import Filesystem
from service import devissuer
from service.embed.embedder import Embedder, Vectors, open_embedder, passage_tokens, tokenizer_path
from service.keys import FileKey
from service.sections import initial
from service.settings import EmbeddingSettings, load
from service.stores.catalog import open_stores
from service.stores.folder import open_folder
from service.stores.records import RunState, StoredRun
from service.sync.engine import SyncEngine
from service.text.extract import Extractor

SEED = 20261122
USERS = 12
GROUPS = 8
FIRST_UID = 21001
FIRST_GID = 21101
PART_BYTES = 5_000_000
MOST_PASSAGES = 10_000
ACL_VERSION = 2
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True)
class Person:
    """A user of the experiment. groups: supplementary, nested ones included."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def people(rng: random.Random) -> tuple[list[Person], str]:
    """A dozen people in eight groups, some of them nested, and the directory file that says so."""
    parents = {group: ([rng.randrange(group)] if group and rng.random() < 0.4 else []) for group in range(GROUPS)}
    lines = ["version: 1", "id_domain: corp", "users:"]
    found = []
    for number in range(USERS):
        primary = rng.randrange(GROUPS)
        direct = sorted(rng.sample(range(GROUPS), rng.randint(0, 3)))
        closure, todo = set(), [primary, *direct]
        while todo:
            group = todo.pop()
            if group not in closure:
                closure.add(group)
                todo += parents[group]
        name, uid = f"user{number}", FIRST_UID + number
        found.append(Person(name, uid, FIRST_GID + primary, tuple(FIRST_GID + g for g in sorted(closure))))
        listed = ", ".join(f"g{g}" for g in sorted({primary, *direct}))
        lines.append(
            f"  - {{id: u-{number}, name: {name}, display_name: User {number}, uid: {uid}, "
            f"gid: {FIRST_GID + primary}, groups: [{listed}]}}"
        )
    lines.append("groups:")
    for group in range(GROUPS):
        above = ", ".join(f"g{p}" for p in parents[group])
        lines.append(f"  - {{id: g{group}, gid: {FIRST_GID + group}, member_of: [{above}]}}")
    return found, "\n".join(lines) + "\n"


def copy_tree(tree: Path, target: Path) -> list[Path]:
    """Copy the regular files of `tree`; symbolic links and special files stay behind."""
    files = []
    for folder, names, entries in os.walk(tree):
        names.sort()
        here = target / Path(folder).relative_to(tree)
        here.mkdir(parents=True, exist_ok=True)
        for entry in sorted(entries):
            source = Path(folder) / entry
            if source.is_file() and not source.is_symlink():
                shutil.copyfile(source, here / entry)
                files.append(here / entry)
    return files


def set_permissions(root: Path, files: Sequence[Path], rng: random.Random) -> None:
    """Draw an owner, a group, a mode and now and then an ACL for every folder and file."""
    folders = sorted({folder for file in files for folder in file.parents if folder.is_relative_to(root)})
    for path in [*folders, *files]:
        folder = path.is_dir()
        os.chown(path, FIRST_UID + rng.randrange(USERS), FIRST_GID + rng.randrange(GROUPS))
        if folder:
            path.chmod(rng.choice([0o755, 0o755, 0o755, 0o755, 0o751, 0o750, 0o710, 0o700]))
        else:
            path.chmod(rng.choice([0o644, 0o644, 0o640, 0o640, 0o600, 0o604, 0o040, 0o044]))
        if rng.random() < (0.1 if folder else 0.3):
            os.setxattr(path, "system.posix_acl_access", drawn_acl(rng, 5 if folder else 4))


def drawn_acl(rng: random.Random, wide: int) -> bytes:
    """A valid access ACL in the kernel's binary form, masks of zero included."""

    def bits() -> int:
        return rng.choice([0, wide, wide, 7])

    named = [(USER, FIRST_UID + n) for n in sorted(rng.sample(range(USERS), rng.randint(0, 3)))]
    groups = [(GROUP, FIRST_GID + n) for n in sorted(rng.sample(range(GROUPS), rng.randint(0, 3)))]
    nobody = 0xFFFFFFFF
    entries = [
        (USER_OBJ, bits(), nobody),
        *((tag, bits(), number) for tag, number in named),
        (GROUP_OBJ, bits(), nobody),
        *((tag, bits(), number) for tag, number in groups),
        (MASK, rng.choice([0, wide, 7, 7]), nobody),
        (OTHER, rng.choice([0, 0, wide]), nobody),
    ]
    return struct.pack("<I", ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


class Timed:
    """An embedder that knows how long it took."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.seconds = 0.0
        self.texts = 0

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    @property
    def digest(self) -> str:
        return self._embedder.digest

    def embed(self, texts: Sequence[str]) -> Vectors:
        began = time.perf_counter()
        try:
            return self._embedder.embed(texts)
        finally:
            self.seconds += time.perf_counter() - began
            self.texts += len(texts)

    def close(self) -> None:
        self._embedder.close()


class Memory(threading.Thread):
    """The highest sum of resident memory of this process and its children, sampled ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mb = 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.1):
            self.peak_mb = max(self.peak_mb, sum(_resident_mb(pid) for pid in [os.getpid(), *_children(os.getpid())]))

    def stop(self) -> float:
        self._ended.set()
        self.join()
        return self.peak_mb


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return [one for child in found for one in (child, *_children(child))]


def _resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


@dataclass(frozen=True)
class Synced:
    """Two syncs of one tree."""

    first: StoredRun
    first_s: float
    again: StoredRun
    again_s: float
    embedding_s: float
    peak_mb: float
    ids: dict[str, str]


def sync(folder: Path, root: Path, embedding: EmbeddingSettings) -> Synced:
    """Sync `root` twice into a data folder under `folder`."""
    data = open_folder(folder / "data")
    keys, catalog = open_stores(data, folder / "keystore", FileKey(folder / "keys" / "remit.kek"), datetime.now(UTC))
    embedder = Timed(open_embedder(embedding))
    extractor = Extractor(tokenizer_path(embedding), passage_tokens(embedding))
    catalog.add_source("docs", "filesystem")
    catalog.bind_model(embedder.digest, embedder.dimension)
    engine = SyncEngine(
        catalog,
        keys,
        lambda _: Filesystem(root, id_domain="corp", ancestors_above_root="enforce"),
        extractor,
        embedder,
        limit_bytes=64 * 2**20,
        now=lambda: datetime.now(UTC),
    )
    memory = Memory()
    memory.start()
    began = time.perf_counter()
    first = engine.run("docs")
    first_s, embedding_s = time.perf_counter() - began, embedder.seconds
    began = time.perf_counter()
    again = engine.run("docs")
    again_s = time.perf_counter() - began
    peak_mb = memory.stop()
    assert first.state is again.state is RunState.SUCCEEDED, (first.failure, again.failure)
    ids = {}
    with catalog.reader() as reader:
        for change in reader.changes_since(0):
            ordinal = getattr(change.value, "ordinal", None)
            if ordinal is not None:
                for document in reader.documents([ordinal]).values():
                    if document.row_stop > document.row_start:
                        ids[catalog.sealing.location(document)] = document.document_id
    catalog.close()
    keys.close()
    embedder.close()
    extractor.close()
    data.close()
    return Synced(first, first_s, again, again_s, embedding_s, peak_mb, ids)


def settings_in(folder: Path, root: Path, directory: str, kind: str) -> Path:
    """Write the settings of one experiment and return the file."""
    initial.write(folder)
    (folder / "people.yaml").write_text(directory)
    file = folder / "remit.yaml"
    text = file.read_text().split("sources: []")[0].replace("embedding: {kind: model}", f"embedding: {{kind: {kind}}}")
    text = text.replace("127.0.0.1:7420", "127.0.0.1:0").replace("127.0.0.1:7421", "127.0.0.1:0")
    text = text.split("roles:")[0] + text[text.index("# The bundled model") :]
    file.write_text(text + f"sources:\n  - {{name: docs, kind: filesystem, root: {root}, id_domain: corp}}\n")
    return file


def kernel_opens(person: Person, paths: Sequence[Path]) -> list[bool]:
    """Whether the kernel lets `person` open each path, asked in a process that is that person."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.setgroups(person.groups)
            os.setresgid(person.gid, person.gid, person.gid)
            os.setresuid(person.uid, person.uid, person.uid)
            answers = bytearray()
            for path in paths:
                try:
                    os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW))
                    answers.append(1)
                except PermissionError:
                    answers.append(0)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(answers)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answered = pipe.read()
    os.waitpid(child, 0)
    assert len(answered) == len(paths), "the kernel could not be asked about every file"
    return [bool(answer) for answer in answered]


@contextmanager
def served(file: Path) -> Iterator[str]:
    """Serve, and give the callers' address."""
    command = [sys.executable, "-m", "service.cli", "--config", str(file), "serve", "--json"]
    with (
        (file.parent / "log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as server,
    ):
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            if not line:
                sys.exit((file.parent / "log").read_text())
            yield json.loads(line)["callers"]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)


def compare(
    file: Path, root: Path, ids: dict[str, str], crowd: Sequence[Person], pairs: int, rng: random.Random
) -> tuple[int, int, int]:
    """Ask service and kernel about random pairs; return differences, allowed and pairs asked."""
    settings = load(file)
    locations = sorted(ids)
    drawn = {person: [rng.choice(locations) for _ in range(pairs // len(crowd))] for person in crowd}
    # The kernel first: a process that has used gRPC must not fork.
    opened = {person: kernel_opens(person, [root / place for place in places]) for person, places in drawn.items()}
    differences = allowed = asked = 0
    with served(file) as address:
        for person, places in drawn.items():
            kernel = opened[person]
            with Client(address, token=devissuer.mint(settings, person.name), insecure_loopback=True) as client:
                for place, opens in zip(places, kernel, strict=True):
                    try:
                        client.get_document(ids[place])
                        reads = True
                    except NotFoundError:
                        reads = False
                    asked += 1
                    allowed += reads
                    if reads is not opens:
                        differences += 1
                        print(f"DIFFERENCE: {person.name} {place}: kernel {opens}, service {reads}", file=sys.stderr)
    return differences, allowed, asked


def main() -> int:
    """Run everything and write the result file; exit 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, default=Path("/usr/share/doc"))
    parser.add_argument("--pairs", type=int, default=6000)
    parser.add_argument("--name", default="real_input")
    asked = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("run it as root: only root can give files away and ask the kernel as somebody else")
    rng = random.Random(SEED)
    report = Report(asked.name, SEED)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        scratch = Path(name)
        scratch.chmod(0o755)
        crowd, directory = people(rng)
        files = copy_tree(asked.tree, scratch / "all")
        set_permissions(scratch / "all", files, rng)
        report.add("files", len(files), "files")

        part = scratch / "part"
        size = 0
        for path in rng.sample(files, len(files)):
            if path.suffix in {".html", ".txt", ".md", ".rst", ".pdf", ""} and size + path.stat().st_size < PART_BYTES:
                size += path.stat().st_size
                target = part / path.relative_to(scratch / "all")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        modelled = sync(
            settings_in(scratch / "modelled", part, directory, "model").parent, part, EmbeddingSettings("model", None)
        )
        counts = modelled.first.counts
        assert counts.chunks <= MOST_PASSAGES, counts
        report.add("model_passages", counts.chunks, "passages", f"<= {MOST_PASSAGES}", counts.stored)
        report.add("model_passages_per_s", counts.chunks / modelled.first_s, "passages/s", n=counts.chunks)
        report.add("model_files_per_s", counts.seen / modelled.first_s, "files/s", n=counts.seen)
        report.add("model_embedding_share", modelled.embedding_s / modelled.first_s, "of the time", n=counts.chunks)
        report.add("model_peak_rss_mb", modelled.peak_mb, "MB")
        report.add("model_second_sync_s", modelled.again_s, "s", n=modelled.again.counts.seen)
        report.add("model_second_sync_stored", modelled.again.counts.stored, "files", "0")

        file = settings_in(scratch / "hashed", scratch / "all", directory, "hash")
        hashed = sync(file.parent, scratch / "all", EmbeddingSettings("hash", None))
        counts = hashed.first.counts
        report.add("hash_files_per_s", counts.seen / hashed.first_s, "files/s", n=counts.seen)
        report.add("hash_passages_per_s", counts.chunks / hashed.first_s, "passages/s", n=counts.chunks)
        report.add("hash_stored", counts.stored, "files", n=counts.seen)
        report.add("hash_skipped", counts.skipped, "files", n=counts.seen)
        report.add("hash_peak_rss_mb", hashed.peak_mb, "MB")
        report.add("second_sync_s", hashed.again_s, "s", n=hashed.again.counts.seen)
        report.add(
            "second_sync_files_per_s",
            hashed.again.counts.seen / hashed.again_s,
            "files/s",
            ">= 5000",
            hashed.again.counts.seen,
        )
        report.add("second_sync_stored", hashed.again.counts.stored, "files", "0", hashed.again.counts.seen)

        differences, allowed, pairs = compare(file, scratch / "all", hashed.ids, crowd, asked.pairs, rng)
        report.add("kernel_pairs", pairs, "pairs", ">= 2000", pairs)
        report.add("kernel_pairs_allowed", allowed / pairs, "of the pairs", n=pairs)
        report.add("kernel_differences", differences, "pairs", "0", pairs)
    print(report.write())
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
