"""Which chunks a term stands in, and how much it says about each: BM25 without a number from the collection.

Pure, in memory. Rows are held in segments of a contiguous range each; only the last one grows.

1. What a term says about a chunk (`impacts`) depends on that chunk alone: the length that BM25 holds a chunk's length
   against is a constant, not the average of a collection in which somebody else's chunks would count.
2. What a term is worth (its inverse document frequency) is counted over the permitted chunks, in each search.
3. Only permitted chunks are scored; equal scores are ordered by row.

So nothing in the outcome depends on a chunk outside the permitted rows.
# SOURCE: Robertson and Zaragoza, The Probabilistic Relevance Framework (2009), 3.2, for BM25; Wang et al., Side-channel
# attacks on shared search indexes (IEEE S&P 2017), for what collection-wide numbers give away.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import AbstractBitMap

Rows = NDArray[np.uint32]
Terms = NDArray[np.uint32]
Impacts = NDArray[np.uint8]

K1: Final = 1.2
B: Final = 0.75
USUAL_LENGTH: Final = 100
"""Terms in a passage of 256 tokens without stop words, about."""

SEGMENT_ROWS: Final = 1 << 14
_TOP: Final = (K1 + 1) / 255


def impacts(counts: Mapping[int, int]) -> tuple[Terms, Impacts]:
    """Turn how often each term stands in a chunk into its terms, ascending, and what each says, in steps of 1/255."""
    terms = np.array(sorted(counts), np.uint32)
    frequency = np.array([counts[int(term)] for term in terms], np.float64)
    norm = K1 * (1 - B + B * frequency.sum() / USUAL_LENGTH)
    weights = frequency * (K1 + 1) / (frequency + norm)
    return terms, np.clip(np.rint(weights / _TOP), 1, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Postings of the rows of one range, by term.

    rows: those held, ascending, at most `SEGMENT_ROWS`. terms: distinct, ascending.
    starts: where each term's postings begin, one more at the end. places: into `rows`, ascending within a term.
    impacts: one for each place.
    """

    rows: Rows
    terms: Terms
    starts: NDArray[np.int64]
    places: NDArray[np.uint16]
    impacts: Impacts

    @classmethod
    def of(cls, rows: Rows, counts: NDArray[np.int64], terms: Terms, impacts: Impacts) -> Segment:
        """Make one of whole chunks. counts: how many terms each row has, one row after the other."""
        places = np.repeat(np.arange(len(rows), dtype=np.uint16), counts)
        return cls._sorted(rows, terms, places, impacts)

    @classmethod
    def _sorted(cls, rows: Rows, terms: Terms, places: NDArray[np.uint16], impacts: Impacts) -> Segment:
        # Stable, so that places stay ascending within a term.
        order = np.argsort(terms, kind="stable")
        distinct, starts = np.unique(terms[order], return_index=True)
        return cls(rows, distinct, np.append(starts, len(terms)), places[order], impacts[order])

    def with_rows_of(self, later: Segment) -> Segment:
        """Return both in one. All rows of `later` are above those of this one."""
        places = np.concatenate([self.places, (later.places + np.uint16(len(self.rows))).astype(np.uint16)])
        return self._sorted(
            np.concatenate([self.rows, later.rows]),
            np.concatenate([self._repeated(), later._repeated()]),
            places,
            np.concatenate([self.impacts, later.impacts]),
        )

    def without(self, rows: Rows) -> Segment:
        """Return it without `rows`, and without every trace of them."""
        kept = ~np.isin(self.rows, rows)
        moved = (np.cumsum(kept) - 1).astype(np.uint16)
        stay = kept[self.places]
        return self._sorted(self.rows[kept], self._repeated()[stay], moved[self.places[stay]], self.impacts[stay])

    def _repeated(self) -> Terms:
        return np.repeat(self.terms, np.diff(self.starts))

    def postings(self, terms: Terms) -> list[tuple[int, slice]]:
        """Return (which of `terms`, its postings) for those that stand in here."""
        found = np.searchsorted(self.terms, terms)
        return [
            (number, slice(int(self.starts[at]), int(self.starts[at + 1])))
            for number, at in enumerate(found.tolist())
            if at < len(self.terms) and self.terms[at] == terms[number]
        ]

    def dump(self) -> bytes:
        """Return its bytes; they carry checksums."""
        out = io.BytesIO()
        np.savez(out, rows=self.rows, terms=self.terms, starts=self.starts, places=self.places, impacts=self.impacts)
        return out.getvalue()

    @classmethod
    def load(cls, data: bytes) -> Segment:
        """Read what `dump` gave. Raises ValueError for anything else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as read:
                made = cls(*(read[name] for name in ("rows", "terms", "starts", "places", "impacts")))
        except (OSError, KeyError, EOFError, zipfile.BadZipFile) as err:
            raise ValueError("not a segment") from err
        kinds = [array.dtype for array in (made.rows, made.terms, made.starts, made.places, made.impacts)]
        sizes = len(made.starts) == len(made.terms) + 1 and len(made.places) == len(made.impacts)
        if kinds != [np.uint32, np.uint32, np.int64, np.uint16, np.uint8] or not sizes:
            raise ValueError("not a segment")
        return made

    @property
    def size_bytes(self) -> int:
        """Of its arrays."""
        arrays: tuple[NDArray[Any], ...] = (self.rows, self.terms, self.starts, self.places, self.impacts)
        return sum(array.nbytes for array in arrays)


class Postings:
    """The segments of one index, in the order of their rows, each by the first row that it ever had.

    changed: those to write, None standing for one that is gone.
    Raises ValueError for segments that are not apart from each other.
    """

    def __init__(self, segments: Mapping[int, Segment] = MappingProxyType({})) -> None:
        self.segments = dict(sorted(segments.items()))
        self.changed: dict[int, Segment | None] = {}
        rows = [one.rows for one in self.segments.values()]
        if not all(len(one) for one in rows) or np.any(np.diff(np.concatenate([*rows, [1 << 32]])) <= 0):
            raise ValueError("segments that are not apart from each other")

    @property
    def count(self) -> int:
        """How many rows are held."""
        return sum(len(one.rows) for one in self.segments.values())

    @property
    def size_bytes(self) -> int:
        """Of all arrays."""
        return sum(one.size_bytes for one in self.segments.values())

    def add(self, rows: Rows, counts: NDArray[np.int64], terms: Terms, impacts: Impacts) -> None:
        """Hold chunks. Their rows ascend; those at or below the last one that is held were added before, and are left.

        counts: how many terms each has, without which `terms` and `impacts`, all of them in order, do not divide.
        """
        last = max((int(one.rows[-1]) for one in self.segments.values()), default=-1)
        known = int(np.searchsorted(rows, last, side="right"))
        skipped = int(counts[:known].sum())
        rows, counts, terms, impacts = rows[known:], counts[known:], terms[skipped:], impacts[skipped:]
        while len(rows):
            first = next(reversed(self.segments), None)
            room = 0 if first is None else SEGMENT_ROWS - len(self.segments[first].rows)
            taken = min(len(rows), room or SEGMENT_ROWS)
            size = int(counts[:taken].sum())
            made = Segment.of(rows[:taken], counts[:taken], terms[:size], impacts[:size])
            if room and first is not None:
                self._put(first, self.segments[first].with_rows_of(made))
            else:
                self._put(int(made.rows[0]), made)
            rows, counts, terms, impacts = rows[taken:], counts[taken:], terms[size:], impacts[size:]

    def remove(self, rows: Collection[int]) -> None:
        """Forget chunks, whether they are held or not."""
        wanted = np.array(sorted(rows), np.uint32)
        for first, segment in list(self.segments.items()):
            low, high = np.searchsorted(wanted, [segment.rows[0], segment.rows[-1] + 1])
            if low == high or not np.isin(segment.rows, wanted[low:high]).any():
                continue
            left = segment.without(wanted[low:high])
            if len(left.rows):
                self._put(first, left)
            else:
                del self.segments[first]
                self.changed[first] = None

    def _put(self, first: int, segment: Segment) -> None:
        self.segments[first] = self.changed[first] = segment

    def search(self, terms: Sequence[int], permitted: AbstractBitMap, limit: int) -> list[int]:
        """Return the `limit` rows of `permitted` that say most of `terms`, best first, equal ones by row.

        Only rows in which at least one of the terms stands.
        """
        asked = np.array(sorted(set(terms)), np.uint32)
        if not len(permitted) or not len(asked) or not self.segments:
            return []
        allowed: NDArray[np.bool_] | None = None
        hits: list[tuple[Segment, int, NDArray[np.uint16], Impacts]] = []
        frequency = np.zeros(len(asked), np.int64)
        for segment in self.segments.values():
            low, high = int(segment.rows[0]), int(segment.rows[-1]) + 1
            count = permitted.range_cardinality(low, high)
            if not count:
                continue
            whole = count == high - low
            if not whole:
                if allowed is None:
                    allowed = _mask(permitted, 1 + max(int(one.rows[-1]) for one in self.segments.values()))
                mine = allowed[low:high] if len(segment.rows) == high - low else allowed[segment.rows]
            for number, where in segment.postings(asked):
                places, weights = segment.places[where], segment.impacts[where]
                if not whole:
                    seen = mine[places]
                    places, weights = places[seen], weights[seen]
                if len(places):
                    frequency[number] += len(places)
                    hits.append((segment, number, places, weights))
        worth = np.log1p((len(permitted) - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
        return _best(hits, worth, limit)


def _mask(permitted: AbstractBitMap, end: int) -> NDArray[np.bool_]:
    """Return for each row below `end` whether it is permitted."""
    mask = np.zeros(end, bool)
    rows = np.frombuffer(permitted.to_array(), np.uint32)
    mask[rows[: np.searchsorted(rows, end)]] = True
    return mask


def _best(
    hits: Sequence[tuple[Segment, int, NDArray[np.uint16], Impacts]], worth: NDArray[np.float32], limit: int
) -> list[int]:
    """Add up what the hits, segment by segment, are worth; return the rows with the largest sums."""
    rows: list[Rows] = []
    sums: list[NDArray[np.float32]] = []
    start = 0
    while start < len(hits):
        segment = hits[start][0]
        total = np.zeros(len(segment.rows), np.float32)
        while start < len(hits) and hits[start][0] is segment:
            _, number, places, weights = hits[start]
            total[places] += weights * worth[number]  # a place comes once in a term
            start += 1
        found = np.flatnonzero(total)
        if len(found) > limit:
            # Everything as good as the last that fits: which of equals stay is settled by row, below.
            least = np.partition(total[found], len(found) - limit)[len(found) - limit]
            found = found[total[found] >= least]
        rows.append(segment.rows[found])
        sums.append(total[found])
    if not rows:
        return []
    every, scores = np.concatenate(rows), np.concatenate(sums)
    return [int(row) for row in every[np.lexsort((every, -scores))[:limit]]]
