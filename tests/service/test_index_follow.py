"""The thread that keeps an index in step with its catalog."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from service.errors import SearchUnavailableError
from service.index.base import Add, FeedItem
from service.index.follow import Follower
from tests.service.harness import MemoryIndex


class Feed:
    """A catalog's feed in memory, its own reader."""

    def __init__(self) -> None:
        self.items: list[FeedItem] = []

    def grow(self, count: int) -> None:
        """Add chunks."""
        for number in range(len(self.items), len(self.items) + count):
            self.items.append(Add(number + 1, number, 0, np.ones(4, np.float32)))

    @property
    def feed_seq(self) -> int:
        """The last item."""
        return len(self.items)

    def feed(self, after: int, limit: int) -> list[FeedItem]:
        """Return items."""
        return self.items[after : after + limit]

    @contextlib.contextmanager
    def reader(self) -> Iterator[Feed]:
        """Return itself."""
        yield self


class FlakyIndex(MemoryIndex):
    """An index that fails when told to. failures: how many calls will still fail. durable: how many were flushed."""

    def __init__(self) -> None:
        super().__init__("one")
        self.failures = 0
        self.durable = 0
        self.changed = threading.Condition()

    def apply(self, items: Sequence[FeedItem]) -> None:
        """See `Index`."""
        if self.failures:
            self.failures -= 1
            raise SearchUnavailableError("gone for a moment")
        super().apply(items)
        with self.changed:
            self.changed.notify_all()

    def flush(self) -> int:
        """See `Index`."""
        with self.changed:
            self.durable = self.count
            self.changed.notify_all()
        return super().flush()

    def wait_for(self, count: int, durable: int = 0) -> bool:
        """Wait until it holds so many, and so many of them durably."""
        with self.changed:
            return self.changed.wait_for(lambda: self.count == count and self.durable >= durable, timeout=20)


@pytest.fixture
def feed() -> Feed:
    """A feed of five chunks."""
    made = Feed()
    made.grow(5)
    return made


def test_a_start_ends_with_an_index_that_is_up_to_date(feed: Feed) -> None:
    """Nothing is served from an index that lags behind what was there before the start."""
    index = FlakyIndex()
    follower = Follower(feed, index)

    follower.start()

    assert index.count == 5
    follower.close()


def test_a_notice_is_followed_in_the_background(feed: Feed) -> None:
    """Whoever wrote the catalog does not wait for the index."""
    index = FlakyIndex()
    follower = Follower(feed, index)
    follower.start()

    feed.grow(3)
    follower.notify()

    assert index.wait_for(8)
    follower.close()


def test_an_index_that_was_gone_is_brought_up_without_another_notice(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure is tried again, because the catalog may not change for a long time."""
    monkeypatch.setattr("service.index.follow._QUIET_S", 0.01)
    index = FlakyIndex()
    follower = Follower(feed, index)
    follower.start()

    index.failures = 3
    feed.grow(3)
    follower.notify()

    assert index.wait_for(8)
    assert index.failures == 0
    follower.close()


def test_settling_says_when_the_index_does_not_answer(feed: Feed) -> None:
    """Who must know that everything can be searched gets an error instead of a hope."""
    index = FlakyIndex()
    index.failures = 1
    follower = Follower(feed, index)

    with pytest.raises(SearchUnavailableError):
        follower.settle()
    follower.settle()

    assert index.count == 5
    follower.close()


def test_what_was_followed_is_made_durable_when_nobody_searches(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """While searches come it is searchable and not yet written, because they would wait for the disk; then it is."""
    monkeypatch.setattr("service.index.follow._QUIET_S", 0.01)
    index = FlakyIndex()
    follower = Follower(feed, index)
    follower.start()
    assert index.durable == 5

    feed.grow(3)
    follower.notify()

    assert index.wait_for(8)
    follower.settle()
    assert index.durable == 5
    index.quiet_s = 1.0
    assert index.wait_for(8, durable=8)
    follower.close()


def test_searches_without_a_gap_put_writing_off_but_not_for_ever(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unwritten has a bound, so that a crash does not cost hours."""
    monkeypatch.setattr("service.index.follow._MOST_UNWRITTEN", 10)
    index = FlakyIndex()
    follower = Follower(feed, index)
    follower.start()

    feed.grow(9)
    follower.notify()
    assert index.wait_for(14)
    feed.grow(1)
    follower.notify()

    assert index.wait_for(15, durable=15)
    follower.close()
