"""The client of the index process: starts it, speaks to it, and turns what goes wrong into the service's errors.

The shard, its lock and its state belong to `service.index.edge_process`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import AbstractBitMap

from service.embed.turns import Turns
from service.errors import SearchUnavailableError, StartError
from service.index.base import Add, Candidate, FeedItem, InvalidVectorError, Proposal, Remove
from service.index.planner import SearchPath, Tuning, plan
from service.process import Child, ChildCrashedError, ChildError, ChildRefusedError

_START_S: Final = 900.0
"""How long the process may take to read all vectors and make their codes: about half a minute a million."""

_GRAPH_START_S: Final = 4 * 3600.0
"""And to build a graph when there was none: about ten minutes a million."""

_PIECE: Final = 100
"""How many chunks go to the process at once: a search waits for no more than these."""

_WASTE: Final = 20_000
"""Fewer removed chunks are no reason to make the index anew."""

_SLICE: Final = 10_000
"""How many chunks are compared exactly in one call, for the same reason."""

_DEFAULT: Final = Tuning()


class EdgeIndex:
    """An `Index` on Qdrant Edge and quantized codes, in a process of its own.

    folder: made when it does not exist; emptied when it belongs to another incarnation or dimension.
    incarnation: that of the catalog. dimension: of the vectors.
    Raises StartError when another process holds the folder or the process does not start.
    """

    def __init__(
        self,
        folder: Path,
        *,
        incarnation: str,
        dimension: int,
        tuning: Tuning = _DEFAULT,
        call_timeout_s: float = 60.0,
    ) -> None:
        self._incarnation = incarnation
        self._dimension = dimension
        self._tuning = tuning
        self._lock = threading.Lock()
        self._turns = Turns(patience_s=0.01)
        self._searched_at = time.monotonic()
        self._child = Child(
            "service.index.edge_process",
            args=[
                str(folder.absolute()),
                *(incarnation, str(dimension), str(tuning.bits), str(tuning.scanners)),
                *(["graph"] if tuning.approximate else []),
            ],
            name="index",
            call_timeout_s=call_timeout_s,
            start_timeout_s=_GRAPH_START_S if tuning.approximate else _START_S,
            # The scan has threads of its own; those of these libraries would only get in their way.
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            self._child.start()
            self._applied_seq = self._count = self._removed = self._process = 0
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
    def wasteful(self) -> bool:
        """Whether so much was removed that making the index anew pays."""
        return self._removed > max(_WASTE, self._count // 2)

    @property
    def quiet_s(self) -> float:
        """See `Index`."""
        return time.monotonic() - self._searched_at

    @property
    def pid(self) -> int | None:
        """The index process, while it runs."""
        return self._child.pid

    def recover(self) -> None:
        """See `Index`."""
        with self._lock:
            if self._child.pid != self._process:
                self._learn(self._call("state", {}, [])[0])

    def apply(self, items: Sequence[FeedItem]) -> None:
        """See `Index`. Raises SearchUnavailableError also when the process fell back behind: feed it again from there.

        One writer at a time; searches come between the pieces of it.
        """
        if not items:
            return
        removed = {item.row for item in items if isinstance(item, Remove)}
        added = [item for item in items if isinstance(item, Add) and item.row not in removed]
        for item in added:
            check(item.vector, self._dimension)
        with self._lock:
            # A row takes about a millisecond to find its place in a graph.
            size = _PIECE // 4 if self._tuning.approximate else _PIECE
            for start in range(0, max(len(added), 1), size):
                piece = added[start : start + size]
                done = start + size >= len(added)
                # INVARIANT: the place in the feed moves with the last piece, and only in the process that has the
                # others: what was not applied comes again.
                last = items[-1].seq if done else self._applied_seq
                self._apply(piece, removed if done else set(), last, self._process if start else 0)

    def _apply(self, added: Sequence[Add], removed: set[int], last: int, process: int) -> None:
        vectors = np.stack([item.vector for item in added]) if added else np.empty((0, self._dimension), np.float32)
        rows = np.array([item.row for item in added], np.uint32)
        params = {"remove": sorted(removed), "after": self._applied_seq, "last": last, "process": process}
        with self._turns.take(ahead=False):
            answer, _ = self._call("apply", params, [rows.tobytes(), vectors.astype(np.float32).tobytes()])
        self._learn(answer)
        if answer.get("done") is not True:
            raise SearchUnavailableError(f"the index fell back to item {self._applied_seq} of the feed")

    def flush(self) -> int:
        """See `Index`."""
        with self._lock, self._turns.take(ahead=False):
            self._learn(self._call("flush", {}, [])[0])
            return self._applied_seq

    def clear(self) -> None:
        """See `Index`."""
        with self._lock:
            self._learn(self._call("clear", {}, [])[0])

    def search(
        self,
        vector: NDArray[np.float32],
        rows: AbstractBitMap,
        limit: int,
        *,
        exact: bool = False,
        approximate: bool = False,
    ) -> Proposal:
        """See `Index`."""
        chosen = plan(len(rows), self._count, limit, self._tuning, exact=exact, approximate=approximate)
        # INVARIANT: nothing permitted, no call.
        if chosen.path is SearchPath.NONE:
            return Proposal((), chosen.path, chosen.why, 0, 0)
        check(vector, self._dimension)
        query = np.asarray(vector, np.float32).tobytes()
        if chosen.path is SearchPath.EXACT:
            found, scored = self._exact(query, rows, limit)
            return Proposal(tuple(found), chosen.path, chosen.why, len(rows), scored)
        blobs = [query, rows.serialize()]
        why = chosen.why
        if chosen.reach:
            found, scored = self._hits("approximate", {"limit": limit, "reach": chosen.reach}, blobs)
            if len(found) == limit:
                return Proposal(tuple(found), SearchPath.GRAPH, "approximate was asked for", len(rows), scored)
            why = "too few of what the graph found are permitted"
        params = {"limit": limit, "keep": chosen.keep, "masked": chosen.path is SearchPath.MASKED}
        found, scored = self._hits("search", params, blobs)
        return Proposal(tuple(found), chosen.path, why, len(rows), scored)

    def _exact(self, query: bytes, rows: AbstractBitMap, limit: int) -> tuple[list[Candidate], int]:
        every = np.frombuffer(rows.to_array(), np.uint32)
        best: list[Candidate] = []
        scored = 0
        for start in range(0, len(every), _SLICE):
            piece = every[start : start + _SLICE].tobytes()
            found, count = self._hits("score", {"limit": limit}, [query, piece])
            best = sorted([*best, *found], key=lambda hit: (-hit.score, hit.row))[:limit]
            scored += count
        return best, scored

    def _hits(self, method: str, params: Mapping[str, object], blobs: Sequence[bytes]) -> tuple[list[Candidate], int]:
        with self._turns.take(ahead=True):
            answer, _ = self._call(method, params, blobs)
            self._searched_at = time.monotonic()
        rows, scores, scored = (answer.get(name) for name in ("rows", "scores", "scored"))
        if not (isinstance(rows, list) and isinstance(scores, list) and isinstance(scored, int)):
            raise SearchUnavailableError("the index process sent an answer without hits")
        return [Candidate(int(row), float(score)) for row, score in zip(rows, scores, strict=True)], scored

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
        numbers = [answer.get(name) for name in ("applied_seq", "count", "removed", "process")]
        applied, count, removed, process = (one if isinstance(one, int) else -1 for one in numbers)
        if min(applied, count, removed, process) < 0:
            raise SearchUnavailableError("the index process sent an answer without its state")
        self._applied_seq, self._count, self._removed, self._process = applied, count, removed, process


def check(vector: NDArray[np.float32], dimension: int) -> None:
    """Raise InvalidVectorError unless it is a vector of this dimension whose numbers are finite.

    The engine would take NaN without a word, and rank by it.
    """
    if vector.shape != (dimension,):
        raise InvalidVectorError(f"a vector of {vector.size} numbers, and the index has {dimension}")
    if not np.isfinite(vector).all():
        raise InvalidVectorError("a vector holds a number that is not finite")
