"""The choice of a path: by how many chunks are permitted, never by which."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.index.planner import SearchPath, Tuning, plan

TUNING = Tuning(bits=2, candidates=100, oversampling=5, exact_below=150, masked_above=0.5, threads=1)


def test_each_count_has_its_path() -> None:
    """None: nobody is asked; few: every one is compared; a small share is gathered, a large one walked."""
    paths = [plan(count, 1_000_000, 10, TUNING).path for count in (0, 1, 150, 151, 499_999, 500_000, 1_000_000)]

    assert paths == [
        SearchPath.NONE,
        SearchPath.EXACT,
        SearchPath.EXACT,
        SearchPath.GATHERED,
        SearchPath.GATHERED,
        SearchPath.MASKED,
        SearchPath.MASKED,
    ]


def test_exact_is_exact_at_any_count_but_none() -> None:
    """Whoever asks for the reference gets it."""
    assert plan(1_000_000, 1_000_000, 10, TUNING, exact=True).path is SearchPath.EXACT
    assert plan(0, 1_000_000, 10, TUNING, exact=True).path is SearchPath.NONE


def test_more_hits_keep_more_candidates() -> None:
    """A hundred hits are not picked from a hundred candidates."""
    assert plan(50_000, 100_000, 10, TUNING).keep == 100
    assert plan(50_000, 100_000, 200, TUNING).keep == 1_000


@given(st.integers(0, 10_000), st.integers(1, 500), st.integers(0, 20_000), st.integers(0, 20_000))
def test_what_else_is_held_does_not_choose_candidates(permitted: int, limit: int, held: int, other: int) -> None:
    """How much is hidden may change how the codes are walked, and neither whether there are codes nor how many."""
    here, there = (plan(permitted, held_then, limit, TUNING) for held_then in (held, other))

    assert here.keep == there.keep
    assert (here.path is SearchPath.EXACT) == (there.path is SearchPath.EXACT)
