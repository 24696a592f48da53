"""A whole service in this process, for tests: real settings, keys, tokens, directory, catalog, sync, index, audit log
and gRPC listeners. Only the source is in memory, the embedding a hash, and time stands still until a test moves it.

    async with serving(tmp_path) as service:
        service.add("plan", "the secret plan", allow(ALICE))
        service.sync.engine()
        answer = await service.retrieval("alice").search("plan")
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from pyroaring import AbstractBitMap, BitMap
from remit.client import AsyncClient

from acl.model import Clause, Effect, Rule, ScopeId, Unknown
from acl.principal import Principal, Realm, realm
from connectors.base import Finding
from connectors.directories.base import Directory, DirectoryUnavailableError, Findable, Listed, Resolution
from connectors.directories.static import StaticDirectory
from connectors.testing.hostile import MemoryDocument, MemoryScope, MemorySource
from service import audit_keys, devissuer, settings
from service.access.audience import Audience
from service.access.checks import Checks
from service.access.grants import Grants
from service.access.index import Access
from service.access.preview import Preview
from service.access.review import People, Review
from service.api.access import AccessServicer
from service.api.audit import AuditServicer
from service.api.custody import CustodyServicer
from service.api.evidence import LoggedCalls
from service.api.gate import Gate
from service.api.health import Health
from service.api.index import IndexServicer
from service.api.observed import Observed
from service.api.retrieval import RetrievalServicer
from service.api.review import ReviewServicer
from service.api.server import ADMINISTRATOR_SERVICES, CALLER_SERVICES, Served, Server
from service.api.source import SourceServicer
from service.api.sources import RunPage, SourceState
from service.api.standing import StandingServicer
from service.api.wrapper import Wrapper
from service.audit import segments
from service.audit.key import AuditKey
from service.audit.log import AuditLog
from service.audit.reading import AuditReader
from service.audit.retention import Retention
from service.authn import Authenticator
from service.canaries import Patterns, Stops
from service.configuration import Configuration
from service.errors import NotFoundError
from service.executor import Executor
from service.identity.callers import Callers
from service.identity.resolver import Identity
from service.identity.roles import Roles
from service.identity.source_groups import SourceGroups
from service.index.base import Add, Candidate, FeedItem, Index, Proposal, Remove
from service.index.edge import EdgeIndex
from service.index.follow import follow
from service.index.keyword import AddTerms, KeywordIndex, TermFeed, term_hash
from service.index.planner import SearchPath, Tuning
from service.index.postings import Postings
from service.keys import Custody, KeyStore, open_provider
from service.limits import CallLimits, Meter
from service.metrics import Metrics, State
from service.search.engine import Retrieval
from service.search.shadow import Shadow
from service.sections import initial
from service.settings import Address, Settings
from service.stores.catalog import Catalog, open_stores
from service.stores.folder import DataFolder, open_folder
from service.stores.records import StoredRun, SyncPass
from service.sync import leases
from service.sync.engine import SyncEngine
from service.sync.removal import Removals
from service.sync.source_holds import SourceHolds
from service.text.terms import TermHash, query_terms
from service.traces import Traces
from service.upkeep.approvals import Approvals
from service.upkeep.backup import Backups
from service.upkeep.rebuild import Rebuilds
from service.upkeep.shred import Shredder
from tests.service.sync_support import CountingEmbedder, ParagraphExtractor

COMPANY: Final = "company"
CORP: Final = realm("posix", "corp")
ALICE: Final = Principal(CORP, "uid-20001")
BOB: Final = Principal(CORP, "uid-20002")
SALES: Final = Principal(CORP, "gid-20101")
FINANCE: Final = Principal(CORP, "gid-20102")
EVERYBODY: Final = Principal(CORP, "other")

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
UNHURRIED: Final = CallLimits(1_000_000, 1_000_000, 512, 512, 1_000_000)
"""Limits that no test reaches that is about something else."""
LOOPBACK: Final = Address("127.0.0.1", 0)
TUNING: Final = Tuning(threads=2)

PEOPLE: Final = """\
version: 1
id_domain: corp
users:
  - {id: u-1001, name: alice, display_name: Alice Ahlgren, uid: 20001, gid: 20101, groups: [sales]}
  - {id: u-1002, name: bob, display_name: Bob Borg, uid: 20002, gid: 20199, groups: [fin-emea]}
  - {id: u-1003, name: olga, display_name: Olga Olsen, groups: [operators]}
  - {id: u-1004, name: adam, display_name: Adam Audit, groups: [auditors]}
  - {id: u-1005, name: carla, display_name: Carla Content, groups: [content-auditors]}
  - {id: u-1006, name: kai, display_name: Kai Keyes, groups: [key-admins]}
  - {id: u-1007, name: rita, display_name: Rita Review, groups: [access-admins]}
  - {id: u-1008, name: kim, display_name: Kim Keyes, groups: [key-admins]}
groups:
  - {id: sales, gid: 20101}
  - {id: finance, gid: 20102}
  - {id: fin-emea, gid: 20110, member_of: [finance]}
  - {id: operators}
  - {id: auditors}
  - {id: content-auditors}
  - {id: key-admins}
  - {id: access-admins}
"""


CONTENT_ROLE: Final = "  audit-reader-content: [group:content-auditors]\n  access-admin: [group:access-admins]"


def allow(*principals: Principal) -> Clause:
    """A clause for these and nobody else."""
    return Clause((Rule(Effect.ALLOW, frozenset(principals)),))


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = EPOCH

    def __call__(self) -> datetime:
        """Read the clock."""
        return self.now

    def advance(self, by: timedelta) -> None:
        """Move on."""
        self.now += by


@dataclass
class TimedDirectory:
    """A directory that answers as of the tests' clock.

    before: called at each question; may change the world. lists: whether it says who its people are.
    """

    directory: Directory
    clock: Clock
    name: str = "people"
    before: Callable[[], None] = lambda: None
    lists: bool = True

    def resolve(self, attribute: str, value: str) -> Resolution:
        """See `Directory`."""
        found = self.directory.resolve(attribute, value)
        self.before()
        return replace(found, resolved_at=self.clock())

    def feeds(self, realm: Realm) -> bool:
        """See `Directory`."""
        return self.directory.feeds(realm)

    def find(self, login: str) -> str | None:
        """See `Findable`."""
        return self.directory.find(login) if isinstance(self.directory, Findable) else None

    def accounts(self) -> tuple[str, ...]:
        """See `Listed`."""
        if not self.lists or not isinstance(self.directory, Listed):
            raise DirectoryUnavailableError("lists nobody")
        return self.directory.accounts()

    def supposed(self, attribute: str, value: str, group: str, *, member: bool) -> Resolution:
        """See `Listed`."""
        assert isinstance(self.directory, Listed)
        return replace(self.directory.supposed(attribute, value, group, member=member), resolved_at=self.clock())


class MemoryIndex:
    """An exact index in this process, quicker to start than the real one; see `Index`.

    propose_all: propose chunks of every document, as a broken engine would.
    before_answer: called at the end of each search; may change the world. asked: the limits that were asked for.
    quiet_s: what it says of itself.
    """

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        self.applied_seq = 0
        self.rows: dict[int, Add] = {}
        self.propose_all = False
        self.before_answer: Callable[[], None] = lambda: None
        self.asked: list[int] = []
        self.quiet_s = 0.0

    @property
    def count(self) -> int:
        """See `Index`."""
        return len(self.rows)

    def recover(self) -> None:
        """Nothing ends."""

    def apply(self, items: Sequence[FeedItem]) -> None:
        """See `Index`."""
        for item in items:
            match item:
                case Add():
                    self.rows[item.row] = item
                case Remove():
                    self.rows.pop(item.row, None)
            self.applied_seq = max(self.applied_seq, item.seq)

    def flush(self) -> int:
        """See `Index`."""
        return self.applied_seq

    def clear(self) -> None:
        """See `Index`."""
        self.rows.clear()
        self.applied_seq = 0

    def search(
        self,
        vector: NDArray[np.float32],
        rows: AbstractBitMap,
        limit: int,
        *,
        exact: bool = False,
        approximate: bool = False,
    ) -> Proposal:
        """See `Index`."""
        self.asked.append(limit)
        found = [
            Candidate(row, float(item.vector @ vector))
            for row, item in self.rows.items()
            if self.propose_all or row in rows
        ]
        self.before_answer()
        best = sorted(found, key=lambda hit: (-hit.score, hit.row))[:limit]
        return Proposal(tuple(best), SearchPath.EXACT, "in memory", len(rows), len(found))

    def close(self) -> None:
        """Nothing is held."""


class MemoryKeywords:
    """The postings of keyword search in this process. propose_all: whatever is permitted."""

    def __init__(self, hashed: TermHash) -> None:
        self._hashed = hashed
        self.postings = Postings()
        self.applied_seq = 0
        self.propose_all = False
        self.quiet_s = 0.0

    def recover(self) -> None:
        """Nothing ends."""

    def apply(self, items: Sequence[AddTerms | Remove]) -> None:
        """See `service.index.keyword.KeywordIndex`."""
        for item in items:
            if isinstance(item, AddTerms):
                size = np.array([len(item.terms)])
                self.postings.add(np.array([item.row], np.uint32), size, item.terms, item.impacts)
            else:
                self.postings.remove([item.row])
            self.applied_seq = max(self.applied_seq, item.seq)

    def flush(self) -> int:
        """Nothing is written."""
        return self.applied_seq

    def clear(self) -> None:
        """Forget everything."""
        self.postings, self.applied_seq = Postings(), 0

    def search(self, text: str, rows: AbstractBitMap, limit: int) -> list[int]:
        """See `service.index.base.Keywords`."""
        if self.propose_all:
            rows = BitMap(row for one in self.postings.segments.values() for row in one.rows)
        return self.postings.search(self._hashed.numbers(sorted(query_terms(text))), rows, limit)

    def close(self) -> None:
        """Nothing is held."""


class EngineSources:
    """`Sources` over a sync engine, each run in a thread."""

    def __init__(self, config: Settings, catalog: Catalog, engine: SyncEngine, source: MemorySource) -> None:
        self._limits = {one.name: (one.max_permissions_age, one.max_content_age) for one in config.sources}
        self._catalog = catalog
        self._engine = engine
        self._source = source
        self.threads: list[threading.Thread] = []
        self.removals: Removals | None = None

    def states(self) -> list[SourceState]:
        """See `Sources`."""
        with self._catalog.reader() as reader:
            return [SourceState(s, *self._limits[s.name]) for s in reader.sources() if s.name in self._limits]

    def state(self, name: str) -> SourceState:
        """See `Sources`."""
        for found in self.states():
            if found.stored.name == name:
                return found
        raise NotFoundError("no such source")

    def check(self, name: str) -> list[Finding]:
        """See `Sources`."""
        self.state(name)
        return self._source.check()

    def start(self, name: str, sync_pass: SyncPass = SyncPass.CONTENT) -> StoredRun:
        """See `Sources`."""
        self.state(name)
        opened = self._engine.open(name, sync_pass)
        thread = threading.Thread(target=opened.execute, name="run")
        self.threads.append(thread)
        thread.start()
        return opened.progress.snapshot()

    def run(self, run_id: str) -> StoredRun:
        """See `Sources`."""
        live = self._engine.progress(run_id)
        if live is not None:
            return live.snapshot()
        with self._catalog.reader() as reader:
            stored = reader.run(run_id)
        if stored is None:
            raise NotFoundError("no such run")
        return stored

    def remove(self, name: str) -> SourceState:
        """See `Sources`."""
        assert self.removals is not None
        self.removals.remove(name)
        with self._catalog.reader() as reader:
            found = next(one for one in reader.sources() if one.name == name)
        return SourceState(found, timedelta(0), timedelta(0), removal=self._catalog.removals()[name])

    def runs(self, name: str, before: int | None, limit: int) -> RunPage:
        """See `Sources`."""
        self.state(name)
        with self._catalog.reader() as reader:
            found = reader.numbered_runs(name, before, limit + 1)
        return RunPage([run for _, run in found[:limit]], found[limit - 1][0] if len(found) > limit else None)

    def cancel(self, run_id: str) -> StoredRun:
        """See `Sources`."""
        self._engine.cancel(run_id)
        return self.run(run_id)


@dataclass(frozen=True)
class Outcome:
    """Everything that a caller sees of one call."""

    code: str
    details: str
    message: bytes
    trailing: tuple[tuple[str, str | bytes], ...]

    def parsed(self, kind: type[Message]) -> Message:
        """The message that came back."""
        assert self.code == "OK", (self.code, self.details)
        return kind.FromString(self.message)


@dataclass
class Service:
    """A running service and everything in it that a test may want to touch."""

    folder: Path
    config: Settings
    clock: Clock
    keys: KeyStore
    catalog: Catalog
    source: MemorySource
    extractor: ParagraphExtractor
    embedder: CountingEmbedder
    engine: SyncEngine
    index: Index
    keywords: KeywordIndex | MemoryKeywords
    hashed: TermHash
    directory: TimedDirectory
    identity: Identity
    access: Access
    retrieval_core: Retrieval
    shadow: Shadow
    audit: AuditLog
    calls: LoggedCalls
    metrics: Metrics
    health: Health
    executor: Executor
    sources: EngineSources
    wrapper: Wrapper
    retention: Retention
    stops: Stops
    custody: Custody
    approvals: Approvals
    backups: Backups
    server: Server
    callers: Address
    administrators: Address
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    def add(self, name: str, text: str, own: Clause | Unknown, scope: str | None = "root") -> None:
        """Put a document into the source."""
        where = None if scope is None else ScopeId(scope)
        self.source.documents[name] = MemoryDocument(text.encode(), where, own)

    def scope(self, name: str, clause: Clause | Unknown, parent: str | None = None) -> None:
        """Put a container into the source."""
        above = None if parent is None else ScopeId(parent)
        self.source.scopes[ScopeId(name)] = MemoryScope(above, clause, f"/{name}")

    def sync(self) -> None:
        """Run one sync to its end, and let the index follow."""
        run = self.engine.run(COMPANY)
        assert run.failure == "", run
        self.follow()

    def follow(self) -> None:
        """Let both indexes follow."""
        follow(self.catalog, self.index)
        follow(TermFeed(self.catalog, self.hashed), self.keywords)

    def records(self) -> list[dict[str, Any]]:
        """Every record of the audit log, opened."""
        stored = segments.Reader(self.config.data / "audit").records()
        found = [self.audit.bodies.open(index, one) for index, one in enumerate(stored)]
        return [json.loads(one) for one in found if isinstance(one, bytes)]

    def people(self, text: str) -> None:
        """Change the directory."""
        (self.folder / "people.yaml").write_text(text)

    def token(self, name: str) -> str:
        """A token for somebody, valid now."""
        return devissuer.mint(self.config, name, at=self.clock())

    def document_ids(self) -> dict[str, str]:
        """The id of every stored document by its location."""
        with self.catalog.reader() as reader:
            found = reader.documents(range(1000))
        return {self.catalog.sealing.location(d): d.document_id for d in found.values()}

    def chunk_ids(self, name: str) -> list[str]:
        """The ids of a document's chunks."""
        with self.catalog.reader() as reader:
            stored = reader.document_by_id(self.document_ids()[name])
            assert stored is not None
            return [chunk.chunk_id for chunk in reader.chunks_of(stored.ordinal)]

    def client(self, name: str) -> AsyncClient:
        """A client for somebody."""
        return AsyncClient(str(self.callers), token=lambda: self.token(name), insecure_loopback=True)

    async def call(
        self,
        method: str,
        request: Message | bytes = b"",
        *,
        token: str | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout_s: float | None = 20.0,
    ) -> Outcome:
        """Call `Service/Method` with bytes, and return everything that comes back."""
        service, _, name = method.partition("/")
        administrative = service in {one.name for one in ADMINISTRATOR_SERVICES}
        address = self.administrators if administrative else self.callers
        channel = self.channels.get(str(address))
        if channel is None:
            channel = grpc.aio.insecure_channel(str(address), [("grpc.enable_http_proxy", 0)])
            self.channels[str(address)] = channel
        sent = [*([("authorization", f"Bearer {token}")] if token is not None else []), *metadata]
        data = request if isinstance(request, bytes) else request.SerializeToString()
        path = f"/remit.v1.{service}/{name}"
        try:
            if name in ("WatchSyncRun", "ExportAuditRecords", "RebuildIndex"):
                many: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(path)
                stream = many(data, metadata=sent, timeout=timeout_s)
                answer = b"".join([one async for one in stream])
                return Outcome("OK", "", answer, _trailing(await stream.trailing_metadata()))
            one_call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            call = one_call(data, metadata=sent, timeout=timeout_s)
            answer = await call
            return Outcome("OK", "", answer, _trailing(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as err:
            return Outcome(err.code().name, err.details() or "", b"", _trailing(err.trailing_metadata()))


def _trailing(metadata: grpc.aio.Metadata | None) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key, value) for key, value in metadata or ())


@contextmanager
def _stores(folder: Path, config: Settings, clock: Clock) -> Iterator[tuple[DataFolder, KeyStore, Catalog]]:
    data = open_folder(config.data)
    keys, catalog = open_stores(data, config.keys.store, open_provider(config.keys), clock())
    try:
        yield data, keys, catalog
    finally:
        catalog.close()
        keys.close()
        data.close()


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    edge: bool = False,
    new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    max_permissions_age: str = "24h",
    tuning: Tuning = TUNING,
    audit_timeout_s: float = 5.0,
    shred_approvals: int = 1,
    canaries: Sequence[str] = (),
    limits: CallLimits = UNHURRIED,
    traces: Traces | None = None,
) -> AsyncIterator[Service]:
    """Run a service on an empty source. edge: with the real index process. new_id: names the calls.

    tuning: of the real index. audit_timeout_s: how long the audit log may take to become durable. limits: of callers.
    traces: takes the spans of calls. canaries: patterns of places whose documents nobody may be given.
    """
    if not (folder / "remit.yaml").exists():
        initial.write(folder)
        (folder / "people.yaml").write_text(PEOPLE)
        text = (folder / "remit.yaml").read_text().replace("embedding: {kind: model}", "embedding: {kind: hash}")
        text = text.replace("auditor: [group:auditors]", "auditor: [group:auditors]\n" + CONTENT_ROLE)
        text = text.replace("version: 1\n", "version: 1\nbackup: {folder: ..}\n")
        text = text.replace("store: ./keystore}", f"store: ./keystore, shred_approvals: {shred_approvals}}}")
        text = text.replace("127.0.0.1:7420", "127.0.0.1:0").replace("127.0.0.1:7421", "127.0.0.1:0")
        source = f"sources:\n  - name: {COMPANY}\n    kind: memory\n    max_permissions_age: {max_permissions_age}\n"
        source += f"    canaries: {json.dumps(list(canaries))}\n" if canaries else ""
        (folder / "remit.yaml").write_text(text.replace("sources: []\n", source))
    config = settings.load(folder / "remit.yaml")
    clock = Clock()
    with _stores(folder, config, clock) as (folder_of_data, keys, catalog):
        source_in_memory = MemorySource()
        source_in_memory.scopes[ScopeId("root")] = MemoryScope(None, allow(EVERYBODY), "/")
        embedder, extractor = CountingEmbedder(), ParagraphExtractor()
        catalog.bind_model(embedder.digest, embedder.dimension)
        catalog.add_source(COMPANY, "memory")
        engine = SyncEngine(
            catalog, keys, lambda name: source_in_memory, extractor, embedder, limit_bytes=1_000_000, now=clock
        )
        index: Index = (
            EdgeIndex(
                config.data / "index", incarnation=catalog.incarnation, dimension=embedder.dimension, tuning=tuning
            )
            if edge
            else MemoryIndex(catalog.incarnation)
        )
        hashed = term_hash(keys)
        keywords: KeywordIndex | MemoryKeywords = (
            KeywordIndex(config.data / "keywords", incarnation=catalog.incarnation, hashed=hashed)
            if edge
            else MemoryKeywords(hashed)
        )
        directory = TimedDirectory(StaticDirectory("people", folder / "people.yaml"), clock)
        groups = SourceGroups(catalog, {one.name: one.max_memberships_age for one in config.sources}, clock)
        roles = Roles(config.roles)
        identity = Identity({"people": directory}, roles, groups=groups, now=clock)
        key = AuditKey.load(config.keys.audit)
        log = AuditLog(config.data / "audit", key.signer, audit_keys.bodies(keys, key), timeout_s=audit_timeout_s)
        audit_reader = AuditReader(log, config.data / "audit", key)
        retention = Retention(log, audit_reader, config.audit.kept)
        stops = Stops(log, clock)
        access = Access(catalog, leases.of_all(config), clock, stopped=stops.sources)
        callers = Callers(identity, access.latest)
        shadow = Shadow(index, tuning.shadow)
        retrieval = Retrieval(
            access=access,
            index=index,
            keywords=keywords,
            embedder=embedder,
            sealing=catalog.sealing,
            callers=callers,
            shadow=shadow,
        )
        executor = Executor(threads=2, waiting=32)
        calls = LoggedCalls(log, key, clock, keep_queries=config.audit.keep_queries)
        meter = Meter(limits)
        metrics = Metrics(State(access.all_ages, {}, lambda: meter.under_way, lambda: shadow.measured, audit_reader))
        wrapper = Wrapper(
            authenticator=Authenticator(config.issuers, now=clock),
            callers=callers,
            auditor=Observed(calls, metrics, traces, clock),
            gate=Gate(Patterns({one.name: one.canaries for one in config.sources if one.canaries}), stops, log),
            executor=executor,
            clock=clock,
            new_id=new_id,
            meter=meter,
        )
        sources = EngineSources(config, catalog, engine, source_in_memory)
        checks = Checks(access, catalog.sealing, callers)
        people = People(identity, callers, {"people": "id"}, clock)
        served = [
            Served(CALLER_SERVICES[0], RetrievalServicer(retrieval, executor)),
            Served(CALLER_SERVICES[1], AccessServicer(retrieval, checks, executor, key.page_key)),
        ]
        configuration = Configuration(config, lambda one, base: source_in_memory)
        configuration.follow(
            catalog.add_source,
            log.append_blocking,
            lambda new: access.limit(leases.of_all(new)),
            lambda new: roles.use(new.roles),
        )
        sources.removals = Removals(catalog, configuration, log.append_blocking, lambda: None)
        custody = Custody(keys)

        def settle() -> None:
            follow(catalog, index)
            follow(TermFeed(catalog, hashed), keywords)

        shredder = Shredder(catalog, custody, settle, clock)
        approvals = Approvals(shredder, keys, config.keys.shred_approvals, config.keys.shred_within, clock)
        backups = Backups(
            folder_of_data,
            config.keys.store,
            custody,
            clock,
            (config.backup.folder, config.backup.keys_folder),
        )
        administered = [
            Served(
                ADMINISTRATOR_SERVICES[0],
                SourceServicer(
                    sources,
                    executor,
                    key.page_key,
                    configuration.reload,
                    SourceHolds(catalog, configuration.names, log.append_blocking),
                    poll_s=0.01,
                ),
            ),
            Served(ADMINISTRATOR_SERVICES[1], AuditServicer(audit_reader, executor, key.page_key, poll_s=0.01)),
            Served(ADMINISTRATOR_SERVICES[2], CustodyServicer(custody, approvals, backups, executor)),
            Served(
                ADMINISTRATOR_SERVICES[3],
                ReviewServicer(
                    Review(people, checks),
                    Audience(access, checks, people),
                    Grants(access, audit_reader),
                    Preview(access, catalog.sealing, people),
                    executor,
                    key.page_key,
                ),
            ),
            Served(ADMINISTRATOR_SERVICES[4], IndexServicer(Rebuilds({}), lambda: index.count, poll_s=0.01)),
            Served(ADMINISTRATOR_SERVICES[5], StandingServicer(retention, stops, executor)),
        ]
        health = Health([one.descriptor.full_name for one in (*served, *administered)])
        server = Server(
            wrapper=wrapper, health=health, callers=served, administrators=administered, arrivals=calls.arrivals
        )
        try:
            callers_at, administrators_at, _ = await server.start(LOOPBACK, LOOPBACK, None)
            service = Service(
                folder,
                config,
                clock,
                keys,
                catalog,
                source_in_memory,
                extractor,
                embedder,
                engine,
                index,
                keywords,
                hashed,
                directory,
                identity,
                access,
                retrieval,
                shadow,
                log,
                calls,
                metrics,
                health,
                executor,
                sources,
                wrapper,
                retention,
                stops,
                custody,
                approvals,
                backups,
                server,
                callers_at,
                administrators_at,
            )
            yield service
            for channel in service.channels.values():
                await channel.close()
        finally:
            await server.stop(0)
            await calls.flush()
            for thread in sources.threads:
                thread.join()
            executor.close()
            audit_reader.close()
            log.close()
            shadow.close()
            index.close()
            keywords.close()
