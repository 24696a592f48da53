"""Which way a search goes: decided from how many chunks the caller may read, never from which ones.

Pure. The paths with codes give the same candidates, so that what else the index holds decides how long an answer takes
to find, not what is in it. The thresholds are settings; their defaults were measured (docs/adr/0006 and 0028).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import Final

MAX_BITS: Final = 4
_SPARE: Final = 16
_FARTHEST: Final = 400
"""Beyond, a graph loses recall without a word."""


class SearchPath(Enum):
    """How candidates are found."""

    NONE = "none"  # nothing is permitted: nobody is asked
    EXACT = "exact"  # every permitted chunk is scored with its full vector
    GATHERED = "gathered"  # the permitted codes are copied together and scanned, the best scored with full vectors
    GRAPH = "graph"  # approximate: the nearest of all rows by a graph, those that are permitted scored in full
    MASKED = "masked"  # all codes are walked under the permitted rows' bitmap, the best scored with full vectors


@dataclass(frozen=True, slots=True)
class Tuning:
    """What `index` in the settings says.

    bits: of a code, 1 to 4 a dimension. candidates: how many of the best codes are scored with full vectors, at least.
    oversampling: and at least so many for each hit that is asked for.
    exact_below: so few permitted chunks are all scored with full vectors.
    masked_above: from this share of the index on, in (0, 1], all codes are walked.
    threads: that scan; 0 means one for each core that the service may use.
    shadow: this share of searches, in [0, 1], is repeated exactly and compared.
    approximate: whether requests may ask for the graph, which is built only then (docs/approximate.md).
    """

    bits: int = 1
    candidates: int = 300
    oversampling: int = 5
    exact_below: int = 5_000
    masked_above: float = 0.5
    threads: int = 0
    shadow: float = 0.0
    approximate: bool = False

    @property
    def scanners(self) -> int:
        """How many threads scan."""
        return self.threads or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Plan:
    """A path, why it was taken, and how many candidates are kept for scoring.

    reach: how many of the graph's nearest are looked at first; 0 without a graph. When too few of them are permitted,
    `path` is taken.
    """

    path: SearchPath
    why: str
    keep: int
    reach: int = 0


def plan(
    permitted: int, held: int, limit: int, tuning: Tuning, *, exact: bool = False, approximate: bool = False
) -> Plan:
    """Choose the path for `limit` hits of `permitted` chunks in an index that holds `held`.

    exact, approximate: asked for by the caller; the second counts only where the deployment allows it.
    """
    if permitted == 0:
        return Plan(SearchPath.NONE, "nothing is permitted", 0)
    keep = max(tuning.candidates, tuning.oversampling * limit)
    if exact:
        return Plan(SearchPath.EXACT, "asked for", permitted)
    if permitted <= max(tuning.exact_below, keep):
        return Plan(SearchPath.EXACT, "few are permitted", permitted)
    reach = _reach(permitted, held, limit) if approximate and tuning.approximate else 0
    if permitted < tuning.masked_above * held:
        return Plan(SearchPath.GATHERED, "a small share is permitted", keep, reach)
    return Plan(SearchPath.MASKED, "a large share is permitted", keep, reach)


def _reach(permitted: int, held: int, limit: int) -> int:
    """So many of all chunks hold twice `limit` permitted ones, if these lie anywhere; 0 when a scan costs less."""
    reach = 2 * limit * held // permitted + _SPARE
    return reach if reach <= _FARTHEST else 0
