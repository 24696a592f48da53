"""Bringing an index up to the catalog's feed: at start, and whenever a sync has written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import structlog

from service.errors import StartError, UnavailableError

if TYPE_CHECKING:
    from service.index.generations import Generations

log = structlog.get_logger()

_BATCH: Final = 1000
_WRITE_EVERY: Final = 20_000
_QUIET_S: Final = 1.0
_MOST_UNWRITTEN: Final = 500_000


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class Feed(Protocol[T_co]):
    """What is needed of a reader of the catalog."""

    @property
    def feed_seq(self) -> int:
        """The last item that there is."""

    def feed(self, after: int, limit: int) -> Sequence[T_co]:
        """Return at most `limit` items after `after`, in order."""


class Catalog(Protocol[T_co]):
    """What is needed of the catalog."""

    def reader(self) -> AbstractContextManager[Feed[T_co]]:
        """Open one snapshot."""


class Followed(Protocol[T_contra]):
    """What is needed of an index, of vectors or of words; see `service.index.base.Index`."""

    @property
    def quiet_s(self) -> float:
        """How long nobody has searched."""

    @property
    def applied_seq(self) -> int:
        """The feed's last item that was applied."""

    def recover(self) -> None:
        """Start again what ended since the last call, and learn where in the feed it is now."""

    def apply(self, items: Sequence[T_contra]) -> None:
        """Apply items in the feed's order."""

    def flush(self) -> int:
        """Make everything applied durable."""

    def clear(self) -> None:
        """Forget everything."""


def follow(
    catalog: Catalog[T],
    index: Followed[T],
    tell: Callable[[int, int], None] = lambda done, last: None,
    *,
    durably: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Apply everything that the index has not seen, and return how many items that were.

    stop: asked between two batches.
    durably: make it durable, now and then on the way.
    tell: called with the place in the feed that was reached, and the feed's last.

    Blocking; one caller at a time. An index that is ahead of its catalog, which was restored from a backup, is emptied
    first: rows that the catalog gives out again would mean something else in it.
    Raises SearchUnavailableError; calling again goes on where the index is then.
    """
    count = unwritten = 0
    while not stop():
        # A snapshot for each batch: a long one would keep the catalog's log from shrinking.
        with catalog.reader() as reader:
            if index.applied_seq > reader.feed_seq:
                index.clear()
            items = reader.feed(index.applied_seq, _BATCH)
            last = reader.feed_seq
        if not items:
            break
        index.apply(items)
        count += len(items)
        unwritten += len(items)
        if durably and unwritten >= _WRITE_EVERY:
            index.flush()
            unwritten = 0
        tell(index.applied_seq, last)
    if durably and unwritten:
        index.flush()
    return count


class Follower(Generic[T]):
    """A thread that follows whenever it is told that the catalog has changed, and looks after the index every second.

    failure: why it is behind, None while it is not.

    What it applied is searched at once, and made durable when nobody has searched for a second: a search that comes
    while the disk is written waits for it, 3 ms on a good disk and 200 on a busy one. Nothing is lost by that: after a
    crash the feed begins where the index was durable. A load of searches without a gap puts it off, but not for ever.
    """

    def __init__(self, catalog: Catalog[T], index: Followed[T]) -> None:
        self._catalog = catalog
        self._index = index
        self._turn = threading.Lock()
        self._changed = threading.Event()
        self._closed = False
        self._unwritten = 0
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="index-follower", daemon=True)

    def start(self) -> None:
        """Follow to the end of the feed, durably, then go on in the background. Raises SearchUnavailableError."""
        with self._turn:
            follow(self._catalog, self._index)
        self._thread.start()

    def notify(self) -> None:
        """Say that the catalog has changed. Does not block."""
        self._changed.set()

    def flush(self) -> None:
        """As `settle`, and durable on return."""
        with self._turn:
            follow(self._catalog, self._index, durably=False)
            self._index.flush()
            self._unwritten = 0

    def settle(self) -> None:
        """Return when the index has everything that was committed before the call. Raises SearchUnavailableError."""
        with self._turn:
            self._unwritten += follow(self._catalog, self._index, durably=False)

    def close(self) -> None:
        """End the thread. The index is closed by who opened it."""
        self._closed = True
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        failing = False
        while not self._closed:
            # Without being told, too: after a failure, and because a process that died has forgotten what it had not
            # written, and nothing else might change for a long time.
            self._changed.wait(_QUIET_S)
            if self._closed:
                return
            self._changed.clear()
            try:
                with self._turn:
                    self._index.recover()
                self.settle()
                self._write()
                self._followed()
                failing, self.failure = False, None
            except UnavailableError as err:
                if not failing:
                    log.error("index_fell_behind", detail=str(err))
                failing, self.failure = True, str(err)

    def _followed(self) -> None:
        """What else to do once the index is up to date."""

    def _write(self) -> None:
        with self._turn:
            if self._unwritten and (self._index.quiet_s >= _QUIET_S or self._unwritten >= _MOST_UNWRITTEN):
                self._index.flush()
                self._unwritten = 0


class RenewingFollower(Follower[T]):
    """A follower that makes its index anew when that pays, or when it is asked to."""

    def __init__(self, catalog: Catalog[T], index: Generations[T, Any]) -> None:
        super().__init__(catalog, index)
        self._generations = index
        self._renewal: threading.Thread | None = None
        self._renewing = threading.Lock()

    def close(self) -> None:
        """See `Follower`; a renewal under way is broken off."""
        super().close()
        if self._renewal is not None:
            self._renewal.join()
        with self._renewing:  # one that was asked for
            pass

    @property
    def alone(self) -> bool:
        """Whether the served generation is the only one on the disk."""
        return self._generations.alone

    def renew(
        self, tell: Callable[[int, int], None] = lambda done, last: None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Make the index anew from the feed and serve that instead; searches and the feed go on meanwhile.

        tell, stop: see `follow`. One at a time; another waits.
        Raises StartError and SearchUnavailableError: then everything is as it was.
        """
        with self._renewing:
            self._renew(tell, lambda: self._closed or stop())

    def _renew(self, tell: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        index = self._generations
        if stop():
            return
        built = index.begin()
        try:
            follow(self._catalog, built, tell, stop=stop)
            if stop():
                return
            # INVARIANT: the served generation stands still from here on, so the other one cannot be behind it.
            with self._turn:
                follow(self._catalog, index, durably=False)
                follow(self._catalog, built)
                index.replace(built)
                self._unwritten = 0
            log.info("index_renewed", chunks=index.count)
        finally:
            if built.pid != index.pid:
                built.close()

    def _followed(self) -> None:
        index = self._generations
        running = self._renewal is not None and self._renewal.is_alive()
        if running or self._renewing.locked() or not index.wasteful:
            return

        def renew() -> None:
            try:
                self.renew()
            except (StartError, UnavailableError) as err:
                log.error("index_not_renewed", detail=str(err))

        self._renewal = threading.Thread(target=renew, name="index-renewal", daemon=True)
        self._renewal.start()
