"""Keyword search over made-up chunks: what a search costs at every permitted share, and what the postings take.

Run: `python -m benchmarks.bench_keyword [--chunks 1000000]`. A chunk has about 50 distinct terms, as passages of
Debian's documentation have without stop words, drawn from 400,000 by Zipf's law. A question has one common term (in
some 1 to 30 % of the chunks) and three to six rarer ones. The index process is searched as by the service, its rows
travel with each question; they are spread at random or, with the same count, lie next to each other. A search's time is
that of its caller, medians over the questions; CPU time is that of the process, a mean: it says what a search costs
when other programs slow the clock. The first ten are held against a plain evaluation with the same weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from numpy.typing import NDArray
from pyroaring import BitMap

from benchmarks.report import Report
from service.index.keyword import AddTerms, KeywordIndex
from service.index.postings import Postings, Segment
from service.text.terms import TermHash

SEED: Final = 20261125
VOCABULARY: Final = 400_000
DRAWN: Final = 58
QUESTIONS: Final = 25
SHARES: Final = (0.0001, 0.001, 0.01, 0.1, 0.5, 1.0)
BATCH: Final = 10_000
CHECKED: Final = 3
REPEATS: Final = 61


def batches(chunks: int, numbers: NDArray[np.uint32]) -> Iterator[list[AddTerms]]:
    """Make chunks, some thousand at a time."""
    rng = np.random.default_rng(SEED)
    for start in range(0, chunks, BATCH):
        ranks = np.exp(rng.random((BATCH, DRAWN)) * np.log(VOCABULARY)).astype(np.int64)
        terms = np.sort(numbers[np.minimum(ranks, VOCABULARY - 1)], axis=1)
        first = np.concatenate([np.ones((BATCH, 1), bool), np.diff(terms, axis=1) > 0], axis=1)
        impacts = rng.integers(60, 256, terms.shape, dtype=np.uint8)
        yield [
            AddTerms(start + row + 1, start + row, terms[row][first[row]], impacts[row][first[row]])
            for row in range(min(BATCH, chunks - start))
        ]


def questions() -> list[str]:
    """One common term and some that are rarer, each."""
    rng = np.random.default_rng(SEED + 1)
    found = []
    for _ in range(QUESTIONS):
        rarer = np.exp(rng.uniform(np.log(300), np.log(50_000), rng.integers(3, 7))).astype(int)
        found.append(" ".join(f"t{rank}" for rank in [int(rng.integers(15, 300)), *rarer]))
    return found


def plain(folder: Path, terms: list[int], permitted: BitMap) -> list[int]:
    """The first ten, posting by posting."""
    segments = [Segment.load(path.read_bytes()) for path in sorted(folder.glob("*.segment"), key=lambda p: int(p.stem))]
    scores: dict[int, float] = {}
    for term in sorted(set(terms)):
        hits: list[tuple[int, int]] = []
        for segment in segments:
            for _, where in segment.postings(np.array([term], np.uint32)):
                rows = segment.rows[segment.places[where]].tolist()
                hits += [(r, w) for r, w in zip(rows, segment.impacts[where].tolist(), strict=True) if r in permitted]
        worth = np.log1p((len(permitted) - len(hits) + 0.5) / (len(hits) + 0.5))
        for row, weight in hits:
            scores[row] = scores.get(row, 0.0) + weight * float(worth)
    return sorted(scores, key=lambda row: (-scores[row], row))[:10]


def cpu_s(pid: int) -> float:
    """What a process has cost so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure and write `results/keyword_<chunks>.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--chunks", type=int, default=1_000_000)
    chunks = parser.parse_args().chunks
    label = f"{chunks // 1_000_000}m" if chunks >= 1_000_000 else f"{chunks // 1000}k"
    report = Report(f"keyword_{label}", SEED)
    hashed = TermHash(b"b" * 32)
    numbers = np.array(hashed.numbers(f"t{rank}" for rank in range(VOCABULARY)), np.uint32)
    asked = questions()
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "keywords"
        index = KeywordIndex(folder, incarnation="bench", hashed=hashed, call_timeout_s=600)
        assert index.pid is not None
        began, applied = time.perf_counter(), []
        for batch in batches(chunks, numbers):
            start = time.perf_counter()
            index.apply(batch)
            applied.append((time.perf_counter() - start) / BATCH)
        build_cpu = cpu_s(index.pid)
        index.flush()
        report.add("keyword_build_s", time.perf_counter() - began, "s")
        report.add("keyword_build_cpu_s", build_cpu, "CPU seconds of the index process")
        report.add("keyword_disk_mb", sum(p.stat().st_size for p in folder.iterdir()) / 2**20, "MiB")
        memory = psutil.Process(index.pid).memory_full_info()
        report.add("keyword_anonymous_mb", memory.uss / 2**20, "MiB of the index process, after building")
        rng = np.random.default_rng(SEED + 2)
        spread = rng.permutation(chunks).astype(np.uint32)
        wrong = 0
        for share in SHARES:
            count = max(int(chunks * share), 1)
            block = int(rng.integers(0, chunks - count + 1))
            for name, rows in (("spread", BitMap(spread[:count])), ("block", BitMap(range(block, block + count)))):
                for text in asked[:3]:
                    index.search(text, rows, 50)
                times, before = [], cpu_s(index.pid)
                for text in asked:
                    start = time.perf_counter()
                    index.search(text, rows, 50)
                    times.append(1e3 * (time.perf_counter() - start))
                cost = 1e3 * (cpu_s(index.pid) - before) / len(asked)
                shown = f"{share * 100:g}pct_{name}"
                report.add(f"keyword_p50_ms_{label}_{shown}", statistics.median(times), "ms", "<= 15", len(asked))
                report.add(f"keyword_cpu_ms_{label}_{shown}", cost, "ms of CPU, mean", n=len(asked))
                if share == 0.01:
                    for text in asked[:CHECKED]:
                        terms = hashed.numbers(text.split())
                        wrong += index.search(text, rows, 10) != plain(folder, terms, rows)
        for name, rank in (("rare", 20_000), ("usual", 300), ("common", 20)):
            hidden, absent = _shadow(index, hashed, folder, rank, chunks)
            report.add(f"keyword_hidden_{name}_word_ms", hidden, "ms", n=REPEATS)
            report.add(f"keyword_hidden_{name}_word_vs_absent", hidden / absent, "ratio", "<= 1.2", REPEATS)
        report.add("keyword_top10_differing", wrong, "questions", "0", 2 * CHECKED)
        index.close()
        start = time.perf_counter()
        again = KeywordIndex(folder, incarnation="bench", hashed=hashed)
        report.add("keyword_restart_s", time.perf_counter() - start, "s")
        assert again.count == chunks
        again.close()
        held = Postings({int(p.stem): Segment.load(p.read_bytes()) for p in folder.glob("*.segment")})
        entries = sum(len(one.places) for one in held.segments.values())
        report.add("keyword_postings_mb", held.size_bytes / 2**20, "MiB of arrays")
        report.add("keyword_terms_per_chunk", entries / chunks, "distinct terms")
        sample = numbers[[20, 100, 1000, 10_000, 100_000]].tolist()
        report.add("keyword_roaring_bytes_per_posting", _roaring(held, sample), "bytes, rows alone, five terms")
    report.add("keyword_load_average", os.getloadavg()[0], "processes, of all that ran here")
    print(report.write())


def _shadow(index: KeywordIndex, hashed: TermHash, folder: Path, rank: int, chunks: int) -> tuple[float, float]:
    """How long a search takes with a word that only hidden chunks have, and with one that nobody has, interleaved.

    A tenth of the chunks is permitted, all of them without the word.
    """
    having = BitMap()
    for path in folder.glob("*.segment"):
        segment = Segment.load(path.read_bytes())
        for _, where in segment.postings(np.array(hashed.numbers([f"t{rank}"]), np.uint32)):
            having.update(segment.rows[segment.places[where]].tolist())
    rng = np.random.default_rng(SEED + 3)
    rows = BitMap(rng.permutation(chunks)[: chunks // 5].astype(np.uint32).tolist()) - having
    rows = BitMap(list(rows)[: chunks // 10])
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for kept, word in zip(times, (f"t{rank}", "nowhere"), strict=True):
            start = time.perf_counter()
            index.search(f"t500 t5000 t50000 {word}", rows, 50)
            kept.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def _roaring(held: Postings, terms: list[int]) -> float:
    """What the rows of some terms would take in roaring bitmaps, which hold no impacts."""
    size = count = 0
    for term in terms:
        rows = BitMap()
        for segment in held.segments.values():
            for _, where in segment.postings(np.array([term], np.uint32)):
                rows.update(segment.rows[segment.places[where]].tolist())
        rows.run_optimize()
        size, count = size + len(rows.serialize()), count + len(rows)
    return size / max(count, 1)


if __name__ == "__main__":
    main()
