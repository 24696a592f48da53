"""The share of searches that is repeated exactly."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray
from pyroaring import AbstractBitMap, BitMap

from service.errors import SearchUnavailableError
from service.index.base import Candidate, Proposal
from service.index.planner import SearchPath
from service.search.shadow import Measured, Shadow
from tests.service.harness import MemoryIndex

VECTOR = np.ones(4, np.float32)
ROWS = BitMap(range(10))


class ExactIndex(MemoryIndex):
    """Finds rows 0, 1, 2, … and nothing when it is gone. asked_exactly: what was asked for."""

    def __init__(self) -> None:
        super().__init__("one")
        self.gone = False
        self.asked_exactly: list[bool] = []
        self.wait = threading.Event()
        self.wait.set()

    def search(
        self,
        vector: NDArray[np.float32],
        rows: AbstractBitMap,
        limit: int,
        *,
        exact: bool = False,
        approximate: bool = False,
    ) -> Proposal:
        """See `Index`."""
        self.wait.wait(20)
        self.asked_exactly.append(exact)
        if self.gone:
            raise SearchUnavailableError("gone")
        return proposal(*list(rows)[:limit], path=SearchPath.EXACT)


def proposal(*rows: int, path: SearchPath = SearchPath.MASKED) -> Proposal:
    """An answer with these rows."""
    return Proposal(tuple(Candidate(row, 1.0) for row in rows), path, "", len(ROWS), len(rows))


def test_what_was_missed_is_counted_over_all() -> None:
    """Of ten that an exact search finds in two searches, nine were found."""
    shadow = Shadow(ExactIndex(), 1.0)

    shadow.consider(VECTOR, ROWS, proposal(0, 1, 2, 3, 4, 99), 5)
    shadow.consider(VECTOR, ROWS, proposal(4, 3, 2, 1, 7, 0), 5)
    shadow.close()

    assert shadow.measured == Measured(2, 10, 9)
    assert shadow.measured.recall == 0.9


def test_only_the_share_is_repeated_and_only_what_codes_found() -> None:
    """A draw at or above the share, an exact search and an empty one are left alone; nothing measured is no loss."""
    index = ExactIndex()
    draws = iter([0.2, 0.19])
    shadow = Shadow(index, 0.2, lambda: next(draws))

    for path in (SearchPath.EXACT, SearchPath.NONE, SearchPath.MASKED, SearchPath.GATHERED):
        shadow.consider(VECTOR, ROWS, proposal(1, path=path), 5)
    shadow.close()

    assert index.asked_exactly == [True]
    silent = Shadow(index, 0.0)
    silent.consider(VECTOR, ROWS, proposal(1), 5)
    silent.close()
    assert (index.asked_exactly, silent.measured.recall) == ([True], 1.0)


@pytest.mark.filterwarnings("error")
def test_nobody_waits_for_it_and_its_failure_is_nobodys() -> None:
    """A busy or failing index holds up no search; what there is no time for is dropped."""
    index = ExactIndex()
    index.wait.clear()
    shadow = Shadow(index, 1.0)

    for _ in range(100):
        shadow.consider(VECTOR, ROWS, proposal(0), 1)
    index.gone = True
    index.wait.set()
    shadow.close()

    assert 1 <= len(index.asked_exactly) <= 10
    assert shadow.measured.searches == 0
