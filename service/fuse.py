"""Several rankings into one, by rank alone: what one ranking's scores mean says nothing about another's.

# SOURCE: Cormack, Clarke and Büttcher, Reciprocal Rank Fusion (SIGIR 2009); the constant is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

_K: Final = 60


def fuse(rankings: Sequence[Sequence[int]]) -> list[int]:
    """Return every row of the rankings, the best first; equal ones by row.

    Exact, so that the order of the rankings does not matter, and equal is equal.
    """
    sums: dict[int, Fraction] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, start=1):
            sums[row] = sums.get(row, Fraction(0)) + Fraction(1, _K + rank)
    return sorted(sums, key=lambda row: (-sums[row], row))
