"""A graph over the vectors of an index, for deployments that allow `approximate` searches: docs/approximate.md.

It knows nothing of permissions and decides nothing: it names the rows nearest to a query among *all* rows, hidden ones
too, and whoever asked holds each against the permitted ones. How far it walks, and so how long it takes and what it
finds, depends on what is hidden. Nothing but `approximate` searches ever asks it.

Vectors stand in it rotated and with one byte a dimension, in a constant range. Rows are added, and stay when they are
removed from the index, until that is made anew; rows are never used again, so what stays is only passed over.

SOURCE: HNSW (Malkov and Yashunin, 2016) as in faiss 1.15.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from service.index.rotation import Rotation

_LINKS: Final = 16
_BUILD: Final = 100
"""How many neighbours are considered when a row is added."""
_WIDEST: Final = 6.0
"""Standard deviations that a rotated dimension may lie from zero before its byte is clipped."""
_LEAST_WALK: Final = 256
_MANY: Final = 2_000
"""So many rows at once are added by several threads."""

_library: Any = faiss  # its stubs lack half of what is used here

Rows = NDArray[np.uint32]
Vectors = NDArray[np.float32]


class Graph:
    """The graph of an index, kept in one file. One call at a time.

    path: read when it holds a graph of this dimension; anything else is built anew. threads: that build.
    """

    def __init__(self, path: Path, dimension: int, *, threads: int) -> None:
        self._path = path
        self._dimension = dimension
        self._threads = threads
        self._rotation = Rotation(dimension)
        read = self._read()
        self._index = self._empty() if read is None else read
        self._held = BitMap(np.asarray(_library.vector_to_array(self._index.id_map), np.uint32))
        self._saved = len(self._held)

    def _read(self) -> Any | None:
        if not self._path.exists():
            return None
        try:
            index = _library.read_index(str(self._path))
        except RuntimeError:  # the library raises nothing narrower for a damaged file
            return None
        fits = isinstance(index, _library.IndexIDMap) and index.d == self._dimension
        return index if fits and isinstance(_library.downcast_index(index.index), _library.IndexHNSWSQ) else None

    def _empty(self) -> Any:
        graph = _library.IndexHNSWSQ(self._dimension, _library.ScalarQuantizer.QT_8bit_uniform, _LINKS)
        graph.hnsw.efConstruction = _BUILD
        # The range is a constant, not what the vectors span: nothing is learned from them here either.
        most = np.full((1, self._dimension), min(1.0, _WIDEST / self._dimension**0.5), np.float32)
        graph.train(np.concatenate([-most, most]))
        index = _library.IndexIDMap(graph)
        index.own_fields = True
        graph.this.disown()
        return index

    def __len__(self) -> int:
        return len(self._held)

    def put(self, rows: Rows, vectors: Vectors) -> None:
        """Hold rows; those that are held change nothing. vectors: shape (len(rows), dimension)."""
        new = ~np.fromiter((row in self._held for row in rows.tolist()), bool, len(rows))
        if not new.any():
            return
        many = int(new.sum()) >= _MANY
        _library.omp_set_num_threads(self._threads if many else 1)
        try:
            self._index.add_with_ids(self._rotation.apply(vectors[new]), rows[new].astype(np.int64))
        finally:
            _library.omp_set_num_threads(1)
        self._held.update(BitMap(rows[new]))

    def nearest(self, query: Vectors, count: int) -> list[int]:
        """Return about the `count` rows nearest to `query`, permitted or not, best first."""
        if not self._held:
            return []
        walk = _library.SearchParametersHNSW(efSearch=max(2 * count, _LEAST_WALK))
        rotated = (query @ self._rotation.matrix).reshape(1, -1)
        _, rows = self._index.search(rotated, min(count, len(self._held)), params=walk)
        return [int(row) for row in rows[0] if row >= 0]

    def save(self) -> None:
        """Keep it for the next start, if it grew by so much that adding it again would take long.

        # INVARIANT: called after the rows in it are durable in the index, so that the file never knows of others.
        """
        if len(self._held) - self._saved <= max(_MANY, self._saved // 10):
            return
        draft = self._path.with_suffix(".new")
        _library.write_index(self._index, str(draft))
        draft.replace(self._path)  # one that a power cut damaged is built anew
        self._saved = len(self._held)

    def clear(self) -> None:
        """Forget everything, on disk too."""
        self._path.unlink(missing_ok=True)
        self._index, self._held, self._saved = self._empty(), BitMap(), 0
