"""`Search` over gRPC from end to end: the whole service with the real index and audit log, and callers in a process of
their own (`benchmarks.callers`).

Run: `make bench-search`, or `python -m benchmarks.end_to_end [--quick]`. Writes `search.json`, in about two minutes.
`bench_retrieval` does the same as one of its parts.

The service is that of the tests (`tests.service.harness`): everything is real but the source, which is in memory, and
the embedding, a hash, whose time is counted apart. So what is left beside the index is the service's own overhead:
gRPC, the token, the directory, the permissions, the catalog, opening passages, and the audit record made durable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.callers import WORDS
from benchmarks.report import Report

Metrics = dict[str, tuple[float, str, str, int]]

_CALLERS: Final = (1, 8, 32)
_SEED: Final = 1


def report(*, quick: bool) -> None:
    """Measure and write the report of it."""
    found = measure(quick=quick)
    written = Report("search_quick" if quick else "search", _SEED)
    for name, (value, unit, target, n) in found.items():
        written.add(name, value, unit, target, n)
    written.write()


def measure(*, quick: bool) -> Metrics:
    """Latency and throughput by the number of callers, hybrid and by meaning alone, and the overhead at one."""
    return asyncio.run(_measure(500 if quick else 4_000, 2.0 if quick else 8.0))


async def _measure(documents: int, seconds: float) -> Metrics:
    from service.authn import Authenticator
    from service.identity.callers import Callers
    from service.index.planner import Tuning
    from tests.service.harness import EVERYBODY, FINANCE, SALES, allow, serving

    draw = random.Random(_SEED)
    found: Metrics = {}
    with tempfile.TemporaryDirectory(prefix="remit-bench-") as folder:
        async with serving(Path(folder) / "remit", edge=True, tuning=Tuning()) as service:
            for number in range(documents):
                text = "\n\n".join(" ".join(draw.choices(WORDS, k=40)) for _ in range(5))
                service.add(f"d{number:05}", text, allow(draw.choice([SALES, FINANCE, EVERYBODY])))
            service.sync()
            token = service.token("alice")
            for mode, prefix in (("hybrid", "search"), ("dense", "search_dense")):
                for callers in _CALLERS:
                    command = [sys.executable, "-m", "benchmarks.callers", str(service.callers), str(callers)]
                    spent, took_s = await asyncio.to_thread(_call, [*command, str(seconds), mode], token)
                    found[f"{prefix}_p50_ms_{callers}"] = (statistics.median(spent), "ms", "", len(spent))
                    found[f"{prefix}_p95_ms_{callers}"] = (float(np.percentile(spent, 95)), "ms", "", len(spent))
                    found[f"{prefix}_qps_{callers}"] = (len(spent) / took_s, "1/s", "", len(spent))
            # The parts that are not overhead, measured alone over the same data.
            subject = Authenticator(service.config.issuers, now=service.clock).authenticate(f"Bearer {token}")
            caller = Callers(service.identity, service.access.latest).resolve(subject).resolved.caller
            with service.access.snapshot() as snapshot:
                rows = snapshot.permitted(caller, frozenset()).chunks
            embed, engine = [], []
            for _ in range(300):
                start = time.perf_counter()
                vector = service.embedder.embed([" ".join(draw.choices(WORDS, k=6))])[0]
                between = time.perf_counter()
                service.index.search(vector, rows, 20)
                embed.append((between - start) * 1e3)
                engine.append((time.perf_counter() - between) * 1e3)
    found["search_embed_p50_ms"] = (statistics.median(embed), "ms", "", len(embed))
    found["search_engine_p50_ms"] = (statistics.median(engine), "ms", "", len(engine))
    # Of a search by meaning alone: what a hybrid one asks the keyword index beside it is not overhead.
    overhead = found["search_dense_p50_ms_1"][0] - statistics.median(embed) - statistics.median(engine)
    found["overhead_p50_ms"] = (overhead, "ms", "<= 3", found["search_dense_p50_ms_1"][3])
    return found


def _call(command: list[str], token: str) -> tuple[list[float], float]:
    root = Path(__file__).parent.parent
    done = subprocess.run(command, input=token, capture_output=True, text=True, check=True, cwd=root)
    answer = json.loads(done.stdout)
    return answer["spent_ms"], answer["seconds"]


if __name__ == "__main__":
    _parser = argparse.ArgumentParser()
    _parser.add_argument("--quick", action="store_true", help="fewer documents and seconds")
    report(quick=_parser.parse_args().quick)
