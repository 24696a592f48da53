"""The client of the index process: starts it, speaks to it, and turns what goes wrong into the service's errors.

The shard, its lock and its state belong to `service.index.edge_process`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyroaring import AbstractBitMap

from service.errors import SearchUnavailableError, StartError
from service.index.base import Add, Candidate, FeedItem, InvalidVectorError, Remove
from service.process import Child, ChildCrashedError, ChildError, ChildRefusedError


class EdgeIndex:
    """An `Index` on Qdrant Edge in a process of its own.

    folder: made when it does not exist; emptied when it belongs to another incarnation or dimension.
    incarnation: that of the catalog. dimension: of the vectors.
    Raises StartError when another process holds the folder or the process does not start.
    """

    def __init__(self, folder: Path, *, incarnation: str, dimension: int, call_timeout_s: float = 60.0) -> None:
        self._incarnation = incarnation
        self._lock = threading.Lock()
        self._child = Child(
            "service.index.edge_process",
            args=[str(folder.absolute()), incarnation, str(dimension)],
            name="index",
            call_timeout_s=call_timeout_s,
        )
        try:
            self._child.start()
            self._applied_seq, self._count = 0, 0
            self._learn(self._child.call("state", {})[0])
        except ChildError as err:
            self._child.close()
            raise StartError(f"the index cannot be opened: {err}") from err

    @property
    def applied_seq(self) -> int:
        """See `Index`."""
        return self._applied_seq

    @property
    def incarnation(self) -> str:
        """See `Index`."""
        return self._incarnation

    @property
    def count(self) -> int:
        """See `Index`."""
        return self._count

    @property
    def pid(self) -> int | None:
        """The index process, while it runs."""
        return self._child.pid

    def apply(self, items: Sequence[FeedItem]) -> None:
        """See `Index`. Raises SearchUnavailableError also when the process fell back behind: feed it again from there.

        One writer at a time; searches may come between.
        """
        if not items:
            return
        removed = {item.row for item in items if isinstance(item, Remove)}
        added = [item for item in items if isinstance(item, Add) and item.row not in removed]
        if len({item.vector.shape for item in added}) > 1:
            raise InvalidVectorError("vectors of different dimensions")
        vectors = np.stack([item.vector for item in added]) if added else np.empty((0, 0), np.float32)
        with self._lock:
            answer, _ = self._call(
                "apply",
                {
                    "rows": [item.row for item in added],
                    "ordinals": [item.ordinal for item in added],
                    "remove": sorted(removed),
                    "after": self._applied_seq,
                    "last": items[-1].seq,
                },
                [np.asarray(vectors, np.float32).tobytes()],
            )
            self._learn(answer)
        if answer.get("done") is not True:
            raise SearchUnavailableError(f"the index fell back to item {self._applied_seq} of the feed")

    def flush(self) -> int:
        """See `Index`."""
        with self._lock:
            self._learn(self._call("flush", {}, [])[0])
            return self._applied_seq

    def clear(self) -> None:
        """See `Index`."""
        with self._lock:
            self._learn(self._call("clear", {}, [])[0])

    def search(self, vector: NDArray[np.float32], documents: AbstractBitMap, limit: int) -> list[Candidate]:
        """See `Index`."""
        # INVARIANT: no permitted document, no call. An empty filter would select every point.
        if not documents:
            return []
        answer, _ = self._call(
            "search", {"limit": limit}, [np.asarray(vector, np.float32).tobytes(), documents.serialize()]
        )
        rows, ordinals, scores = (answer.get(name) for name in ("rows", "ordinals", "scores"))
        if not (isinstance(rows, list) and isinstance(ordinals, list) and isinstance(scores, list)):
            raise SearchUnavailableError("the index process sent an answer without hits")
        return [Candidate(int(r), int(o), float(s)) for r, o, s in zip(rows, ordinals, scores, strict=True)]

    def close(self) -> None:
        """See `Index`."""
        try:
            if self._child.alive:
                self.flush()
        finally:
            self._child.close()

    def _call(
        self, method: str, params: Mapping[str, object], blobs: Sequence[bytes | memoryview]
    ) -> tuple[dict[str, object], list[bytes]]:
        # A process that died is started again by the next call, and everything it is asked may be asked twice.
        for last in (False, True):
            try:
                return self._child.call(method, params, blobs)
            except ChildRefusedError as err:
                if err.code == "vector":
                    raise InvalidVectorError(str(err)) from err
                raise SearchUnavailableError(str(err)) from err
            except ChildCrashedError as err:
                if last:
                    raise SearchUnavailableError(str(err)) from err
            except ChildError as err:
                raise SearchUnavailableError(str(err)) from err
        raise AssertionError("unreachable")

    def _learn(self, answer: Mapping[str, object]) -> None:
        applied, count = answer.get("applied_seq"), answer.get("count")
        if not isinstance(applied, int) or not isinstance(count, int):
            raise SearchUnavailableError("the index process sent an answer without its state")
        self._applied_seq, self._count = applied, count
