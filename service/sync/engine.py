"""One run over one source, from its opening to its report. The walk is left to `service.sync.walk`, text to
`service.sync.texts`.

A run replaces what is stored only as far as it got: rules and texts that were committed stay, and nothing is removed
unless the source said that it listed everything.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from importlib.metadata import version
from typing import Final, Protocol

import structlog

from connectors.base import Connector, Cursor, Resumable
from connectors.errors import ConnectorError, FatalError
from service.embed.embedder import Embedder
from service.errors import RemitError, SyncRunningError
from service.keys.store import KeyStore
from service.settings import Settings
from service.stores.catalog import Catalog, Opening
from service.stores.checkpoints import StoredCheckpoint
from service.stores.records import PassClock, Phase, RunState, StoredRun, SyncPass
from service.stores.stops import Stop
from service.sync.breaker import BreakerLimits
from service.sync.channel import BrokenOffError
from service.sync.ending import Ending
from service.sync.met import Met
from service.sync.questions import Questions
from service.sync.rules_only import RulesOnly
from service.sync.runs import CancelledError, Progress, StoppedError
from service.sync.texts import Extractor, Texts
from service.sync.walk import LONGEST_WAIT_S, Todo, Walk

log = structlog.get_logger()

STOPPED: Final = "stopped: the service is shutting down; start the run again, it goes on"

_REMEMBERED_RUNS: Final = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for the runs over one source.

    breaker: which share of its documents one run may open wider, or remove, without being asked about.
    resume_within: an interrupted run is taken up again only so long after it began; what it met is as old as that.
    settings: digest of what the source is read by; a run that was interrupted under others is not taken up again.
    """

    breaker: BreakerLimits = field(default_factory=BreakerLimits)
    resume_within: timedelta = timedelta(hours=12)
    settings: str = ""


def policy_of(settings: Settings, name: str) -> Policy:
    """Return what the settings say for the runs over a source."""
    source = next((one for one in settings.sources if one.name == name), None)
    if source is None:
        return Policy()  # It was taken out of the settings, and its run is told to end.
    # What an interrupted run met must not be half as old as it may become before it is complete.
    read_by = json.dumps([version("remit-server"), source.kind, dict(source.options)], sort_keys=True, default=str)
    return Policy(
        BreakerLimits(source.max_widening, source.max_purge, source.max_joining),
        source.max_permissions_age / 2,
        sha256(read_by.encode()).hexdigest(),
    )


class SyncEngine:
    """Runs syncs: one at a time over each source, over several sources at once. Safe to use from several threads.

    connect: opens the connector of a source by its name; the engine closes it. May raise ConnectorError.
    limit_bytes: a larger document is skipped as `too large`.
    on_commit: called after every commit that changed something, so that the index can follow; must not block.
    on_run_finished: called with every run's end, before anybody is told of it; writes the audit record.
    policy: what holds for the runs over a source. on_held: called with what the breaker holds; writes the audit record.
    """

    def __init__(
        self,
        catalog: Catalog,
        keys: KeyStore,
        connect: Callable[[str], Connector],
        extractor: Extractor,
        embedder: Embedder,
        *,
        limit_bytes: int,
        now: Callable[[], datetime],
        on_commit: Callable[[], None] = lambda: None,
        on_run_finished: Callable[[StoredRun], None] = lambda run: None,
        policy: Callable[[str], Policy] = lambda source: Policy(),
        on_held: Callable[[Stop], object] = lambda stop: None,
    ) -> None:
        self._catalog = catalog
        self._keys = keys
        self._connect = connect
        self._extractor = extractor
        self._embedder = embedder
        self._limit_bytes = limit_bytes
        self._now = now
        self._on_commit = on_commit
        self._on_run_finished = on_run_finished
        self._policy = policy
        self._on_held = on_held
        self._lock = threading.Lock()
        self._live: dict[str, SyncRun] = {}
        self._remembered: OrderedDict[str, Progress] = OrderedDict()
        self._stopping = False

    def run(self, source: str, sync_pass: SyncPass = SyncPass.CONTENT) -> StoredRun:
        """Run one sync from beginning to end. Raises SyncRunningError while another is under way."""
        return self.open(source, sync_pass).execute()

    def open(self, source: str, sync_pass: SyncPass = SyncPass.CONTENT) -> SyncRun:
        """Open a run and take the source's lease; `execute` it in a thread of its own.

        Raises SyncRunningError, StorageError, and StoppedError once the engine is stopping.
        """
        with self._lock:
            if self._stopping:
                raise StoppedError(STOPPED)
            live = self._live.get(source)
            if live is not None:
                raise SyncRunningError(source, live.progress.run_id)
            opening = self._catalog.open_run(source, self._now(), sync_pass)
            run = SyncRun(self, opening)
            self._live[source] = run
            self._remembered[run.progress.run_id] = run.progress
            while len(self._remembered) > _REMEMBERED_RUNS:
                self._remembered.popitem(last=False)
        return run

    def progress(self, run_id: str) -> Progress | None:
        """Return the live counts of a run of this process; None for an older one, which only the catalog knows."""
        with self._lock:
            return self._remembered.get(run_id)

    def cancel(self, run_id: str) -> Progress | None:
        """Tell a run to end before its next document, and return its counts; None when it is none of this process.

        It ends as cancelled, unless it had ended already, or was past its last document.
        """
        with self._lock:
            for run in self._live.values():
                if run.progress.run_id == run_id:
                    run.cancel()
            return self._remembered.get(run_id)

    def cancel_source(self, source: str) -> None:
        """Tell the run over a source to end, if one is under way."""
        with self._lock:
            run = self._live.get(source)
            if run is not None:
                run.cancel()

    def limit(self, limit_bytes: int) -> None:
        """Skip larger documents from the next run on."""
        self._limit_bytes = limit_bytes

    def stop(self) -> None:
        """Tell every run to stop before its next document, and open no more. Who executes them waits for their end."""
        with self._lock:
            self._stopping = True
            for run in self._live.values():
                run.stop()

    def _execute(self, run: SyncRun, opening: Opening) -> StoredRun:
        source = opening.run.source
        state, failure = RunState.SUCCEEDED, ""
        error: Exception | None = None
        complete: _Complete | None = None
        try:
            complete = self._sync(run, opening)
        except CancelledError:
            state = RunState.CANCELLED
        except Exception as err:  # noqa: BLE001 - the runner's top: whatever it is, the run has ended and says why
            state, failure, error = RunState.FAILED, self._sentence(source, err), err
        ended = run.progress.ended(state, failure, self._now(), error)
        try:
            with self._catalog.writer(source, opening.fence) as writer:
                if complete is not None:
                    # Of a run in parts nobody knows how long it takes.
                    took = timedelta(0) if ended.resumed else self._now() - opening.run.started_at
                    clock = PassClock(complete.began_at, took)
                    writer.complete(opening.run.sync_pass, clock, json.dumps(complete.cursor))
                elif error is not None and _is_hopeless(error, ended.resumed):
                    # Another try from the same place might end in the same way, for ever.
                    writer.checkpoints.drop()
                writer.save_run(ended)
        except RemitError as err:
            # Not written: the row still says `running`, and the next opening of the source fails it.
            ended = run.progress.ended(RunState.FAILED, failure or str(err), self._now())
        try:
            self._on_commit()
            self._on_run_finished(ended)
        except RemitError as err:
            log.error("run_not_recorded", source=source, run_id=ended.run_id, error=str(err))
        finally:
            with self._lock:
                del self._live[source]
            run.progress.end(ended)
        log.info("sync_finished", source=source, run_id=ended.run_id, state=ended.state.value, seen=ended.counts.seen)
        return ended

    def _sync(self, run: SyncRun, opening: Opening) -> _Complete:
        """Walk and store; return where it led. Raises whatever goes wrong in any of the threads."""
        source = opening.run.source
        policy = self._policy(source)
        connector = self._connect(source)
        try:
            resumed = self._taken_up(opening, connector, policy)
            if resumed is not None:
                run.progress.resume()
            met = Met(resumed)
            questions = Questions(opening.run, run.progress, self._on_held)
            walk = Walk(
                self._catalog,
                self._keys,
                opening,
                run.progress,
                met,
                todo=lambda todo: pipeline.put(todo),
                mark=lambda checkpoint: pipeline.put(checkpoint),
                on_commit=self._on_commit,
                settings=policy.settings,
                limits=policy.breaker,
                questions=questions,
                resumed=resumed,
            )
            ending = Ending(self._catalog, opening, walk, run.progress, policy.breaker, self._on_commit, questions)
            pipeline = self._pipeline(run, opening, connector, met, ending.may_widen)
            run.on_stop(pipeline.break_off)
            run.progress.phase(Phase.READING)
            _walk_and_store(
                walk,
                ending,
                pipeline,
                connector,
                opening.cursor if resumed is None else resumed.cursor,
                lambda: run.progress.phase(Phase.STORING),
            )
            run.require_wanted()
            if walk.cursor is None:
                raise BrokenOffError
            run.progress.phase(Phase.FINISHING)
            ending.settle()
            # Last: until here the text of what is gone serves what has the same content, as after a rename.
            self._catalog.purge(source, opening.fence)
        finally:
            connector.close()
        return _Complete(walk.cursor, walk.began_at)

    def _taken_up(self, opening: Opening, connector: Connector, policy: Policy) -> StoredCheckpoint | None:
        """Return where the run goes on; None when it begins, and then no later one goes on from there either."""
        found = opening.checkpoint
        if found is None:
            return None
        fresh = timedelta(0) <= opening.run.started_at - found.began_at <= policy.resume_within
        same = found.settings == policy.settings
        if fresh and same and isinstance(connector, Resumable) and connector.resumes(found.cursor):
            return found
        with self._catalog.writer(opening.run.source, opening.fence) as writer:
            writer.checkpoints.drop()
        return None

    def _pipeline(
        self, run: SyncRun, opening: Opening, connector: Connector, met: Met, may_widen: Callable[[], bool]
    ) -> _Pipeline:
        match opening.run.sync_pass:
            case SyncPass.PERMISSIONS:
                return RulesOnly(self._catalog, opening)
            case SyncPass.CONTENT:
                return Texts(
                    self._catalog,
                    self._keys,
                    opening,
                    connector,
                    self._extractor,
                    self._embedder,
                    run.progress,
                    limit_bytes=self._limit_bytes,
                    on_commit=self._on_commit,
                    now=self._now,
                    met=met,
                    may_widen=may_widen,
                )

    def _sentence(self, source: str, err: Exception) -> str:
        """Say why a run failed, for people; what nobody foresaw is logged by its kind and place, not by its text."""
        match err:
            case ConnectorError():
                return err.detail
            case RemitError():
                return str(err)
            case _:
                last = traceback.extract_tb(err.__traceback__)[-1]
                log.error("sync_failed", source=source, error=type(err).__name__, where=f"{last.name}:{last.lineno}")
                return f"an error that nobody foresaw ({type(err).__name__} in {last.name}): report it, with the log"


def _is_hopeless(error: Exception, resumed: bool) -> bool:
    """Whether another try from the same place would end in the same way."""
    return isinstance(error, FatalError) or (resumed and not isinstance(error, ConnectorError | RemitError))


@dataclass(frozen=True, slots=True)
class _Complete:
    """Where a complete run led. began_at: when the first part of it began."""

    cursor: Cursor
    began_at: datetime


class _Pipeline(Protocol):
    """What a walk feeds; see `service.sync.texts` and `service.sync.rules_only`."""

    def put(self, what: Todo | StoredCheckpoint) -> None:
        """Hand over a document, or a checkpoint."""

    def tasks(self) -> Sequence[Callable[[], None]]:
        """Return what each thread has to do."""

    def close(self) -> None:
        """Say that the walk is over."""

    def check(self) -> None:
        """Raise BrokenOffError once it was broken off."""

    def break_off(self) -> None:
        """Stop before the next document."""


class SyncRun:
    """An opened run. `execute` blocks until its end; everything else may be called from other threads."""

    def __init__(self, engine: SyncEngine, opening: Opening) -> None:
        self.progress = Progress(opening.run, len(opening.documents))
        self._engine = engine
        self._opening = opening
        self._lock = threading.Lock()
        self._stopped = False
        self._cancelled = False
        self._break_off: Callable[[], None] = lambda: None

    def require_wanted(self) -> None:
        """Raise CancelledError once somebody told the run to end, StoppedError once the service is ending."""
        with self._lock:
            if self._cancelled:
                raise CancelledError
            if self._stopped:
                raise StoppedError(STOPPED)

    def execute(self) -> StoredRun:
        """Do the run and return how it ended; call it once. Failures are in what it returns, nothing is raised."""
        return self._engine._execute(self, self._opening)

    def stop(self) -> None:
        """Let the run fail before its next document."""
        with self._lock:
            self._stopped = True
            self._break_off()

    def cancel(self) -> None:
        """Let the run end as cancelled before its next document."""
        with self._lock:
            self._cancelled = True
        self.stop()

    def on_stop(self, break_off: Callable[[], None]) -> None:
        """Say what ends the run's threads early."""
        with self._lock:
            self._break_off = break_off
            if self._stopped:
                break_off()


def _walk_and_store(
    walk: Walk,
    ending: Ending,
    pipeline: _Pipeline,
    connector: Connector,
    cursor: Cursor | None,
    walked: Callable[[], None],
) -> None:
    """Walk in this thread, store in others; return when all are done. Raises the first thing that went wrong.

    walked: called when the walk is over.
    """
    ended = threading.Event()

    def break_off_after(worker: Future[None]) -> None:
        if worker.exception() is not None:
            pipeline.break_off()

    with ThreadPoolExecutor(3, thread_name_prefix="sync") as pool:
        tasks = (*pipeline.tasks(), lambda: _flush_late(walk, ended))
        workers = [pool.submit(task) for task in tasks]
        for worker in workers:
            worker.add_done_callback(break_off_after)
        try:
            try:
                for change in connector.changes(cursor):
                    pipeline.check()
                    walk.apply(change)
            finally:
                # However the walk ends: rules that the source has sent are in force.
                walk.flush()
            ending.finish()
            walked()
            pipeline.close()
            wait(workers[:-1])
        except BrokenOffError:
            pass  # A worker knows why, or the run was told to stop.
        except BaseException:
            pipeline.break_off()
            raise
        finally:
            ended.set()
    failures = [worker.exception() for worker in workers]
    why = next((err for err in failures if err is not None and not isinstance(err, BrokenOffError)), None)
    if why is not None:
        raise why


def _flush_late(walk: Walk, ended: threading.Event) -> None:
    """Commit rules in time also while the source is silent."""
    while not ended.wait(LONGEST_WAIT_S):
        walk.flush_late()
