"""A share of live searches again, exactly and beside the answer: how much the codes miss, measured on what is asked.

Nobody waits for it: it has one thread, compares a slice of the index at a time, and drops what it has no time for.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from pyroaring import AbstractBitMap

from service.errors import SearchUnavailableError
from service.index.base import Index, Proposal
from service.index.planner import SearchPath

log = structlog.get_logger()

_WAITING: Final = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found out since the start. recall: of all compared searches together, 1.0 before the first."""

    searches: int
    expected: int
    found: int

    @property
    def recall(self) -> float:
        """The share of what an exact search finds that was found."""
        return self.found / self.expected if self.expected else 1.0


@dataclass(frozen=True, slots=True)
class _Case:
    vector: NDArray[np.float32]
    rows: AbstractBitMap
    proposal: Proposal
    limit: int


class Shadow:
    """Repeats this `share` of searches, in [0, 1]. draw: a number in [0, 1) for each search."""

    def __init__(self, index: Index, share: float, draw: Callable[[], float] = random.random) -> None:
        self._index = index
        self._share = share
        self._draw = draw
        self._cases: queue.Queue[_Case | None] = queue.Queue(_WAITING)
        self._measured = Measured(0, 0, 0)
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        if share > 0:
            self._thread.start()

    @property
    def measured(self) -> Measured:
        """What was found out so far."""
        return self._measured

    def consider(self, vector: NDArray[np.float32], rows: AbstractBitMap, proposal: Proposal, limit: int) -> None:
        """Take a search along, or not. Does not block. limit: the best of how many are compared."""
        if proposal.path in (SearchPath.NONE, SearchPath.EXACT) or self._draw() >= self._share:
            return
        with contextlib.suppress(queue.Full):  # a sample that is lost costs nothing
            self._cases.put_nowait(_Case(vector, rows, proposal, limit))

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        if self._thread.is_alive():
            self._cases.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (case := self._cases.get()) is not None:
            try:
                exact = self._index.search(case.vector, case.rows, case.limit, exact=True)
            except SearchUnavailableError as err:
                log.warning("recall_not_measured", detail=str(err))
                continue
            expected = {hit.row for hit in exact.candidates}
            found = len(expected & {hit.row for hit in case.proposal.candidates[: case.limit]})
            was = self._measured
            self._measured = Measured(was.searches + 1, was.expected + len(expected), was.found + found)
            log.info(
                "recall_measured",
                plan=case.proposal.path.value,
                permitted=case.proposal.permitted,
                expected=len(expected),
                found=found,
                recall=round(self._measured.recall, 6),
                searches=self._measured.searches,
            )
