"""The tree of scopes as arrays: what lies in what, and which scopes are open when some of them are closed.

Knows nothing of rules. Rows may dangle or go in circles: a scope that was only named is closed by whoever asks, and
what lies in a circle, or too deep, never reaches the top and is closed here.
"""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np
from numpy.typing import NDArray

from acl.compiled.columns import Flags
from acl.model import MAX_DEPTH

TOP: Final = 0
"""Around everything: the place of what lies in no scope. Always open."""


class Containment:
    """Nodes 1, 2, 3, … are scopes. Each node has one parent, TOP for none."""

    def __init__(self) -> None:
        self.parent = array("I", (TOP,))
        self._jumps: list[NDArray[np.uint32]] | None = None
        self._placed: Flags = np.ones(1, np.bool_)

    def add(self) -> int:
        """Make a node directly below TOP."""
        self.parent.append(TOP)
        self._jumps = None
        return len(self.parent) - 1

    def place(self, node: int, parent: int) -> None:
        """Say where a node lies, with all that is in it."""
        if self.parent[node] != parent:
            self.parent[node] = parent
            self._jumps = None

    def open(self, passed: Flags) -> Flags:
        """Which nodes are open: those that the caller passed, with everything around them.

        passed: shape (nodes,); that of TOP does not matter.
        """
        found = passed.copy()
        found[TOP] = True
        # With each turn a node knows of twice as many around it: 1, 2, 4, … nodes up.
        for jump in self._measured():
            found &= found.take(jump)
        found &= self._placed
        return found

    def _measured(self) -> list[NDArray[np.uint32]]:
        """For each power of two the node so many steps up; and which nodes reach TOP within the depth allowed."""
        if self._jumps is None:
            up = np.array(self.parent, np.uint32)
            steps = np.minimum(np.arange(len(up)), 1)
            jumps: list[NDArray[np.uint32]] = []
            while up.any() and 1 << len(jumps) <= MAX_DEPTH + 1:
                jumps.append(up)
                steps = steps + steps.take(up)
                up = up.take(up)
            # A node that lies in a circle is still not at TOP, after more steps than any other may need.
            self._placed = (up == TOP) & (steps <= MAX_DEPTH + 1)
            self._jumps = jumps
        return self._jumps
