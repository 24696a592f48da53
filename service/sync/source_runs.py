"""Configured sources for the administrators' API: their state, their checks, and runs in threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from connectors.base import Connector, Finding, Level
from connectors.errors import ConnectorError
from service.api.sources import RunPage, SourceState
from service.errors import NotFoundError
from service.settings import SourceSettings
from service.stores.catalog import Catalog
from service.stores.records import Removal, RunState, StoredRun, StoredSource, SyncPass
from service.sync.engine import SyncEngine
from service.sync.removal import Removals
from service.sync.schedules import History, Schedule, waits_for_a_person
from service.sync.timetable import Timetable
from service.sync.watches import Watches


class SourceRuns:
    """Implements `service.api.sources.Sources`.

    on_started: called with each run before its first read; writes the audit record, and what it raises ends the run.
    """

    timetable: Timetable

    def __init__(
        self,
        sources: Mapping[str, SourceSettings],
        catalog: Catalog,
        engine: SyncEngine,
        connect: Callable[[str], Connector],
        on_started: Callable[[StoredRun], object],
        removals: Removals,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._sources = dict(sources)
        self._catalog = catalog
        self._engine = engine
        self._connect = connect
        self._on_started = on_started
        self._removals = removals
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self.timetable = Timetable(self, _schedules(self._sources), now)
        self._watches = Watches(connect, self.timetable.notice)
        self._watches.use(_watched(self._sources))

    def begin(self) -> None:
        """Start runs by schedule, and watch what was read before."""
        for name in self._sources:
            if any(run.state is RunState.SUCCEEDED for run in self.history(name, 1).runs):
                self._watches.begin(name, late=False)
        self.timetable.start()

    def states(self) -> Sequence[SourceState]:
        """See `Sources`."""
        removed = self._catalog.removals()
        with self._catalog.reader() as reader:
            stored = [one for one in reader.sources() if one.name in self._sources or one.name in removed]
        return [self._state(one, removed.get(one.name)) for one in stored]

    def _state(self, stored: StoredSource, removal: Removal | None) -> SourceState:
        settings, latest = self._sources.get(stored.name), () if stored.latest_run is None else (stored.latest_run,)
        if settings is None:
            return SourceState(stored, timedelta(0), timedelta(0), removal=removal)
        return SourceState(
            stored,
            settings.max_permissions_age,
            settings.max_content_age,
            self.timetable.next_at(stored.name),
            waits_for_a_person(latest),
        )

    def state(self, name: str) -> SourceState:
        """See `Sources`."""
        found = next((one for one in self.states() if one.stored.name == name), None)
        if found is None:
            raise NotFoundError(f"no source is called `{name}`")
        return found

    def remove(self, name: str) -> SourceState:
        """See `Sources`."""
        self._removals.remove(name)
        return self.state(name)

    def check(self, name: str) -> Sequence[Finding]:
        """See `Sources`."""
        self._known(name)
        try:
            connector = self._connect(name)
        except ConnectorError as err:
            return [Finding(Level.ERROR, err.detail)]
        try:
            return connector.check()
        finally:
            connector.close()

    def start(self, name: str, sync_pass: SyncPass = SyncPass.CONTENT) -> StoredRun:
        """See `Sources`."""
        # Under the lock, so that `close` waits for every run that was opened before it.
        with self._lock:
            self._known(name)
            run = self._engine.open(name, sync_pass)
            opened = run.progress.snapshot()
            try:
                self._on_started(opened)
            except BaseException:
                run.stop()  # nothing is read, but the run has an end that everybody sees
                run.execute()
                raise
            thread = threading.Thread(target=self._execute, args=(name, run.execute), name=f"sync-{name}")
            self._threads.add(thread)
            thread.start()
        self.timetable.ran(name)
        return opened

    def run(self, run_id: str) -> StoredRun:
        """See `Sources`."""
        live = self._engine.progress(run_id)
        if live is not None:
            return live.snapshot()
        with self._catalog.reader() as reader:
            stored = reader.run(run_id)
        if stored is None or stored.source not in self._sources:
            raise NotFoundError("no run has this id")
        return stored

    def runs(self, name: str, before: int | None, limit: int) -> RunPage:
        """See `Sources`."""
        self._known(name)
        with self._catalog.reader() as reader:
            found = reader.numbered_runs(name, before, limit + 1)
        page = [self._live(run) for _, run in found[:limit]]
        return RunPage(page, found[limit - 1][0] if len(found) > limit else None)

    def cancel(self, run_id: str) -> StoredRun:
        """See `Sources`."""
        self.run(run_id)
        self._engine.cancel(run_id)
        return self.run(run_id)

    def history(self, name: str, limit: int) -> History:
        """See `service.sync.timetable.Runs`."""
        with self._catalog.reader() as reader:
            found, clocks = reader.runs(name, limit), reader.clocks().get(name, {})
        content = clocks.get(SyncPass.CONTENT)
        return History([self._live(run) for run in found], None if content is None else content.verified_at)

    def _live(self, stored: StoredRun) -> StoredRun:
        """The run with the counts that are not written down before its end."""
        live = self._engine.progress(stored.run_id)
        return stored if live is None else live.snapshot()

    def use(self, sources: Sequence[SourceSettings]) -> None:
        """Run these sources by these settings from now on.

        The run over a source that is gone or that differs ends, and another one is due: what it reads by is no more.
        """
        with self._lock:
            before, self._sources = self._sources, {one.name: one for one in sources}
            differ = {name for name, one in before.items() if self._sources.get(name) != one}
        for name in differ:
            self._engine.cancel_source(name)
        self._watches.use(_watched(self._sources), differ)
        self.timetable.replace(_schedules(self._sources), differ)

    def close(self) -> None:
        """Start no run any more, stop every one and wait for its end."""
        self.timetable.close()
        self._watches.close()
        self._engine.stop()
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            thread.join()

    def _known(self, name: str) -> None:
        if name not in self._sources:
            raise NotFoundError(f"no source is called `{name}`")

    def _execute(self, name: str, execute: Callable[[], StoredRun]) -> None:
        try:
            if execute().state is RunState.SUCCEEDED:
                self._watches.begin(name, late=True)
        finally:
            self.timetable.ran(name)
            with self._lock:
                self._threads.discard(threading.current_thread())


def _schedules(sources: Mapping[str, SourceSettings]) -> dict[str, Schedule]:
    return {name: one.schedule for name, one in sources.items() if one.schedule is not None}


def _watched(sources: Mapping[str, SourceSettings]) -> frozenset[str]:
    return frozenset(name for name, one in sources.items() if one.schedule is not None and one.schedule.watch)
