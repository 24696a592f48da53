"""Making the indexes anew after a shredding, beside the served ones, whose files may hold what was forgotten.

Engines keep deleted vectors in their files and logs, so a new generation of each index is built from the catalog, which
has none of them, and the older one's folder is removed.
Until both are done the catalog says that the next start has to do it; a crash changes nothing about that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from service.errors import StartError, UnavailableError
from service.upkeep.rebuild import Renewable

log = structlog.get_logger()

_WAIT_S: Final = 10.0
_RETRY_S: Final = 60.0


class Kept(Protocol):
    """What is needed of the catalog."""

    @property
    def renewal(self) -> str:
        """Which shredding the next start has to act upon; empty for none."""

    def keep(self, renewal: str) -> bool:
        """It need not for this one, which was acted upon. False when another came later."""


class Purge:
    """A thread that makes the indexes anew whenever it is asked; what fails is tried again every minute.

    done: called each time that nothing of what was shredded is left.
    """

    def __init__(
        self,
        catalog: Kept,
        indexes: Sequence[Renewable],
        done: Callable[[], object] = lambda: None,
    ) -> None:
        self._catalog = catalog
        self._indexes = tuple(indexes)
        self._done = done
        self._turn = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="index-purge", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """End. What is not done is left to the next start."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def __call__(self, wait_s: float = _WAIT_S) -> None:
        """Ask for it, and return when it is done or the time is up. What is to be gone is committed by now."""
        with self._turn:
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._closed or not self._catalog.renewal, wait_s)

    def _run(self) -> None:
        failing = False
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._closed or bool(self._catalog.renewal))
                if self._closed:
                    return
            renewal = self._catalog.renewal
            try:
                self._purge()
            except (StartError, UnavailableError) as err:
                if not failing:
                    log.error("index_not_renewed", detail=str(err))
                failing = True
                with self._turn:
                    self._turn.wait_for(lambda: self._closed, _RETRY_S)
                continue
            failing = False
            # What was shredded meanwhile may have come too late for this generation: then once more.
            if not self._ended() and self._catalog.keep(renewal):
                self._done()
                with self._turn:
                    self._turn.notify_all()

    def _ended(self) -> bool:
        return self._closed

    def _purge(self) -> None:
        for index in self._indexes:
            index.renew(stop=self._ended)
            if not index.alone and not self._ended():
                raise UnavailableError("an older generation of the index cannot be removed from the disk")
