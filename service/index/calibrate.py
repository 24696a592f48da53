"""Measuring this machine, and proposing what `index` in the settings should say.

The vectors are made: unit vectors in clusters, easier to tell apart than texts, so the candidates that are proposed are
never fewer than the default, which was measured on real texts too (docs/adr/0006).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from service.index.codes import Codes
from service.index.edge_process import Shard
from service.index.planner import Tuning

Vectors = NDArray[np.float32]

_SHARES: Final = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
_KEEPS: Final = (50, 100, 200, 300, 500)
_COUNTS: Final = (50, 100, 200, 300, 500, 1_000, 2_000, 3_000, 5_000, 8_000, 12_000)
_BITS: Final = {1: 300, 2: 100, 4: 50}
"""And how many candidates found nearly all of the best ten of real texts: fewer are not proposed."""
_QUERIES: Final = 30
_LIMIT: Final = 10
_RECALL: Final = 0.999
_BATCH: Final = 10_000


def clustered(count: int, dimension: int, *, seed: int, clusters: int = 400, latent: int = 48) -> Iterator[Vectors]:
    """Yield unit vectors in batches, `count` in all: clusters in a smaller space, and noise. Same seed, same vectors.

    All seeds share the clusters, so that queries of another seed have near ones.
    """
    basis = np.random.default_rng(7).standard_normal((latent, dimension)).astype(np.float32) / np.sqrt(latent)
    centres = np.random.default_rng(8).standard_normal((clusters, latent)).astype(np.float32)
    draw = np.random.default_rng(seed)
    for start in range(0, count, _BATCH):
        size = min(_BATCH, count - start)
        inner = centres[draw.integers(0, clusters, size)] + 0.6 * draw.standard_normal((size, latent), np.float32)
        made = inner @ basis + 0.05 * draw.standard_normal((size, dimension), np.float32)
        yield (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was measured. name: such as `2 bits, 100 candidates`. value: with its unit, for people."""

    name: str
    value: str


def calibrate(
    chunks: int, dimension: int, threads: int, tell: Callable[[Step], None], *, queries: int = _QUERIES
) -> Tuning:
    """Measure with so many made chunks and return what to set. tell: called with each result. Takes about a minute."""
    default = Tuning()
    asked = np.concatenate(list(clustered(queries, dimension, seed=2)))
    with tempfile.TemporaryDirectory(prefix="remit-calibrate-") as folder:
        shard = Shard(Path(folder) / "index", "calibration", dimension, bits=default.bits, threads=threads)
        try:
            every = _fill(shard, chunks, dimension)
            costs = {bits: _bits(shard, every, asked, bits, threads, tell) for bits in _BITS}
            bits = min(costs, key=lambda one: costs[one][0])
            candidates = costs[bits][1]
            codes = _codes(every, bits, threads)
            return Tuning(
                bits=bits,
                candidates=candidates,
                oversampling=default.oversampling,
                exact_below=_exact_below(shard, codes, asked, candidates, chunks, tell),
                masked_above=_masked_above(codes, asked, candidates, chunks, tell),
                threads=threads,
            )
        finally:
            shard.close()


def _fill(shard: Shard, chunks: int, dimension: int) -> Vectors:
    held: list[Vectors] = []
    for vectors in clustered(chunks, dimension, seed=1):
        first = sum(map(len, held))
        shard.apply(np.arange(first, first + len(vectors), dtype=np.uint32), vectors, [], first, first + len(vectors))
        held.append(vectors)
    shard.flush()
    return np.concatenate(held)


def _codes(every: Vectors, bits: int, threads: int) -> Codes:
    codes = Codes(every.shape[1], bits=bits, threads=threads)
    for start in range(0, len(every), _BATCH):
        part = every[start : start + _BATCH]
        codes.put(np.arange(start, start + len(part), dtype=np.uint32), part)
    return codes


def _bits(
    shard: Shard, every: Vectors, asked: Vectors, bits: int, threads: int, tell: Callable[[Step], None]
) -> tuple[float, int]:
    """What a search costs in ms with codes of so many bits, and how many candidates it takes to find nearly all."""
    codes = _codes(every, bits, threads)
    rows = BitMap(range(0, len(every), 4))
    held = np.frombuffer(rows.to_array(), np.uint32)
    scores = asked @ every[held].T
    true = [set(held[np.lexsort((held, -line))[:_LIMIT]].tolist()) for line in scores]
    found = [codes.nearest(query, rows, _KEEPS[-1], masked=False) for query in asked]
    right = {k: statistics.mean(len(t & set(f[:k])) / len(t) for t, f in zip(true, found, strict=True)) for k in _KEEPS}
    keep = max(_BITS[bits], next((k for k in _KEEPS if right[k] >= _RECALL), _KEEPS[-1]))

    def search(query: Vectors) -> object:
        return shard.score(query, codes.nearest(query, rows, keep, masked=False), _LIMIT)

    cost = _median_ms([search], asked)[0]
    tell(Step(f"{bits} bit{'s' if bits > 1 else ''}, {keep} candidates", f"{cost:.2f} ms, recall {right[keep]:.4f}"))
    codes.close()
    return cost, keep


def _exact_below(
    shard: Shard, codes: Codes, asked: Vectors, keep: int, chunks: int, tell: Callable[[Step], None]
) -> int:
    """So few chunks are quicker compared in full than by codes first."""
    best = keep
    for count in (one for one in _COUNTS if one <= chunks):
        rows = BitMap(np.linspace(0, chunks - 1, count).astype(int).tolist())
        listed = list(rows)

        def full(query: Vectors, listed: list[int] = listed) -> object:
            return shard.score(query, listed, _LIMIT)

        def coded(query: Vectors, rows: BitMap = rows) -> object:
            return shard.score(query, codes.nearest(query, rows, keep, masked=False), _LIMIT)

        exact, by_codes = _median_ms([full, coded], asked)
        tell(Step(f"{count} permitted", f"exact {exact:.2f} ms, by codes {by_codes:.2f} ms"))
        if exact > by_codes and count > keep:
            break
        best = count
    return best


def _masked_above(codes: Codes, asked: Vectors, keep: int, chunks: int, tell: Callable[[Step], None]) -> float:
    """From this share on, walking all codes is quicker than gathering the permitted ones."""
    best = 1.0
    for share in reversed(_SHARES):
        permitted = np.random.default_rng(3).permutation(chunks)[: int(chunks * share)]
        rows = BitMap(permitted.tolist())

        def gathered(query: Vectors, rows: BitMap = rows) -> object:
            return codes.nearest(query, rows, keep, masked=False)

        def masked(query: Vectors, rows: BitMap = rows) -> object:
            return codes.nearest(query, rows, keep, masked=True)

        gather, walk = _median_ms([gathered, masked], asked)
        tell(Step(f"{share:.0%} permitted", f"gathered {gather:.2f} ms, masked {walk:.2f} ms"))
        if walk > gather:
            break
        best = share
    return best


def _median_ms(calls: Sequence[Callable[[Vectors], object]], asked: Vectors) -> list[float]:
    """The medians of calls, which take turns: what else the machine does hits all of them."""
    spent: list[list[float]] = [[] for _ in calls]
    for number, query in enumerate(asked):
        for call, times in zip(calls, spent, strict=True):
            start = time.perf_counter()
            call(query)
            if number >= 2:  # the first ones warm up
                times.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(times) for times in spent]
