"""The process that holds a Qdrant Edge shard and the codes of its vectors.

It is one of its own because every call of Edge holds the interpreter's lock. The shard keeps the full vectors, by the
rows of their chunks, durably. The codes, and the vectors as they are compared, are made from it at start, kept in step
with it, and gone with the process.

One folder: `lock` (held while the process lives), `state.json` (which catalog, which dimension, how far in its feed)
`shard/`, and `graph` where approximate searches are allowed. The state is written after a flush and only then, so that
it never claims more than is on disk; what the write-ahead log kept beyond it is applied again, which changes nothing. A
folder of another catalog, another dimension or a format that is not ours is emptied: the catalog fills it again.

Points have no payload: a payload's index made a flush of a few points take 100 to 200 ms instead of 3, and permitted
chunks are asked for by their ids.

Run as `python -m service.index.edge_process FOLDER INCARNATION DIMENSION BITS THREADS [graph]` by `service.index.edge`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import qdrant_edge as qe
from pyroaring import AbstractBitMap, BitMap

from service.files import durable_file, lock_file
from service.index.codes import Codes, Rows, Vectors
from service.index.graph import Graph
from service.index.vectors import FullVectors, Hit
from service.process import Answer, Refusal, serve

FORMAT: Final = 2
_PAGE: Final = 2_000
"""How many points one call of the engine reads."""
_LOCK_WAIT_S: Final = 10.0
_COMPARED: Final = 3
"""So many of a graph's hits are compared by full vectors for each that is asked for."""


class Hits(NamedTuple):
    """The best, and how many were scored by their full vectors."""

    best: list[Hit]
    scored: int


class Shard:
    """One open shard with its state and its codes. bits, threads: see `Codes`. graph: whether it has one.

    removed: how many chunks were taken out since the shard was made; the engine keeps their room.
    """

    def __init__(
        self,
        folder: Path,
        incarnation: str,
        dimension: int,
        *,
        bits: int = 1,
        threads: int = 1,
        graph: bool = False,
        lock_wait_s: float = _LOCK_WAIT_S,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._dimension = dimension
        self._identity = {"format": FORMAT, "incarnation": incarnation, "dimension": dimension}
        self._lock = _locked(folder / "lock", lock_wait_s)
        self.applied_seq = 0
        self.removed = 0
        self._shard = self._open()
        self._made = (dimension, bits, threads)
        self._graph = Graph(folder / "graph", dimension, threads=threads) if graph else None
        if self._graph is None:
            (folder / "graph").unlink(missing_ok=True)
        self._read()

    def _read(self) -> None:
        """Read everything that the shard holds, make its codes, and put what is missing into the graph."""
        dimension, bits, threads = self._made
        self._codes = Codes(dimension, bits=bits, threads=threads)
        with _space():
            self._vectors = FullVectors(self._folder, dimension)
        offset = None
        while True:
            page = qe.ScrollRequest(offset=offset, limit=_PAGE, with_payload=False, with_vector=True)
            points, offset = self._shard.scroll(page)
            rows = np.array([point.id for point in points], np.uint32)
            vectors = np.array([point.vector for point in points], np.float32).reshape(len(rows), dimension)
            with _space():
                self._vectors.put(rows, vectors)
            self._codes.put(rows, vectors)
            if self._graph is not None:
                self._graph.put(rows, vectors)
            if offset is None:
                return

    def _open(self) -> Any:
        state = self._read_state()
        if state is not None:
            try:
                shard = qe.EdgeShard.load(str(self._folder / "shard"), _config(self._dimension))
            except Exception as err:  # noqa: BLE001  the library raises nothing narrower, and the catalog can refill
                sys.stderr.write(f"the index could not be loaded and is built anew: {err}\n")
            else:
                self.applied_seq, self.removed = state
                return shard
        return self._make()

    def _make(self) -> Any:
        """Make an empty shard in place of whatever is there."""
        self.applied_seq = self.removed = 0
        # The state goes first: a folder that is half emptied must not look like one that is whole.
        (self._folder / "state.json").unlink(missing_ok=True)
        shutil.rmtree(self._folder / "shard", ignore_errors=True)
        (self._folder / "graph").unlink(missing_ok=True)
        shard = qe.EdgeShard.create(str(self._folder / "shard"), _config(self._dimension))
        shard.flush()
        self._write_state()
        return shard

    def _read_state(self) -> tuple[int, int] | None:
        """The durable `applied_seq` and `removed`; None for a folder of another catalog, dimension or format."""
        try:
            state = json.loads((self._folder / "state.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(state, dict):
            return None
        applied, removed = state.pop("applied_seq", None), state.pop("removed", None)
        if state != self._identity or not all(type(one) is int and one >= 0 for one in (applied, removed)):
            return None
        return applied, removed

    def _write_state(self) -> None:
        state = json.dumps({**self._identity, "applied_seq": self.applied_seq, "removed": self.removed})
        durable_file.replace(self._folder / "state.json", state.encode())

    @property
    def count(self) -> int:
        """How many chunks are held."""
        return len(self._codes)

    def apply(self, rows: Rows, vectors: Vectors, remove: Sequence[int], after: int, last: int) -> bool:
        """Apply one stretch of the feed, from behind `after` to `last`. False, and nothing done, when it has a gap.

        rows: ascending or not, one for each row of `vectors`, none of them also in `remove`.
        """
        if after > self.applied_seq:
            return False
        order = np.argsort(rows)
        rows, vectors = rows[order], vectors[order]
        if len(rows):
            # First of all: the one of these that may be refused, and then nothing was done.
            with _space():
                self._vectors.put(rows, vectors)
            points = [qe.Point(row, vector) for row, vector in zip(rows.tolist(), vectors.tolist(), strict=True)]
            self._shard.update(qe.UpdateOperation.upsert_points(points))
            self._codes.put(rows, vectors)
            if self._graph is not None:
                self._graph.put(rows, vectors)
        if remove:
            self._shard.update(qe.UpdateOperation.delete_points(list(remove)))
            held = len(self._codes)
            self._codes.remove(remove)
            self._vectors.remove(np.sort(np.array(remove, np.uint32)))
            self.removed += held - len(self._codes)
        self.applied_seq = max(self.applied_seq, last)
        return True

    def flush(self) -> None:
        """Make everything applied durable, then say so in the state."""
        self._shard.flush()
        self._write_state()
        if self._graph is not None:
            self._graph.save()

    def clear(self) -> None:
        """Forget everything."""
        self._shard.close()
        self._shard = self._make()
        if self._graph is not None:
            self._graph.clear()
        self._codes.close()
        self._vectors.close()
        self._read()

    def search(self, vector: Vectors, rows: AbstractBitMap, limit: int, keep: int, *, masked: bool) -> Hits:
        """Return the nearest of `rows`, best first, equal scores by row: the `keep` best by code, scored in full."""
        # INVARIANT: only permitted rows come out of the codes, and only they are scored.
        return self.score(vector, self._codes.nearest(vector, rows, keep, masked=masked), limit)

    def approximate(self, vector: Vectors, rows: AbstractBitMap, limit: int, reach: int) -> Hits:
        """Return the nearest of `rows` among the `reach` nearest of all; fewer than `limit` say that it is no answer.

        Without a graph nothing is found.
        """
        near = [] if self._graph is None else self._graph.nearest(vector, reach)
        # INVARIANT: what is hidden goes no further than this line.
        permitted = [row for row in near if row in rows]
        return self.score(vector, permitted[: _COMPARED * limit], limit)

    def score(self, vector: Vectors, rows: Sequence[int] | Rows, limit: int) -> Hits:
        """Compare every one of `rows` that is held by its full vector; return the nearest as `search` does."""
        # INVARIANT: rows that were not asked for are not looked at, so no filter has to hold them back.
        listed = np.asarray(rows, np.uint32)
        return Hits(self._vectors.nearest(vector, listed, limit), len(listed))

    def close(self) -> None:
        """Release the shard and the lock."""
        self._codes.close()
        self._vectors.close()
        self._shard.close()
        os.close(self._lock)


def _config(dimension: int) -> Any:
    # Vectors have unit length, so the dot product is the cosine, and nothing is normalised behind our back.
    # m=0: no graph, because one shows what is hidden (docs/adr).
    return qe.EdgeConfig(
        vectors=qe.EdgeVectorParams(size=dimension, distance=qe.Distance.Dot),
        hnsw_config=qe.HnswIndexConfig(m=0, ef_construct=16, full_scan_threshold=10),
        wal_enabled=True,
    )


@contextmanager
def _space() -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise Refusal("space", f"the index has no place for its vectors: {err.strerror}") from err


def _locked(path: Path, wait_s: float) -> int:
    """Take the folder's lock. A child of a server that was just killed may need a moment to go away."""
    until = time.monotonic() + wait_s
    while True:
        try:
            return lock_file.acquire(path)
        except lock_file.HeldError as err:
            if time.monotonic() >= until:
                raise Refusal("locked", f"the index in {path.parent} is held by another process") from err
            time.sleep(0.05)


def _integers(params: dict[str, object], name: str) -> list[int]:
    values = params[name]
    assert isinstance(values, list)
    return [int(value) for value in values]


def _number(params: dict[str, object], name: str) -> int:
    value = params[name]
    assert isinstance(value, int)
    return value


def main(folder: str, incarnation: str, dimension: str, bits: str, threads: str, graph: str = "") -> None:
    """Serve one shard to the parent. graph: `graph` for one."""
    opened: list[Shard] = []

    def prepare() -> None:
        made = {"bits": int(bits), "threads": int(threads)}
        opened.append(Shard(Path(folder), incarnation, int(dimension), **made, graph=graph == "graph"))

    def state(params: dict[str, object], blobs: list[bytes]) -> Answer:
        shard = opened[0]
        known = {"applied_seq": shard.applied_seq, "count": shard.count, "removed": shard.removed}
        return {**known, "process": os.getpid()}, []

    def apply(params: dict[str, object], blobs: list[bytes]) -> Answer:
        rows = np.frombuffer(blobs[0], np.uint32)
        vectors = np.frombuffer(blobs[1], np.float32).reshape(len(rows), int(dimension))
        after, last = _number(params, "after"), _number(params, "last")
        if _number(params, "process") not in (0, os.getpid()):
            return {"done": False, **state(params, blobs)[0]}, []
        done = opened[0].apply(rows, vectors, _integers(params, "remove"), after, last)
        return {"done": done, **state(params, blobs)[0]}, []

    def flush(params: dict[str, object], blobs: list[bytes]) -> Answer:
        opened[0].flush()
        return state(params, blobs)

    def clear(params: dict[str, object], blobs: list[bytes]) -> Answer:
        opened[0].clear()
        return state(params, blobs)

    def search(params: dict[str, object], blobs: list[bytes]) -> Answer:
        vector, rows = np.frombuffer(blobs[0], np.float32), BitMap.deserialize(blobs[1])
        limit, keep = _number(params, "limit"), _number(params, "keep")
        return _answer(opened[0].search(vector, rows, limit, keep, masked=params["masked"] is True))

    def approximate(params: dict[str, object], blobs: list[bytes]) -> Answer:
        vector, rows = np.frombuffer(blobs[0], np.float32), BitMap.deserialize(blobs[1])
        return _answer(opened[0].approximate(vector, rows, _number(params, "limit"), _number(params, "reach")))

    def score(params: dict[str, object], blobs: list[bytes]) -> Answer:
        vector, rows = np.frombuffer(blobs[0], np.float32), np.frombuffer(blobs[1], np.uint32)
        return _answer(opened[0].score(vector, rows, _number(params, "limit")))

    handlers = {"state": state, "apply": apply, "flush": flush, "clear": clear}
    serve(handlers | {"search": search, "approximate": approximate, "score": score}, prepare=prepare)


def _answer(hits: Hits) -> Answer:
    rows, scores = [row for row, _ in hits.best], [score for _, score in hits.best]
    return {"rows": rows, "scores": scores, "scored": hits.scored}, []


if __name__ == "__main__":
    main(*sys.argv[1:])
