"""What an exact search finds, for many callers at once, and how near to it an answer is."""

from __future__ import annotations

import hashlib
import statistics
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.permissions import Organisation
from benchmarks.vectors import SEED, Vectors, cache

LIMIT: Final = 10
_BLOCK: Final = 50_000
_EPSILON: Final = 0.005

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over queries. within: recall of hits whose cosine is within 0.005 of the true tenth. regret: of cosines."""

    recall: float
    within: float
    regret: float


def truths(vectors: Vectors, organisation: Organisation, asked: dict[str, Vectors]) -> dict[str, Rows]:
    """The ten best permitted rows of each query for each caller, shape (queries, 10) or fewer columns; cached.

    asked: the queries of each caller, by name.
    """
    names = sorted(asked)
    key = hashlib.sha256(repr([(name, asked[name].tobytes()) for name in names]).encode()).hexdigest()[:12]
    path = cache() / f"truth-{len(vectors)}-{SEED}-{key}.npz"
    if path.exists():
        with np.load(path) as stored:
            return {name: stored[name] for name in names}
    best: dict[str, list[tuple[Rows, Vectors]]] = {name: [] for name in names}
    permitted = {name: organisation.rows(organisation.callers[name]) for name in names}
    for start in range(0, len(vectors), _BLOCK):
        block = np.array(vectors[start : start + _BLOCK])
        scores = {one.tobytes(): block @ one.T for one in {id(asked[n]): asked[n] for n in names}.values()}
        for name in names:
            first, last = np.searchsorted(permitted[name], [start, start + len(block)])
            rows = permitted[name][first:last]
            if len(rows):
                here = scores[asked[name].tobytes()][rows - start]
                order = np.argsort(-here, axis=0, kind="stable")[:LIMIT]
                best[name].append((rows[order], np.take_along_axis(here, order, axis=0)))
    found: dict[str, Rows] = {}
    for name in names:
        rows = np.concatenate([part[0] for part in best[name]])
        here = np.concatenate([part[1] for part in best[name]])
        found[name] = np.take_along_axis(rows, np.argsort(-here, axis=0, kind="stable")[:LIMIT], axis=0).T
    np.savez(path, **found)  # type: ignore[arg-type]  # the stub takes one of the names for `allow_pickle`
    return found


def quality(vectors: Vectors, queries: Vectors, true: Rows, found: list[list[int]]) -> Quality:
    """How near answers are to the truth, query by query."""
    recalls, within, regrets = [], [], []
    for query, best, rows in zip(queries, true, found, strict=True):
        wanted = vectors[best] @ query
        got = np.sort(vectors[rows] @ query)[::-1] if rows else np.empty(0, np.float32)
        recalls.append(len(set(best.tolist()) & set(rows)) / len(best))
        within.append(float(np.sum(got >= wanted[-1] - _EPSILON)) / len(best))
        lost = np.concatenate([got[: len(best)], np.zeros(max(0, len(best) - len(got)), np.float32)])
        regrets.append(float(np.mean(wanted) - np.mean(lost)))
    return Quality(statistics.mean(recalls), min(1.0, statistics.mean(within)), statistics.mean(regrets))
