"""Whose turn it is at something that serves one call at a time: a search goes ahead of the next batch of a sync."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets a query go ahead of the next batch, so that a sync costs a search at most one batch of waiting.

    patience_s: so long a batch waits for a gap between queries; then it gets its turn under any load.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._ahead = 0

    @contextmanager
    def take(self, *, ahead: bool) -> Iterator[None]:
        """Wait for a turn. ahead: a query, which waits for nobody here; the others wait until none is left."""
        with self._changed:
            if ahead:
                self._ahead += 1
            else:
                self._changed.wait_for(lambda: self._ahead == 0, timeout=self._patience_s)
        try:
            yield
        finally:
            with self._changed:
                if ahead:
                    self._ahead -= 1
                self._changed.notify_all()
