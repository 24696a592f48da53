"""Vectors to measure with: made ones, and embeddings of real texts. Kept outside the repository by their seed."""

from __future__ import annotations

import ast
import os
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.index.calibrate import clustered

Vectors = NDArray[np.float32]

DIMENSION: Final = 384
SEED: Final = 20261125
_LONGEST: Final = 400


def cache() -> Path:
    """The folder for what is expensive to make; REMIT_BENCH_CACHE names another one."""
    folder = Path(os.environ.get("REMIT_BENCH_CACHE") or Path.home() / ".cache" / "remit-bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def made(count: int, seed: int = SEED) -> Vectors:
    """Clustered unit vectors, shape (count, 384), mapped into memory from the cache."""
    path = cache() / f"made-{count}-{seed}.npy"
    if not path.exists():
        draft = path.with_suffix(".new.npy")
        whole = np.lib.format.open_memmap(draft, "w+", np.float32, (count, DIMENSION))
        start = 0
        for part in clustered(count, DIMENSION, seed=seed):
            whole[start : start + len(part)] = part
            start += len(part)
        whole.flush()
        draft.rename(path)
    loaded: Vectors = np.load(path, mmap_mode="r")
    return loaded


def real(count: int = 8_000) -> Vectors:
    """Embeddings of paragraphs from Python's standard library by the bundled model; shuffled, shape (count, 384)."""
    path = cache() / f"real-{count}.npy"
    if not path.exists():
        from service.embed.embedder import ModelEmbedder

        texts = sorted(set(_paragraphs()))
        random.Random(SEED).shuffle(texts)
        embedder = ModelEmbedder(None, threads=len(os.sched_getaffinity(0)))
        np.save(path, embedder.embed(texts[:count]))
        embedder.close()
    loaded: Vectors = np.load(path)
    return loaded


def _paragraphs() -> Iterator[str]:
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in file.parts or "test" in file.parts:
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    text = " ".join(paragraph.split())
                    if 60 < len(text) < _LONGEST:
                        yield text


def topics(vectors: Vectors, count: int = 60, rounds: int = 12) -> tuple[NDArray[np.int64], Vectors]:
    """Cut vectors into topics by k-means: the topic of each, and the centres."""
    centres = vectors[np.random.default_rng(SEED).choice(len(vectors), count, replace=False)].copy()
    for _ in range(rounds):
        topic = np.argmax(vectors @ centres.T, axis=1)
        for one in range(count):
            if (topic == one).any():
                centres[one] = vectors[topic == one].mean(axis=0)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return np.argmax(vectors @ centres.T, axis=1), centres


def truth(vectors: Vectors, query: Vectors, rows: NDArray[np.int64], limit: int = 10) -> NDArray[np.int64]:
    """The rows that an exact search over the permitted ones finds, best first."""
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 50_000):
        scores[start : start + 50_000] = vectors[rows[start : start + 50_000]] @ query
    best = np.argpartition(-scores, min(limit, len(rows)) - 1)[:limit]
    return rows[best[np.lexsort((rows[best], -scores[best]))]]
