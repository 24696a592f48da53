"""What every vector index speaks: the items of the catalog's feed go in, permitted candidates come out.

An index is derived from the catalog and holds no text, no title and no principal: vectors, the rows of chunks and the
ordinals of documents. It proposes; `service.search` decides on the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pyroaring import AbstractBitMap

from service.errors import RemitError


class InvalidVectorError(RemitError):
    """A vector with another dimension than the index, or with a number that is not finite. Nothing was applied."""


@dataclass(frozen=True, slots=True, eq=False)
class Add:
    """A chunk to hold. `seq`: its place in the catalog's feed. `vector`: shape (dimension,), unit length, float32."""

    seq: int
    row: int
    ordinal: int
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Remove:
    """A chunk to forget. Rows are never used again."""

    seq: int
    row: int


FeedItem = Add | Remove


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that the index proposes. `score`: cosine in [-1, 1]."""

    row: int
    ordinal: int
    score: float


class Index(Protocol):
    """One index over one catalog. Calls block and may come from several threads."""

    @property
    def applied_seq(self) -> int:
        """The feed's last item that was applied; the feed goes on after it. Falls back to a durable one on a crash."""

    @property
    def incarnation(self) -> str:
        """The catalog's incarnation that this index belongs to."""

    @property
    def count(self) -> int:
        """How many chunks are held."""

    def apply(self, items: Sequence[FeedItem]) -> None:
        """Apply items in the feed's order; those that were applied before change nothing.

        Raises InvalidVectorError before anything is applied, and SearchUnavailableError.
        """

    def flush(self) -> int:
        """Make everything applied durable and return its `applied_seq`."""

    def clear(self) -> None:
        """Forget everything, durably: the feed starts over."""

    def search(self, vector: NDArray[np.float32], documents: AbstractBitMap, limit: int) -> list[Candidate]:
        """Return the `limit` chunks nearest to `vector` among those of `documents` (ordinals), best first.

        Exact. Equal scores are ordered by row, so that the answer depends on nothing outside `documents`.
        No documents: nothing, without asking the engine.
        """

    def close(self) -> None:
        """Flush and release what is held."""
