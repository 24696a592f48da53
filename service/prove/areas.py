"""Areas: the parts of a source that a proof is about, named as people name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import StartError

if TYPE_CHECKING:
    from remit.client.access_values import DocumentPlace

_MOST_LISTED = 12


@dataclass(frozen=True, slots=True)
class Area:
    """A folder of a source with the documents in it. folder: empty for the whole source."""

    source: str
    folder: str
    documents: tuple[DocumentPlace, ...]

    def __str__(self) -> str:
        return f"{self.source}:{self.folder}" if self.folder else self.source

    def holds(self, source: str, location: str) -> bool:
        """Whether a place lies in it."""
        return source == self.source and (not self.folder or location.startswith(f"{self.folder}/"))


def find(named: str, documents: Sequence[DocumentPlace]) -> Area:
    """The one area of that name: a source, a folder, or the last part of one, in any case; `source:folder` is exact.

    Raises StartError: none, or several.
    """
    wanted = named.strip("/").casefold()
    sources = sorted({one.source for one in documents})
    folders = sorted({(one.source, folder) for one in documents for folder in folders_of(one.location)})
    ways = (
        [(s, "") for s in sources if s.casefold() == wanted],
        [(s, f) for s, f in folders if f"{s}:{f}".casefold() == wanted],
        [(s, f) for s, f in folders if f.casefold() == wanted],
        [(s, f) for s, f in folders if f.rpartition("/")[2].casefold() == wanted],
    )
    found = next((way for way in ways if way), [])
    if not found:
        tops = sorted({f"`{f}`" for _, f in folders if "/" not in f})[:_MOST_LISTED]
        raise StartError(
            f"no document lies in `{named}`: name a source or a folder, such as {', '.join(tops) or 'none'}"
        )
    if len(found) > 1:
        names = ", ".join(f"`{s}:{f}`" for s, f in found[:_MOST_LISTED])
        raise StartError(f"`{named}` may be any of {names}: name one of them in full")
    return within(*found[0], documents)


def within(source: str, folder: str, documents: Iterable[DocumentPlace]) -> Area:
    """A folder with its documents."""
    bare = Area(source, folder, ())
    return Area(source, folder, tuple(one for one in documents if bare.holds(one.source, one.location)))


def tops(documents: Sequence[DocumentPlace]) -> list[Area]:
    """The top folders of every source."""
    named = sorted({(one.source, one.location.partition("/")[0]) for one in documents if "/" in one.location})
    return [within(source, folder, documents) for source, folder in named]


def folders_of(location: str) -> list[str]:
    """Every folder on the way to a place: `a`, `a/b` of `a/b/c.txt`."""
    parts = location.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
