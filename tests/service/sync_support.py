"""What the tests of catalog and sync share: a folder with keys, a source in memory, and an extractor in process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from acl.changes import AclPut, Change, DocumentPut, ScopePut
from acl.decide import Allowed, decide
from acl.model import MAX_DEPTH, Acl, Caller, Clause, Effect, Rule, Scope, ScopeId, Unknown
from acl.principal import Principal, realm
from connectors.testing.hostile import MemoryDocument, MemoryScope, MemorySource
from service.embed.embedder import HashEmbedder, Vectors
from service.keys import FileKey, KeyStore, create_key_file
from service.stores.catalog import Catalog, open_stores
from service.stores.folder import DataFolder, open_folder
from service.stores.records import StoredDocument, StoredRun, SyncPass
from service.stores.stops import Stop
from service.sync.breaker import BreakerLimits
from service.sync.engine import Policy, SyncEngine
from service.text.chunk import Passage
from service.text.extract import Extracted, ExtractError, Reason

SOURCE: Final = "company"
REALM: Final = realm("posix", "corp")
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
DIMENSION: Final = 64
FREE: Final = Policy(BreakerLimits(max_widening=1.0, max_purge=1.0, max_joining=1.0))


def person(number: int) -> Principal:
    """A user of the sources in these tests."""
    return Principal(REALM, f"uid-{number}")


def allow(*numbers: int) -> Clause:
    """A clause for these users and nobody else."""
    return Clause((Rule(Effect.ALLOW, frozenset(person(number) for number in numbers)),))


def caller(number: int) -> Caller:
    """A resolved user, valid for a day of the tests' clock."""
    principals = frozenset({person(number)})
    return Caller(f"user-{number}", principals, frozenset({REALM}), EPOCH, EPOCH + timedelta(days=1000))


class Clock:
    """A clock that moves on by a second whenever it is read."""

    def __init__(self) -> None:
        self.time = EPOCH

    def __call__(self) -> datetime:
        """Read the clock."""
        self.time += timedelta(seconds=1)
        return self.time


@dataclass
class ParagraphExtractor:
    """Cuts at empty lines; `# ` at the very beginning is the title.

    failures: the reason for which a text is refused. extracted: the texts in the order in which they came.
    """

    failures: dict[str, Reason] = field(default_factory=dict)
    extracted: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda text: None

    def extract(self, data: bytes, media_type: str, name: str) -> Extracted:
        """See `service.sync.texts.Extractor`."""
        text = data.decode()
        self.before(text)
        self.extracted.append(text)
        if text in self.failures:
            raise ExtractError(self.failures[text], "it was told to fail")
        title = text.splitlines()[0][2:] if text.startswith("# ") else name or "untitled"
        passages, start = [], 0
        for part in text.split("\n\n"):
            if part.strip():
                passages.append(Passage(part, (), start, start + len(part)))
            start += len(part) + 2
        return Extracted(title, len(text), tuple(passages))


class CountingEmbedder(HashEmbedder):
    """A hash embedder that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(DIMENSION)
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        self.texts.extend(texts)
        return super().embed(texts)


@dataclass
class World:
    """An opened data folder over one source in memory."""

    folder: DataFolder
    keys: KeyStore
    catalog: Catalog
    source: MemorySource
    extractor: ParagraphExtractor
    embedder: CountingEmbedder
    clock: Clock
    engine: SyncEngine
    commits: list[int]
    finished: list[StoredRun]
    stops: list[Stop]

    def sync(self, sync_pass: SyncPass = SyncPass.CONTENT) -> StoredRun:
        """Run one sync."""
        return self.engine.run(SOURCE, sync_pass)

    def add(
        self,
        name: str,
        content: str,
        own: Clause | Unknown,
        scope: str | None = "root",
        *,
        media_type: str = "text/plain",
    ) -> None:
        """Put a document into the source."""
        where = None if scope is None else ScopeId(scope)
        self.source.documents[name] = MemoryDocument(content.encode(), where, own, media_type)

    def readable(self, number: int) -> dict[str, list[str]]:
        """Return what a user may read, title to passages, by the catalog's current rows and `decide` alone."""
        return self.readable_by(number)[0]

    def readable_by(self, *numbers: int) -> list[dict[str, list[str]]]:
        """Return what each of some users may read, all at one moment."""
        found: list[dict[str, list[str]]] = [{} for _ in numbers]
        with self.catalog.reader() as reader:
            values = [change.value for change in reader.changes_since(0)]
            ordinals = [value.ordinal for value in values if isinstance(value, DocumentPut)]
            for document in reader.documents(ordinals).values():
                acl = acl_of(document, values)
                mine = [isinstance(decide(acl, caller(number), self.clock.time), Allowed) for number in numbers]
                chunks = reader.chunks_of(document.ordinal) if any(mine) else []
                if chunks:
                    title = self.catalog.sealing.title(document)
                    passages = [self.catalog.sealing.text(chunk).text for chunk in chunks]
                    for may, readable in zip(mine, found, strict=True):
                        if may:
                            readable[title] = passages
        return found

    def documents(self) -> dict[str, StoredDocument]:
        """Return every document by its location."""
        with self.catalog.reader() as reader:
            values = [change.value for change in reader.changes_since(0)]
            found = reader.documents([value.ordinal for value in values if isinstance(value, DocumentPut)])
        return {self.catalog.sealing.location(document): document for document in found.values()}


def acl_of(document: StoredDocument, values: Sequence[Change]) -> Acl | Unknown:
    """Build a document's ACL from the change log, the slow and plain way."""
    scopes = {value.id: value for value in values if isinstance(value, ScopePut)}
    acls = {value.acl_id: value for value in values if isinstance(value, AclPut)}
    interned = acls.get(document.acl_id)
    if interned is None or isinstance(interned.own, Unknown):
        return Unknown("not interned")
    chain: list[ScopePut] = []
    here = interned.scope
    while here is not None:
        found = scopes.get(here)
        if found is None or isinstance(found.clause, Unknown) or found in chain:
            return Unknown("dangling, cyclic or not understood")
        chain.append(found)
        here = found.parent
    if len(chain) > MAX_DEPTH + 1:
        return Unknown("too deep")
    scope: Scope | None = None
    for found in reversed(chain):
        assert isinstance(found.clause, Clause)
        scope = Scope(found.id, scope, found.clause, found.label)
    return Acl(scope, interned.own)


def everything(world: World, but: Collection[str] = ()) -> list[tuple[object, ...]]:
    """Every row of the catalog, and who has a key. but: tables that are left out."""
    found: list[tuple[object, ...]] = [tuple(sorted(world.keys.documents(SOURCE)))]
    with world.catalog._readers.begin() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").all()
        for (table,) in [row for row in tables if row.name not in but]:
            found += [(table, *row) for row in connection.exec_driver_sql(f'SELECT * FROM "{table}"').all()]
    return found


def truth(source: MemorySource, user: int) -> dict[str, list[str]]:
    """Say what a user may read, from the source alone."""
    found = {}
    for name, document in source.documents.items():
        clauses: list[Clause | Unknown] = [document.own]
        here, seen = document.scope, set[ScopeId]()
        while here is not None:
            if here in seen or here not in source.scopes:
                clauses.append(Unknown("no way to the root"))
                break
            seen.add(here)
            clauses.append(source.scopes[here].clause)
            here = source.scopes[here].parent
        passages = [part for part in document.content.decode().split("\n\n") if part]
        if passages and all(isinstance(clause, Clause) and _allows(clause, user) for clause in clauses):
            found[name] = passages
    return found


def _allows(clause: Clause, user: int) -> bool:
    return any(principal.id == f"uid-{user}" for rule in clause.rules for principal in rule.principals)


@contextmanager
def open_world(path: Path, source: MemorySource | None = None, policy: Policy = FREE) -> Iterator[World]:
    """Open a data folder below `path`, with its key beside it. policy: by default the breaker holds nothing."""
    key = path / "kek"
    if not key.exists():
        create_key_file(key)
    clock = Clock()
    folder = open_folder(path / "data")
    keys, catalog = open_stores(folder, path / "keystore", FileKey(key), clock())
    try:
        embedder = CountingEmbedder()
        catalog.bind_model(embedder.digest, DIMENSION)
        catalog.add_source(SOURCE, "memory")
        if source is None:
            source = MemorySource()
            source.scopes[ScopeId("root")] = MemoryScope(None, allow(1, 2, 3), "/")
        extractor = ParagraphExtractor()
        commits: list[int] = []
        finished: list[StoredRun] = []
        stops: list[Stop] = []
        engine = SyncEngine(
            catalog,
            keys,
            lambda name: source,
            extractor,
            embedder,
            limit_bytes=100_000,
            now=clock,
            on_commit=lambda: commits.append(1),
            on_run_finished=finished.append,
            policy=lambda name: policy,
            on_held=stops.append,
        )
        yield World(folder, keys, catalog, source, extractor, embedder, clock, engine, commits, finished, stops)
    finally:
        catalog.close()
        keys.close()
        folder.close()
