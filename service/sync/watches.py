"""Sources under watch: a thread for each, which brings the next run forward when the source says that it changed.

A watch is begun after a run that succeeded, so that a wrong password is not tried here as well, and again when it
broke. Whatever happens to it, the schedule goes on: that a source is watched only ever makes a run earlier.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Final

import structlog

from connectors.base import Connector
from connectors.errors import ConnectorError, FatalError
from connectors.notices import Watch, Watchable
from service.errors import RemitError

log = structlog.get_logger()

_LOOK_S: Final = 1.0
_FIRST_AGAIN_S: Final = 5.0
_LONGEST_AGAIN_S: Final = 900.0


class Watches:
    """The watches of some sources. Safe to use from several threads.

    connect: makes a connector. notice: brings the next run over a source forward.
    """

    def __init__(self, connect: Callable[[str], Connector], notice: Callable[[str], None]) -> None:
        self._connect = connect
        self._notice = notice
        self._lock = threading.Lock()
        self._watching: dict[str, _Watching] = {}
        self._wanted: frozenset[str] = frozenset()
        self._closed = False

    def use(self, sources: Collection[str], differ: Collection[str] = ()) -> None:
        """Watch these from their next successful run on. differ: whose settings are others: their watches end."""
        with self._lock:
            self._wanted = frozenset(sources)
            ended = [self._watching.pop(name) for name in [*self._watching] if name in differ or name not in sources]
        for one in ended:
            one.end()

    def begin(self, source: str, *, late: bool) -> None:
        """Watch a source over which a run has succeeded, unless it is watched.

        late: the run is over by now, so what changed since it began is read again once the source is watched.
        """
        with self._lock:
            if self._closed or source not in self._wanted:
                return
            watching = self._watching.get(source)
            if watching is None or watching.over:
                watching = self._watching[source] = _Watching(source, self._connect, self._notice, late)
                watching.start()

    def close(self) -> None:
        """End all, and begin none any more."""
        with self._lock:
            self._closed = True
            ended = [*self._watching.values()]
            self._watching.clear()
        for one in ended:
            one.end()
        for one in ended:
            one.join()


class _Watching:
    def __init__(
        self, source: str, connect: Callable[[str], Connector], notice: Callable[[str], None], late: bool
    ) -> None:
        self._late = late
        self._source = source
        self._connect = connect
        self._notice = notice
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"watch-{source}", daemon=True)
        self.over = False

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        wait_s, late = _FIRST_AGAIN_S, self._late
        try:
            while not self._ended.is_set():
                try:
                    connector = self._connect(self._source)
                    try:
                        if not isinstance(connector, Watchable):
                            return
                        watch = connector.watch()
                        log.info("source_watched", source=self._source)
                        if late:  # nobody listened for a while
                            self._notice(self._source)
                        late, wait_s = True, _FIRST_AGAIN_S
                        self._follow(watch)
                    finally:
                        connector.close()
                except FatalError:
                    # What only a person can mend: watched again after the next run that succeeds.
                    log.warning("source_not_watched", source=self._source)
                    return
                except (ConnectorError, RemitError) as err:
                    log.warning("source_not_watched", source=self._source, error=type(err).__name__)
                    late = True
                    self._ended.wait(wait_s)
                    wait_s = min(2 * wait_s, _LONGEST_AGAIN_S)
        finally:
            self.over = True

    def _follow(self, watch: Watch) -> None:
        try:
            while not self._ended.is_set():
                noticed = watch.wait(_LOOK_S)
                if noticed is None:
                    continue
                if noticed.missed:
                    log.warning("notices_missed", source=self._source, detail=noticed.missed)
                self._notice(self._source)
        finally:
            watch.close()
