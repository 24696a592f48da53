"""Several rankings into one, by rank alone: what one ranking's scores mean says nothing about another's.

# SOURCE: Cormack, Clarke and Büttcher, Reciprocal Rank Fusion (SIGIR 2009); the constant is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Final

_K: Final = 60


def fuse(rankings: Sequence[Sequence[int]]) -> list[int]:
    """Return every row of the rankings, the best first; equal ones by row.

    Exact, so that the order of the rankings does not matter, and equal is equal.
    """
    weights = _weights(max(map(len, rankings), default=0))
    sums: dict[int, int] = {}
    for ranking in rankings:
        for weight, row in zip(weights, ranking, strict=False):
            sums[row] = sums.get(row, 0) + weight
    return sorted(sums, key=lambda row: (-sums[row], row))


def _weights(count: int) -> tuple[int, ...]:
    """What each rank counts, from the first: one over the constant and the rank, as whole numbers of a common part."""
    whole = lcm(*range(_K + 1, _K + count + 1))
    return tuple(whole // (_K + rank) for rank in range(1, count + 1))
