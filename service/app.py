"""Puts the service together from its settings and runs it: the only place that names concrete classes.

What is opened first is closed last; whatever fails on the way, nothing stays open or half written.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog

import acl
import connectors
import service
from connectors import registry
from connectors.base import Connector
from service.access import Access
from service.api.evidence import LoggedCalls
from service.api.health import Health
from service.api.retrieval import AccessServicer, RetrievalServicer
from service.api.server import ADMINISTRATOR_SERVICES, CALLER_SERVICES, Certificate, Served, Server
from service.api.source import SourceServicer
from service.api.wrapper import Wrapper
from service.audit import AuditKey, AuditLog, Record, run_record
from service.authn import Authenticator
from service.callers import Callers
from service.embed import open_embedder, passage_tokens, tokenizer_path
from service.errors import StartError
from service.executor import Executor
from service.extract import Extractor
from service.identity import Identity
from service.index.edge import EdgeIndex
from service.index.follow import Follower, follow
from service.index.keyword import KeywordIndex, TermFeed
from service.keys import FileKey
from service.roles import Roles
from service.search import Retrieval
from service.settings import Address, Settings, SettingsError, SourceSettings, Tls
from service.shadow import Shadow
from service.source_runs import SourceRuns
from service.stores.catalog import open_stores
from service.stores.folder import open_folder
from service.stores.records import RunState, StoredRun
from service.sync import SyncEngine
from service.terms import TermHash

log = structlog.get_logger()

_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the service can be reached, with the ports that the system gave."""

    callers: Address
    administrators: Address


class App:
    """Everything that one process serves. Open it with `open_app`."""

    def __init__(self, settings: Settings, server: Server, health: Health, audit: AuditLog, runs: SourceRuns) -> None:
        self._settings = settings
        self._server = server
        self._health = health
        self._audit = audit
        self._runs = runs
        self.closing = ExitStack()

    async def serve(self, ready: Callable[[Listening], None]) -> None:
        """Listen until SIGTERM or SIGINT, then finish what is under way.

        ready: called once calls are accepted. Raises StartError when an address cannot be used.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        listen = self._settings.listen
        bound = await self._server.start(listen.callers, listen.administrators, _certificate(listen.tls))
        watch = loop.create_task(self._health.watch(lambda: self._audit.failure))
        try:
            ready(Listening(*bound))
            await ended.wait()
            log.info("stopping")
            await self._health.close()
            # Runs before the listeners: they write for seconds, and a watch of one ends with it.
            await loop.run_in_executor(None, self._runs.close)
        finally:
            watch.cancel()
            await self._server.stop(_GRACE_S)

    def close(self) -> None:
        """Close everything, the last opened first."""
        self.closing.close()


async def open_app(settings: Settings) -> App:
    """Open the data folder and everything in it, verify the audit log, and bring the index up to date.

    Raises StartError: one sentence for people.
    """
    _check_installation()
    with ExitStack() as closing:
        app = _assemble(settings, closing)
        app.closing = closing.pop_all()
    return app


def _assemble(settings: Settings, closing: ExitStack) -> App:
    sources = {one.name: one for one in settings.sources}
    for one in settings.sources:
        _connector(one, settings.base).close()  # every option is checked before anything is opened
    directories = {
        one.name: registry.build_directory(one.name, one.kind, {"path": str(one.path)}, settings.base)
        for one in settings.directories
    }
    authenticator = Authenticator(settings.issuers)
    provider = FileKey(settings.keys.path)
    audit_key = AuditKey.load(settings.keys.audit)
    tokenizer = tokenizer_path(settings.embedding)

    folder = open_folder(settings.data)
    closing.callback(folder.close)
    audit = AuditLog(folder.audit, audit_key.signer, facts={"version": version("remit-server")})
    closing.callback(audit.close)
    keys, catalog = open_stores(folder, provider, datetime.now(UTC))
    closing.callback(keys.close)
    closing.callback(catalog.close)
    for one in settings.sources:
        catalog.add_source(one.name, one.kind)
    embedder = open_embedder(settings.embedding)
    closing.callback(embedder.close)
    catalog.bind_model(embedder.digest, embedder.dimension)
    index = EdgeIndex(
        folder.index, incarnation=catalog.incarnation, dimension=embedder.dimension, tuning=settings.index
    )
    closing.callback(index.close)
    follower = Follower(catalog, index)
    follower.start()
    closing.callback(follower.close)
    hashed = TermHash(keys.terms_key())
    keywords = KeywordIndex(folder.keywords, incarnation=catalog.incarnation, hashed=hashed)
    closing.callback(keywords.close)
    words = Follower(TermFeed(catalog, hashed), keywords)
    words.start()
    closing.callback(words.close)
    extractor = Extractor(
        tokenizer, passage_tokens(settings.embedding), max_input_bytes=settings.limits.max_document_bytes
    )
    closing.callback(extractor.close)

    def connect(name: str) -> Connector:
        return _connector(sources[name], settings.base)

    def changed() -> None:
        follower.notify()
        words.notify()

    def finished(run: StoredRun) -> None:
        # A run that has ended can be searched: the index follows before anybody is told.
        try:
            follower.settle()
            words.settle()
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
        on_commit=changed,
        on_run_finished=finished,
    )
    runs = SourceRuns(sources, catalog, engine, connect, lambda run: audit.append_blocking(_run_record(run)))
    closing.callback(runs.close)

    access = Access(catalog, {one.name: one.max_permissions_age for one in settings.sources})
    with access.snapshot():
        pass  # reads all rules once, so that the first question does not wait for it
    callers = Callers(Identity(directories, Roles(settings.roles)), access.latest)
    executor = Executor()
    closing.callback(executor.close)
    shadow = Shadow(index, settings.index.shadow)
    closing.callback(shadow.close)
    retrieval = Retrieval(
        access=access,
        index=index,
        keywords=keywords,
        embedder=embedder,
        sealing=catalog.sealing,
        callers=callers,
        shadow=shadow,
    )
    health = Health([one.full_name for one in (*CALLER_SERVICES, *ADMINISTRATOR_SERVICES)])
    wrapper = Wrapper(
        authenticator=authenticator,
        callers=callers,
        auditor=LoggedCalls(audit, audit_key),
        executor=executor,
    )
    servicers = {
        "RetrievalService": RetrievalServicer(retrieval, executor),
        "AccessService": AccessServicer(retrieval, executor),
        "SourceService": SourceServicer(runs, executor),
    }
    server = Server(
        wrapper=wrapper,
        health=health,
        callers=[Served(one, servicers[one.name]) for one in CALLER_SERVICES],
        administrators=[Served(one, servicers[one.name]) for one in ADMINISTRATOR_SERVICES],
    )
    return App(settings, server, health, audit, runs)


def rebuild_index(settings: Settings, tell: Callable[[int, int], None]) -> int:
    """Make both indexes anew from the catalog, embedding nothing; return how many passages they hold.

    tell: called with how far it is, and how far it goes. A crash on the way loses nothing: the next start goes on.
    Raises StartError, also when the service has the data folder, and SearchUnavailableError.
    """
    if not (settings.data / "FORMAT").exists():
        raise StartError(f"{settings.data} holds nothing yet: `remit serve` makes it")
    provider = FileKey(settings.keys.path)
    with ExitStack() as closing:
        folder = open_folder(settings.data)
        closing.callback(folder.close)
        keys, catalog = open_stores(folder, provider, datetime.now(UTC))
        closing.callback(keys.close)
        closing.callback(catalog.close)
        dimension = catalog.dimension()
        if dimension is None:
            return 0
        index = EdgeIndex(folder.index, incarnation=catalog.incarnation, dimension=dimension, tuning=settings.index)
        closing.callback(index.close)
        index.clear()
        follow(catalog, index, tell)
        hashed = TermHash(keys.terms_key())
        keywords = KeywordIndex(folder.keywords, incarnation=catalog.incarnation, hashed=hashed)
        closing.callback(keywords.close)
        keywords.clear()
        follow(TermFeed(catalog, hashed), keywords, tell)
        return index.count


def _connector(source: SourceSettings, base: Path) -> Connector:
    try:
        return registry.build(source.kind, source.options, base)
    except registry.OptionError as err:
        raise SettingsError(f"{source.place(err.option)}: {err}") from err


def _run_record(run: StoredRun) -> Record:
    # The failure's sentence may name places: it stays in the run's sealed report.
    event = "started" if run.state is RunState.RUNNING else run.state.value
    return run_record(event, run.run_id, run.source, counts=asdict(run.counts))


def _certificate(tls: Tls | None) -> Certificate | None:
    if tls is None:
        return None
    try:
        return Certificate(tls.certificate.read_bytes(), tls.key.read_bytes())
    except OSError as err:
        raise StartError(f"{err.filename} cannot be read: {err.strerror}") from err


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
