"""What answers calls: a servicer for each service, and the server around them."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime

from connectors.directories.base import ATTRIBUTES
from service import condition
from service.access.audience import Audience
from service.access.checks import Checks
from service.access.grants import Grants
from service.access.preview import Preview
from service.access.review import People, Review
from service.api.access import AccessServicer
from service.api.audit import AuditServicer
from service.api.custody import CustodyServicer
from service.api.evidence import LoggedCalls
from service.api.health import Health
from service.api.index import IndexServicer
from service.api.observed import Observed
from service.api.retrieval import RetrievalServicer
from service.api.review import ReviewServicer
from service.api.server import ADMINISTRATOR_SERVICES, CALLER_SERVICES, Served, Server
from service.api.source import SourceServicer
from service.api.standing import StandingServicer
from service.api.wrapper import Wrapper
from service.app.deciding import Deciding
from service.app.ground import Ground
from service.app.indexes import Indexes
from service.app.running import App
from service.app.syncing import Syncing
from service.authn import Authenticator
from service.embed.embedder import Embedder
from service.executor import Executor
from service.keys import Custody
from service.limits import Meter
from service.metrics import Metrics, State
from service.search.engine import Retrieval
from service.search.rerank import ModelReranker
from service.search.shadow import Shadow
from service.sections import secret_options
from service.settings import Settings
from service.traces import open_traces
from service.upkeep.approvals import Approvals
from service.upkeep.backup import Backups
from service.upkeep.rebuild import Rebuilds
from service.upkeep.shred import Shredder


def open_answering(
    authenticator: Authenticator,
    ground: Ground,
    deciding: Deciding,
    embedder: Embedder,
    indexes: Indexes,
    syncing: Syncing,
    closing: ExitStack,
) -> App:
    """Put the server together. It listens once it is told to."""
    settings = ground.settings
    executor = Executor()
    closing.callback(executor.close)
    shadow = Shadow(indexes.vectors, settings.index.shadow)
    closing.callback(shadow.close)
    retrieval = Retrieval(
        access=deciding.access,
        index=indexes.vectors,
        keywords=indexes.words,
        embedder=embedder,
        sealing=ground.catalog.sealing,
        callers=deciding.callers,
        shadow=shadow,
        reranker=_reranker(settings, closing),
    )
    checks = Checks(deciding.access, ground.catalog.sealing, deciding.callers)
    page_key = ground.audit_key.page_key
    servicers = {
        "RetrievalService": RetrievalServicer(retrieval, executor),
        "AccessService": AccessServicer(retrieval, checks, executor, page_key),
        "ReviewService": _review(ground, deciding, checks, executor),
        "SourceService": SourceServicer(syncing.runs, executor, page_key, ground.configuration.reload, syncing.holds),
        "AuditService": AuditServicer(ground.records, executor, page_key),
        "IndexService": IndexServicer(Rebuilds(indexes.renewables), lambda: indexes.vectors.count),
        "StandingService": StandingServicer(ground.retention, deciding.stops, executor),
        "CustodyService": _custody(ground, indexes, executor, closing),
    }
    health = Health([one.full_name for one in (*CALLER_SERVICES, *ADMINISTRATOR_SERVICES)])
    calls = LoggedCalls(ground.audit, ground.audit_key, keep_queries=settings.audit.keep_queries)
    proving = dict.fromkeys(one.directory for one in settings.issuers)
    parts = condition.parts(
        audit=condition.of(ground.audit),
        issuers=condition.of(authenticator),
        keys=condition.of(ground.key_watch),
        indexes=[condition.of(one) for one in indexes.followers],
        directories=deciding.identity.failures(),
        proving=[deciding.identity.exhausted(name) for name in proving],
    )
    meter = Meter(settings.limits.calls)
    state = State(deciding.access.all_ages, parts, lambda: meter.under_way, lambda: shadow.measured, ground.records)
    server = Server(
        wrapper=Wrapper(
            authenticator=authenticator,
            callers=deciding.callers,
            auditor=_observed(settings, state, calls, closing),
            gate=deciding.gate,
            executor=executor,
            meter=meter,
        ),
        health=health,
        callers=[Served(one, servicers[one.name]) for one in CALLER_SERVICES],
        administrators=[Served(one, servicers[one.name]) for one in ADMINISTRATOR_SERVICES],
        arrivals=calls.arrivals,
    )
    return App(settings, authenticator, server, health, ground.audit, calls, syncing.runs, parts, ground.configuration)


def _review(ground: Ground, deciding: Deciding, checks: Checks, executor: Executor) -> ReviewServicer:
    attributes = {one.name: ATTRIBUTES[one.kind][0] for one in ground.settings.directories}
    people = People(deciding.identity, deciding.callers, attributes)
    return ReviewServicer(
        Review(people, checks),
        Audience(deciding.access, checks, people),
        Grants(deciding.access, ground.records),
        Preview(deciding.access, ground.catalog.sealing, people),
        executor,
        ground.audit_key.page_key,
    )


def _custody(ground: Ground, indexes: Indexes, executor: Executor, closing: ExitStack) -> CustodyServicer:
    settings = ground.settings

    def now() -> datetime:
        return datetime.now(UTC)

    custody = Custody(ground.keys, lambda: secret_options.versions_in_use(ground.settings))
    purge = indexes.purge(ground.catalog, ground.audit, closing)
    shredder = Shredder(ground.catalog, custody, indexes.settle, now, purge)
    folders = (settings.backup.folder, settings.backup.keys_folder)
    return CustodyServicer(
        custody,
        Approvals(shredder, ground.keys, settings.keys.shred_approvals, settings.keys.shred_within, now),
        Backups(ground.folder, settings.keys.store, custody, now, folders),
        executor,
    )


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
