"""The Merkle tree of RFC 9162: hashes, the growing tree, and proofs of inclusion and of consistency.

Pure: values in, values out. What the leaves are, and where they are kept, is `service.audit.log`.
Source: RFC 9162 section 2.1; the numbers in the comments are its sections and steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf. The prefix keeps a leaf from passing for a node (2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its two halves."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that only grows. It keeps the roots of its complete subtrees: one hash for each bit of its size."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        self._peaks: list[bytes] = []
        for leaf in leaves:
            self.append(leaf)

    def append(self, leaf: bytes) -> None:
        """Add the hash of one leaf."""
        self.append_subtree(leaf, 0)

    def append_subtree(self, top: bytes, level: int) -> None:
        """Add the root of a complete subtree of 2^level leaves. Raises ValueError unless it may stand here."""
        if self.size & ((1 << level) - 1):
            raise ValueError(f"no subtree of {1 << level} leaves begins at {self.size}")
        # Each trailing 1 bit of the size is a complete subtree that the new one completes to a larger one.
        rest = self.size >> level
        while rest & 1:
            top = node_hash(self._peaks.pop(), top)
            rest >>= 1
        self._peaks.append(top)
        self.size += 1 << level

    def root(self) -> bytes:
        """The root over all leaves so far."""
        if not self._peaks:
            return EMPTY_ROOT
        found = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            found = node_hash(peak, found)
        return found

    def copy(self) -> Tree:
        """The tree as it stands; it grows on its own from here."""
        found = Tree()
        found.size, found._peaks = self.size, self._peaks.copy()
        return found


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over the hashes of some leaves."""
    return Tree(leaves).root()


def _split(size: int) -> int:
    # The largest power of two smaller than `size` (2.1.1).
    return 1 << ((size - 1).bit_length() - 1)


Subtree = Callable[[int, int], bytes]
"""Gives the root over the leaves from the first number up to, and without, the second."""


def inclusion_path(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """The hashes that, with leaf `index`, give the root over `size` leaves (2.1.3.1). Raises ValueError outside."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    start, stop, path = 0, size, list[bytes]()
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(subtree(middle, stop))
            stop = middle
        else:
            path.append(subtree(start, middle))
            start = middle
    return path[::-1]


def inclusion_proof(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """`inclusion_path` over leaves that are all at hand."""
    return inclusion_path(index, len(leaves), lambda start, stop: root(leaves[start:stop]))


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], expected: bytes) -> bool:
    """True when `proof` shows that `leaf` is number `index` of the tree with this size and root (2.1.3.2)."""
    if not 0 <= index < size:
        return False
    fn, sn, found = index, size - 1, leaf
    for step in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            found = node_hash(step, found)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = node_hash(found, step)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and found == expected


def consistency_path(first: int, size: int, subtree: Subtree) -> list[bytes]:
    """The hashes that show that the tree of the `first` leaves is the beginning of that of `size` (2.1.4.1).

    Raises ValueError unless 0 < first <= size.
    """
    if not 0 < first <= size:
        raise ValueError(f"no tree of {first} within a tree of {size}")
    start, stop, path = 0, size, list[bytes]()
    while first != stop:
        middle = start + _split(stop - start)
        if first <= middle:
            path.append(subtree(middle, stop))
            stop = middle
        else:
            path.append(subtree(start, middle))
            start = middle
    # The first tree is its own proof when it is complete: whoever verifies has its root.
    return ([subtree(start, stop)] if start else []) + path[::-1]


def consistency_proof(first: int, leaves: Sequence[bytes]) -> list[bytes]:
    """`consistency_path` over leaves that are all at hand."""
    return consistency_path(first, len(leaves), lambda start, stop: root(leaves[start:stop]))


def cover(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The fewest complete subtrees over a range of leaves, in order: the first leaf of each, and its level.

    With those before a range and those behind it, the leaves of the range give the root of the whole tree.
    """
    while start < stop:
        level = (stop - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield start, level
        start += 1 << level


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """True when `proof` shows that the tree with the first size and root is the beginning of the second (2.1.4.2)."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    path = list(proof)
    if first & (first - 1) == 0:  # step 2: a complete first tree is its own first hash
        path.insert(0, first_root)
    if not path:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old = new = path[0]
    for step in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            old, new = node_hash(step, old), node_hash(step, new)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            new = node_hash(new, step)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and old == first_root and new == second_root
