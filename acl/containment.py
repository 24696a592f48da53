"""The tree of scopes as numbers: what lies in what, and what is hidden when some scopes are closed.

Knows nothing of rules. Rows may dangle or go in circles: a scope that is missing is a node that nobody opens, and a
circle is cut and hung below one, so whatever lies there stays closed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from pyroaring import BitMap, FrozenBitMap

from acl.model import MAX_DEPTH
from acl.postings import EMPTY

TOP: Final = 0
"""Around everything: the place of what lies in no scope. Always open."""

CLOSED: Final = 1
"""Below TOP; what cannot be placed hangs here. Never opened."""


class Containment:
    """Nodes 2, 3, … are scopes. Depth 0 is directly below TOP."""

    def __init__(self) -> None:
        self.parent = array("I", (TOP, TOP))
        self.declared = array("I", (TOP, TOP))
        self.all = BitMap((CLOSED,))
        self._levels: list[BitMap] = [BitMap((CLOSED,))]
        self._too_deep = BitMap()
        self._children: dict[int, BitMap] = {TOP: BitMap((CLOSED,))}
        self._inner = BitMap()
        self._below: dict[int, FrozenBitMap] = {}
        self._cut: set[int] = set()

    def add(self) -> int:
        """Make a node directly below TOP."""
        node = len(self.parent)
        self.parent.append(TOP)
        self.declared.append(TOP)
        self.all.add(node)
        self._levels[0].add(node)
        self._children[TOP].add(node)
        return node

    def around(self, node: int) -> Iterator[int]:
        """The node and everything around it, innermost first, without TOP."""
        parent = self.parent
        while node != TOP:
            yield node
            node = parent[node]

    def children(self, node: int) -> Iterable[int]:
        """What lies directly in a node."""
        return self._children.get(node, ())

    def inside(self, node: int) -> list[int]:
        """The node and everything in it, each after what it lies in."""
        found = [node]
        for here in found:
            found.extend(self._children.get(here, ()))
        return found

    def place(self, node: int, parent: int) -> list[int]:
        """Say where a node lies. Returns the nodes that must be moved, in order, by `target` and `move`."""
        self.declared[node] = parent
        return [node, *(other for other in self._cut if other != node)]

    def target(self, node: int) -> int:
        """Where a node belongs now: where it was said to lie, or CLOSED when that is inside itself."""
        return CLOSED if any(here == node for here in self.around(self.declared[node])) else self.declared[node]

    def move(self, node: int, parent: int) -> None:
        """Hang a node, with all that is in it, below another."""
        inside = self.inside(node)
        bits = FrozenBitMap(inside)
        old = self.parent[node]
        for here in self.around(old):
            if here in self._below:
                self._below[here] -= bits
        self._children[old].discard(node)
        if not self._children[old]:
            del self._children[old]
            self._inner.discard(old)
        self.parent[node] = parent
        self._children.setdefault(parent, BitMap()).add(node)
        if parent != TOP:
            self._inner.add(parent)
        for here in self.around(parent):
            if here in self._below:
                self._below[here] |= bits
        if parent == self.declared[node]:
            self._cut.discard(node)
        else:
            self._cut.add(node)
        self._number(inside, bits)

    def _number(self, inside: list[int], bits: FrozenBitMap) -> None:
        for level in self._levels:
            level -= bits
        depths: dict[int, int] = {}
        for here in inside:
            around = self.parent[here]
            if around in depths:
                depth = depths[around] + 1
            else:
                depth = sum(1 for _ in self.around(around))
            depths[here] = depth
            while len(self._levels) <= depth:
                self._levels.append(BitMap())
            self._levels[depth].add(here)
        self._too_deep -= bits
        self._too_deep |= BitMap([here for here, depth in depths.items() if depth > MAX_DEPTH])

    def closed(self, opened: FrozenBitMap) -> list[int]:
        """The outermost nodes that are not in `opened`: together they hold everything that is hidden."""
        rest = FrozenBitMap(self.all) - opened | self._too_deep
        found: list[int] = []
        for level in self._levels:
            if not rest:
                break
            here = rest & level
            if not here:
                continue
            found.extend(here)
            rest = rest - here
            if rest:
                inner = here & self._inner
                if inner:
                    rest = rest - EMPTY.union(*[self._below_of(node) for node in inner])
        return found

    def _below_of(self, node: int) -> FrozenBitMap:
        found = self._below.get(node)
        if found is None:
            found = self._below[node] = FrozenBitMap(self.inside(node)[1:])
        return found
