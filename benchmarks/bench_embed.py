"""Embed passages and questions with the service's embedder and with plain float32 torch, side by side.

Run: `python -m benchmarks.bench_embed [--rounds 7]`. Plain means `SentenceTransformer.encode`
at the better of two batch sizes, in a process of its own with the same threads, none of them spinning while they wait
(as in the service; spinning made plain torch slower still on a busy machine). Both embed the same passages in every
round, in turns; numbers are medians over the rounds, after a round to warm up. CPU seconds are those of the processes:
they say what the work costs when other programs slow the clock.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import psutil
import yaml
from numpy.typing import NDArray

from benchmarks.report import Report
from service.embed.embedder import MAX_PASSAGE_TOKENS, ModelEmbedder, _bundled
from service.text.chunk import Chunker

SEED = 20261125
PASSAGES = 16
TOGETHER = 8
BATCHES = (8, 32)
HERE = Path(__file__).parent.parent

PLAIN = """
import json, sys, numpy, torch
from sentence_transformers import SentenceTransformer
torch.set_num_threads(int(sys.argv[2]))
model = SentenceTransformer(sys.argv[1], device="cpu")
stream = open(int(sys.argv[3]), "wb")
for line in sys.stdin:
    texts, size = json.loads(line)
    vectors = model.encode(texts, batch_size=size, normalize_embeddings=True, show_progress_bar=False)
    stream.write(numpy.ascontiguousarray(vectors, "<f4").tobytes())
    stream.flush()
"""


class Plain:
    """Plain float32 torch in a process."""

    def __init__(self, threads: int) -> None:
        received, sent = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", PLAIN, str(_bundled()), str(threads), str(sent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[sent],
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)},
        )
        os.close(sent)
        assert self._process.stdin is not None
        self._to: IO[bytes] = self._process.stdin
        self._from = os.fdopen(received, "rb")
        self.pid = self._process.pid

    def embed(self, texts: Sequence[str], size: int) -> NDArray[np.float32]:
        """Embed `texts` in batches of `size`."""
        self._to.write(json.dumps([list(texts), size]).encode() + b"\n")
        self._to.flush()
        return np.frombuffer(self._from.read(4 * 384 * len(texts)), "<f4").reshape(-1, 384)

    def close(self) -> None:
        """End the process."""
        self._to.close()
        self._process.wait(30)


def passages(rng: random.Random) -> list[str]:
    """Return passages as a sync cuts them: half of the demo's company, half of what Debian's packages document."""
    chunker = Chunker(_bundled() / "tokenizer.json", MAX_PASSAGE_TOKENS)
    company = [p for p in (HERE / "service" / "demo" / "company").rglob("*") if p.suffix in (".md", ".txt", ".html")]
    debian = [p for p in Path("/usr/share/doc").rglob("*") if p.is_file() and 5_000 < p.stat().st_size < 200_000]
    found: list[str] = []
    for paths, wanted in ((sorted(company), PASSAGES // 2), (sorted(debian), PASSAGES)):
        rng.shuffle(paths)
        for path in paths:
            if len(found) >= wanted:
                break
            try:
                data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
                text = data.decode()
            except (OSError, ValueError):
                continue
            cut = chunker.passages(text[:30_000], markdown=path.suffix == ".md")
            found += [passage.text for passage in rng.sample(cut, min(2, len(cut)))]
    return found[:PASSAGES]


def questions() -> list[str]:
    """Return the demo's questions."""
    asked = yaml.safe_load((HERE / "tests" / "demo" / "questions.yaml").read_text())["questions"]
    return [one["question"] for one in asked]


def cpu_s(pid: int) -> float:
    """Return what a process has cost so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def timed(work: Callable[[], object], pid: int) -> tuple[float, float]:
    """Return wall and CPU seconds of `work`, most of which another process does."""
    before, began = cpu_s(pid), time.perf_counter()
    work()
    return time.perf_counter() - began, cpu_s(pid) - before


def at_once(embedder: ModelEmbedder, texts: Sequence[str]) -> None:
    """Ask for each text in a thread of its own, as concurrent callers do."""
    threads = [threading.Thread(target=embedder.embed, args=([text],)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Measure and write `results/embed.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    threads = len(os.sched_getaffinity(0))
    texts, asked = passages(random.Random(SEED)), questions()
    plain, began = Plain(threads), time.perf_counter()
    embedder = ModelEmbedder(None, threads=threads)
    start_s = time.perf_counter() - began
    assert embedder.pid is not None
    cosine = float(np.min(np.sum(embedder.embed(texts) * plain.embed(texts, BATCHES[0]), axis=1)))
    measured: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        one, some = asked[number % len(asked)], [asked[(number * TOGETHER + i) % len(asked)] for i in range(TOGETHER)]
        pid = embedder.pid
        for name, work, who in (
            ("service", lambda: embedder.embed(texts), pid),
            ("plain8", lambda: plain.embed(texts, BATCHES[0]), plain.pid),
            ("plain32", lambda: plain.embed(texts, BATCHES[1]), plain.pid),
            ("service_query", lambda q=one: [embedder.embed([q]) for _ in range(10)], pid),
            ("plain_query", lambda q=one: [plain.embed([q], 1) for _ in range(10)], plain.pid),
            ("service_together", lambda q=some: at_once(embedder, q), pid),
            ("service_in_turn", lambda q=some: [embedder.embed([one]) for one in q], pid),
        ):
            measured.setdefault(name, []).append(timed(work, who))
    plain.close()
    embedder.close()
    wall = {name: statistics.median(pair[0] for pair in pairs) for name, pairs in measured.items()}
    cpu = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in measured.items()}
    baseline = min(("plain8", "plain32"), key=lambda name: cpu[name])

    report = Report("embed", SEED)
    report.add("embed_vs_torch", wall[baseline] / wall["service"], "ratio", ">= 2", rounds)
    report.add("embed_vs_torch_cpu", cpu[baseline] / cpu["service"], "ratio of CPU seconds", ">= 2", rounds)
    report.add("embed_cosine_min", cosine, "cosine", ">= 0.999", len(texts))
    report.add("embed_passages_per_s", len(texts) / wall["service"], "passages/s", n=rounds)
    report.add("embed_torch_passages_per_s", len(texts) / wall[baseline], "passages/s", n=rounds)
    report.add("embed_cpu_ms_per_passage", 1e3 * cpu["service"] / len(texts), "ms", n=rounds)
    report.add("embed_torch_cpu_ms_per_passage", 1e3 * cpu[baseline] / len(texts), "ms", n=rounds)
    report.add("embed_query_p50_ms", 100 * wall["service_query"], "ms", n=10 * rounds)
    report.add("embed_torch_query_p50_ms", 100 * wall["plain_query"], "ms", n=10 * rounds)
    report.add("embed_8_queries_together_ms", 1e3 * wall["service_together"], "ms", n=rounds)
    report.add("embed_8_queries_in_turn_ms", 1e3 * wall["service_in_turn"], "ms", n=rounds)
    report.add("embed_start_s", start_s, "s")
    report.add("embed_load_average", os.getloadavg()[0], "processes, of all that ran here")
    print(report.write())


if __name__ == "__main__":
    main()
