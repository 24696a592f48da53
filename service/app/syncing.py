"""What reads the sources: the sync engine with its runs, what removes a source, and the watch over leases."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from connectors.base import Connector
from service.app.ground import Ground
from service.app.indexes import Indexes
from service.audit import Record, run_record
from service.embed.embedder import Embedder, passage_tokens
from service.identity.domains import require_domain
from service.settings import Settings
from service.stores.records import RunState, StoredRun
from service.sync import leases
from service.sync.engine import SyncEngine, policy_of
from service.sync.leases import LeaseWatch
from service.sync.records import held_record, lease_record
from service.sync.removal import Removals
from service.sync.source_holds import SourceHolds
from service.sync.source_runs import SourceRuns
from service.text.extract import Extractor


@dataclass(frozen=True, slots=True)
class Syncing:
    """What `open_syncing` opened."""

    runs: SourceRuns
    holds: SourceHolds
    removals: Removals
    _ground: Ground
    _engine: SyncEngine
    _extractor: Extractor

    def use(self, new: Settings) -> None:
        """Work by other settings from now on."""
        self._extractor.limit(new.limits.max_document_bytes)
        self._engine.limit(new.limits.max_document_bytes)
        self.runs.use(new.sources)
        self.removals.look()

    def too_short(self, new: Settings) -> list[str]:
        """Say which leases are shorter than twice what their pass takes."""
        with self._ground.catalog.reader() as reader:
            return leases.too_short(new.sources, reader.clocks())


def open_syncing(ground: Ground, embedder: Embedder, indexes: Indexes, closing: ExitStack) -> Syncing:
    """Open it; nothing is read before somebody asks for it, or the schedule begins."""
    settings, catalog, audit = ground.settings, ground.catalog, ground.audit
    extractor = Extractor(
        ground.tokenizer, passage_tokens(settings.embedding), max_input_bytes=settings.limits.max_document_bytes
    )
    closing.callback(extractor.close)

    def connect(name: str) -> Connector:
        return require_domain(ground.configuration.connect(name), ground.directories.values())

    def started(run: StoredRun) -> None:
        audit.append_blocking(_run_record(run))

    def finished(run: StoredRun) -> None:
        # A run that has ended can be searched: both indexes follow before anybody is told.
        try:
            indexes.settle()
        finally:
            audit.append_blocking(_run_record(run))

    engine = SyncEngine(
        catalog,
        ground.keys,
        connect,
        extractor,
        embedder,
        limit_bytes=settings.limits.max_document_bytes,
        now=lambda: datetime.now(UTC),
        on_commit=indexes.notify,
        on_run_finished=finished,
        policy=lambda name: policy_of(ground.settings, name),
        on_held=lambda stop: audit.append_blocking(held_record(stop)),
    )
    removals = Removals(catalog, ground.configuration, audit.append_blocking, indexes.notify)
    closing.callback(removals.close)
    runs = SourceRuns({one.name: one for one in settings.sources}, catalog, engine, connect, started, removals)
    closing.callback(runs.close)
    watch = LeaseWatch(catalog, lambda: ground.settings, lambda one: audit.append_blocking(lease_record(one)))
    watch.start()
    closing.callback(watch.close)
    holds = SourceHolds(catalog, ground.configuration.names, audit.append_blocking)
    return Syncing(runs, holds, removals, ground, engine, extractor)


def _run_record(run: StoredRun) -> Record:
    # The failure's sentence may name places: it stays in the run's sealed report.
    event = "started" if run.state is RunState.RUNNING else run.state.value
    return run_record(event, run.run_id, run.source, counts=asdict(run.counts))
