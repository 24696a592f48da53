"""The index on Qdrant Edge: what it finds, what it refuses, what it survives."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pyroaring import BitMap

from service.errors import SearchUnavailableError, StartError
from service.index.base import Add, FeedItem, InvalidVectorError, Remove
from service.index.edge import EdgeIndex
from service.index.edge_process import Shard
from service.index.follow import follow
from service.index.planner import SearchPath, Tuning
from service.process import Refusal

DIMENSION = 16
CODED = Tuning(bits=2, candidates=100, exact_below=100, threads=2)


def vectors(count: int, seed: int = 0, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Random unit vectors, shape (count, dimension)."""
    drawn = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def add(rows: range, matrix: NDArray[np.float32]) -> list[Add]:
    """Items whose row, seq and vector agree: row r is item r + 1 of the feed."""
    return [Add(row + 1, row, row // 5, matrix[row]) for row in rows]


def reference(matrix: NDArray[np.float32], query: NDArray[np.float32], rows: Iterable[int], limit: int) -> list[int]:
    """The rows that an exact search over the permitted ones must find."""
    return sorted(rows, key=lambda row: (-float(matrix[row] @ query), row))[:limit]


def found(index: EdgeIndex, query: NDArray[np.float32], rows: BitMap, limit: int, *, exact: bool = False) -> list[int]:
    """The rows that the index proposes."""
    return [hit.row for hit in index.search(query, rows, limit, exact=exact).candidates]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EdgeIndex]:
    """An empty index in a process of its own."""
    opened = EdgeIndex(tmp_path / "index", incarnation="one", dimension=DIMENSION)
    yield opened
    opened.close()


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    """A shard in this process: what the index process holds."""
    opened = Shard(tmp_path / "index", "one", DIMENSION)
    yield opened
    opened.close()


def fill(shard: Shard, matrix: NDArray[np.float32]) -> None:
    """Hold all of `matrix`."""
    rows = np.arange(len(matrix), dtype=np.uint32)
    assert shard.apply(rows, matrix, [], shard.applied_seq, len(matrix))


@pytest.mark.parametrize("exact", [True, False])
def test_few_permitted_chunks_are_searched_exactly(index: EdgeIndex, exact: bool) -> None:
    """The nearest permitted chunks are found in their order, and no other chunk."""
    matrix, query = vectors(300), vectors(1, seed=9)[0]
    index.apply(add(range(300), matrix))
    rows = BitMap(range(0, 300, 7))

    proposal = index.search(query, rows, 12, exact=exact)

    assert [hit.row for hit in proposal.candidates] == reference(matrix, query, rows, 12)
    assert proposal.candidates[0].score == pytest.approx(float(matrix[proposal.candidates[0].row] @ query), abs=1e-5)
    assert (proposal.path, proposal.permitted, proposal.scored) == (SearchPath.EXACT, len(rows), len(rows))


@pytest.mark.parametrize(
    ("share", "path"), [(10, SearchPath.GATHERED), (3, SearchPath.GATHERED), (1, SearchPath.MASKED)]
)
def test_many_permitted_chunks_are_searched_by_their_codes(tmp_path: Path, share: int, path: SearchPath) -> None:
    """With codes, nearly everything that an exact search finds is found, with the same scores, and nothing hidden."""
    index = EdgeIndex(tmp_path / "index", incarnation="one", dimension=64, tuning=CODED)
    matrix = vectors(6000, dimension=64)
    index.apply(add(range(6000), matrix))
    rows, right = BitMap(range(0, 6000, share)), 0

    for query in vectors(20, seed=9, dimension=64):
        coded, exact = index.search(query, rows, 10), index.search(query, rows, 10, exact=True)
        assert (coded.path, exact.path) == (path, SearchPath.EXACT)
        assert (coded.permitted, coded.scored, exact.scored) == (len(rows), 100, len(rows))
        assert {hit.row for hit in coded.candidates} <= set(rows)
        assert [hit.row for hit in exact.candidates] == reference(matrix, query, rows, 10)
        scores = {hit.row: hit.score for hit in exact.candidates}
        assert all(scores.get(hit.row, hit.score) == hit.score for hit in coded.candidates)
        right += len({hit.row for hit in coded.candidates} & scores.keys())

    assert right >= 198
    index.close()


@pytest.mark.parametrize("exact", [True, False])
def test_no_permitted_chunks_never_reach_the_engine(index: EdgeIndex, exact: bool) -> None:
    """An empty permitted set finds nothing, and without a call: a dead process is not noticed."""
    index.apply(add(range(20), vectors(20)))
    index.close()

    assert index.search(vectors(1)[0], BitMap(), 10, exact=exact).candidates == ()
    with pytest.raises(SearchUnavailableError):
        index.search(vectors(1)[0], BitMap([1]), 10, exact=exact)


def test_permitted_chunks_that_are_not_held_are_not_proposed(index: EdgeIndex) -> None:
    """A chunk that the index does not have yet, alone or among others, is nothing that the engine is asked to make up.

    An engine's empty filter would select every point.
    """
    index.apply(add(range(20), vectors(20)))

    assert found(index, vectors(1)[0], BitMap([99]), 10) == []
    assert found(index, vectors(1)[0], BitMap(range(1000, 9000)), 10) == []
    assert set(found(index, vectors(1)[0], BitMap([3, 7, *range(1000, 9000)]), 10)) == {3, 7}


@pytest.mark.parametrize("keep", [7, 50])
def test_equal_scores_are_ordered_by_row_whatever_else_is_held(tmp_path: Path, keep: int) -> None:
    """Among equal scores the lowest rows come first, and chunks that may not be read change nothing in that.

    Left to the engine, which of many equal ones are within the limit depends on how they came in.
    """
    matrix = np.repeat(vectors(1), 6000, axis=0)
    mine = np.arange(0, 6000, 3, dtype=np.uint32)
    alone, crowded = (Shard(tmp_path / name, "one", DIMENSION, threads=2) for name in ("alone", "crowded"))
    alone.apply(mine, matrix[mine], [], 0, 6000)
    for part in np.random.default_rng(7).permutation(6000).astype(np.uint32).reshape(4, -1):
        crowded.apply(part, matrix[part], [], 0, 6000)

    answers = [
        shard.search(matrix[0], BitMap(mine), 7, keep, masked=masked).best
        for shard in (alone, crowded)
        for masked in (True, False)
    ]
    answers += [shard.score(matrix[0], mine.tolist(), 7).best for shard in (alone, crowded)]

    assert all(answer == answers[0] for answer in answers)
    assert [row for row, _ in answers[0]] == [0, 3, 6, 9, 12, 15, 18]
    for shard in (alone, crowded):
        shard.close()


def test_removed_chunks_are_not_found(index: EdgeIndex) -> None:
    """A removal takes effect with `apply`, also within one stretch of the feed; the neighbour stays."""
    matrix = vectors(12)
    index.apply([*add(range(10), matrix), Remove(11, 3), Remove(12, 999)])

    index.apply([Remove(13, 4)])

    assert index.count == 8
    assert set(found(index, matrix[3], BitMap(range(40)), 10)) == {0, 1, 2, 5, 6, 7, 8, 9}


def test_a_restart_makes_the_codes_again(tmp_path: Path) -> None:
    """What is found by codes is the same before and after a restart, removals and replacements included."""
    matrix, query, rows = vectors(3000), vectors(1, seed=5)[0], BitMap(range(0, 3000, 2))
    first = EdgeIndex(tmp_path / "index", incarnation="one", dimension=DIMENSION, tuning=CODED)
    first.apply(add(range(3000), matrix))
    first.apply([Remove(3001, 10), Add(3002, 20, 4, query)])
    before = first.search(query, rows, 10)
    first.close()

    second = EdgeIndex(tmp_path / "index", incarnation="one", dimension=DIMENSION, tuning=CODED)

    assert second.search(query, rows, 10) == before
    assert before.path is SearchPath.MASKED
    assert before.candidates[0].row == 20
    second.close()


def test_applying_a_stretch_again_changes_nothing(index: EdgeIndex) -> None:
    """The feed may be repeated from any earlier place."""
    matrix = vectors(30)
    index.apply(add(range(30), matrix))
    before = index.search(matrix[0], BitMap(range(30)), 30)

    index.apply(add(range(10), matrix))

    assert index.search(matrix[0], BitMap(range(30)), 30) == before
    assert (index.count, index.applied_seq) == (30, 30)


@pytest.mark.parametrize(
    "bad", [np.full(DIMENSION, np.nan), np.full(DIMENSION, np.inf), np.ones(DIMENSION - 1), np.ones(0)]
)
def test_bad_vectors_are_refused_and_nothing_is_applied(index: EdgeIndex, bad: NDArray[np.float64]) -> None:
    """NaN, infinity and another dimension are refused, alone and among good ones, in feeds and in queries."""
    good = vectors(2)
    index.apply(add(range(1), good))

    with pytest.raises(InvalidVectorError):
        index.apply([Add(2, 1, 0, bad.astype(np.float32))])
    with pytest.raises(InvalidVectorError):
        index.apply([Add(2, 1, 0, good[1]), Add(3, 2, 0, bad.astype(np.float32))])
    with pytest.raises(InvalidVectorError):
        index.search(bad.astype(np.float32), BitMap([0]), 1)

    assert (index.count, index.applied_seq) == (1, 1)
    index.apply([Add(2, 1, 0, good[1])])
    assert index.count == 2


def test_what_was_flushed_is_there_after_a_restart(tmp_path: Path) -> None:
    """A restart finds chunks and place in the feed."""
    matrix = vectors(50)
    first = EdgeIndex(tmp_path / "index", incarnation="one", dimension=DIMENSION)
    first.apply(add(range(50), matrix))
    assert first.flush() == 50
    first.close()

    second = EdgeIndex(tmp_path / "index", incarnation="one", dimension=DIMENSION)

    assert (second.applied_seq, second.count) == (50, 50)
    assert found(second, matrix[7], BitMap(range(5, 10)), 1) == [7]
    second.close()


class Feed:
    """A catalog's feed in memory, its own reader."""

    def __init__(self, items: Sequence[FeedItem], step: int = 7) -> None:
        self.items = list(items)
        self.step = step

    @property
    def feed_seq(self) -> int:
        """The last item."""
        return self.items[-1].seq if self.items else 0

    def feed(self, after: int, limit: int) -> list[FeedItem]:
        """Return items in small batches."""
        return [item for item in self.items if item.seq > after][: self.step]

    @contextlib.contextmanager
    def reader(self) -> Iterator[Feed]:
        """Return itself."""
        yield self


def test_following_a_feed_brings_everything_once_and_makes_it_durable(index: EdgeIndex) -> None:
    """The index ends where the feed ends, and a second call has nothing to do."""
    feed = Feed([*add(range(30), vectors(30)), Remove(31, 4)])

    assert follow(feed, index) == 31
    assert follow(feed, index) == 0

    assert (index.count, index.applied_seq, index.flush()) == (29, 31, 31)


def test_an_index_that_is_ahead_of_its_catalog_is_emptied(index: EdgeIndex) -> None:
    """After a restored backup, rows mean something else: nothing of the old ones is left."""
    old, new = vectors(30), vectors(10, seed=5)
    follow(Feed([*add(range(30), old)]), index)

    follow(Feed([*add(range(10), new)]), index)

    assert (index.count, index.applied_seq) == (10, 10)
    assert found(index, new[4], BitMap(range(30)), 1) == [4]


@pytest.mark.parametrize(("incarnation", "dimension"), [("two", DIMENSION), ("one", DIMENSION + 1)])
def test_another_catalog_or_dimension_empties_the_folder(tmp_path: Path, incarnation: str, dimension: int) -> None:
    """Nothing of another catalog is ever served: the feed starts over."""
    first = EdgeIndex(tmp_path / "index", incarnation="one", dimension=DIMENSION)
    first.apply(add(range(50), vectors(50)))
    first.close()

    second = EdgeIndex(tmp_path / "index", incarnation=incarnation, dimension=dimension)

    assert (second.applied_seq, second.count) == (0, 0)
    assert second.search(np.ones(dimension, np.float32), BitMap(range(10)), 10).candidates == ()
    second.close()


@pytest.mark.parametrize("state", [b"", b"{", b"[]", b'{"applied_seq": 5}', None])
def test_a_damaged_state_empties_the_folder(tmp_path: Path, state: bytes | None) -> None:
    """A state that does not say what it must is no state."""
    first = Shard(tmp_path / "index", "one", DIMENSION)
    fill(first, vectors(20))
    first.flush()
    first.close()
    place = tmp_path / "index" / "state.json"
    place.unlink() if state is None else place.write_bytes(state)

    second = Shard(tmp_path / "index", "one", DIMENSION)

    assert (second.applied_seq, second.count) == (0, 0)
    second.close()


def test_a_damaged_shard_is_built_anew(tmp_path: Path) -> None:
    """A shard that cannot be loaded is emptied, because the catalog can fill it again."""
    first = Shard(tmp_path / "index", "one", DIMENSION)
    fill(first, vectors(20))
    first.flush()
    first.close()
    (tmp_path / "index" / "shard" / "edge_config.json").write_text("{")

    second = Shard(tmp_path / "index", "one", DIMENSION)

    assert (second.applied_seq, second.count) == (0, 0)
    fill(second, vectors(20))
    assert second.count == 20
    second.close()


def test_killing_the_process_loses_nothing_that_the_feed_does_not_bring_again(index: EdgeIndex) -> None:
    """After kill -9 the index starts again, says how far it durably is, and repeating from there restores the rest."""
    matrix = vectors(60)
    index.apply(add(range(20), matrix))
    index.flush()
    index.apply(add(range(20, 40), matrix))
    pid = index.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SearchUnavailableError, match="fell back"):
        index.apply(add(range(40, 60), matrix))

    assert index.applied_seq == 20
    index.apply(add(range(20, 60), matrix))
    assert (index.count, index.applied_seq, index.flush()) == (60, 60, 60)
    assert found(index, matrix[33], BitMap(range(60)), 1) == [33]


def test_a_search_survives_the_death_of_the_process(index: EdgeIndex) -> None:
    """The process is started again by the search that finds it dead."""
    matrix = vectors(20)
    index.apply(add(range(20), matrix))
    index.flush()
    pid = index.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    rows = found(index, matrix[11], BitMap(range(10, 15)), 1)

    assert rows == [11]
    assert index.pid != pid


def test_a_folder_held_by_another_process_is_refused(index: EdgeIndex, tmp_path: Path) -> None:
    """Two processes never write one folder; another folder is free."""
    with pytest.raises(Refusal, match="held by another process"):
        Shard(tmp_path / "index", "one", DIMENSION, lock_wait_s=0)

    Shard(tmp_path / "other", "one", DIMENSION, lock_wait_s=0).close()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    """A start error says what, and leaves no process behind."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StartError, match="the index cannot be opened"):
        EdgeIndex(tmp_path / "file" / "index", incarnation="one", dimension=DIMENSION)


def test_searches_go_on_while_much_is_applied(index: EdgeIndex) -> None:
    """A search comes between the pieces of a long stretch of the feed, and finds whole chunks or none of them."""
    matrix = vectors(12_000)
    index.apply(add(range(100), matrix))
    began, done, between = threading.Event(), threading.Event(), 0

    def write() -> None:
        began.set()
        follow(Feed(add(range(12_000), matrix), step=4_000), index, durably=False)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    began.wait()
    while not done.is_set():
        assert found(index, matrix[7], BitMap(range(100)), 1) == [7]
        between += 1
    thread.join()

    # A call that waited for a whole stretch would come three times.
    assert between > 20
    assert index.count == 12_000
