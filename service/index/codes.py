"""Quantized codes of all vectors, and the scan of those that a caller may read.

A code is RaBitQ's, one to four bits a dimension. It only ranks: the best are scored again with their full vectors by
whoever asked. There is no graph, and nothing is learned from the data:

# INVARIANT: a code depends on its own vector alone, to the last bit: the rotation is constant, the centroid is zero.
# What is trained on all vectors would let hidden ones choose among the permitted.

Rows are spread over lanes, one a thread, by their number. A lane keeps its codes in ascending order of rows, so that a
tie is cut by row whatever lies between. Two ways lead to the same rows:

- gathered: the permitted codes are copied together and scanned, and no other is touched: for small shares
- masked: all codes are walked under a bitmap of the permitted ones: for large shares

SOURCE: RaBitQ (Gao and Long, SIGMOD 2024; several bits: SIGMOD 2025) as in faiss 1.15, `IndexRaBitQ`.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray
from pyroaring import AbstractBitMap, BitMap

from service.index.rotation import Rotation

_QUERY_BITS: Final = 4
_STRIPE: Final = 10  # lanes take turns every 2**10 rows
_CHUNK: Final = 16_384  # gathered codes that are scanned at once: they stay in a core's cache
_ALONE: Final = 8_192  # so few rows are scanned by one thread: waking others costs more
_SLACK: Final = 4_096

Rows = NDArray[np.uint32]
Vectors = NDArray[np.float32]
Scored = tuple[NDArray[np.float32], Rows]
"""Squared distances and rows."""


class Codes:
    """The codes of an index. One call at a time; `nearest` uses threads of its own.

    bits: 1 to 4 a dimension. threads: how many scan.
    """

    def __init__(self, dimension: int, *, bits: int, threads: int) -> None:
        # OpenMP's threads would wake up for every query, and each thread of ours has a number of its own of them.
        faiss.omp_set_num_threads(1)
        self._rotation = Rotation(dimension)
        self._lanes = [_Lane(dimension, bits) for _ in range(threads)]
        self._place = np.zeros(_SLACK, np.int32)  # of each held row in its lane
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix="scan", initializer=faiss.omp_set_num_threads, initargs=(1,)
        )

    def __len__(self) -> int:
        return sum(len(lane.held) for lane in self._lanes)

    def put(self, rows: Rows, vectors: Vectors) -> None:
        """Hold rows, in place of what they were before. rows: ascending. vectors: shape (len(rows), dimension)."""
        if not len(rows):
            return
        while len(self._place) <= int(rows[-1]):
            self._place = np.concatenate([self._place, np.zeros_like(self._place)])
        numbers = (rows >> _STRIPE) % len(self._lanes)

        def hold(number: int) -> None:
            mine = numbers == number
            self._lanes[number].put(rows[mine], self._rotation.apply(vectors[mine]), self._place)

        for _ in self._pool.map(hold, range(len(self._lanes))):
            pass

    def remove(self, rows: Iterable[int]) -> None:
        """Forget rows; those that are not held change nothing."""
        gone = BitMap(rows)
        for lane in self._lanes:
            lane.remove(gone, self._place)

    def nearest(self, query: Vectors, rows: AbstractBitMap, keep: int, *, masked: bool) -> list[int]:
        """Return, of those `rows` that are held, the `keep` whose codes are nearest to `query`; equal ones by row.

        query: shape (dimension,). masked: the way; both give the same.
        """
        rotated = (query @ self._rotation.matrix).reshape(1, -1)

        def scan(lane: _Lane) -> Scored:
            wanted = np.frombuffer((lane.held & rows).to_array(), np.uint32)
            return (lane.masked if masked else lane.gathered)(rotated, self._place[wanted], keep)

        run = map if len(rows) < _ALONE else self._pool.map
        return [int(row) for row in _best(list(run(scan, self._lanes)), keep)[1]]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


class _Lane:
    """Codes in ascending order of their rows, with holes where rows were removed, and room for gathering."""

    def __init__(self, dimension: int, bits: int) -> None:
        self._codes = _Block(dimension, bits)
        self._gathered = _Block(dimension, bits)
        self._gathered.reserve(_CHUNK)
        self._rows = np.zeros(0, np.uint32)
        self.held = BitMap()

    def put(self, rows: Rows, vectors: Vectors, places: NDArray[np.int32]) -> None:
        codes: NDArray[np.uint8] = self._codes.index.sa_encode(vectors)
        new = ~np.fromiter((row in self.held for row in rows.tolist()), bool, len(rows))
        self._codes.view[places[rows[~new]]] = codes[~new]
        rows, codes = rows[new], codes[new]
        if not len(rows):
            return
        used = self._codes.used
        if used and rows[0] < self._rows[used - 1]:
            # A row from before the last one: it does not happen in a feed, and would undo the order.
            live = self._live()
            codes = np.concatenate([self._codes.view[places[live]], codes])
            rows = np.concatenate([live, rows])
            order, used = np.argsort(rows), 0
            rows, codes = rows[order], codes[order]
        self._write(used, rows, codes, places)
        self.held.update(BitMap(rows))

    def remove(self, gone: BitMap, places: NDArray[np.int32]) -> None:
        self.held.difference_update(gone)
        if self._codes.used > 2 * len(self.held) + _SLACK:
            live = self._live()
            self._write(0, live, self._codes.view[places[live]], places)

    def masked(self, query: Vectors, places: NDArray[np.int32], keep: int) -> Scored:
        """Scan the codes at `places`, ascending, by walking over all."""
        permitted = np.zeros(self._codes.used, bool)
        permitted[places] = True
        packed = np.packbits(permitted, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(packed), faiss.swig_ptr(packed))
        return self._named(self._codes.search(query, min(keep, len(places)), selector))

    def gathered(self, query: Vectors, places: NDArray[np.int32], keep: int) -> Scored:
        """Scan the codes at `places`, ascending, by copying them together."""
        found: list[Scored] = []
        for start in range(0, len(places), _CHUNK):
            part = places[start : start + _CHUNK]
            np.take(self._codes.view, part, axis=0, out=self._gathered.view[: len(part)], mode="clip")
            self._gathered.used = len(part)
            distances, at = self._gathered.search(query, min(keep, len(part)), None)
            found.append(self._named((distances, part[at])))
        return _best(found, keep)

    def _named(self, found: tuple[NDArray[np.float32], NDArray[Any]]) -> Scored:
        return found[0], self._rows[found[1]]

    def _live(self) -> Rows:
        return np.array(self.held.to_array(), np.uint32)

    def _write(self, start: int, rows: Rows, codes: NDArray[np.uint8], places: NDArray[np.int32]) -> None:
        """Put codes behind the first `start`, and nothing behind them."""
        stop = start + len(rows)
        self._codes.reserve(stop)
        if len(self._rows) < stop:
            self._rows = np.concatenate([self._rows, np.zeros(len(self._codes.view) - len(self._rows), np.uint32)])
        self._rows[start:stop], self._codes.view[start:stop] = rows, codes
        self._codes.used = stop
        places[rows] = np.arange(start, stop)


class _Block:
    """A faiss index as room for codes: `view` is its memory, shape (capacity, code size), of which `used` count."""

    def __init__(self, dimension: int, bits: int) -> None:
        self.index = _quantizer(dimension, bits)
        self.view = np.zeros((0, self.index.code_size), np.uint8)
        self._parameters = faiss.RaBitQSearchParameters()
        self._parameters.qb = _QUERY_BITS

    @property
    def used(self) -> int:
        return int(self.index.ntotal)

    @used.setter
    def used(self, count: int) -> None:
        self.index.ntotal = count

    def reserve(self, count: int) -> None:
        """Make room; what is there stays."""
        if count <= len(self.view):
            return
        size = self.index.code_size
        capacity = max(count, len(self.view) + len(self.view) // 2)
        self.index.codes.resize(capacity * size)
        # INVARIANT: the view is made anew whenever the memory below it may have moved.
        self.view = faiss.rev_swig_ptr(self.index.codes.data(), capacity * size).reshape(capacity, size)

    def search(self, query: Vectors, keep: int, selector: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return squared distances and places of the `keep` nearest, which exist; equal ones by place."""
        if not keep:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        self._parameters.sel = selector
        distances, places = self.index.search(query, keep, params=self._parameters)
        return distances[0], places[0]


def _quantizer(dimension: int, bits: int) -> Any:
    # By squared distance, which ranks unit vectors as the cosine does: faiss cuts its ties by the lower place, and
    # those of inner products by the higher one, which depends on the order of the scan.
    index = faiss.IndexRaBitQ(dimension, faiss.METRIC_L2, bits)
    index.train(np.zeros((1, dimension), np.float32))  # the centroid is zero
    return index


def _best(found: list[Scored], keep: int) -> Scored:
    distances = np.concatenate([np.empty(0, np.float32), *(one[0] for one in found)])
    rows = np.concatenate([np.empty(0, np.uint32), *(one[1] for one in found)])
    order = np.lexsort((rows, distances))[:keep]
    return distances[order], rows[order]
