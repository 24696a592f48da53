"""pgvector made to look far enough to find what Remit finds: what an answer of like recall costs it.

With its defaults it is often quick because it finds little. Here it gets more effort, step by step, until it finds 99 %
of the ten nearest, for each policy and caller; the first effort that does is what is compared. A search gets two
seconds.
"""

from __future__ import annotations

import statistics
import time
from typing import Final

from benchmarks.peers import Postgres
from benchmarks.permissions import Organisation
from benchmarks.truth import LIMIT, Rows, quality
from benchmarks.vectors import Vectors

RECALL: Final = 0.99
QUERIES: Final = 12
_EFFORTS: Final = ((40, 20_000, 1), (100, 20_000, 2), (200, 100_000, 8), (400, 1_000_000, 32), (1_000, 10_000_000, 64))
"""Candidates kept, tuples looked at, memory in multiples of `work_mem`: the first two are how pgvector comes."""
_POLICIES: Final = ("join", "array")
_FROM: Final = 0.01

Metrics = dict[str, tuple[float, str, str, int]]


def measure(
    vectors: Vectors, organisation: Organisation, asked: dict[str, Vectors], true: dict[str, Rows], server: Postgres
) -> Metrics:
    """Latency of the first effort that finds enough, by policy and caller with 1 % and more; and whether one does."""
    found: Metrics = {}
    for policy in _POLICIES:
        session = server.policy(policy)
        for name, caller in organisation.callers.items():
            if caller.share < _FROM:
                continue
            queries = asked[name][:QUERIES]
            session.enter(caller)
            reached = False
            for effort in _EFFORTS:
                session.effort(*effort)
                session.search(queries[0])
                spent, answers = [], []
                for query in queries:
                    start = time.perf_counter()
                    answers.append(session.search(query)[:LIMIT])
                    spent.append((time.perf_counter() - start) * 1e3)
                recall = quality(vectors, queries, true[name][: len(queries)], answers).recall
                if recall >= RECALL:
                    reached = True
                    break
            where = f"pgvector_{policy}_{len(vectors)}_{name}"
            found[f"reaches_recall_{where}"] = (reached, "", "", len(queries))
            found[f"effort_at_like_recall_{where}"] = (effort[0], "ef_search", "", len(queries))
            found[f"best_recall_{where}"] = (recall, "", "", len(queries))
            found[f"ms_at_like_recall_{where}"] = (statistics.median(spent), "ms", "", len(queries))
        session.close()
    return found


def ratios(metrics: Metrics) -> Metrics:
    """How many times longer than Remit the quicker policy takes to find as much, by share; none where none finds it."""
    found: Metrics = {}
    for name, (ours, _, _, n) in metrics.items():
        if not name.startswith("p50_ms_remit_"):
            continue
        where = name.removeprefix("p50_ms_remit_")
        times = [
            metrics[f"ms_at_like_recall_pgvector_{policy}_{where}"][0]
            for policy in _POLICIES
            if metrics.get(f"reaches_recall_pgvector_{policy}_{where}", (False,))[0]
        ]
        if times:
            found[f"vs_pgvector_rls_at_like_recall_{where}"] = (min(times) / ours, "x", "", n)
    return found
