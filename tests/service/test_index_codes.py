"""The codes: what they find depends on the permitted vectors alone, to the last bit, on every path."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyroaring import BitMap

from service.index.codes import Codes
from service.index.rotation import Rotation

DIMENSION = 32


def vectors(count: int, seed: int = 0, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Random unit vectors, every third of them a copy of an earlier one, because equal passages are common."""
    draw = np.random.default_rng(seed)
    drawn = draw.normal(size=(count, dimension)).astype(np.float32)
    drawn[::3] = drawn[draw.integers(0, max(count // 8, 1), len(drawn[::3]))]
    unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


@pytest.fixture(params=[(1, 1), (1, 3), (2, 2), (4, 2)], ids=lambda given: f"{given[0]} bits, {given[1]} threads")
def codes(request: pytest.FixtureRequest) -> Iterator[Codes]:
    """Codes without a row."""
    bits, threads = request.param
    made = Codes(DIMENSION, bits=bits, threads=threads)
    yield made
    made.close()


def put(codes: Codes, rows: NDArray[np.uint32], matrix: NDArray[np.float32]) -> None:
    """Hold some rows of a matrix."""
    codes.put(np.sort(rows), matrix[np.sort(rows)])


def numbers(*some: range) -> NDArray[np.uint32]:
    """Rows."""
    return np.concatenate([np.arange(one.start, one.stop, one.step) for one in some]).astype(np.uint32)


@pytest.mark.parametrize("share", [1, 2, 40])
@pytest.mark.parametrize("keep", [1, 10, 200])
def test_both_ways_find_the_same(codes: Codes, share: int, keep: int) -> None:
    """Which way is taken depends on how much else is held, so it must not show in what is found."""
    matrix = vectors(12_000)
    put(codes, numbers(range(12_000)), matrix)
    rows = BitMap(range(0, 12_000, share))

    for query in vectors(5, seed=9):
        masked = codes.nearest(query, rows, keep, masked=True)
        assert masked == codes.nearest(query, rows, keep, masked=False)
        assert len(masked) == len(set(masked)) == min(keep, len(rows))
        assert set(masked) <= set(rows)


@pytest.mark.parametrize("masked", [True, False])
def test_hidden_rows_change_nothing(codes: Codes, masked: bool) -> None:
    """The permitted rows with many hidden ones around them, put together, one by one, with removals between: the same.

    Ties included: hidden copies of permitted vectors push nothing out.
    """
    matrix = vectors(9_000)
    mine, hidden = numbers(range(0, 9_000, 4)), numbers(range(1, 9_000, 2))
    alone = Codes(DIMENSION, bits=2, threads=1)
    crowded = Codes(DIMENSION, bits=2, threads=3)
    put(alone, mine, matrix)
    put(crowded, np.concatenate([mine[:5], hidden[:2_000]]), matrix)
    put(crowded, hidden[2_000:], matrix)
    crowded.remove(hidden[::3].tolist())
    for part in np.array_split(mine[5:], 7):
        put(crowded, part, matrix)

    for query in [*vectors(5, seed=9), *matrix[:3]]:
        for keep in (1, 7, 300):
            here = alone.nearest(query, BitMap(mine), keep, masked=masked)
            assert here == crowded.nearest(query, BitMap(mine), keep, masked=masked)
    alone.close()
    crowded.close()


def test_codes_find_nearly_what_vectors_find(codes: Codes) -> None:
    """Among the kept there are the true nearest: a scan that ranks badly would be found out here."""
    matrix = vectors(5_000)
    put(codes, numbers(range(5_000)), matrix)
    right = 0

    for query in vectors(20, seed=9):
        true = np.lexsort((np.arange(5_000), -(matrix @ query)))[:10]
        right += len(set(true.tolist()) & set(codes.nearest(query, BitMap(range(5_000)), 500, masked=False)))

    assert right >= 190


def test_removed_and_replaced_rows(codes: Codes) -> None:
    """A removed row is not found though it is permitted, and a replaced one is found by its new vector alone."""
    matrix = vectors(3_000)
    put(codes, numbers(range(3_000)), matrix)
    everything = BitMap(range(4_000))
    target = vectors(1, seed=77)[0]

    codes.remove([*range(100, 200), 3_999])
    codes.put(np.array([500], np.uint32), target.reshape(1, -1))

    assert len(codes) == 2_900
    for masked in (True, False):
        assert not set(codes.nearest(matrix[150], everything, 3_000, masked=masked)) & set(range(100, 200))
        assert codes.nearest(target, everything, 1, masked=masked) == [500]
        assert codes.nearest(target, BitMap(range(100, 200)), 5, masked=masked) == []


def test_room_of_removed_rows_is_used_again(codes: Codes) -> None:
    """After far more rows than are held have come and gone, what is held is found and little room is taken."""
    matrix = vectors(2_000)
    for start in range(0, 100_000, 2_000):
        rows = numbers(range(start, start + 2_000))
        codes.put(rows, matrix)
        codes.remove((rows[:-5]).tolist())

    held = BitMap(row for start in range(0, 100_000, 2_000) for row in range(start + 1_995, start + 2_000))
    assert len(codes) == len(held)
    assert set(codes.nearest(matrix[0], BitMap(range(100_000)), 1_000, masked=True)) == set(held)
    assert sum(len(lane._codes.view) for lane in codes._lanes) < 30_000


def test_nothing_held_and_nothing_permitted(codes: Codes) -> None:
    """Empty answers, not errors, and never everything."""
    matrix = vectors(10)

    assert codes.nearest(matrix[0], BitMap(range(10)), 5, masked=True) == []
    put(codes, numbers(range(10)), matrix)
    for masked in (True, False):
        assert codes.nearest(matrix[0], BitMap(), 5, masked=masked) == []
        assert codes.nearest(matrix[0], BitMap([70]), 5, masked=masked) == []
    codes.put(np.empty(0, np.uint32), np.empty((0, DIMENSION), np.float32))
    assert len(codes) == 10


@given(st.integers(1, 80), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_rotation_keeps_cosines_and_knows_no_neighbours(dimension: int, count: int, seed: int) -> None:
    """Lengths and angles stay, and a vector's rotation is the same bytes whatever is rotated beside it."""
    drawn = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    rotation = Rotation(dimension)

    together = rotation.apply(drawn)

    assert np.allclose(together @ together.T, drawn @ drawn.T, atol=1e-3)
    assert np.allclose(drawn[0] @ rotation.matrix, together[0], atol=1e-4)
    for number in range(count):
        assert together[number].tobytes() == rotation.apply(drawn[number : number + 1])[0].tobytes()
