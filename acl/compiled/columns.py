"""Numbers about many things, in arrays: where each thing is kept, what is kept of it, and bitmaps made of the answer.

What is numbered (ACLs, documents, rows of chunks) is numbered over all sources, so a source holds some numbers of many.
`Places` puts them close together; a `Column` is one property of all of them. Knows nothing of rules.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import FrozenBitMap

Numbers = NDArray[np.int64]
"""Shape (n,)."""

Flags = NDArray[np.bool_]
"""Shape (n,): one for each place, from 0."""

_PAGE: Final = 64
"""Numbers that share a page lie beside each other; a page of flags is one word."""

_SEGMENT: Final = 1 << 16
"""Values that are copied together when one of them changes under a reader, and worked on together in the caches."""

_CONTAINER: Final = (1 << 16) // _PAGE
_SMALL_CONTAINER: Final = 4096
_COOKIE: Final = 12346

Layout = tuple[NDArray[np.uint16], NDArray[np.int64]]
"""The containers of a bitmap of all numbers, by key, and in which word of them each page goes."""


class Places:
    """Gives a place to each number, page by page. Place 0 and the rest of its page are nobody's, and are never given.

    used: every place is below it.
    """

    def __init__(self) -> None:
        self.used = _PAGE
        # INVARIANT: the last entry is 0, so that whatever lies beyond is found there, in nobody's page.
        self._first = np.zeros(2, np.uint32)
        self._pages: list[NDArray[np.int64]] = []
        self._layout: Layout | None = None

    def find(self, numbers: Numbers) -> Numbers:
        """The places of numbers; nobody's for those that have none."""
        return self._first.take(numbers // _PAGE, mode="clip") + numbers % _PAGE

    def one(self, number: int) -> int:
        """The place of one number, as `find` has it; arrays of one cost ten times as much."""
        return int(self._first.item(min(number // _PAGE, len(self._first) - 1))) + number % _PAGE

    def make(self, numbers: Numbers) -> Numbers:
        """The places of numbers, which get one where they have none."""
        if not len(numbers):
            return numbers
        pages = numbers // _PAGE
        last = int(pages.max())
        if last + 2 > len(self._first):
            grown = np.zeros(max(last + 2, len(self._first) * 5 // 4), np.uint32)
            grown[: len(self._first)] = self._first
            self._first = grown
        new = _distinct(pages[self._first[pages] == 0])
        if len(new):
            self._first[new] = self.used + _PAGE * np.arange(len(new))
            self._pages.append(new)
            self.used += _PAGE * len(new)
            self._layout = None
        return self.find(numbers)

    def layout(self) -> Layout:
        """How flags of places become a bitmap of numbers."""
        if self._layout is None:
            self._pages = [np.concatenate(self._pages)] if self._pages else [np.empty(0, np.int64)]
            containers = self._pages[0] // _CONTAINER
            keys = _distinct(containers)
            words = np.searchsorted(keys, containers) * _CONTAINER + self._pages[0] % _CONTAINER
            self._layout = keys.astype(np.uint16), words
        return self._layout


class Column:
    """A value for each place, 0 where none was put. What a reader was given stays as it was.

    Nobody's page is always there, so that places that were only looked for may be read, and set to 0.
    """

    def __init__(self, kind: type[np.unsignedinteger[Any]]) -> None:
        self._kind = kind
        self._segments: list[NDArray[Any]] = [np.zeros(_SEGMENT, kind)]
        self._lent: set[int] = set()

    def of(self, places: Numbers) -> Numbers:
        """The values at some places."""
        found = np.zeros(len(places), np.int64)
        for segment, which, inside in _segments_of(places):
            found[which] = self._segments[segment][inside]
        return found

    def at(self, place: int) -> int:
        """The value at one place."""
        return int(self._segments[place // _SEGMENT].item(place % _SEGMENT))

    def put(self, places: Numbers, values: Numbers | int) -> None:
        """Set the values at some places; of several at one, the last."""
        for segment, which, inside in _segments_of(places):
            self._own(segment)[inside] = values if isinstance(values, int) else values[which]

    def add(self, places: Numbers, values: Numbers) -> None:
        """Add to the values at some places. The sums are not negative."""
        for segment, which, inside in _segments_of(places):
            # Differences wrap round: adding 2³² - n takes n away.
            np.add.at(self._own(segment), inside, values[which].astype(self._kind))

    def lend(self) -> tuple[NDArray[Any], ...]:
        """All values, segment by segment, to a reader who keeps them and does not change them."""
        self._lent.update(range(len(self._segments)))
        return tuple(self._segments)

    def now(self) -> list[NDArray[Any]]:
        """All values, segment by segment, to a reader who is gone before the next change."""
        return self._segments

    def reach(self, used: int) -> None:
        """Make room for every place below `used`."""
        while len(self._segments) * _SEGMENT < used:
            self._segments.append(np.zeros(_SEGMENT, self._kind))

    def _own(self, segment: int) -> NDArray[Any]:
        if segment in self._lent:
            self._segments[segment] = self._segments[segment].copy()
            self._lent.remove(segment)
        return self._segments[segment]


def _distinct(numbers: Numbers) -> Numbers:
    """Each number once, in order."""
    ordered = np.sort(numbers)
    return ordered[np.flatnonzero(np.diff(ordered, prepend=-1))]


def _segments_of(places: Numbers) -> Iterator[tuple[int, Numbers | slice, Numbers]]:
    """For each segment that some places are in: the segment, which of the places, and where inside."""
    if not len(places):
        return
    segments = places // _SEGMENT
    first = int(segments[0])
    if (segments == first).all():
        yield first, slice(None), places % _SEGMENT
        return
    for segment in _distinct(segments).tolist():
        which = np.flatnonzero(segments == segment)
        yield segment, which, places[which] % _SEGMENT


def each_segment(used: int) -> Iterator[tuple[int, slice]]:
    """The segments below a place, each with the places that it holds."""
    for segment in range(-(-used // _SEGMENT)):
        yield segment, slice(segment * _SEGMENT, min(used, (segment + 1) * _SEGMENT))


def picked(flags: Flags, column: tuple[NDArray[Any], ...], used: int) -> Flags:
    """For each place below `used` the flag that its value in the column points to."""
    found = np.empty(used, np.bool_)
    for segment, places in each_segment(used):
        found[places] = flags.take(column[segment][: places.stop - places.start])
    return found


def bitmap_of(flags: Flags, layout: Layout) -> FrozenBitMap:
    """The bitmap of the numbers whose places have the flag.

    SOURCE: RoaringFormatSpec, the form without run containers: written out, a million numbers take 0.1 ms, added they
    take 5.
    """
    keys, words = layout
    bits = np.zeros(len(keys) * _CONTAINER, "<u8")
    bits[words] = np.packbits(flags[_PAGE:], bitorder="little").view("<u8")[: len(words)]
    containers = bits.reshape(-1, _CONTAINER)
    sizes = np.bitwise_count(containers).sum(axis=1, dtype=np.int64)
    held = np.flatnonzero(sizes)
    if not len(held):
        return FrozenBitMap()
    bodies = [
        np.flatnonzero(np.unpackbits(containers[n].view(np.uint8), bitorder="little")).astype("<u2").tobytes()
        if sizes[n] <= _SMALL_CONTAINER
        else containers[n].tobytes()
        for n in held
    ]
    heads = np.stack((keys[held], sizes[held] - 1), axis=1).astype("<u2").tobytes()
    starts = 8 + 8 * len(held) + np.cumsum([0, *map(len, bodies[:-1])])
    return FrozenBitMap.deserialize(
        b"".join((struct.pack("<II", _COOKIE, len(held)), heads, starts.astype("<u4").tobytes(), *bodies))
    )
