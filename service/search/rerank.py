"""A second look at the passages that a caller may read, by a local cross-encoder: it changes their order alone.

# INVARIANT: only passages that were decided on come here, so that neither order nor time depends on any other. The
# scores stay here: they say something only beside each other, and the one that leaves is the cosine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from service.errors import SearchUnavailableError, StartError
from service.process import Child, ChildError

_TIMEOUT_S: Final = 20.0


class Reranker(Protocol):
    """Orders passages by how well they answer a question. Thread-safe. top: how many it looks at, at least."""

    top: int

    def order(self, question: str, passages: Sequence[str]) -> list[int]:
        """Return the places of `passages`, the best first; equal ones in the order they came in.

        Raises SearchUnavailableError.
        """

    def close(self) -> None:
        """Release what is held."""


class ModelReranker:
    """A cross-encoder in a process of its own, warm when the constructor returns. Raises StartError without one."""

    def __init__(self, path: Path, top: int) -> None:
        self.top = top
        threads = len(os.sched_getaffinity(0))
        self._child = Child(
            "service.search.rerank_process",
            args=[str(path.absolute()), str(threads)],
            name="reranking",
            call_timeout_s=_TIMEOUT_S,
            env={
                "HF_HUB_OFFLINE": "1",
                "TRANSFORMERS_OFFLINE": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "OMP_NUM_THREADS": str(threads),
                "OMP_WAIT_POLICY": "PASSIVE",
            },
        )
        try:
            self._child.start()
        except ChildError as err:
            self._child.close()
            raise StartError(f"`reranking.path`: {err}") from err

    def order(self, question: str, passages: Sequence[str]) -> list[int]:
        """See `Reranker`."""
        if not passages:
            return []
        blobs = [text.encode(errors="replace") for text in (question, *passages)]
        try:
            _, received = self._child.call("score", {}, blobs)
        except ChildError as err:
            raise SearchUnavailableError(str(err)) from err
        if len(received) != 1 or len(received[0]) != 4 * len(passages):
            raise SearchUnavailableError("the reranking process answered with another number of scores")
        scores = np.frombuffer(received[0], "<f4")
        if not np.isfinite(scores).all():
            raise SearchUnavailableError("the reranking process answered with a score that is not finite")
        return [int(place) for place in np.argsort(-scores, kind="stable")]

    def close(self) -> None:
        """End the process."""
        self._child.close()
