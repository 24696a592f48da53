"""The process that holds a Qdrant Edge shard, because every call of that library holds the interpreter's lock.

One folder: `lock` (held while the process lives), `state.json` (which catalog, which dimension, how far in its feed)
and `shard/`. The state is written after a flush and only then, so that it never claims more than is on disk; what the
write-ahead log kept beyond it is applied again, which changes nothing. A folder of another catalog, another dimension
or a format that is not ours is emptied: the catalog fills it again.

Run as `python -m service.index.edge_process FOLDER INCARNATION DIMENSION` by `service.index.edge`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import qdrant_edge as qe
from numpy.typing import NDArray
from pyroaring import BitMap

from service import durable_file, lock_file
from service.process import Answer, Refusal, serve

FORMAT: Final = 1
_ORDINAL: Final = "d"
_LOCK_WAIT_S: Final = 10.0


class Shard:
    """One open shard with its state."""

    def __init__(self, folder: Path, incarnation: str, dimension: int, *, lock_wait_s: float = _LOCK_WAIT_S) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._dimension = dimension
        self._identity = {"format": FORMAT, "incarnation": incarnation, "dimension": dimension}
        self._lock = _locked(folder / "lock", lock_wait_s)
        self.applied_seq = 0
        self._shard = self._open()

    def _open(self) -> Any:
        state = self._read_state()
        if state is not None:
            try:
                shard = qe.EdgeShard.load(str(self._folder / "shard"), _config(self._dimension))
            except Exception as err:  # noqa: BLE001  the library raises nothing narrower, and the catalog can refill
                sys.stderr.write(f"the index could not be loaded and is built anew: {err}\n")
            else:
                self.applied_seq = state
                return shard
        return self._make()

    def _make(self) -> Any:
        """Make an empty shard in place of whatever is there."""
        self.applied_seq = 0
        # The state goes first: a folder that is half emptied must not look like one that is whole.
        (self._folder / "state.json").unlink(missing_ok=True)
        shutil.rmtree(self._folder / "shard", ignore_errors=True)
        shard = qe.EdgeShard.create(str(self._folder / "shard"), _config(self._dimension))
        shard.update(
            qe.UpdateOperation.create_field_index(_ORDINAL, qe.IntegerIndexParams(lookup=True, range=False)),
        )
        shard.flush()
        self._write_state()
        return shard

    def _read_state(self) -> int | None:
        """The durable `applied_seq`, or None when the folder is not of this catalog, dimension and format."""
        try:
            state = json.loads((self._folder / "state.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(state, dict):
            return None
        applied = state.pop("applied_seq", None)
        return applied if state == self._identity and type(applied) is int and applied >= 0 else None

    def _write_state(self) -> None:
        state = json.dumps({**self._identity, "applied_seq": self.applied_seq})
        durable_file.replace(self._folder / "state.json", state.encode())

    @property
    def count(self) -> int:
        """How many points are held."""
        return int(self._shard.info().points_count)

    def apply(
        self,
        add: Sequence[tuple[int, int]],
        vectors: NDArray[np.float32],
        remove: Sequence[int],
        after: int,
        last: int,
    ) -> bool:
        """Apply one stretch of the feed, from behind `after` to `last`. False, and nothing done, when it has a gap.

        add: (row, ordinal), one for each row of `vectors`, none of them also in `remove`.
        """
        if after > self.applied_seq:
            return False
        _check(vectors, self._dimension)
        if add:
            points = [
                qe.Point(row, vector, {_ORDINAL: ordinal})
                for (row, ordinal), vector in zip(add, vectors.tolist(), strict=True)
            ]
            self._shard.update(qe.UpdateOperation.upsert_points(points))
        if remove:
            self._shard.update(qe.UpdateOperation.delete_points(list(remove)))
        self.applied_seq = max(self.applied_seq, last)
        return True

    def flush(self) -> None:
        """Make everything applied durable, then say so in the state."""
        self._shard.flush()
        self._write_state()

    def clear(self) -> None:
        """Forget everything."""
        self._shard.close()
        self._shard = self._make()

    def search(self, vector: NDArray[np.float32], documents: BitMap, limit: int) -> list[tuple[int, int, float]]:
        """Return (row, ordinal, score) of the nearest, best first, equal scores by row.

        # INVARIANT: `documents` is not empty. An engine's empty filter would select every point.
        """
        if not documents:
            raise Refusal("empty", "a search over no documents reached the engine")
        _check(vector.reshape(1, -1), self._dimension)
        permitted = qe.Filter(must=[qe.FieldCondition(_ORDINAL, match=qe.MatchAny(list(documents)))])
        query = qe.Query.Nearest(vector.tolist())
        asked = limit + 1
        while True:
            request = qe.QueryRequest(
                limit=asked, query=query, filter=permitted, params=qe.SearchParams(exact=True), with_payload=True
            )
            points = self._shard.query(request)
            # The engine cuts among equal scores as it likes, and what it likes depends on other points. So the cut
            # is made here, once every point with the last score is known.
            if len(points) < asked or points[limit - 1].score != points[-1].score:
                break
            asked *= 4
        found = [(int(p.id), p.payload[_ORDINAL], min(1.0, max(-1.0, float(p.score)))) for p in points]
        # The second wall inside this process: whatever the filter did, nothing leaves that was not asked for.
        if any(type(ordinal) is not int or ordinal not in documents for _, ordinal, _ in found):
            raise Refusal("filter", "the engine returned a chunk outside the permitted documents")
        return sorted(found, key=lambda hit: (-hit[2], hit[0]))[:limit]

    def close(self) -> None:
        """Release the shard and the lock."""
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


def _check(vectors: NDArray[np.float32], dimension: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise Refusal("vector", f"a vector of {vectors.shape[-1]} numbers, and the index has {dimension}")
    # The engine takes NaN without a word and ranks by it.
    if not np.isfinite(vectors).all():
        raise Refusal("vector", "a vector holds a number that is not finite")


def _integers(params: dict[str, object], name: str) -> list[int]:
    values = params[name]
    assert isinstance(values, list)
    return [int(value) for value in values]


def _number(params: dict[str, object], name: str) -> int:
    value = params[name]
    assert isinstance(value, int)
    return value


def main(folder: str, incarnation: str, dimension: str) -> None:
    """Serve one shard to the parent."""
    opened: list[Shard] = []

    def prepare() -> None:
        opened.append(Shard(Path(folder), incarnation, int(dimension)))

    def state(params: dict[str, object], blobs: list[bytes]) -> Answer:
        return {"applied_seq": opened[0].applied_seq, "count": opened[0].count}, []

    def apply(params: dict[str, object], blobs: list[bytes]) -> Answer:
        rows, ordinals = _integers(params, "rows"), _integers(params, "ordinals")
        vectors = np.frombuffer(blobs[0], np.float32).reshape(len(rows), -1 if rows else int(dimension))
        done = opened[0].apply(
            list(zip(rows, ordinals, strict=True)),
            vectors,
            _integers(params, "remove"),
            _number(params, "after"),
            _number(params, "last"),
        )
        return {"done": done, "applied_seq": opened[0].applied_seq, "count": opened[0].count}, []

    def flush(params: dict[str, object], blobs: list[bytes]) -> Answer:
        opened[0].flush()
        return state(params, blobs)

    def clear(params: dict[str, object], blobs: list[bytes]) -> Answer:
        opened[0].clear()
        return state(params, blobs)

    def search(params: dict[str, object], blobs: list[bytes]) -> Answer:
        vector = np.frombuffer(blobs[0], np.float32)
        hits = opened[0].search(vector, BitMap.deserialize(blobs[1]), _number(params, "limit"))
        return {
            "rows": [hit[0] for hit in hits],
            "ordinals": [hit[1] for hit in hits],
            "scores": [hit[2] for hit in hits],
        }, []

    serve({"state": state, "apply": apply, "flush": flush, "clear": clear, "search": search}, prepare=prepare)


if __name__ == "__main__":
    main(*sys.argv[1:])
