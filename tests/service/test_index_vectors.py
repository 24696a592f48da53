"""Full vectors: what is nearest, whatever else is held, and what a full disk does."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.index.edge_process import Shard
from service.index.vectors import FullVectors
from service.process import Refusal

DIMENSION = 48
Matrix = NDArray[np.float32]


def unit(count: int, seed: int = 0, dimension: int = DIMENSION) -> Matrix:
    """Random unit vectors, shape (count, dimension)."""
    drawn = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    made: Matrix = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return made


def numbers(*rows: int) -> NDArray[np.uint32]:
    """Rows."""
    return np.array(rows, np.uint32)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[FullVectors]:
    """No vectors yet."""
    opened = FullVectors(tmp_path, DIMENSION)
    yield opened
    opened.close()


@given(st.lists(st.integers(0, 9_000), unique=True, min_size=1), st.integers(1, 30), st.integers(0, 99))
def test_the_nearest_of_those_asked_for(
    tmp_path_factory: pytest.TempPathFactory, asked: list[int], limit: int, seed: int
) -> None:
    """The nearest rows among those asked for and held, in order of their cosines, and no other row."""
    held = FullVectors(tmp_path_factory.getbasetemp(), DIMENSION)
    matrix, query = unit(9_000, seed), unit(1, seed + 100)[0]
    there = np.flatnonzero(np.arange(9_000) % 3 != 1).astype(np.uint32)
    held.put(there, matrix[there])

    found = held.nearest(query, numbers(*asked), limit)
    held.close()

    true = {
        row: float(np.dot(matrix[row].astype(float), query.astype(float))) for row in set(asked) & set(there.tolist())
    }
    assert len(found) == min(limit, len(true))
    assert [score for _, score in found] == pytest.approx(sorted(true.values(), reverse=True)[:limit], abs=1e-6)
    assert all(score == pytest.approx(true[row], abs=1e-6) for row, score in found)


@pytest.mark.parametrize("dimension", [1, 7, 16, 48, 384, 385])
def test_a_cosine_depends_on_the_two_vectors_alone(tmp_path: Path, dimension: int) -> None:
    """The last bit of a cosine is the same alone, among others, in another place, and beside hidden rows."""
    matrix, query = unit(600, dimension=dimension), unit(1, seed=3, dimension=dimension)[0]
    crowded, sparse = FullVectors(tmp_path, dimension), FullVectors(tmp_path, dimension)
    crowded.put(np.arange(600, dtype=np.uint32), matrix)
    mine = np.arange(0, 600, 7, dtype=np.uint32)
    sparse.put(mine + 100_001, matrix[mine])

    together = crowded.nearest(query, mine, 600)

    assert sorted(crowded.nearest(query, mine[::-1].copy(), 600)) == sorted(together)
    assert [(row - 100_001, score) for row, score in sparse.nearest(query, mine + 100_001, 600)] == together
    assert [crowded.nearest(query, numbers(row), 1)[0] for row, _ in together] == together
    crowded.close()
    sparse.close()


@pytest.mark.parametrize("limit", [1, 5, 40])
def test_equals_are_cut_by_row(held: FullVectors, limit: int) -> None:
    """Of rows that are copies of each other the lowest come first, whatever the order that they are asked for in."""
    held.put(np.arange(300, dtype=np.uint32), np.repeat(unit(1), 300, axis=0))
    asked = np.random.default_rng(1).permutation(np.arange(0, 300, 2)).astype(np.uint32)

    found = held.nearest(unit(1)[0], asked, limit)

    assert [row for row, _ in found] == list(range(0, 2 * limit, 2))
    assert len({score for _, score in found}) == 1


def test_what_is_not_held_is_not_found(held: FullVectors) -> None:
    """Rows that never came, within the room and beyond it, and rows that went, are no hits; their neighbours are."""
    matrix = unit(20)
    held.put(np.arange(20, dtype=np.uint32), matrix)
    held.remove(numbers(3, 4, 17, 3_000_000_000))

    found = held.nearest(matrix[3], numbers(2, 3, 4, 5, 17, 25, 5_000, 4_000_000_000), 10)

    assert {row for row, _ in found} == {2, 5}
    assert held.nearest(matrix[3], numbers(), 10) == held.nearest(matrix[3], numbers(99), 10) == []


def test_what_was_forgotten_is_overwritten(held: FullVectors) -> None:
    """A removed vector is in the file no more; its neighbours are."""
    matrix = unit(5)
    held.put(np.arange(5, dtype=np.uint32), matrix)

    held.remove(numbers(2))

    stored = os.pread(held._file.fileno(), 5 * 4 * DIMENSION, 0)
    assert matrix[2].tobytes() not in stored
    assert matrix[1].tobytes() in stored


def test_a_row_may_come_again(held: FullVectors) -> None:
    """What is put in place of a row is what is compared from then on, also after it was removed."""
    one, other = unit(2)
    held.put(numbers(7), one[None])
    held.put(numbers(7), other[None])
    assert held.nearest(other, numbers(7), 1)[0][1] == pytest.approx(1.0)

    held.remove(numbers(7))
    held.put(numbers(7), one[None])

    assert held.nearest(one, numbers(7), 1)[0][1] == pytest.approx(1.0)


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    """The file has no name: nothing is there for another process to open, or for a backup to copy."""
    held = FullVectors(tmp_path, DIMENSION)
    held.put(numbers(0), unit(1))

    assert list(tmp_path.iterdir()) == []
    held.close()


def test_a_full_disk_is_said_and_nothing_is_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that find no place are refused with a reason and found by nobody; the others stay; they may come again."""
    shard = Shard(tmp_path / "index", "one", DIMENSION)
    matrix = unit(20)
    shard.apply(np.arange(10, dtype=np.uint32), matrix[:10], [], 0, 10)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("service.index.vectors.os.pwrite", full)
        with pytest.raises(Refusal, match="no place for its vectors: No space left"):
            shard.apply(np.arange(5, 20, dtype=np.uint32), matrix[5:], [], 10, 20)

    assert (shard.applied_seq, shard.count) == (10, 10)
    assert {row for row, _ in shard.score(matrix[0], range(20), 20).best} == set(range(5))
    assert shard.apply(np.arange(5, 20, dtype=np.uint32), matrix[5:], [], 10, 20)
    assert {row for row, _ in shard.score(matrix[0], range(20), 20).best} == set(range(20))
    shard.close()
