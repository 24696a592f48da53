"""Configured sources for the administrators' API: their state, their checks, and runs in threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from connectors.base import Connector, Finding, Level
from connectors.errors import ConnectorError
from service.api.sources import RunPage, SourceState
from service.errors import NotFoundError
from service.settings import SourceSettings
from service.stores.catalog import Catalog
from service.stores.records import StoredRun
from service.sync import SyncEngine


class SourceRuns:
    """Implements `service.api.sources.Sources`.

    on_started: called with each run before its first read; writes the audit record, and what it raises ends the run.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceSettings],
        catalog: Catalog,
        engine: SyncEngine,
        connect: Callable[[str], Connector],
        on_started: Callable[[StoredRun], object],
    ) -> None:
        self._sources = dict(sources)
        self._catalog = catalog
        self._engine = engine
        self._connect = connect
        self._on_started = on_started
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def states(self) -> Sequence[SourceState]:
        """See `Sources`."""
        with self._catalog.reader() as reader:
            stored = reader.sources()
        return [
            SourceState(one, self._sources[one.name].max_permissions_age) for one in stored if one.name in self._sources
        ]

    def state(self, name: str) -> SourceState:
        """See `Sources`."""
        found = next((one for one in self.states() if one.stored.name == name), None)
        if found is None:
            raise NotFoundError(f"no source is called `{name}`")
        return found

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

    def start(self, name: str) -> StoredRun:
        """See `Sources`."""
        self._known(name)
        # Under the lock, so that `close` waits for every run that was opened before it.
        with self._lock:
            run = self._engine.open(name)
            opened = run.progress.snapshot()
            try:
                self._on_started(opened)
            except BaseException:
                run.stop()  # nothing is read, but the run has an end that everybody sees
                run.execute()
                raise
            thread = threading.Thread(target=self._execute, args=(run.execute,), name=f"sync-{name}")
            self._threads.add(thread)
            thread.start()
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

    def _live(self, stored: StoredRun) -> StoredRun:
        """The run with the counts that are not written down before its end."""
        live = self._engine.progress(stored.run_id)
        return stored if live is None else live.snapshot()

    def close(self) -> None:
        """Stop every run and wait for its end."""
        self._engine.stop()
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            thread.join()

    def _known(self, name: str) -> None:
        if name not in self._sources:
            raise NotFoundError(f"no source is called `{name}`")

    def _execute(self, execute: Callable[[], StoredRun]) -> None:
        try:
            execute()
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
