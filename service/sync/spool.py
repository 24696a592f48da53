"""A queue between two threads that never makes the first one wait: what memory should not hold goes to a file.

The file has no name, so that it is gone with the process, and what is in it is sealed under a key that was never
written anywhere: it holds names and places of documents.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import IO, Final, Generic, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.stores.errors import storage_errors
from service.sync.channel import BrokenOffError

_T = TypeVar("_T")

_IN_MEMORY: Final = 2000
_BLOCK: Final = 100


class Spool(Generic[_T]):
    """Values in their order, as many as there are. Safe to use from several threads.

    folder: where the file is made, once it is needed.
    """

    def __init__(self, folder: Path, in_memory: int = _IN_MEMORY) -> None:
        self._folder = folder
        self._in_memory = in_memory
        self._changed = threading.Condition()
        self._head: deque[_T] = deque()
        # Sealed blocks of the file: where each one begins, and its length. What came last is not sealed yet.
        self._blocks: deque[tuple[int, int]] = deque()
        self._tail: list[_T] = []
        self._file: IO[bytes] | None = None
        self._end = 0
        self._sealed = 0
        self._cipher = AESGCM(AESGCM.generate_key(256))
        self._closed = False
        self._broken = False

    def __len__(self) -> int:
        return len(self._head) + len(self._blocks) * _BLOCK + len(self._tail)

    def put(self, value: _T) -> None:
        """Add a value. Raises BrokenOffError and StorageError."""
        with self._changed:
            self.check()
            if self._blocks or self._tail or len(self._head) >= self._in_memory:
                self._tail.append(value)
                if len(self._tail) >= _BLOCK:
                    self._seal()
            else:
                self._head.append(value)
            self._changed.notify_all()

    def take(self) -> _T | None:
        """Take the next value, waiting for it; None at the end. Raises BrokenOffError and StorageError."""
        with self._changed:
            self._changed.wait_for(lambda: len(self) or self._closed or self._broken)
            self.check()
            if not self._head and self._blocks:
                self._head.extend(self._open())
            if not self._head:
                self._head.extend(self._tail)
                self._tail.clear()
            return self._head.popleft() if self._head else None

    def check(self) -> None:
        """Raise BrokenOffError once the queue was broken off."""
        if self._broken:
            raise BrokenOffError

    def close(self) -> None:
        """Say that nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def break_off(self) -> None:
        """Drop everything and wake whoever waits."""
        with self._changed:
            self._broken = True
            self._head.clear()
            self._tail.clear()
            self._blocks.clear()
            if self._file is not None:
                self._file.close()
                self._file = None
            self._changed.notify_all()

    def _seal(self) -> None:
        with storage_errors(self._folder / "spool"):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - lives on
            sealed = self._cipher.encrypt(self._nonce(self._sealed), pickle.dumps(self._tail), None)
            os.pwrite(self._file.fileno(), sealed, self._end)
        self._blocks.append((self._end, len(sealed)))
        self._end += len(sealed)
        self._sealed += 1
        self._tail.clear()

    def _open(self) -> list[_T]:
        assert self._file is not None, "there are blocks"
        number = self._sealed - len(self._blocks)
        start, size = self._blocks.popleft()
        with storage_errors(self._folder / "spool"):
            sealed = os.pread(self._file.fileno(), size, start)
            if not self._blocks:
                self._file.close()
                self._file, self._end = None, 0
        # Opened only if this process sealed it: nobody else's pickle is read.
        found: list[_T] = pickle.loads(self._cipher.decrypt(self._nonce(number), sealed, None))  # noqa: S301
        return found

    @staticmethod
    def _nonce(number: int) -> bytes:
        return number.to_bytes(12, "big")
