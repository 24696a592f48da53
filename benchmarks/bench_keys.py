"""Keys, measured: sealing and opening, a start with the keys of a million documents, re-wrapping.

    python -m benchmarks.bench_keys [--documents 1000000]

Encryption is measured alone, and as the catalog seals passages: with their hash, headings and count of uses. These are
times on the processor, because others may use the machine; rates are by the clock. A store is opened in a process of
its own, so that nothing is warm but the file system's cache.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.memory import peak_mb
from benchmarks.report import Report
from service.keys import Custody, FileKey, KeyStore, associated, create_key_file, envelope
from service.stores.sealing import DocumentSeal

SEED: Final = 13
_ROUNDS: Final = 7
_CREATED_AT_ONCE: Final = 10_000
_OPENED: Final = 8_000
_REWRAPPED_AT_ONCE: Final = 50_000


def main() -> None:
    """Measure, print and write `benchmarks/results/keys.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    documents: int = parser.parse_args().documents
    report = Report("keys", SEED)
    with tempfile.TemporaryDirectory(prefix="remit-bench-keys-") as folder:
        create_key_file(Path(folder) / "kek")
        store = KeyStore(Path(folder) / "keys.sqlite", FileKey(Path(folder) / "kek"))
        store.add_source("company")
        _sealing(report, store)
        _many(report, store, documents)
        store.close()
        _start(report, Path(folder), documents)
    report.write()


def _sealing(report: Report, store: KeyStore) -> None:
    store.create("company", ["document"])
    seal = DocumentSeal(store, store.ciphers("company", ["document"])["document"], "company", "document")
    rng = random.Random(SEED)
    for size in (1536, 65536):
        text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=size))
        sealed = seal.seal_body(1, 0, text, ())
        count = max(200, 20_000_000 // size)
        for name, work in (
            ("seal", lambda text=text: seal.seal_body(1, 0, text, ())),
            ("open", lambda sealed=sealed: seal.open_body(1, 0, sealed)),
        ):
            each = _median_s(work, count)
            # A passage is hashed, framed and counted besides.
            report.add(f"{name}_passage_us_per_kb_{size}", each * 1e6 / (size / 1024), "us/KB", n=_ROUNDS * count)
        cipher, plain, place = AESGCM(os.urandom(32)), text.encode(), associated("company", "document", "passage", 1, 0)
        ciphertext = envelope.seal(cipher, plain, place)
        for name, alone in (
            ("encrypt", lambda c=cipher, p=plain, a=place: envelope.seal(c, p, a)),
            ("decrypt", lambda c=cipher, s=ciphertext, a=place: envelope.unseal(c, s, a)),
        ):
            each = _median_s(alone, count)
            report.add(f"{name}_us_per_kb_{size}", each * 1e6 / (size / 1024), "us/KB", "<= 2", _ROUNDS * count)
    vector = np.random.default_rng(SEED).standard_normal(384).astype(np.float32)
    sealed_vector = seal.seal_vector(1, 0, vector)
    report.add("seal_vector_us", _median_s(lambda: seal.seal_vector(1, 0, vector), 5000) * 1e6, "us", n=_ROUNDS * 5000)
    report.add(
        "open_vector_us", _median_s(lambda: seal.open_half(1, 0, sealed_vector), 5000) * 1e6, "us", n=_ROUNDS * 5000
    )
    store.save_uses()


def _median_s(work: Callable[[], object], count: int) -> float:
    """The median over rounds of the mean time of one call on the processor; one round before them warms up."""
    times = []
    for _ in range(_ROUNDS + 1):
        began = time.thread_time()
        for _ in range(count):
            work()
        times.append((time.thread_time() - began) / count)
    return statistics.median(times[1:])


def _many(report: Report, store: KeyStore, documents: int) -> None:
    names = [f"{number:024x}" for number in range(documents)]
    random.Random(SEED).shuffle(names)
    began = time.perf_counter()
    for start in range(0, documents, _CREATED_AT_ONCE):
        store.create("company", names[start : start + _CREATED_AT_ONCE])
    report.add("create_keys_per_second", documents / (time.perf_counter() - began), "1/s", n=documents)
    size = sum(path.stat().st_size for path in store.path.parent.glob("keys.sqlite*"))
    report.add("key_store_bytes_per_document", size / documents, "B", n=documents)
    wanted = names[:_OPENED]
    began = time.perf_counter()
    store.ciphers("company", wanted)
    report.add("open_key_cold_us", (time.perf_counter() - began) / len(wanted) * 1e6, "us", n=len(wanted))
    began = time.perf_counter()
    store.ciphers("company", wanted)
    report.add("open_key_cached_us", (time.perf_counter() - began) / len(wanted) * 1e6, "us", n=len(wanted))

    custody = Custody(store)
    began = time.perf_counter()
    custody.rotate()
    report.add("rotate_s", time.perf_counter() - began, "s")
    began = time.perf_counter()
    while custody.rewrap(_REWRAPPED_AT_ONCE):
        pass
    report.add("rewrap_keys_per_second", documents / (time.perf_counter() - began), "1/s", n=documents)
    began = time.perf_counter()
    custody.status()
    report.add("status_s", time.perf_counter() - began, "s", n=documents)


_OPEN: Final = """\
import sys, time
from pathlib import Path
from benchmarks.memory import forget_peak, peak_mb
from service.keys import FileKey, KeyStore
folder = Path(sys.argv[1])
before, began = forget_peak(), time.perf_counter()
KeyStore(folder / "keys.sqlite", FileKey(folder / "kek"), create=False)
print(time.perf_counter() - began, peak_mb() - before)
"""


def _start(report: Report, folder: Path, documents: int) -> None:
    times, memory = [], []
    for _ in range(_ROUNDS):
        done = subprocess.run(
            [sys.executable, "-c", _OPEN, str(folder)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        seconds, megabytes = done.stdout.split()
        times.append(float(seconds))
        memory.append(float(megabytes))
    report.add(f"open_store_{documents}_ms", statistics.median(times) * 1000, "ms", n=_ROUNDS)
    report.add(f"open_store_{documents}_mb", statistics.median(memory), "MB", n=_ROUNDS)
    report.add("peak_rss_mb", peak_mb(), "MB")


if __name__ == "__main__":
    main()
