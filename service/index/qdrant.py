"""An `Index` over a Qdrant server or cluster: vectors stand there, the codes that are scanned stand here.

A search scans the codes in this process, under the caller's rows, and fetches the vectors of the best by their ids: the
server sees neither the question nor a filter, and nothing rests on one. With `server_side` no vector comes back: the
server compares the permitted rows by their ids, and who may read more of them than can be named is refused.

One collection for each incarnation of a catalog, so that a restored one never meets the rows of another. A point with a
fixed id holds the state: how far in the feed, how many rows, and their sum. It is written after the rows it speaks of;
a collection whose rows are not those of its state is emptied, and the feed fills it again.

docs/adr/0018. How a server is reached is `connect`; what there is to say about one, `service.index.qdrant_check`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray
from pyroaring import AbstractBitMap, BitMap
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from connectors.secret import SecretError, read_secret
from service.errors import SearchUnavailableError, StartError
from service.index.base import Add, Candidate, FeedItem, Proposal, Remove
from service.index.codes import Codes
from service.index.edge import check
from service.index.planner import SearchPath, Tuning, plan
from service.index.qdrant_settings import QdrantSettings

FORMAT: Final = 1
STATE_ID: Final = "00000000-0000-0000-0000-000000000001"  # rows are numbers, so it is none of them
VECTOR: Final = "chunk"
MOST_NAMED: Final = 50_000
"""So many rows are named to a server, in pieces; a caller who may read more is refused where vectors stay there."""

_FETCHED: Final = 1_000
"""More vectors than these are never fetched for one search only because few are permitted: codes come first."""

_PIECE: Final = 500
_SLICE: Final = 10_000
_PAGE: Final = 1_000

Rows = NDArray[np.uint32]
Vectors = NDArray[np.float32]


def connect(settings: QdrantSettings) -> QdrantClient:
    """Open a client over gRPC; nothing is called yet. Raises StartError when the key cannot be read."""
    try:
        key = None if settings.api_key is None else read_secret(settings.api_key)
    except SecretError as err:
        raise StartError(f"`index.api_key`: {err}") from err
    return QdrantClient(
        host=settings.host,
        grpc_port=settings.port,
        https=settings.tls,
        api_key=key,
        prefer_grpc=True,
        timeout=int(settings.timeout.total_seconds()),
        check_compatibility=False,  # it would ask another port
        grpc_options={"grpc.enable_http_proxy": 0},
    )


class QdrantIndex:
    """An `Index`. client: closed with it. collection: the incarnation is added to its name.

    server_side: vectors never leave the server. Raises StartError when it cannot be reached or used.
    """

    def __init__(
        self,
        client: QdrantClient,
        *,
        collection: str,
        incarnation: str,
        dimension: int,
        tuning: Tuning,
        server_side: bool = False,
    ) -> None:
        self._client = client
        self._collection = f"{collection}-{incarnation}"
        self._identity = {"format": FORMAT, "incarnation": incarnation, "dimension": dimension}
        self._incarnation = incarnation
        self._dimension = dimension
        self._tuning = replace(tuning, exact_below=min(tuning.exact_below, _FETCHED))
        self._server_side = server_side
        self._writing = threading.Lock()
        self._scanning = threading.Lock()
        self._searched_at = time.monotonic()
        self._doubted = False
        self._applied_seq = 0
        self._held = BitMap()
        self._codes: Codes | None = None
        try:
            self._open()
        except SearchUnavailableError as err:
            client.close()
            raise StartError(f"the index on the Qdrant server cannot be opened: {err}") from err

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
        return len(self._held)

    @property
    def quiet_s(self) -> float:
        """See `Index`."""
        return time.monotonic() - self._searched_at

    def _open(self) -> None:
        """Read what is there, make the codes of it, and empty it unless it is exactly what its state says."""
        with _asking():
            if not self._client.collection_exists(self._collection):
                self._create()
            self._check_limits(self._client.get_collection(self._collection).config.strict_mode_config)
            known = self._client.retrieve(self._collection, [STATE_ID], with_payload=True)
            held, codes = self._read()
        state: Mapping[str, Any] = (known[0].payload or {}) if known else {}
        applied = state.get("applied_seq")
        if type(applied) is not int or dict(state) != self._state(applied, held):
            codes.close()
            self._empty()
            return
        self._take(applied, held, codes)

    def _check_limits(self, limits: models.StrictModeConfigOutput | None) -> None:
        """Refuse a server whose strict mode forbids what is asked of it, before a search finds out."""
        if limits is None or not limits.enabled or not self._server_side:
            return
        if limits.search_allow_exact is False:
            raise StartError("the Qdrant server forbids exact searches (`search_allow_exact`): allow them there")
        if limits.condition_max_size is not None and limits.condition_max_size < _SLICE:
            raise StartError(f"the Qdrant server's `condition_max_size` is less than {_SLICE}: raise it there")

    def _read(self) -> tuple[BitMap, Codes]:
        codes = Codes(self._dimension, bits=self._tuning.bits, threads=self._tuning.scanners)
        held, offset = BitMap(), None
        while True:
            points, offset = self._client.scroll(
                self._collection,
                limit=_PAGE,
                offset=offset,
                with_payload=False,
                with_vectors=False if self._server_side else [VECTOR],
            )
            found = sorted((point for point in points if isinstance(point.id, int)), key=lambda point: int(point.id))
            rows = np.array([point.id for point in found], np.uint32)
            held.update(BitMap(rows))
            if not self._server_side:
                codes.put(rows, self._matrix(found))
            if offset is None:
                return held, codes

    def _matrix(self, points: Sequence[Any]) -> Vectors:
        vectors = [point.vector[VECTOR] for point in points]
        return np.array(vectors, np.float32).reshape(len(points), self._dimension)

    def _create(self) -> None:
        # m=0: no graph, because one shows what is hidden.
        self._client.create_collection(
            self._collection,
            vectors_config={VECTOR: models.VectorParams(size=self._dimension, distance=models.Distance.DOT)},
            hnsw_config=models.HnswConfigDiff(m=0),
        )

    def _empty(self) -> None:
        with _asking():
            self._client.delete_collection(self._collection)
            self._create()
        self._take(0, BitMap(), Codes(self._dimension, bits=self._tuning.bits, threads=self._tuning.scanners))

    def _take(self, applied: int, held: BitMap, codes: Codes) -> None:
        with self._scanning:
            if self._codes is not None:
                self._codes.close()
            self._applied_seq, self._held, self._codes, self._doubted = applied, held, codes, False

    def _state(self, applied: int, held: BitMap) -> dict[str, object]:
        rows = np.frombuffer(held.to_array(), np.uint32)
        return {**self._identity, "applied_seq": applied, "count": len(held), "sum": int(rows.sum(dtype=np.uint64))}

    def recover(self) -> None:
        """See `Index`: read everything again, once the server turned out to have lost something."""
        if self._doubted:
            with self._writing:
                self._open()

    def apply(self, items: Sequence[FeedItem]) -> None:
        """See `Index`. One writer at a time; searches go on meanwhile."""
        if not items:
            return
        removed = {item.row for item in items if isinstance(item, Remove)}
        added = [item for item in items if isinstance(item, Add) and item.row not in removed]
        for item in added:
            check(item.vector, self._dimension)
        added.sort(key=lambda item: item.row)
        with self._writing:
            for start in range(0, max(len(added), 1), _PIECE):
                done = start + _PIECE >= len(added)
                # The place in the feed moves with the last piece, so that a piece that is missing comes again.
                last = max(self._applied_seq, items[-1].seq) if done else self._applied_seq
                self._apply(added[start : start + _PIECE], removed if done else set(), last)

    def _apply(self, added: Sequence[Add], removed: set[int], last: int) -> None:
        held = (self._held | BitMap(item.row for item in added)) - BitMap(removed)
        points = [models.PointStruct(id=item.row, vector={VECTOR: item.vector.tolist()}) for item in added]
        steps: list[Any] = []
        if points:
            steps.append(models.UpsertOperation(upsert=models.PointsList(points=points)))
        if removed:
            steps.append(models.DeleteOperation(delete=models.PointIdsList(points=sorted(removed))))
        # Gone here before it is gone there: a search in between must not take it for lost. When the call below fails,
        # the same items come again.
        with self._scanning:
            self._held = self._held - BitMap(removed)
            if self._codes is not None:
                self._codes.remove(removed)
        state = models.PointStruct(id=STATE_ID, vector={}, payload=self._state(last, held))
        steps.append(models.UpsertOperation(upsert=models.PointsList(points=[state])))
        with _asking():
            self._client.batch_update_points(self._collection, steps, wait=True)
        with self._scanning:
            if self._codes is not None and not self._server_side:
                rows = np.array([item.row for item in added], np.uint32)
                if added:
                    self._codes.put(rows, np.stack([item.vector for item in added]).astype(np.float32))
            self._held, self._applied_seq = held, last

    def flush(self) -> int:
        """See `Index`: what the server acknowledged is in its log."""
        return self._applied_seq

    def clear(self) -> None:
        """See `Index`."""
        with self._writing:
            self._empty()

    def search(
        self,
        vector: NDArray[np.float32],
        rows: AbstractBitMap,
        limit: int,
        *,
        exact: bool = False,
        approximate: bool = False,
    ) -> Proposal:
        """See `Index`. There is no graph, so `approximate` changes nothing."""
        chosen = plan(len(rows), self.count, limit, self._tuning, exact=exact or self._server_side)
        # INVARIANT: nothing permitted, no call.
        if chosen.path is SearchPath.NONE:
            return Proposal((), chosen.path, chosen.why, 0, 0)
        check(vector, self._dimension)
        query = np.asarray(vector, np.float32)
        if self._server_side and len(rows) > MOST_NAMED:
            # By their number alone: how they lie between hidden rows must not decide who is answered.
            raise SearchUnavailableError(
                f"the caller may read {len(rows)} passages, more than the {MOST_NAMED} that can be named to the Qdrant "
                "server, and `index.server_side` keeps vectors there: name sources in the search, or unset it"
            )
        with self._scanning:
            held = self._held
            if chosen.path is SearchPath.EXACT or self._codes is None:
                wanted = list(rows & held)
            else:
                wanted = self._codes.nearest(query, rows, chosen.keep, masked=chosen.path is SearchPath.MASKED)
        best: list[Candidate] = []
        for start in range(0, len(wanted), _SLICE):
            part = wanted[start : start + _SLICE]
            found = self._compared(query, part, limit) if self._server_side else self._fetched(query, part)
            best = sorted([*best, *found], key=lambda hit: (-hit.score, hit.row))[:limit]
        self._searched_at = time.monotonic()
        return Proposal(tuple(best), chosen.path, chosen.why, len(rows), len(wanted))

    def _fetched(self, query: Vectors, wanted: Sequence[int]) -> list[Candidate]:
        """Fetch vectors and compare them here, row by row: a score does not depend on what is compared beside it."""
        with _asking():
            points = self._client.retrieve(self._collection, list(wanted), with_payload=False, with_vectors=[VECTOR])
        self._check({int(point.id) for point in points}, set(wanted), whole=True)
        scores = np.clip((self._matrix(points) * query).sum(axis=1), -1.0, 1.0)
        return [Candidate(int(point.id), float(score)) for point, score in zip(points, scores, strict=True)]

    def _compared(self, query: Vectors, wanted: Sequence[int], limit: int) -> list[Candidate]:
        """Let the server compare; see `service.index.edge_process` for why all equals of the last are asked for."""
        # INVARIANT: the filter is not empty. A server's empty filter would select every point.
        named = models.Filter(must=[models.HasIdCondition(has_id=list(wanted))])
        asked = limit + 1
        while True:
            with _asking():
                points = self._client.query_points(
                    self._collection,
                    query=query.tolist(),
                    using=VECTOR,
                    query_filter=named,
                    limit=asked,
                    with_payload=False,
                    search_params=models.SearchParams(exact=True),
                ).points
            if len(points) < asked or points[limit - 1].score != points[-1].score:
                break
            asked *= 4
        self._check({int(point.id) for point in points}, set(wanted), whole=len(wanted) <= limit)
        return [Candidate(int(point.id), min(1.0, max(-1.0, float(point.score)))) for point in points]

    def _check(self, found: set[int], wanted: set[int], *, whole: bool) -> None:
        """The second wall: nothing that was not asked for. And nothing missing, except what was just removed."""
        if not found <= wanted:
            raise SearchUnavailableError("the Qdrant server returned a chunk outside the permitted ones")
        if whole and BitMap(wanted - found) & self._held:
            self._doubted = True
            raise SearchUnavailableError("the Qdrant server has lost passages; the index is read again")

    def close(self) -> None:
        """See `Index`."""
        self._client.close()
        if self._codes is not None:
            self._codes.close()


@contextmanager
def _asking() -> Iterator[None]:
    """Turn what a client raises into the service's error; never the server's own words, which may hold anything."""
    try:
        yield
    except grpc.RpcError as err:
        code = err.code().name if hasattr(err, "code") else type(err).__name__
        raise SearchUnavailableError(f"the Qdrant server does not answer: {code}") from err
    except (ApiException, OSError, RuntimeError, ValueError) as err:
        raise SearchUnavailableError(f"the Qdrant server does not answer: {type(err).__name__}") from err
