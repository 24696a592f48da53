"""An index that is made anew beside itself: one complete generation answers, another is built, then they change places.

A generation is a folder `g<number>` with a process of its own; `current` names the one that is served. Searches and the
feed go to that one all the while. What a generation was never asked to hold, the next one does not have: this is how
the room of removed chunks comes back.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyroaring import AbstractBitMap

from service.errors import SearchUnavailableError
from service.files import durable_file
from service.index.base import FeedItem, Proposal, Remove
from service.index.edge import EdgeIndex
from service.index.follow import Followed
from service.index.keyword import AddTerms, KeywordIndex

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")


class Generation(Followed[T_contra], Protocol[T_contra]):
    """One of them: an index in a process of its own."""

    @property
    def count(self) -> int:
        """How many chunks are held."""

    @property
    def wasteful(self) -> bool:
        """Whether so much was removed that making it anew pays."""

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""

    def close(self) -> None:
        """Flush and release what is held."""


G = TypeVar("G", bound=Generation[Any])


class Generations(Generic[T, G]):
    """An index over the generations in a folder. open_generation: raises StartError, as the constructor does.

    Several threads may search and one may apply, as with any index; `replace` is for the one that applies, too.
    """

    def __init__(self, folder: Path, open_generation: Callable[[Path], G]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._open = open_generation
        self._number = self._current()
        self._live = open_generation(folder / f"g{self._number}")
        # Only now: the lock of the served generation keeps a second opener from coming this far.
        self._sweep()

    @property
    def applied_seq(self) -> int:
        """See `Generation`, as for all of these."""
        return self._live.applied_seq

    @property
    def count(self) -> int:
        """How many chunks are held."""
        return self._live.count

    @property
    def quiet_s(self) -> float:
        """Since the last search."""
        return self._live.quiet_s

    @property
    def wasteful(self) -> bool:
        """Whether making it anew pays."""
        return self._live.wasteful

    @property
    def pid(self) -> int | None:
        """The process of the served generation."""
        return self._live.pid

    def recover(self) -> None:
        """Start the process of the served generation again, if it ended."""
        self._live.recover()

    def apply(self, items: Sequence[T]) -> None:
        """Apply items to the served generation."""
        self._live.apply(items)

    def flush(self) -> int:
        """Make everything applied durable."""
        return self._live.flush()

    def clear(self) -> None:
        """Forget everything."""
        self._live.clear()

    def _ask(self, search: Callable[[G], R]) -> R:
        """Search the one generation that is served now."""
        while True:
            asked = self._live
            try:
                return search(asked)
            except SearchUnavailableError:
                # The generation may have been replaced, and closed, since it was asked.
                if asked is self._live:
                    raise

    def begin(self) -> G:
        """Return an empty generation beside the served one. Feed it, then `replace` the served one, or close it."""
        folder = self._folder / f"g{self._number + 1}"
        shutil.rmtree(folder, ignore_errors=True)
        return self._open(folder)

    def replace(self, built: G) -> None:
        """Serve `built`, which came from `begin` and is as far in the feed as the served one and durable, instead."""
        assert built.applied_seq >= self.applied_seq, "a generation that is behind would hide what is searched already"
        durable_file.replace(self._folder / "current", f"{self._number + 1}\n".encode())
        self._number += 1
        old, self._live = self._live, built
        with contextlib.suppress(SearchUnavailableError):  # nobody will read what it could not write
            old.close()
        self._sweep()

    @property
    def alone(self) -> bool:
        """Whether nothing is left of other generations: what was removed from their files could be read there."""
        return {entry.name for entry in self._folder.iterdir()} <= {"current", f"g{self._number}"}

    def close(self) -> None:
        """Close the served generation."""
        self._live.close()

    def _current(self) -> int:
        try:
            return int((self._folder / "current").read_text())
        except (FileNotFoundError, ValueError):
            return 1  # the first one, or one that the catalog fills again

    def _sweep(self) -> None:
        """Remove everything else: older generations, one that was being built, and what earlier versions left."""
        for entry in self._folder.iterdir():
            if entry.name in ("current", f"g{self._number}"):
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


class VectorGenerations(Generations[FeedItem, EdgeIndex]):
    """An `Index` over generations."""

    @property
    def incarnation(self) -> str:
        """Of the catalog."""
        return self._live.incarnation

    def search(
        self,
        vector: NDArray[np.float32],
        rows: AbstractBitMap,
        limit: int,
        *,
        exact: bool = False,
        approximate: bool = False,
    ) -> Proposal:
        """See `Index`."""
        return self._ask(lambda live: live.search(vector, rows, limit, exact=exact, approximate=approximate))


class WordGenerations(Generations[AddTerms | Remove, KeywordIndex]):
    """`Keywords` over generations."""

    def search(self, text: str, rows: AbstractBitMap, limit: int) -> list[int]:
        """See `Keywords`."""
        return self._ask(lambda live: live.search(text, rows, limit))
