"""Full vectors by the rows of their chunks, to compare a query with any of them (docs/adr/0028).

They lie in a file without a name, mapped into memory: the kernel may take that memory back and read it again, and
nothing is left of it when the process ends. The engine is the store; this is made from it at every start.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint32]
Vectors = NDArray[np.float32]
Hit = tuple[int, float]
"""A row and its cosine."""

_ROOM: Final = 4_096


class FullVectors:
    """The vectors of an index. One call at a time. folder: where the file without a name takes its place."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self._dimension = dimension
        self._bytes = 4 * dimension
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed by `close`
        self._held = np.zeros(0, np.bool_)
        self._vectors: Vectors = np.empty(0, np.float32)
        self._reach(_ROOM)

    def put(self, rows: Rows, vectors: Vectors) -> None:
        """Hold rows, in place of what they were before. rows: ascending. Raises OSError; then these are not held."""
        if not len(rows):
            return
        self._reach(int(rows[-1]) + 1)
        # INVARIANT: a row that is written half is not held.
        self._held[rows] = False
        self._write(rows, np.ascontiguousarray(vectors, np.float32))
        self._held[rows] = True

    def remove(self, rows: Rows) -> None:
        """Forget rows, ascending; those that are not held change nothing. Raises OSError; they are forgotten then."""
        gone = self._known(rows)
        self._held[gone] = False
        self._write(gone, np.zeros((len(gone), self._dimension), np.float32))

    def nearest(self, query: Vectors, rows: Rows, limit: int) -> list[Hit]:
        """Return those of `rows` that are nearest to `query` and held, best first, equal cosines by row.

        query: shape (dimension,). rows: each once, in any order.
        """
        # In their order, as they lie in memory.
        wanted = np.sort(self._known(rows)).astype(np.int64)
        scores = np.empty(len(wanted), np.float32)
        # INVARIANT: pair by pair. A matrix product differs in the last bits with what is compared beside a vector.
        faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]  # of the compiled part
            *(faiss.swig_ptr(one) for one in (scores, np.ascontiguousarray(query), self._vectors, wanted)),
            *(self._dimension, 1, len(wanted)),
        )
        np.clip(scores, -1.0, 1.0, out=scores)
        if len(scores) > 4 * limit:
            # All that are as good as the last one within the limit: which of them are within is decided by row.
            last = np.partition(scores, len(scores) - limit)[len(scores) - limit]
            wanted, scores = wanted[scores >= last], scores[scores >= last]
        order = np.lexsort((wanted, -scores))[:limit]
        return list(zip(wanted[order].tolist(), scores[order].tolist(), strict=True))

    def close(self) -> None:
        """Give everything back."""
        self._vectors = np.empty(0, np.float32)
        self._held = np.zeros(0, np.bool_)
        self._file.close()

    def _known(self, rows: Rows) -> Rows:
        rows = rows[rows < len(self._held)]
        return rows[self._held[rows]]

    def _reach(self, count: int) -> None:
        """Make room for every row below `count`. What nobody wrote takes no place on the disk."""
        if count <= len(self._held):
            return
        room = max(count, 2 * len(self._held))
        os.ftruncate(self._file.fileno(), room * self._bytes)
        # Read only: on a full disk a write says so, and a page of the map would end the process.
        mapped = mmap.mmap(self._file.fileno(), room * self._bytes, prot=mmap.PROT_READ)
        self._vectors = np.frombuffer(mapped, np.float32)
        self._held = np.concatenate([self._held, np.zeros(room - len(self._held), np.bool_)])

    def _write(self, rows: Rows, vectors: Vectors) -> None:
        for start, stop in _stretches(rows):
            left = memoryview(vectors[start:stop].tobytes())
            at = int(rows[start]) * self._bytes
            while left:
                written = os.pwrite(self._file.fileno(), left, at)
                left, at = left[written:], at + written


def _stretches(rows: Rows) -> Iterator[tuple[int, int]]:
    """Where rows follow one upon another, as places in `rows`."""
    if len(rows):
        cuts = (np.flatnonzero(np.diff(rows) != 1) + 1).tolist()
        yield from zip([0, *cuts], [*cuts, len(rows)], strict=True)
