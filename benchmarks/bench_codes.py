"""Which codes: recall and latency of ways to find candidates among permitted chunks, in one process and thread.

Run: `python -m benchmarks.bench_codes [CHUNKS]`; 100,000 by default. Writes `codes.json`. See docs/adr/0006.

Each way keeps some candidates by its codes and compares them by their full vectors. All of them are fixed in advance:
no centroid and no range is learned from the vectors. The calls of all ways take turns; medians; 3 warm-up queries.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import faiss
import numpy as np
import qdrant_edge as qe
from numpy.typing import NDArray

from benchmarks.report import Report
from benchmarks.vectors import DIMENSION, SEED, Vectors, made, real, topics, truth
from service.index.rotation import Rotation

Rows = NDArray[np.int64]
Way = Callable[[Vectors, Rows], Rows]
LIMIT = 10
QUERIES = 40
SHARES = (0.001, 0.01, 0.05, 0.2, 0.5, 1.0)


class Faiss:
    """A flat faiss index of codes, walked under a bitmap or gathered, with full vectors in memory to compare by."""

    def __init__(self, kind: str, vectors: Vectors, keep: int, *, gathered: bool) -> None:
        self.vectors, self.keep, self.gathered = vectors, keep, gathered
        self.rotation = Rotation(DIMENSION)
        self.index, self.parts = _index(kind), _index(kind)
        start = time.perf_counter()
        for at in range(0, len(vectors), 10_000):
            self.index.add(self.rotation.apply(vectors[at : at + 10_000]))
        self.build_s = time.perf_counter() - start
        self.codes = faiss.vector_to_array(self.index.codes).reshape(len(vectors), -1)
        self.parameters = _parameters(kind)

    def __call__(self, query: Vectors, rows: Rows) -> Rows:
        rotated = (query @ self.rotation.matrix).reshape(1, -1)
        keep = min(self.keep, len(rows))
        if self.gathered:
            self.parts.reset()
            self.parts.add_sa_codes(self.codes[rows])
            self.parameters.sel = None
            found = rows[self.parts.search(rotated, keep, params=self.parameters)[1][0]]
        else:
            permitted = np.zeros(len(self.vectors), bool)
            permitted[rows] = True
            packed = np.packbits(permitted, bitorder="little")
            self.parameters.sel = faiss.IDSelectorBitmap(len(packed), faiss.swig_ptr(packed))
            found = self.index.search(rotated, keep, params=self.parameters)[1][0]
        return _rescored(self.vectors, query, found)


def _index(kind: str) -> Any:
    if kind.startswith("rabitq"):
        index: Any = faiss.IndexRaBitQ(DIMENSION, faiss.METRIC_L2, int(kind[-1]))
        index.train(np.zeros((1, DIMENSION), np.float32))
        return index
    wide = {"sq4": 3.2, "sq8": 4.5}[kind] / np.sqrt(DIMENSION)
    size = {"sq4": faiss.ScalarQuantizer.QT_4bit, "sq8": faiss.ScalarQuantizer.QT_8bit}[kind]
    index = faiss.IndexScalarQuantizer(DIMENSION, size, faiss.METRIC_L2)
    ranges = np.concatenate([np.full(DIMENSION, -wide), np.full(DIMENSION, 2 * wide)]).astype(np.float32)
    faiss.copy_array_to_vector(ranges, index.sq.trained)
    index.is_trained = True
    return index


def _parameters(kind: str) -> Any:
    if not kind.startswith("rabitq"):
        return faiss.SearchParameters()
    found = faiss.RaBitQSearchParameters()
    found.qb = 4
    return found


class Edge:
    """Qdrant Edge by the payload index of a document's number, exactly or with its own codes and full vectors."""

    def __init__(self, vectors: Vectors, quantization: Any = None, oversampling: float = 0.0) -> None:
        self.folder = tempfile.mkdtemp(prefix="remit-bench-")
        config = qe.EdgeConfig(
            vectors=qe.EdgeVectorParams(size=DIMENSION, distance=qe.Distance.Dot),
            hnsw_config=qe.HnswIndexConfig(m=0, ef_construct=16, full_scan_threshold=10),
            quantization_config=quantization,
            wal_enabled=False,
        )
        self.shard = qe.EdgeShard.create(self.folder + "/shard", config)
        field = qe.UpdateOperation.create_field_index("d", qe.IntegerIndexParams(lookup=True, range=False))
        self.shard.update(field)
        start = time.perf_counter()
        for at in range(0, len(vectors), 1_000):
            part = vectors[at : at + 1_000].tolist()
            points = [qe.Point(at + n, vector, {"d": (at + n) // 4}) for n, vector in enumerate(part)]
            self.shard.update(qe.UpdateOperation.upsert_points(points))
        self.shard.optimize()
        self.build_s = time.perf_counter() - start
        how = qe.QuantizationSearchParams(ignore=False, rescore=True, oversampling=oversampling)
        self.parameters = qe.SearchParams(exact=True, quantization=how if quantization is not None else None)

    def __call__(self, query: Vectors, rows: Rows) -> Rows:
        documents = np.unique(rows // 4).tolist()
        wanted = qe.Filter(must=[qe.FieldCondition("d", match=qe.MatchAny(documents))])
        request = qe.QueryRequest(
            limit=LIMIT, query=qe.Query.Nearest(query.tolist()), filter=wanted, params=self.parameters
        )
        return np.array([point.id for point in self.shard.query(request)], np.int64)

    def close(self) -> None:
        """Remove everything."""
        self.shard.close()
        shutil.rmtree(self.folder)


def _rescored(vectors: Vectors, query: Vectors, rows: Rows) -> Rows:
    scores = np.einsum("ij,j->i", vectors[rows], query)
    return rows[np.lexsort((rows, -scores))[:LIMIT]]


def _numpy(vectors: Vectors) -> Way:
    return lambda query, rows: truth(vectors, query, rows, LIMIT)


def _ways(vectors: Vectors) -> dict[str, Any]:
    kinds = {"rabitq1": 300, "rabitq2": 100, "rabitq4": 50, "sq4": 100, "sq8": 20}
    ways: dict[str, Any] = {"numpy": _numpy(vectors), "edge_exact": Edge(vectors)}
    ways["edge_int8"] = Edge(vectors, qe.ScalarQuantizationConfig(type=qe.ScalarType.Int8, always_ram=True), 2.0)
    for kind, keep in kinds.items():
        for gathered in (False, True):
            ways[f"{kind}_{'gathered' if gathered else 'masked'}"] = Faiss(kind, vectors, keep, gathered=gathered)
    return ways


def _latency(report: Report, vectors: Vectors, queries: Vectors) -> None:
    ways = _ways(vectors)
    draw = np.random.default_rng(SEED)
    for name, way in ways.items():
        if hasattr(way, "build_s"):
            report.add(f"build_s_{name}", way.build_s, "s")
    for share in SHARES:
        # Whole documents of four chunks are permitted, as the engine's filter has it.
        documents = np.sort(draw.permutation(len(vectors) // 4)[: max(1, int(len(vectors) * share / 4))])
        rows = (documents[:, None] * 4 + np.arange(4)).ravel()
        spent: dict[str, list[float]] = {name: [] for name in ways}
        right: dict[str, list[float]] = {name: [] for name in ways}
        for number, query in enumerate(queries):
            true = set(truth(vectors, query, rows, LIMIT).tolist())
            for name, way in ways.items():
                start = time.perf_counter()
                found = way(query, rows)
                if number >= 3:
                    spent[name].append((time.perf_counter() - start) * 1e3)
                right[name].append(len(true & set(found.tolist())) / len(true))
        for name in ways:
            report.add(f"p50_ms_{name}_{share:g}", statistics.median(spent[name]), "ms", n=len(spent[name]))
            report.add(f"recall_at_10_{name}_{share:g}", statistics.mean(right[name]), "", n=len(queries))
    for way in ways.values():
        if isinstance(way, Edge):
            way.close()


def _real(report: Report) -> None:
    """How many candidates it takes on embeddings of texts, also with the topics nearest to the query hidden."""
    every = real()
    queries, vectors = every[:200], every[200:]
    topic, centres = topics(vectors)
    draw = np.random.default_rng(SEED)
    for kind in ("rabitq1", "rabitq2", "rabitq4", "sq4", "sq8"):
        way = Faiss(kind, vectors, 0, gathered=True)
        for keep in (20, 50, 100, 200, 300, 500):
            way.keep = keep
            found: dict[str, list[float]] = {}
            for query in queries:
                for name, rows in _hidden(query, topic, centres, draw):
                    true = truth(vectors, query, rows, LIMIT)
                    found.setdefault(name, []).append(len(set(true.tolist()) & set(way(query, rows).tolist())) / LIMIT)
            worst = min(found, key=lambda name: statistics.mean(found[name]))
            value = statistics.mean(found[worst])
            report.add(f"real_worst_recall_at_10_{kind}_{keep}", value, f"worst: {worst}", n=len(queries))


def _hidden(
    query: Vectors, topic: NDArray[np.int64], centres: Vectors, draw: np.random.Generator
) -> Iterable[tuple[str, Rows]]:
    nearest = np.argsort(-(centres @ query))
    for count in (3, 15, 30, 50):
        yield f"nearest {count} of 60 topics hidden", np.nonzero(~np.isin(topic, nearest[:count]))[0]
    for share in (0.05, 0.2):
        yield f"{share:g} permitted at random", np.nonzero(draw.random(len(topic)) < share)[0]
    yield "all permitted", np.arange(len(topic))


def main(chunks: int) -> None:
    """Measure and write the report."""
    faiss.omp_set_num_threads(1)
    report = Report("codes", SEED)
    report.add("chunks", chunks, "chunks")
    _latency(report, np.array(made(chunks)), np.array(made(QUERIES, SEED + 1)))
    _real(report)
    report.write()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
