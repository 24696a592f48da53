"""Making both indexes anew on a running service, one after the other, when an operator asks for it.

How one is made beside the served one, and takes its place, is `service.index.follow` and `service.index.generations`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from service.errors import StartError, UnavailableError

log = structlog.get_logger()


class Renewable(Protocol):
    """What can make its index anew: `service.index.follow.RenewingFollower`."""

    @property
    def alone(self) -> bool:
        """Whether the served generation is the only one on the disk."""

    def renew(
        self, tell: Callable[[int, int], None] = lambda done, last: None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Make it and serve it, unless told to stop. tell: how far it is, and how far it goes.

        Raises StartError and UnavailableError.
        """


class InPlace:
    """In the place of what makes an index anew beside itself: one that there is only one of, on a Qdrant server."""

    @property
    def alone(self) -> bool:
        """Never: what the server keeps in its files of what was removed is not ours to see."""
        return False

    def renew(
        self, tell: Callable[[int, int], None] = lambda done, last: None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """See `Renewable`."""
        raise StartError("the index on a Qdrant server is made anew with the service stopped: `remit index rebuild`")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is. part: what is made now. done, total: places in the feed. failed: everything is as it was."""

    part: str = ""
    done: int = 0
    total: int = 0
    ended: bool = False
    failed: bool = False


class Rebuilds:
    """parts: what is made anew, by name, in that order. At most one rebuild is under way."""

    def __init__(self, parts: Mapping[str, Renewable]) -> None:
        self._parts = dict(parts)
        self._lock = threading.Lock()
        self._progress = Progress(ended=True)

    @property
    def progress(self) -> Progress:
        """Of the one under way, or of the last one."""
        return self._progress

    def start(self) -> None:
        """Begin one, unless one is under way. Does not wait for it."""
        with self._lock:
            if not self._progress.ended:
                return
            self._progress = Progress()
        threading.Thread(target=self._run, name="index-rebuild", daemon=True).start()

    def _run(self) -> None:
        failed = True
        try:
            for name, part in self._parts.items():
                self._progress = Progress(name)

                def tell(done: int, total: int, name: str = name) -> None:
                    self._progress = Progress(name, done, total)

                part.renew(tell)
            failed = False
        except (StartError, UnavailableError) as err:
            log.error("index_not_renewed", detail=str(err))
        finally:
            self._progress = Progress(ended=True, failed=failed)
