"""Bringing an index up to the catalog's feed: at start, and whenever a sync has written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

import structlog

from service.errors import UnavailableError
from service.index.base import FeedItem, Index

log = structlog.get_logger()

_BATCH: Final = 1000
_RETRY_S: Final = 1.0


class Feed(Protocol):
    """What is needed of a reader of the catalog."""

    @property
    def feed_seq(self) -> int:
        """The last item that there is."""

    def feed(self, after: int, limit: int) -> list[FeedItem]:
        """Return at most `limit` items after `after`, in order."""


class Catalog(Protocol):
    """What is needed of the catalog."""

    def reader(self) -> AbstractContextManager[Feed]:
        """Open one snapshot."""


def follow(catalog: Catalog, index: Index, tell: Callable[[int, int], None] = lambda done, last: None) -> int:
    """Apply everything that the index has not seen, make it durable, and return how many items that were.

    tell: called with the place in the feed that was reached, and the feed's last.

    Blocking; one caller at a time. An index that is ahead of its catalog, which was restored from a backup, is emptied
    first: rows that the catalog gives out again would mean something else in it.
    Raises SearchUnavailableError; calling again goes on where the index is then.
    """
    count = 0
    while True:
        # A snapshot for each batch: a long one would keep the catalog's log from shrinking.
        with catalog.reader() as reader:
            if index.applied_seq > reader.feed_seq:
                index.clear()
            items = reader.feed(index.applied_seq, _BATCH)
            last = reader.feed_seq
        if not items:
            break
        index.apply(items)
        # Often, because what a flush costs grows with what it has to write, and searches wait for it.
        index.flush()
        count += len(items)
        tell(index.applied_seq, last)
    return count


class Follower:
    """A thread that follows whenever it is told that the catalog has changed."""

    def __init__(self, catalog: Catalog, index: Index) -> None:
        self._catalog = catalog
        self._index = index
        self._turn = threading.Lock()
        self._changed = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="index-follower", daemon=True)

    def start(self) -> None:
        """Follow to the end of the feed, then go on in the background. Raises SearchUnavailableError."""
        self.settle()
        self._thread.start()

    def notify(self) -> None:
        """Say that the catalog has changed. Does not block."""
        self._changed.set()

    def settle(self) -> None:
        """Return when the index has everything that was committed before the call. Raises SearchUnavailableError."""
        with self._turn:
            follow(self._catalog, self._index)

    def close(self) -> None:
        """End the thread. The index is closed by who opened it."""
        self._closed = True
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        failing = False
        while not self._closed:
            # After a failure it tries again by itself: nothing else might change for a long time.
            self._changed.wait(_RETRY_S if failing else None)
            if self._closed:
                return
            self._changed.clear()
            try:
                self.settle()
                failing = False
            except UnavailableError as err:
                if not failing:
                    log.error("index_fell_behind", detail=str(err))
                failing = True
