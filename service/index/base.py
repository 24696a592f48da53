"""What every vector index speaks: the items of the catalog's feed go in, permitted candidates come out.

An index is derived from the catalog and holds no text, no title and no principal: vectors, by the rows of their
chunks. It proposes; `service.search.engine` decides on the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pyroaring import AbstractBitMap

from service.errors import RemitError
from service.index.planner import SearchPath


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


@dataclass(frozen=True, slots=True)
class AddText:
    """A chunk to hold the words of. `seq`: its place in the catalog's feed."""

    seq: int
    row: int
    text: str


FeedItem = Add | Remove


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that the index proposes. `score`: cosine in [-1, 1], of the full vectors."""

    row: int
    score: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """The answer to one search of the index, with how it was found; only `candidates` may show in a response.

    candidates: the best first; equal scores are ordered by row.
    permitted: how many chunks could have been candidates. scored: how many of them were compared by full vectors.
    """

    candidates: tuple[Candidate, ...]
    path: SearchPath
    why: str
    permitted: int
    scored: int


class Keywords(Protocol):
    """What proposes chunks by their words. Calls block and may come from several threads."""

    def search(self, text: str, rows: AbstractBitMap, limit: int) -> list[int]:
        """Return the `limit` rows among `rows` whose words answer `text` best, best first; equal ones by row.

        Only rows with one of its words; nothing outside `rows` changes what is returned. No rows or no words: no call.
        Raises SearchUnavailableError.
        """


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

    @property
    def quiet_s(self) -> float:
        """How long ago the last search ended, in seconds; since the opening when there was none."""

    def recover(self) -> None:
        """Start again what ended since the last call, and learn `applied_seq`. Raises SearchUnavailableError."""

    def apply(self, items: Sequence[FeedItem]) -> None:
        """Apply items in the feed's order; those that were applied before change nothing.

        Raises InvalidVectorError before anything is applied, and SearchUnavailableError.
        """

    def flush(self) -> int:
        """Make everything applied durable and return its `applied_seq`. Searches wait for the disk."""

    def clear(self) -> None:
        """Forget everything, durably: the feed starts over."""

    def search(
        self,
        vector: NDArray[np.float32],
        rows: AbstractBitMap,
        limit: int,
        *,
        exact: bool = False,
        approximate: bool = False,
    ) -> Proposal:
        """Propose the `limit` chunks nearest to `vector` among those of `rows` that are held.

        vector: shape (dimension,), unit length. rows: of the chunks that may be candidates.
        exact: compare every one of them by its full vector. Otherwise a path is chosen by their number.
        Scores are exact on every path, and nothing outside `rows` changes what is proposed. No rows: no call.
        approximate: lets the index use its graph, if it was made to have one; then the sentence above does not hold.
        Raises InvalidVectorError and SearchUnavailableError.
        """

    def close(self) -> None:
        """Flush and release what is held."""
