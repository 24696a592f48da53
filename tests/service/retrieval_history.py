"""What happened while some wrote and others searched, and the law that is checked over it afterwards.

A document's rules are in force from some moment of the run that brought them on. So a passage may be returned if its
reader was allowed by a state that may have been in force while the search ran: the last one whose run had ended before
the search began, or one whose run overlaps it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Readers = frozenset[str]


@dataclass(frozen=True)
class Written:
    """A run that gave a document these readers. began, ended: by the monotonic clock."""

    document: str
    readers: Readers
    began: float
    ended: float


@dataclass(frozen=True)
class Found:
    """A search of `reader` that returned passages of these documents."""

    reader: str
    documents: tuple[str, ...]
    began: float
    ended: float


@dataclass
class Recorded:
    """Everything that happened, from several threads."""

    written: list[Written] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def write(self, document: str, readers: Readers) -> Iterator[None]:
        """Note a change and the run that brings it."""
        began = time.monotonic()
        yield
        with self._lock:
            self.written.append(Written(document, readers, began, time.monotonic()))

    def search(self, reader: str, call: Callable[[], tuple[str, ...]]) -> None:
        """Note a search and what it returned."""
        began = time.monotonic()
        documents = call()
        with self._lock:
            self.found.append(Found(reader, documents, began, time.monotonic()))

    def leaks(self) -> list[str]:
        """Every passage that its reader may not have got."""
        return [
            f"{search.reader} got {document}"
            for search in self.found
            for document in search.documents
            if not any(search.reader in state.readers for state in self._in_force(document, search))
        ]

    def _in_force(self, document: str, search: Found) -> list[Written]:
        states = sorted((w for w in self.written if w.document == document), key=lambda state: state.began)
        before = [state for state in states if state.ended <= search.began]
        during = [state for state in states if state.ended > search.began and state.began < search.ended]
        return before[-1:] + during
