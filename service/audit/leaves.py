"""Proofs from the file of leaves, quick enough for a large log. What they prove is checked before they are given out.

In memory: one hash for each block of 256 leaves, 125 KB for a million records. The file only grows, so what was read
once stays true, or the proof does not fit the signed root and is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from service.audit.errors import AuditTamperedError
from service.audit.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    Tree,
    consistency_path,
    cover,
    inclusion_path,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

_BLOCK: Final = 256


class Leaves:
    """The leaves of one log. Thread-safe. Numbers are below what the log says is durable."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "leaves"
        self._blocks: list[bytes] = []
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> list[bytes]:
        """The leaf hashes of records from `start` up to, and without, `stop`. Raises AuditTamperedError, OSError."""
        with self._path.open("rb") as file:
            file.seek(start * HASH_BYTES)
            data = file.read((stop - start) * HASH_BYTES)
        if len(data) != (stop - start) * HASH_BYTES:
            raise AuditTamperedError("the file of leaves is shorter than the log", start + len(data) // HASH_BYTES)
        return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]

    def root(self, size: int) -> bytes:
        """The root over the first `size` leaves."""
        return self._subtree(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int, expected: bytes) -> list[bytes]:
        """The proof that record `index` is in the tree of `size` with the signed root `expected`.

        Raises AuditTamperedError when the leaves do not give that root, and ValueError outside the tree.
        """
        path = inclusion_path(index, size, self._subtree)
        if not verify_inclusion(index, size, self.read(index, index + 1)[0], path, expected):
            raise AuditTamperedError("the leaves do not give the root that was signed")
        return path

    def consistency(self, first: int, size: int, expected: bytes) -> list[bytes]:
        """The proof that the first `first` records are the beginning of the tree of `size` with the root `expected`.

        Raises AuditTamperedError when the leaves do not give that root, and ValueError unless 0 < first <= size.
        """
        path = consistency_path(first, size, self._subtree)
        if not verify_consistency(first, size, self.root(first), expected, path):
            raise AuditTamperedError("the leaves do not give the root that was signed")
        return path

    def around(self, start: int, stop: int, size: int, expected: bytes) -> tuple[list[bytes], list[bytes]]:
        """What stands for the leaves before and behind a range: with it, the range gives the root of `size` leaves.

        Raises AuditTamperedError when the leaves do not give that root.
        """
        before, behind = self._tops(0, start), self._tops(stop, size)
        tree = Tree()
        for (_, level), top in zip(cover(0, start), before, strict=True):
            tree.append_subtree(top, level)
        for (_, level), top in zip(cover(start, stop), self._tops(start, stop), strict=True):
            tree.append_subtree(top, level)
        for (_, level), top in zip(cover(stop, size), behind, strict=True):
            tree.append_subtree(top, level)
        if tree.root() != expected:
            raise AuditTamperedError("the leaves do not give the root that was signed")
        return before, behind

    def _tops(self, start: int, stop: int) -> list[bytes]:
        return [self._subtree(at, at + (1 << level)) for at, level in cover(start, stop)]

    def _subtree(self, start: int, stop: int) -> bytes:
        """The root over a range as the tree has it: it begins at a multiple of the power of two that holds it."""
        self._fill(stop // _BLOCK)
        return self._over(start, stop)

    def _over(self, start: int, stop: int) -> bytes:
        count = stop - start
        if count == _BLOCK and start % _BLOCK == 0:
            return self._blocks[start // _BLOCK]
        if count <= _BLOCK:
            return root(self.read(start, stop))
        middle = start + (1 << ((count - 1).bit_length() - 1))
        return node_hash(self._over(start, middle), self._over(middle, stop))

    def _fill(self, blocks: int) -> None:
        with self._lock:
            while len(self._blocks) < blocks:
                first = len(self._blocks)
                until = min(blocks, first + 64)
                leaves: Sequence[bytes] = self.read(first * _BLOCK, until * _BLOCK)
                self._blocks += [root(leaves[n : n + _BLOCK]) for n in range(0, len(leaves), _BLOCK)]
