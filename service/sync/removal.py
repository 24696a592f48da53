"""Removing a source: withheld on the next query, purged in the background, and its name free again when all is gone.

1. A mark is durable: from now on, whatever happens, the source is withheld and nothing of it is read.
2. Runs that were opened before may not write any more; everybody who works by the settings is told.
3. Documents go in batches, each as any document goes: a tombstone, its key, its rows. A crash leaves the mark, and the
   next start goes on.
4. What is left goes at once: containers, rules, groups, runs, and the source's own keys. The mark then says so.
5. The name is free once the settings do not name it any more: until then a restart would read again what was removed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog

from service.audit.call import removal_record
from service.audit.record import Record
from service.configuration import Configuration
from service.errors import NotFoundError, RemitError
from service.stores.catalog import Catalog
from service.stores.records import Removal

log = structlog.get_logger()

_BATCH: Final = 500
_AGAIN: Final = timedelta(minutes=1)


class Removals:
    """The removed sources of one catalog. Safe to use from several threads.

    record: makes a record durable. on_commit: called after every commit, so that the indexes can follow.
    `start` goes on with what a former process began; `close` lets the batch under way end.
    """

    def __init__(
        self,
        catalog: Catalog,
        configuration: Configuration,
        record: Callable[[Record], object],
        on_commit: Callable[[], None],
        *,
        batch: int = _BATCH,
    ) -> None:
        self._catalog = catalog
        self._configuration = configuration
        self._record = record
        self._on_commit = on_commit
        self._batch = batch
        self._changed = threading.Condition()
        self._asked = True
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="removal")

    def start(self) -> None:
        """Begin to purge in the background."""
        self._thread.start()

    def close(self) -> None:
        """End after the batch under way; the next start goes on. Does nothing the second time."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Say that the settings are others."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def remove(self, name: str) -> None:
        """Withhold a source from now on, and have it purged; nothing happens the second time. Raises NotFoundError."""
        with self._catalog.reader() as reader:
            found = next((one for one in reader.sources() if one.name == name and one.kind), None)
        if found is None:
            raise NotFoundError(f"no source is called `{name}`")
        if name in self._catalog.removals():
            return
        self._catalog.mark_removed(name, Removal.PURGING)
        self._catalog.take_fence(name)
        self._configuration.withhold(self._catalog.removals())
        self.look()
        log.warning("source_removed", source=name, documents=found.documents)
        self._record(removal_record("source_removed", name, found.documents))

    def purge(self, name: str) -> bool:
        """Purge a removed source; False when `close` came before the end."""
        fence = self._catalog.take_fence(name)
        gone = 0
        while documents := self._some_documents(name):
            if self._closed:
                return False
            with self._catalog.writer(name, fence) as writer:
                writer.bury(documents)
            self._catalog.purge(name, fence)
            self._on_commit()
            gone += len(documents)
        self._catalog.forget_source(name, fence)
        self._on_commit()
        self._record(removal_record("source_purged", name, gone))
        self._catalog.mark_removed(name, Removal.PURGED)
        log.warning("source_purged", source=name, documents=gone)
        return True

    def settle(self) -> None:
        """Purge what is to be purged, and free the names that the settings do not name any more."""
        for name, state in self._catalog.removals().items():
            if state is Removal.PURGING and not self.purge(name):
                return
            if name not in self._configuration.named:
                self._catalog.free_name(name)
        self._configuration.withhold(self._catalog.removals())

    def _some_documents(self, name: str) -> list[int]:
        with self._catalog.reader() as reader:
            return reader.ordinals(name, self._batch)

    def _work(self) -> None:
        while True:
            wait_s = None
            try:
                self.settle()
            except RemitError as err:
                log.error("source_not_purged", error=type(err).__name__)
                wait_s = _AGAIN.total_seconds()
            with self._changed:
                if wait_s is not None:
                    self._changed.wait_for(lambda: self._closed, wait_s)
                else:
                    self._changed.wait_for(lambda: self._asked or self._closed)
                self._asked = False
                if self._closed:
                    return
