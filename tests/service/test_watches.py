"""Sources under watch: begun when they can be, begun again when they broke, and never more than an earlier run."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from typing import cast

import pytest

from connectors.base import Connector
from connectors.errors import FatalError, RetriableError
from connectors.notices import Noticed
from service.errors import NotFoundError
from service.sync import watches
from service.sync.watches import Watches
from service.telemetry import logging_to

SOON_S = 20.0


class FakeWatch:
    """A watch whose notices a test puts in; an exception is raised instead."""

    def __init__(self) -> None:
        self.notices: Queue[Noticed | Exception] = Queue()
        self.closed = threading.Event()

    def wait(self, timeout_s: float) -> Noticed | None:
        """See `connectors.notices.Watch`."""
        try:
            found = self.notices.get(timeout=0.02)
        except Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """See `connectors.notices.Watch`."""
        self.closed.set()


class FakeSource:
    """A connector that can be watched."""

    def __init__(self, world: World) -> None:
        self.world = world

    def watch(self) -> FakeWatch:
        """See `connectors.notices.Watchable`."""
        found = FakeWatch()
        self.world.begun.put(found)
        return found

    def close(self) -> None:
        """Nothing is held."""
        self.world.closed += 1


class World:
    """Watches over one source, and what came of them."""

    def __init__(self) -> None:
        self.begun: Queue[FakeWatch] = Queue()
        self.noticed: Queue[str] = Queue()
        self.errors: list[Exception] = []
        self.connected = 0
        self.closed = 0
        self.plain = False
        self.watches = Watches(self.connect, self.noticed.put)
        self.watches.use(["a"])

    def connect(self, name: str) -> Connector:
        self.connected += 1
        if self.errors:
            raise self.errors.pop(0)
        return cast(Connector, object.__new__(Plain) if self.plain else FakeSource(self))

    def calm(self) -> bool:
        """Whether no run was brought forward."""
        return self.noticed.empty()


class Plain:
    """A connector that cannot be watched."""

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(watches, "_FIRST_AGAIN_S", 0.01)
    found = World()
    yield found
    found.watches.close()


@contextmanager
def lines() -> Iterator[Callable[[], list[dict[str, object]]]]:
    """What was logged."""
    stream = io.StringIO()
    with logging_to(stream):
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_notice_brings_a_run_forward(world: World) -> None:
    """One for one; a source that was read before the start is not read because it is watched."""
    world.watches.begin("a", late=False)
    watch = world.begun.get(timeout=SOON_S)
    assert world.calm()

    watch.notices.put(Noticed())

    assert world.noticed.get(timeout=SOON_S) == "a"
    assert world.calm()


def test_a_watch_that_begins_after_its_run_reads_once_more(world: World) -> None:
    """What changed between the two was noticed by nobody."""
    world.watches.begin("a", late=True)

    assert world.noticed.get(timeout=SOON_S) == "a"


def test_missed_notices_are_said_and_bring_a_run_forward(world: World) -> None:
    """The log has why."""
    with lines() as logged:
        world.watches.begin("a", late=False)
        world.begun.get(timeout=SOON_S).notices.put(Noticed("the queue was full"))
        assert world.noticed.get(timeout=SOON_S) == "a"
        world.watches.close()

        (line,) = [one for one in logged() if one["event"] == "notices_missed"]
    assert (line["source"], line["detail"], line["level"]) == ("a", "the queue was full", "warning")


def test_a_watch_that_broke_is_begun_again_and_read_once_more(world: World) -> None:
    """Also when it takes several tries; nobody listened meanwhile."""
    world.watches.begin("a", late=False)
    first = world.begun.get(timeout=SOON_S)
    world.errors = [RetriableError("down"), RetriableError("down"), NotFoundError("gone")]

    first.notices.put(RetriableError("the connection is gone"))

    assert world.begun.get(timeout=SOON_S) is not first
    assert world.noticed.get(timeout=SOON_S) == "a"
    assert first.closed.is_set()
    assert world.connected == 5


def test_a_wrong_password_is_not_tried_again_before_a_run_has_succeeded(world: World) -> None:
    """A watch is no second way to lock an account."""
    world.errors = [FatalError("the login is refused")]
    world.watches.begin("a", late=False)
    for _ in range(200):
        if world.watches._watching["a"].over:
            break
        threading.Event().wait(0.05)
    assert world.connected == 1

    world.watches.begin("a", late=True)

    world.begun.get(timeout=SOON_S)
    assert world.connected == 2


def test_what_is_not_to_be_watched_is_not(world: World) -> None:
    """A source without a schedule, and a connector that cannot; one that is watched is so once."""
    world.watches.begin("b", late=True)
    assert world.connected == 0
    world.watches.begin("a", late=False)
    world.begun.get(timeout=SOON_S)
    world.watches.begin("a", late=True)
    assert world.connected == 1
    assert world.calm()

    other = World()
    other.plain = True
    other.watches.begin("a", late=True)
    other.watches._watching["a"].join()
    other.watches.close()
    assert other.connected == 1
    assert other.calm()


def test_other_settings_end_the_watch_and_the_next_run_begins_another(world: World) -> None:
    """One source's settings; the same settings end nothing."""
    world.watches.begin("a", late=False)
    first = world.begun.get(timeout=SOON_S)
    world.watches.use(["a"])
    assert not first.closed.wait(0.1)

    world.watches.use(["a"], ["a"])

    assert first.closed.wait(SOON_S)
    world.watches.begin("a", late=True)
    assert world.begun.get(timeout=SOON_S) is not first


def test_closing_ends_every_thread(world: World) -> None:
    """And what comes later begins none."""
    world.watches.begin("a", late=False)
    watch = world.begun.get(timeout=SOON_S)

    world.watches.close()

    assert watch.closed.is_set()
    assert not any(thread.name.startswith("watch-") for thread in threading.enumerate())
    world.watches.begin("a", late=True)
    assert world.connected == 1
