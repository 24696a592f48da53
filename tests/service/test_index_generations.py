"""An index that is made anew while it is searched and changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroaring import BitMap

from service.errors import SearchUnavailableError, StartError
from service.index.base import FeedItem, Remove
from service.index.edge import EdgeIndex
from service.index.follow import RenewingFollower, follow
from service.index.generations import VectorGenerations
from service.index.planner import Tuning
from tests.service.test_index_edge import DIMENSION, Feed, add, reference, vectors

MATRIX = vectors(3_000)
EVERYTHING = BitMap(range(5_000))


def opened(folder: Path) -> VectorGenerations:
    """The generations in a folder; a second opener is refused at once."""

    def open_generation(path: Path) -> EdgeIndex:
        return EdgeIndex(path, incarnation="one", dimension=DIMENSION, tuning=Tuning(threads=1))

    return VectorGenerations(folder, open_generation)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[VectorGenerations]:
    """An empty index."""
    made = opened(tmp_path / "index")
    yield made
    made.close()


def remove(feed: Feed, rows: range) -> None:
    """Remove rows as the catalog does: a row stands in its feed once, with the last that is to be said of it."""
    last = feed.feed_seq
    kept: list[FeedItem] = [item for item in feed.items if item.row not in rows]
    feed.items = [*kept, *(Remove(last + number, row) for number, row in enumerate(rows, 1))]


def inside(folder: Path) -> set[str]:
    """What is in the index's folder."""
    return {entry.name for entry in folder.iterdir()}


def test_a_renewal_keeps_what_is_held_and_gives_back_what_is_not(index: VectorGenerations, tmp_path: Path) -> None:
    """The new generation answers as the old one, which is gone with its folder; a restart finds the new one."""
    feed = Feed(add(range(3_000), MATRIX), step=500)
    follower = RenewingFollower(feed, index)
    follower.start()
    remove(feed, range(2_000))
    follower.settle()
    before, process = index.search(MATRIX[7], EVERYTHING, 20), index.pid

    follower.renew()
    follower.close()

    assert index.search(MATRIX[7], EVERYTHING, 20) == before
    assert (index.count, index.applied_seq) == (1_000, 5_000)
    assert index.pid != process
    assert inside(tmp_path / "index") == {"current", "g2"}
    index.close()
    again = opened(tmp_path / "index")
    assert (again.count, again.search(MATRIX[7], EVERYTHING, 20)) == (1_000, before)
    again.close()


def test_searches_and_changes_go_on_while_it_is_made_anew(index: VectorGenerations) -> None:
    """Every search in between has its answer, and what changes meanwhile is in the new generation."""
    feed = Feed(add(range(2_000), MATRIX), step=100)
    follower = RenewingFollower(feed, index)
    follower.start()
    done, answered = threading.Event(), 0

    def renew() -> None:
        for _ in range(2):
            follower.renew()
        done.set()

    thread = threading.Thread(target=renew)
    thread.start()
    while not done.is_set():
        assert index.search(MATRIX[7], BitMap([7, 8]), 1).candidates[0].row == 7
        if answered < 1_000:
            row = 2_000 + answered
            feed.items += [*add(range(row, row + 1), MATRIX)]
            follower.settle()
        answered += 1
    thread.join()
    follower.settle()

    assert answered > 5
    assert index.count == len(feed.items)
    follower.close()


def test_much_removed_makes_it_anew_by_itself(
    index: VectorGenerations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When more was removed than is worth keeping the room for, nobody has to ask; a little is left alone."""
    monkeypatch.setattr("service.index.edge._WASTE", 100)
    feed = Feed(add(range(1_000), MATRIX), step=500)
    follower = RenewingFollower(feed, index)
    follower.start()

    remove(feed, range(300))
    follower.settle()
    assert not index.wasteful
    remove(feed, range(300, 600))
    follower.notify()
    for _ in range(400):
        if "g2" in inside(tmp_path / "index") and "g1" not in inside(tmp_path / "index"):
            break
        threading.Event().wait(0.05)
    follower.close()

    assert inside(tmp_path / "index") == {"current", "g2"}
    assert (index.count, index.wasteful) == (400, False)


def test_a_renewal_that_fails_changes_nothing(index: VectorGenerations, monkeypatch: pytest.MonkeyPatch) -> None:
    """The served generation is as it was, and the next renewal works."""
    feed = Feed(add(range(500), MATRIX), step=100)
    follower = RenewingFollower(feed, index)
    follower.start()
    begin = index.begin

    def killed() -> EdgeIndex:
        built = begin()
        assert built.pid is not None
        os.kill(built.pid, signal.SIGKILL)
        built._child.close()
        return built

    monkeypatch.setattr(index, "begin", killed)
    with pytest.raises(SearchUnavailableError):
        follower.renew()
    assert index.count == 500
    monkeypatch.undo()

    follower.renew()

    assert index.count == 500
    follower.close()


def test_what_a_crash_left_is_swept_and_never_served(index: VectorGenerations, tmp_path: Path) -> None:
    """A generation that was being built, one that was replaced, and the files of an older layout go at the start."""
    index.apply(add(range(10), MATRIX))
    index.close()
    folder = tmp_path / "index"
    (folder / "g2" / "shard").mkdir(parents=True)
    (folder / "g0").mkdir()
    (folder / "state.json").write_text("{}")

    again = opened(folder)

    assert (again.count, inside(folder)) == (10, {"g1"})
    again.close()


@pytest.mark.parametrize("current", ["", "x", "7"])
def test_a_damaged_name_of_the_current_one_starts_over(tmp_path: Path, current: str) -> None:
    """What `current` names and is not there is empty, and the feed fills it."""
    first = opened(tmp_path / "index")
    first.apply(add(range(10), MATRIX))
    first.close()
    (tmp_path / "index" / "current").write_text(current)

    second = opened(tmp_path / "index")

    assert second.applied_seq in ({0} if current == "7" else {10})
    second.close()


def test_a_second_opener_is_refused_and_sweeps_nothing(
    index: VectorGenerations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second gets a sentence, and what the first one builds stays."""
    built = index.begin()

    with pytest.raises(StartError, match="held by another process"):
        opened(tmp_path / "index")

    assert inside(tmp_path / "index") == {"g1", "g2"}
    built.close()


@pytest.mark.parametrize("point", ["building", "built", "named", "closing", "sweeping", "swept"])
def test_a_kill_in_the_middle_of_a_swap_loses_nothing(tmp_path: Path, point: str) -> None:
    """Whenever the process dies, the next start serves one whole generation with all that was applied, and no other."""
    from tests.service import swap_kill

    folder = tmp_path / "index"
    command = [sys.executable, "-m", "tests.service.swap_kill", str(folder), point]
    died = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    left = range(swap_kill.GONE, swap_kill.COUNT)

    index = opened(folder)

    assert (index.count, index.applied_seq) == (len(left), swap_kill.feed().feed_seq)
    assert follow(swap_kill.feed(), index) == 0
    hits = index.search(MATRIX[300], EVERYTHING, 20, exact=True).candidates
    assert [hit.row for hit in hits] == reference(MATRIX, MATRIX[300], left, 20)
    served = "g1" if point in ("building", "built") else "g2"
    assert inside(folder) - {"current"} == {served}
    # And it can be made anew from there.
    follower = RenewingFollower(swap_kill.feed(), index)
    follower.start()
    follower.renew()
    follower.close()
    assert index.count == len(left)
    index.close()


def test_a_dead_process_is_started_again_by_itself_and_fed_what_it_forgot(index: VectorGenerations) -> None:
    """Nobody has to search or to change anything: what it had not written comes again from the feed."""
    feed = Feed(add(range(300), MATRIX), step=100)
    follower = RenewingFollower(feed, index)
    follower.start()
    feed.items += add(range(300, 320), MATRIX)
    follower.settle()
    process = index.pid
    assert process is not None

    os.kill(process, signal.SIGKILL)

    for _ in range(600):
        if index.pid not in (None, process) and index.count == 320:
            break
        threading.Event().wait(0.05)
    assert index.search(MATRIX[310], EVERYTHING, 1).candidates[0].row == 310
    follower.close()
