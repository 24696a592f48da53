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
    """An index that fails when told to, and says when it was flushed. failures: how many calls will still fail."""

    def __init__(self) -> None:
        super().__init__("one")
        self.failures = 0
        self.flushed = threading.Condition()

    def apply(self, items: Sequence[FeedItem]) -> None:
        """See `Index`."""
        if self.failures:
            self.failures -= 1
            raise SearchUnavailableError("gone for a moment")
        super().apply(items)

    def flush(self) -> int:
        """See `Index`."""
        with self.flushed:
            self.flushed.notify_all()
        return super().flush()

    def wait_for(self, count: int) -> bool:
        """Wait until it holds so many."""
        with self.flushed:
            return self.flushed.wait_for(lambda: self.count == count, timeout=20)


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
    monkeypatch.setattr("service.index.follow._RETRY_S", 0.01)
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
