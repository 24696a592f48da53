"""Keyword postings: BM25 as the book has it, over the permitted rows alone, whatever was added and removed before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from service.index import postings
from service.index.postings import K1, USUAL_LENGTH, B, Postings, Segment, impacts

CHUNKS = st.dictionaries(st.integers(0, 40), st.dictionaries(st.integers(1, 6), st.integers(1, 4)), max_size=30)
ROWS = st.frozensets(st.integers(0, 45), max_size=40)
TERMS = st.lists(st.integers(1, 7), max_size=5)


def holding(chunks: Mapping[int, Mapping[int, int]], *, batch: int = 7) -> Postings:
    """Postings that were given `chunks` in small batches."""
    made = Postings()
    rows = sorted(chunks)
    for start in range(0, len(rows), batch):
        add(made, {row: chunks[row] for row in rows[start : start + batch]})
    return made


def add(made: Postings, chunks: Mapping[int, Mapping[int, int]]) -> None:
    """Add chunks in the order of their rows."""
    pairs = [impacts(chunks[row]) for row in sorted(chunks)]
    made.add(
        np.array(sorted(chunks), np.uint32),
        np.array([len(terms) for terms, _ in pairs], np.int64),
        np.concatenate([np.empty(0, np.uint32), *(terms for terms, _ in pairs)]),
        np.concatenate([np.empty(0, np.uint8), *(weights for _, weights in pairs)]),
    )


def plain(chunks: Mapping[int, Mapping[int, int]], terms: list[int], permitted: frozenset[int]) -> dict[int, float]:
    """BM25 written down: every number from the permitted chunks, or from none."""
    scores: dict[int, float] = {}
    for term in sorted(set(terms)):
        frequency = sum(term in chunks[row] for row in permitted if row in chunks)
        worth = math.log(1 + (len(permitted) - frequency + 0.5) / (frequency + 0.5))
        for row in permitted:
            if row in chunks and term in chunks[row]:
                count = chunks[row][term]
                norm = K1 * (1 - B + B * sum(chunks[row].values()) / USUAL_LENGTH)
                scores[row] = scores.get(row, 0.0) + worth * count * (K1 + 1) / (count + norm)
    return scores


@pytest.fixture(autouse=True, scope="module")
def _small_segments() -> object:
    patch = pytest.MonkeyPatch()
    patch.setattr(postings, "SEGMENT_ROWS", 8)
    yield
    patch.undo()


@given(CHUNKS, TERMS, ROWS)
def test_search_is_bm25_over_the_permitted_rows(
    chunks: dict[int, dict[int, int]], terms: list[int], permitted: frozenset[int]
) -> None:
    """The same rows as a plain evaluation, in an order that it confirms up to the rounding of the impacts."""
    expected = plain(chunks, terms, permitted)

    found = holding(chunks).search(terms, BitMap(permitted), 100)

    assert set(found) == set(expected)
    for before, after in itertools.pairwise(found):
        assert expected[before] >= expected[after] * 0.98 - 0.02


@given(CHUNKS, CHUNKS, TERMS, ROWS, st.integers(1, 10))
def test_what_is_not_permitted_changes_nothing(
    chunks: dict[int, dict[int, int]],
    others: dict[int, dict[int, int]],
    terms: list[int],
    permitted: frozenset[int],
    limit: int,
) -> None:
    """Other hidden chunks, between, before and behind: the same rows in the same order."""
    mine = {row: chunk for row, chunk in chunks.items() if row in permitted}
    hidden = {row: chunk for row, chunk in others.items() if row not in permitted}

    found = holding(mine | hidden, batch=3).search(terms, BitMap(permitted), limit)

    assert found == holding(mine).search(terms, BitMap(permitted), limit)


@given(CHUNKS, ROWS, ROWS, TERMS, ROWS)
def test_removed_rows_leave_no_trace(
    chunks: dict[int, dict[int, int]],
    removed: frozenset[int],
    also: frozenset[int],
    terms: list[int],
    permitted: frozenset[int],
) -> None:
    """After a removal everything is as if the rows had never been, in memory and in what is written."""
    made = holding(chunks)
    made.remove(removed)
    made.remove(also)
    left = {row: chunk for row, chunk in chunks.items() if row not in removed | also}

    assert made.search(terms, BitMap(permitted), 9) == holding(left).search(terms, BitMap(permitted), 9)
    assert made.count == len(left)
    read = Postings({first: Segment.load(one.dump()) for first, one in made.segments.items()})
    assert read.search(terms, BitMap(permitted), 9) == made.search(terms, BitMap(permitted), 9)
    assert {int(term) for one in read.segments.values() for term in one.terms} == {
        term for chunk in left.values() for term in chunk
    }


@given(CHUNKS)
def test_what_was_added_before_changes_nothing(chunks: dict[int, dict[int, int]]) -> None:
    """The feed may come again from an earlier place."""
    made = holding(chunks)
    add(made, chunks)

    assert made.count == len(chunks)
    assert made.search([1, 2, 3], BitMap(chunks), 9) == holding(chunks).search([1, 2, 3], BitMap(chunks), 9)


def test_equal_scores_are_ordered_by_row() -> None:
    """A cut among equals takes the first rows, over the borders of segments."""
    made = holding({row: {1: 1} for row in range(30)})

    assert made.search([1], BitMap(range(5, 30)), 9) == list(range(5, 14))


def test_a_term_that_only_hidden_chunks_have_is_one_that_nobody_has() -> None:
    """The published attack: watching one's own passage while others add the term tells nothing."""
    mine = {0: {1: 1, 2: 2}, 1: {1: 2}, 2: {3: 1}}
    before = holding(mine).search([1, 2, 4], BitMap([0, 1, 2]), 9)

    for hidden in (1, 5, 20, 100):
        made = holding(mine | {10 + row: {1: 3, 4: 1} for row in range(hidden)})
        assert made.search([1, 2, 4], BitMap([0, 1, 2]), 9) == before
        assert made.search([4], BitMap([0, 1, 2]), 9) == []


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-40], lambda data: data[:200] + b"x" * 40 + data[240:]]
)
def test_damaged_segment_is_refused(damage: object) -> None:
    """Cut short or changed: an error, so that the folder is filled anew; the whole one is read."""
    (segment,) = holding({row: {row % 5: 1, 9: 2} for row in range(8)}).segments.values()
    data = segment.dump()
    assert Segment.load(data).rows.tolist() == list(range(8))
    assert callable(damage)

    with pytest.raises(ValueError, match=r"."):
        Segment.load(damage(data))


def test_segments_that_overlap_are_refused() -> None:
    """Two files that hold one row cannot be told apart: the folder is filled anew."""
    (segment,) = holding({row: {1: 1} for row in range(8)}).segments.values()

    with pytest.raises(ValueError, match="apart"):
        Postings({0: segment, 3: segment})
