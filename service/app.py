"""Puts the service together from its settings and runs it: the only place that names concrete classes.

What is opened first is closed last; whatever fails on the way, nothing stays open or half written.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog

import acl
import connectors
import service
from connectors import registry
from connectors.base import Connector
from connectors.directories.base import ATTRIBUTES, Directory, Watched
from service import audit_copies, audit_keys, condition, directories, leases, offline, secret_options
from service.access import Access
from service.api import tls
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
from service.api.standing import StandingServicer
from service.api.wrapper import Wrapper
from service.approvals import Approvals
from service.audience import Audience
from service.audit import AuditKey, AuditLog, AuditReader, Bodies, Kind, Record, record, run_record
from service.audit.retention import Retention
from service.authn import Authenticator
from service.backup import Backups
from service.callers import Callers
from service.canaries import Patterns, Stops
from service.checks import Checks
from service.configuration import Configuration, Make
from service.domains import require_domain
from service.embed import open_embedder, passage_tokens, tokenizer_path
from service.errors import StartError
from service.executor import Executor
from service.extract import Extractor
from service.grants import Grants
from service.identity import Identity
from service.index.base import FeedItem, Index, Remove
from service.index.edge import EdgeIndex
from service.index.follow import Follower, RenewingFollower, follow
from service.index.generations import VectorGenerations, WordGenerations
from service.index.keyword import AddTerms, KeywordIndex, TermFeed, term_hash
from service.keys import Custody, open_provider
from service.keys.store import KeyStore
from service.keys.watch import KeyWatch
from service.leases import LeaseWatch
from service.limits import Meter
from service.lookups import Keeping
from service.metrics import Metrics, State
from service.preview import Preview
from service.purge import Purge
from service.rebuild import InPlace, Rebuilds, Renewable
from service.removal import Removals
from service.rerank import ModelReranker
from service.review import People, Review
from service.roles import Roles
from service.search import Retrieval
from service.settings import Address, Settings, SettingsError, SourceSettings
from service.shadow import Shadow
from service.shred import Shredder
from service.source_groups import SourceGroups
from service.source_holds import SourceHolds
from service.source_runs import SourceRuns
from service.stores.catalog import Catalog, open_stores
from service.stores.folder import DataFolder, open_folder
from service.stores.records import RunState, StoredRun
from service.sync import SyncEngine, policy_of
from service.sync_records import held_record, lease_record
from service.terms import TermHash
from service.traces import open_traces

log = structlog.get_logger()

_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the service can be reached, with the ports that the system gave."""

    callers: Address
    administrators: Address
    services: Address | None


class App:
    """Everything that one process serves. Open it with `open_app`."""

    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator,
        server: Server,
        health: Health,
        audit: AuditLog,
        calls: LoggedCalls,
        runs: SourceRuns,
        parts: Mapping[str, condition.Failure],
        configuration: Configuration,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._server = server
        self._health = health
        self._audit = audit
        self._calls = calls
        self._runs = runs
        self._parts = parts
        self._configuration = configuration
        self.closing = ExitStack()

    async def serve(self, ready: Callable[[Listening], None]) -> None:
        """Listen until SIGTERM or SIGINT, then finish what is under way. SIGHUP reads the settings again.

        ready: called once calls are accepted. Raises StartError when an address cannot be used.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, self._configuration.reload)
        listen = self._settings.listen
        certificates = None if listen.tls is None else tls.Certificates(listen.tls)
        bound = await self._server.start(listen.callers, listen.administrators, certificates, listen.services)
        beside = [
            loop.create_task(
                self._health.watch(
                    lambda: self._audit.failure or self._authenticator.failure,
                    parts=self._parts,
                )
            ),
            loop.create_task(self._authenticator.follow()),
            loop.create_task(self._calls.summarize()),
        ]
        try:
            self._runs.begin()
            ready(Listening(*bound))
            await ended.wait()
            log.info("stopping")
            await self._health.close()
            # Runs before the listeners: they write for seconds, and a watch of one ends with it. Meanwhile whoever asks
            # for health is told, and everybody else is still answered.
            told = loop.create_task(asyncio.sleep(self._settings.listen.drain.total_seconds()))
            await loop.run_in_executor(None, self._runs.close)
            await told
        finally:
            for task in beside:
                task.cancel()
            await self._server.stop(_GRACE_S)
            await self._calls.flush()

    def close(self) -> None:
        """Close everything, the last opened first."""
        self.closing.close()


async def open_app(settings: Settings, connect: Make | None = None) -> App:
    """Open the data folder and everything in it, verify the audit log, and bring the index up to date.

    connect: in place of the registry of connectors.
    Raises StartError: one sentence for people.
    """
    _check_installation()
    authenticator = Authenticator(
        settings.issuers, settings.service_accounts, frozenset().union(*settings.roles.values())
    )
    await authenticator.open()
    with ExitStack() as closing:
        app = _assemble(settings, authenticator, closing, connect or _connector)
        app.closing = closing.pop_all()
    return app


def _assemble(settings: Settings, authenticator: Authenticator, closing: ExitStack, make: Make) -> App:
    provider = open_provider(settings.keys)
    closing.callback(provider.close)

    def bound(new: Settings) -> Settings:
        return secret_options.bound(new, lambda: provider)

    configuration = Configuration(settings, make, bound)
    settings = configuration.settings
    for one in settings.sources:
        make(one, settings.base).close()  # every option is checked before anything is opened
    opened = _directories(settings, closing)
    watch = KeyWatch(provider)
    watch.start()
    closing.callback(watch.close)
    audit_key = AuditKey.load(settings.keys.audit)
    tokenizer = tokenizer_path(settings.embedding)

    folder = open_folder(settings.data)
    closing.callback(folder.close)
    keys, catalog = open_stores(folder, settings.keys.store, provider, datetime.now(UTC))
    closing.callback(keys.close)
    closing.callback(catalog.close)
    audit, audit_reader, retention = _open_audit(
        settings, folder, audit_keys.bodies(keys, audit_key), audit_key, closing
    )
    configuration.withhold(catalog.removals())
    settings = configuration.settings
    for one in settings.sources:
        catalog.add_source(one.name, one.kind)
    roles = Roles(settings.roles)
    groups = SourceGroups(catalog, _memberships_ages(settings))
    identity = _identity(settings, opened, roles, groups)
    closing.callback(identity.close)
    identity.start()
    embedder = open_embedder(settings.embedding)
    closing.callback(embedder.close)
    catalog.bind_model(embedder.digest, embedder.dimension)
    indexes = _open_indexes(settings, folder, keys, catalog, embedder.dimension, closing)
    extractor = Extractor(
        tokenizer, passage_tokens(settings.embedding), max_input_bytes=settings.limits.max_document_bytes
    )
    closing.callback(extractor.close)

    def connect(name: str) -> Connector:
        return require_domain(configuration.connect(name), opened.values())

    def too_short(new: Settings) -> list[str]:
        with catalog.reader() as reader:
            return leases.too_short(new.sources, reader.clocks())

    def finished(run: StoredRun) -> None:
        # A run that has ended can be searched: both indexes follow before anybody is told.
        try:
            indexes.settle()
        finally:
            audit.append_blocking(_run_record(run))

    engine = SyncEngine(
        catalog,
        keys,
        connect,
        extractor,
        embedder,
        limit_bytes=settings.limits.max_document_bytes,
        now=lambda: datetime.now(UTC),
        on_commit=indexes.notify,
        on_run_finished=finished,
        policy=lambda name: policy_of(configuration.settings, name),
        on_held=lambda stop: audit.append_blocking(held_record(stop)),
    )
    removals = Removals(catalog, configuration, audit.append_blocking, indexes.notify)
    closing.callback(removals.close)
    runs = SourceRuns(
        {one.name: one for one in settings.sources},
        catalog,
        engine,
        connect,
        lambda run: audit.append_blocking(_run_record(run)),
        removals,
    )
    closing.callback(runs.close)

    stops = Stops(audit)
    gate = Gate(_canaries(settings), stops, audit)
    access = Access(catalog, leases.of_all(settings), stopped=stops.sources)
    lease_watch = LeaseWatch(
        catalog, lambda: configuration.settings, lambda one: audit.append_blocking(lease_record(one))
    )
    lease_watch.start()
    closing.callback(lease_watch.close)
    configuration.follow(
        catalog.add_source,
        audit.append_blocking,
        lambda new: access.limit(leases.of_all(new)),
        lambda new: groups.limit(_memberships_ages(new)),
        lambda new: authenticator.privilege(frozenset().union(*new.roles.values())),
        lambda new: roles.use(new.roles),
        lambda new: gate.use(_canaries(new)),
        lambda new: extractor.limit(new.limits.max_document_bytes),
        lambda new: engine.limit(new.limits.max_document_bytes),
        lambda new: runs.use(new.sources),
        lambda new: removals.look(),
        refuse=too_short,
    )
    removals.start()
    with access.snapshot():
        pass  # reads all rules once, so that the first question does not wait for it
    groups.join({}, frozenset())  # and all groups
    callers = Callers(identity, access.latest)
    executor = Executor()
    closing.callback(executor.close)
    shadow = Shadow(indexes.vectors, settings.index.shadow)
    closing.callback(shadow.close)
    retrieval = Retrieval(
        access=access,
        index=indexes.vectors,
        keywords=indexes.words,
        embedder=embedder,
        sealing=catalog.sealing,
        callers=callers,
        shadow=shadow,
        reranker=_reranker(settings, closing),
    )
    checks = Checks(access, catalog.sealing, callers)
    people = People(identity, callers, {one.name: ATTRIBUTES[one.kind][0] for one in settings.directories})
    purge = indexes.purge(catalog, audit, closing)
    custody = Custody(keys, lambda: secret_options.versions_in_use(configuration.settings))
    servicers = {
        "RetrievalService": RetrievalServicer(retrieval, executor),
        "AccessService": AccessServicer(retrieval, checks, executor, audit_key.page_key),
        "ReviewService": ReviewServicer(
            Review(people, checks),
            Audience(access, checks, people),
            Grants(access, audit_reader),
            Preview(access, catalog.sealing, people),
            executor,
            audit_key.page_key,
        ),
        "SourceService": SourceServicer(
            runs, executor, audit_key.page_key, configuration.reload, SourceHolds(catalog, configuration.names)
        ),
        "AuditService": AuditServicer(audit_reader, executor, audit_key.page_key),
        "IndexService": IndexServicer(Rebuilds(indexes.renewables), lambda: indexes.vectors.count),
        "StandingService": StandingServicer(retention, stops, executor),
        "CustodyService": CustodyServicer(
            custody,
            _approvals(settings, Shredder(catalog, custody, indexes.settle, lambda: datetime.now(UTC), purge), keys),
            Backups(
                folder,
                settings.keys.store,
                custody,
                lambda: datetime.now(UTC),
                (settings.backup.folder, settings.backup.keys_folder),
            ),
            executor,
        ),
    }
    health = Health([one.full_name for one in (*CALLER_SERVICES, *ADMINISTRATOR_SERVICES)])
    calls = LoggedCalls(audit, audit_key, keep_queries=settings.audit.keep_queries)
    parts = condition.parts(
        audit=condition.of(audit),
        issuers=condition.of(authenticator),
        keys=condition.of(watch),
        indexes=[condition.of(one) for one in indexes.followers],
        directories=identity.failures(),
        proving=[identity.exhausted(name) for name in dict.fromkeys(one.directory for one in settings.issuers)],
    )
    meter = Meter(settings.limits.calls)
    state = State(access.all_ages, parts, lambda: meter.under_way, lambda: shadow.measured, audit_reader)
    server = Server(
        wrapper=Wrapper(
            authenticator=authenticator,
            callers=callers,
            auditor=_observed(settings, state, calls, closing),
            gate=gate,
            executor=executor,
            meter=meter,
        ),
        health=health,
        callers=[Served(one, servicers[one.name]) for one in CALLER_SERVICES],
        administrators=[Served(one, servicers[one.name]) for one in ADMINISTRATOR_SERVICES],
        arrivals=calls.arrivals,
    )
    return App(settings, authenticator, server, health, audit, calls, runs, parts, configuration)


def _observed(settings: Settings, state: State, calls: LoggedCalls, closing: ExitStack) -> Observed:
    metrics = Metrics(state)
    if settings.observe.metrics is not None:
        _, close = metrics.serve(settings.observe.metrics)
        closing.callback(close)
    traces = None
    if settings.observe.traces:
        traces = open_traces(settings.observe.traces)
        closing.callback(traces.close)
    return Observed(calls, metrics, traces)


def _reranker(settings: Settings, closing: ExitStack) -> ModelReranker | None:
    if settings.reranking is None:
        return None
    reranker = ModelReranker(settings.reranking.path, settings.reranking.top)
    closing.callback(reranker.close)
    return reranker


def _open_audit(
    settings: Settings, folder: DataFolder, bodies: Bodies, key: AuditKey, closing: ExitStack
) -> tuple[AuditLog, AuditReader, Retention]:
    kept = {kind: duration.days for kind, duration in settings.audit.kept.items()}
    facts: dict[str, object] = {
        "version": version("remit-server"),
        "settings_sha256": settings.sha256,
        "kept_days": kept,
    }
    log = AuditLog(folder.audit, key.signer, bodies, facts=facts)
    closing.callback(log.close)
    reader = AuditReader(log, folder.audit, key)
    reader.start()
    closing.callback(reader.close)
    retention = Retention(log, reader, settings.audit.kept)
    retention.start()
    closing.callback(retention.close)
    closing.callback(audit_copies.start(log, reader, folder.audit, settings.audit, version("remit-server")))
    return log, reader, retention


@dataclass(frozen=True, slots=True)
class _Indexes:
    """Both indexes, each with what brings it up to the catalog."""

    vectors: Index
    words: WordGenerations
    followers: tuple[Follower[FeedItem], Follower[AddTerms | Remove]]
    renewables: Mapping[str, Renewable]

    def notify(self) -> None:
        """Say that the catalog has changed."""
        for follower in self.followers:
            follower.notify()

    def purge(self, catalog: Catalog, audit: AuditLog, closing: ExitStack) -> Purge:
        """What makes both anew after a shredding."""

        def done() -> None:
            audit.append_blocking(record(Kind.ADMIN, {"event": "index purged"}))

        made = Purge(catalog, tuple(self.renewables.values()), done)
        made.start()
        closing.callback(made.close)
        return made

    def settle(self) -> None:
        """Wait until both hold what the catalog holds."""
        for follower in self.followers:
            follower.settle()


def _open_indexes(
    settings: Settings, folder: DataFolder, keys: KeyStore, catalog: Catalog, dimension: int, closing: ExitStack
) -> _Indexes:
    vectors = _index(folder, catalog, dimension, settings)
    closing.callback(vectors.close)
    vectors_follow: Follower[FeedItem]
    renewed: Renewable = InPlace()
    if isinstance(vectors, VectorGenerations):
        vectors_follow = renewed = RenewingFollower(catalog, vectors)
    else:
        vectors_follow = Follower(catalog, vectors)
    vectors_follow.start()
    closing.callback(vectors_follow.close)
    hashed = term_hash(keys)
    words = _words(folder, catalog, hashed)
    closing.callback(words.close)
    words_follow = RenewingFollower(TermFeed(catalog, hashed), words)
    words_follow.start()
    closing.callback(words_follow.close)
    renewables = {"vectors": renewed, "words": words_follow}
    return _Indexes(vectors, words, (vectors_follow, words_follow), renewables)


def rebuild_index(settings: Settings, tell: Callable[[int, int], None]) -> int:
    """Make both indexes anew from the catalog, embedding nothing; return how many passages they hold.

    tell: called with how far it is, and how far it goes. A crash on the way loses nothing: the next start goes on.
    Raises StartError, also when the service has the data folder, and SearchUnavailableError.
    """
    if not (settings.data / "FORMAT").exists():
        raise StartError(f"{settings.data} holds nothing yet: `remit serve` makes it")
    provider = open_provider(settings.keys)
    with ExitStack() as closing:
        folder = open_folder(settings.data)
        closing.callback(folder.close)
        keys, catalog = open_stores(folder, settings.keys.store, provider, datetime.now(UTC))
        closing.callback(keys.close)
        closing.callback(catalog.close)
        dimension = catalog.dimension()
        if dimension is None:
            return 0
        closing.enter_context(offline.recorded(folder, keys, AuditKey.load(settings.keys.audit), "index rebuild"))
        index = _index(folder, catalog, dimension, settings)
        closing.callback(index.close)
        index.clear()
        follow(catalog, index, tell)
        hashed = term_hash(keys)
        keywords = _words(folder, catalog, hashed)
        closing.callback(keywords.close)
        keywords.clear()
        follow(TermFeed(catalog, hashed), keywords, tell)
        return index.count


def _index(folder: DataFolder, catalog: Catalog, dimension: int, settings: Settings) -> Index:
    if settings.qdrant is not None:
        # Only here, because the client is an extra.
        try:
            from service.index.qdrant import QdrantIndex, connect
        except ImportError as err:
            missing = "qdrant-client is not installed: `pip install 'remit-server[qdrant]'`"
            raise SettingsError(f"`index.backend: qdrant`: {missing}") from err

        return QdrantIndex(
            connect(settings.qdrant),
            collection=settings.qdrant.collection,
            incarnation=catalog.incarnation,
            dimension=dimension,
            tuning=settings.index,
            server_side=settings.qdrant.server_side,
        )

    def open_generation(path: Path) -> EdgeIndex:
        return EdgeIndex(path, incarnation=catalog.incarnation, dimension=dimension, tuning=settings.index)

    return VectorGenerations(folder.index, open_generation)


def _words(folder: DataFolder, catalog: Catalog, hashed: TermHash) -> WordGenerations:
    def open_generation(path: Path) -> KeywordIndex:
        return KeywordIndex(path, incarnation=catalog.incarnation, hashed=hashed)

    return WordGenerations(folder.keywords, open_generation)


def _canaries(settings: Settings) -> Patterns:
    return Patterns({one.name: one.canaries for one in settings.sources if one.canaries})


def _memberships_ages(settings: Settings) -> dict[str, timedelta]:
    return {one.name: one.max_memberships_age for one in settings.sources}


def _directories(settings: Settings, closing: ExitStack) -> dict[str, Directory]:
    opened: dict[str, Directory] = {}
    for one in settings.directories:
        opened[one.name] = directory = directories.open_directory(one, settings.base)
        if isinstance(directory, Watched):
            closing.callback(directory.close)
    return opened


def _approvals(settings: Settings, shredder: Shredder, keys: KeyStore) -> Approvals:
    needed, within = settings.keys.shred_approvals, settings.keys.shred_within
    return Approvals(shredder, keys, needed, within, lambda: datetime.now(UTC))


def _identity(settings: Settings, opened: dict[str, Directory], roles: Roles, groups: SourceGroups) -> Identity:
    keeping = {one.name: Keeping(one.keep_for, one.max_age, one.poll_every) for one in settings.directories}
    return Identity(opened, roles, links=settings.links, keeping=keeping, groups=groups)


def _connector(source: SourceSettings, base: Path) -> Connector:
    try:
        return registry.build(source.kind, source.options, base, source.name)
    except registry.OptionError as err:
        raise SettingsError(f"{source.place(err.option)}: {err}") from err


def _run_record(run: StoredRun) -> Record:
    # The failure's sentence may name places: it stays in the run's sealed report.
    event = "started" if run.state is RunState.RUNNING else run.state.value
    return run_record(event, run.run_id, run.source, counts=asdict(run.counts))


def _check_installation() -> None:
    """The packages have short names: make sure that nobody else's answer to them."""
    home = Path(service.__file__ or "").resolve().parent.parent
    for package in (acl, connectors):
        found = Path(package.__file__ or "").resolve().parent.parent
        if found != home:
            raise StartError(
                f"the package `{package.__name__}` comes from {found}, not from Remit in {home}: "
                "install Remit into an environment of its own"
            )
