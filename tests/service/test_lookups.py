"""Answers of directories that are kept: for how long, when they are dropped, and that many wait for one question."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from acl.principal import Realm
from connectors.directories.base import DirectoryUnavailableError, UnknownSubjectError
from service.identity.lookups import Keeping, Kept, Lookups
from tests.service.directory_fake import FakeDirectory

KEEPING = Keeping(timedelta(seconds=15), timedelta(seconds=60), timedelta(milliseconds=20))


class Seconds:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    """The clock."""
    return Seconds()


@pytest.fixture
def directory() -> FakeDirectory:
    """A directory that knows alice, in sales, and bob."""
    found = FakeDirectory("corp", Realm("static:corp"))
    found.add("id", "alice", "sales")
    found.add("id", "bob")
    return found


@pytest.fixture
def lookups(directory: FakeDirectory, clock: Seconds) -> Lookups:
    """Its answers, with a first poll behind them."""
    found = Lookups(directory, KEEPING, clock=clock)
    found.poll()
    return found


def ask(lookups: Lookups, value: str = "alice", *, mark: int = 0, need: int = 0) -> Kept:
    """One question."""
    return lookups.resolve("id", value, mark=lambda: mark, need=need)


def holds(found: Kept, group: str) -> bool:
    """Whether the answer names a group."""
    return any(principal.id == group for principal in found.resolution.principals)


def test_an_answer_is_used_until_its_time(lookups: Lookups, directory: FakeDirectory, clock: Seconds) -> None:
    """Within `keep_for` one question; at its end another."""
    first = ask(lookups)
    clock.now += 14.9
    assert ask(lookups) is first
    clock.now += 0.1
    assert ask(lookups) is not first
    assert directory.asked == 2


def test_hundreds_who_wait_cost_one_question(lookups: Lookups, directory: FakeDirectory) -> None:
    """Everybody who asks while a question is under way gets its answer, and each person is asked about once."""
    directory.before_answer = lambda: time.sleep(0.05)
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda number: ask(lookups, ("alice", "bob")[number % 2]), range(400)))
    assert directory.asked == 2
    assert {one.resolution.account_id for one in found} == {"alice", "bob"}


def test_a_failure_reaches_everybody_who_waits_and_is_not_kept(lookups: Lookups, directory: FakeDirectory) -> None:
    """One question, an error for each; the next question is asked anew."""
    directory.down = "down"
    directory.before_answer = lambda: time.sleep(0.05)

    def failed(_: int) -> bool:
        try:
            ask(lookups)
        except DirectoryUnavailableError:
            return True
        return False

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(failed, range(16)))
    assert directory.asked < 16
    directory.down = ""
    assert holds(ask(lookups), "sales")


def test_what_changed_is_dropped_and_nothing_else(lookups: Lookups, directory: FakeDirectory) -> None:
    """An account by its id, everything when a group changed, and nothing when nothing did."""
    for value in ("alice", "bob"):
        ask(lookups, value)
    lookups.poll()
    directory.add("id", "alice")
    assert holds(ask(lookups), "sales")

    directory.pending = {"alice"}
    lookups.poll()
    assert not holds(ask(lookups), "sales")
    assert directory.asked == 3
    ask(lookups, "bob")
    assert directory.asked == 3

    directory.everything = True
    lookups.poll()
    ask(lookups, "bob")
    assert directory.asked == 4


def test_an_answer_from_before_a_change_is_not_kept(lookups: Lookups, directory: FakeDirectory) -> None:
    """The change becomes known while the question is under way: who asks afterwards does not get the old answer."""
    under_way, known = threading.Event(), threading.Event()

    def wait() -> None:
        under_way.set()
        assert known.wait(10)

    directory.before_answer = wait
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(ask, lookups)
        assert under_way.wait(10)
        directory.before_answer = lambda: None
        directory.add("id", "alice")
        directory.everything = True
        lookups.poll()
        new = ask(lookups)  # does not wait for the old question
        known.set()
        assert holds(old.result(), "sales")
    assert not holds(new, "sales")
    assert not holds(ask(lookups), "sales")


def test_while_a_directory_is_down_an_answer_counts_until_it_is_too_old(
    lookups: Lookups, directory: FakeDirectory, clock: Seconds
) -> None:
    """To the bound and not a moment longer; the error says how old it was. Nobody else is let in."""
    first = ask(lookups)
    directory.down = "the server is gone"
    clock.now += 59.9
    assert ask(lookups) is first
    with pytest.raises(DirectoryUnavailableError, match="the server is gone"):
        ask(lookups, "bob")
    clock.now += 0.1
    with pytest.raises(DirectoryUnavailableError, match="gone; its last answer is 60 s old, of at most 60"):
        ask(lookups)
    directory.down = ""
    assert holds(ask(lookups), "sales")


def test_a_disabled_account_is_dropped_at_once(lookups: Lookups, directory: FakeDirectory, clock: Seconds) -> None:
    """Once the directory has said that somebody is nobody, an older answer does not come back when it is down."""
    ask(lookups)
    clock.now += 15
    del directory.accounts["id", "alice"]
    with pytest.raises(UnknownSubjectError):
        ask(lookups)
    directory.down = "down"
    with pytest.raises(DirectoryUnavailableError):
        ask(lookups)


def test_an_answer_that_is_older_than_a_text_is_asked_again(lookups: Lookups, directory: FakeDirectory) -> None:
    """`need`: an answer from before a change of the catalog is not enough, even while the directory is down."""
    assert ask(lookups, mark=5).as_of == 5
    assert ask(lookups, mark=9, need=5).as_of == 5
    assert ask(lookups, mark=9, need=9).as_of == 9
    assert directory.asked == 2
    directory.down = "down"
    with pytest.raises(DirectoryUnavailableError):
        ask(lookups, mark=12, need=12)
    assert ask(lookups, mark=12, need=9).as_of == 9


def test_a_watched_directory_is_polled_and_closed(directory: FakeDirectory) -> None:
    """Started, it drops what changes by itself; closed, it stops and closes the directory."""
    lookups = Lookups(directory, KEEPING)
    lookups.start()
    assert holds(ask(lookups), "sales")
    directory.add("id", "alice")
    directory.everything = True
    ends = time.monotonic() + 10
    while holds(ask(lookups), "sales"):
        assert time.monotonic() < ends
        time.sleep(0.01)
    lookups.close()
    assert directory.closed


def test_an_older_answer_does_not_take_the_place_of_a_newer_one(lookups: Lookups, directory: FakeDirectory) -> None:
    """A question that hangs while a newer one is answered: its answer comes last and is not kept."""
    under_way, answered = threading.Event(), threading.Event()

    def wait() -> None:
        under_way.set()
        assert answered.wait(10)

    directory.before_answer = wait
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(ask, lookups, mark=3)
        assert under_way.wait(10)
        directory.before_answer = lambda: None
        directory.add("id", "alice")
        assert not holds(ask(lookups, mark=8, need=8), "sales")
        answered.set()
        assert holds(old.result(), "sales")
    assert not holds(ask(lookups), "sales")


def test_a_poll_that_fails_in_an_unforeseen_way_drops_everything(directory: FakeDirectory) -> None:
    """The thread goes on, and what was kept is asked anew."""
    lookups = Lookups(directory, KEEPING)
    lookups.start()
    ask(lookups)
    directory.broken = True
    ends = time.monotonic() + 10
    while directory.asked < 3:
        assert time.monotonic() < ends
        ask(lookups)
        time.sleep(0.01)
    directory.broken = False
    lookups.close()


def test_a_mistake_in_a_directory_leaves_nobody_waiting(lookups: Lookups, directory: FakeDirectory) -> None:
    """An error that nobody foresaw is one for those who wait too, and the next question is asked anew."""

    def fail() -> None:
        raise ZeroDivisionError

    directory.before_answer = fail
    with pytest.raises(ZeroDivisionError):
        ask(lookups)
    directory.before_answer = lambda: None
    assert holds(ask(lookups), "sales")
