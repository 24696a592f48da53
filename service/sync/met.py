"""Which documents a run has met and which of them wait for their text: as bitmaps of ordinals, small for any source."""

from __future__ import annotations

import threading

from pyroaring import BitMap

from service.stores.checkpoints import StoredCheckpoint


class Met:
    """The documents that one run met. `seen` and `queue` are the walk's; everything may be called from any thread."""

    def __init__(self, resumed: StoredCheckpoint | None = None) -> None:
        self.seen = BitMap() if resumed is None else resumed.seen.copy()
        self._lock = threading.Lock()
        self._queued = BitMap()
        self._done = BitMap()
        self._unconfirmed = BitMap() if resumed is None else resumed.unconfirmed.copy()
        # Few: a source rarely speaks of a document twice.
        self._again: dict[int, bytes] = {}

    def queue(self, ordinal: int) -> None:
        """Note that the text of a document is to do, once a run."""
        with self._lock:
            self._queued.add(ordinal)

    def is_queued(self, ordinal: int) -> bool:
        """Whether the text of the document was to do in this run."""
        return ordinal in self._queued

    def sent_again(self, ordinal: int, version: bytes) -> None:
        """Note that the source said so later than what was queued: until that is the stored one, its text is in doubt.

        version: keyed hash.
        """
        with self._lock:
            self._again[ordinal] = version

    def again(self) -> dict[int, bytes]:
        """Return what was said later, by ordinal."""
        with self._lock:
            return dict(self._again)

    def stored(self, ordinal: int) -> None:
        """Note that what was said later is stored."""
        with self._lock:
            self._again.pop(ordinal, None)

    def done(self, ordinals: list[int]) -> None:
        """Note that the texts of these documents are stored."""
        with self._lock:
            self._done.update(ordinals)

    def unconfirmed(self, ordinal: int) -> None:
        """Note that an older text may be stored than the source has: it changed while it was read, or is not read."""
        with self._lock:
            self._unconfirmed.add(ordinal)

    def unconfirmed_texts(self) -> BitMap:
        """Return those whose text was not confirmed."""
        with self._lock:
            return self._unconfirmed | BitMap(self._again)

    def doubtful(self) -> BitMap:
        """Return those of which nobody knows yet whether their text is what the source has now."""
        with self._lock:
            return (self._queued - self._done) | self._unconfirmed | BitMap(self._again)
