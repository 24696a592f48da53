"""Numbers in arrays are what they would be in plain sets and mappings."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from acl.compiled.columns import Column, Places, bitmap_of, picked

_NUMBERS = st.one_of(st.integers(0, 200), st.integers(65_400, 65_700), st.integers((1 << 28) - 70, (1 << 28) - 1))


def _array(numbers: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, np.int64)


@given(st.lists(st.tuples(st.lists(_NUMBERS, max_size=30), st.integers(0, 5)), max_size=8))
def test_a_column_is_a_mapping(batches: list[tuple[list[int], int]]) -> None:
    """Whatever is put for whichever numbers is found there, and a reader keeps what it was lent."""
    places, column, plain = Places(), Column(np.uint32), dict[int, int]()
    lent = []
    for numbers, value in batches:
        lent.append((dict(plain), column.lend(), places.used, places.layout()))

        at = places.make(_array(numbers))
        column.reach(places.used)
        column.put(at, value)
        plain.update(dict.fromkeys(numbers, value))

        known = sorted(plain)
        assert column.of(places.find(_array(known))).tolist() == [plain[number] for number in known]
        assert [column.at(places.one(number)) for number in known] == [plain[number] for number in known]
    for before, segments, used, layout in lent:
        for value in range(1, 6):
            flags = picked(np.arange(6) == value, segments, used)
            assert set(bitmap_of(flags, layout)) == {number for number, held in before.items() if held == value}


def test_what_was_never_put_is_nobodys() -> None:
    """Numbers without a place, however large, are found where nothing is ever put."""
    places, column = Places(), Column(np.uint32)
    at = places.make(_array([3, 1 << 20]))
    column.reach(places.used)

    column.put(at, 7)

    assert column.of(places.find(_array([0, 3, 64, 1 << 20, (1 << 32) - 1]))).tolist() == [0, 7, 0, 7, 0]
    assert (places.find(_array([64, (1 << 20) + 64, (1 << 32) - 1])) < 64).all()
    assert [column.at(places.one(number)) for number in (0, 3, 64, 1 << 20, (1 << 32) - 1)] == [0, 7, 0, 7, 0]


def test_a_bitmap_of_many_numbers_is_exact() -> None:
    """Bitmaps are the same numbers in containers that are full, dense, sparse and empty, beyond one segment."""
    pick = random.Random(5)
    places = Places()
    numbers = _array([*range(70_000), *range(200_000, 330_000), *range(1 << 27, (1 << 27) + 500)])
    # Pages come in any order.
    starts = list(range(0, len(numbers), 500))
    pick.shuffle(starts)
    for start in starts:
        places.make(numbers[start : start + 500])
    for share in (0.0, 0.001, 0.06, 0.07, 0.5, 1.0):
        chosen = _array([n for n in numbers.tolist() if pick.random() < share])
        flags = np.zeros(places.used, np.bool_)
        flags[places.find(chosen)] = True

        found = bitmap_of(flags, places.layout())

        assert len(found) == len(chosen)
        assert set(found) == set(chosen.tolist())


def test_sums_add_up_at_one_place() -> None:
    """What is added several times at one place, or taken away, counts each time."""
    places, column = Places(), Column(np.uint32)
    at = places.make(_array([1, 2]))
    column.reach(places.used)

    column.add(at[[0, 0, 1]], _array([5, 6, 7]))
    column.add(at[[0, 1]], _array([-4, -7]))

    assert column.of(at).tolist() == [7, 0]
