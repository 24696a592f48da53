"""Keyword search: the client of the process that holds the postings, and what the catalog's feed says of terms.

Words become numbers here, in the service: neither the process nor its folder ever sees one. The postings, their lock
and their state belong to `service.index.keyword_process`, BM25 to `service.index.postings`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from pyroaring import AbstractBitMap

from service.embed.turns import Turns
from service.errors import SearchUnavailableError, StartError
from service.index.base import AddText, Remove
from service.index.postings import SEGMENT_ROWS, Impacts, Terms, impacts
from service.keys import KeyStore
from service.process import Child, ChildCrashedError, ChildError, ChildRefusedError
from service.text.terms import TermHash, passage_terms, query_terms

MAX_QUERY_TERMS: Final = 64
"""Of a question; the others, of a text that somebody pasted, are left out. The alphabet decides which."""

_PIECE: Final = 250
_SEGMENTS: Final = 16
"""Fewer segments are no reason to make the index anew: each costs a search some microseconds."""
_SEARCH_S: Final = 5.0
"""A search of a million passages takes some 10 ms; a process that takes so long is ended and started again."""
_REST_S: Final = 5.0
_OWNER: Final = "(words)"
"""Under whose secret words are hashed, as if it were a source; none can have this name."""


@dataclass(frozen=True, slots=True, eq=False)
class AddTerms:
    """A chunk to hold: its terms, ascending, and what each says about it."""

    seq: int
    row: int
    terms: Terms
    impacts: Impacts


def term_hash(keys: KeyStore) -> TermHash:
    """Return what hashes words for the index of a catalog with these keys. Made at the first call, durable on return.

    Without the key store, which backups of the rest do not hold, nobody can test a guess of a word.
    """
    keys.add_source(_OWNER)
    return TermHash(keys.name(_OWNER, "terms"))


class TextReader(Protocol):
    """What is needed of a reader of the catalog."""

    @property
    def feed_seq(self) -> int:
        """The last item that there is."""

    def text_feed(self, after: int, limit: int) -> list[AddText | Remove]:
        """Return at most `limit` items after `after`, in order."""


class Catalog(Protocol):
    """What is needed of the catalog."""

    def reader(self) -> AbstractContextManager[TextReader]:
        """Open one snapshot."""


class _Feed:
    def __init__(self, reader: TextReader, hashed: TermHash) -> None:
        self.feed_seq = reader.feed_seq
        self._reader = reader
        self._hashed = hashed

    def feed(self, after: int, limit: int) -> list[AddTerms | Remove]:
        return [
            item if isinstance(item, Remove) else AddTerms(item.seq, item.row, *self._impacts(item.text))
            for item in self._reader.text_feed(after, limit)
        ]

    def _impacts(self, text: str) -> tuple[Terms, Impacts]:
        counted = passage_terms(text)
        numbers: dict[int, int] = {}
        for number, count in zip(self._hashed.numbers(counted), counted.values(), strict=True):
            numbers[number] = numbers.get(number, 0) + count
        return impacts(numbers)


class TermFeed:
    """The catalog's feed with terms in place of texts, for `service.index.follow`."""

    def __init__(self, catalog: Catalog, hashed: TermHash) -> None:
        self._catalog = catalog
        self._hashed = hashed

    @contextmanager
    def reader(self) -> Iterator[_Feed]:
        """Open one snapshot."""
        with self._catalog.reader() as reader:
            yield _Feed(reader, self._hashed)


class KeywordIndex:
    """Postings in a process of its own. Calls block and may come from several threads.

    folder: made when it does not exist; emptied when it belongs to another incarnation or hash.
    incarnation: that of the catalog.
    Raises StartError when another process holds the folder or the process does not start.
    """

    def __init__(self, folder: Path, *, incarnation: str, hashed: TermHash, call_timeout_s: float = 60.0) -> None:
        self._hashed = hashed
        self._lock = threading.Lock()
        self._turns = Turns(patience_s=0.01)
        self._searched_at = time.monotonic()
        self._resting_until = 0.0
        self._child = Child(
            "service.index.keyword_process",
            args=[str(folder.absolute()), incarnation, hashed.fingerprint],
            name="keyword index",
            call_timeout_s=call_timeout_s,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            self._child.start()
            self._applied_seq, self._count, self._segments, self._process = 0, 0, 0, self._child.pid
            self._learn(self._child.call("state", {})[0])
        except ChildError as err:
            self._child.close()
            raise StartError(f"the keyword index cannot be opened: {err}") from err

    @property
    def applied_seq(self) -> int:
        """The feed's last item that was applied. Falls back to a durable one on a crash."""
        return self._applied_seq

    @property
    def count(self) -> int:
        """How many chunks are held."""
        return self._count

    @property
    def quiet_s(self) -> float:
        """How long ago the last search ended, in seconds; since the opening when there was none."""
        return time.monotonic() - self._searched_at

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._child.pid

    @property
    def wasteful(self) -> bool:
        """Whether it lies in so many segments, of which little is left, that making it anew pays.

        What is removed leaves no room behind, but a segment lasts as long as one of its rows.
        """
        return self._segments > _SEGMENTS + 2 * (self._count // SEGMENT_ROWS)

    def recover(self) -> None:
        """Start the process again, if it ended since the last call, and learn how far it is."""
        with self._lock:
            if self._child.pid != self._process:
                self._learn(self._call("state", {}))

    def apply(self, items: Sequence[AddTerms | Remove]) -> None:
        """Apply items in the feed's order; those that were applied before change nothing.

        Raises SearchUnavailableError, also when the process fell back behind: feed it again from there.
        """
        if not items:
            return
        removed = {item.row for item in items if isinstance(item, Remove)}
        added = [item for item in items if isinstance(item, AddTerms) and item.row not in removed]
        with self._lock:
            for start in range(0, max(len(added), 1), _PIECE):
                done = start + _PIECE >= len(added)
                # The place in the feed moves with the last piece, so that a piece that is missing comes again.
                self._apply(
                    added[start : start + _PIECE],
                    removed if done else set(),
                    items[-1].seq if done else self._applied_seq,
                )

    def _apply(self, added: Sequence[AddTerms], removed: set[int], last: int) -> None:
        blobs = [
            np.array([item.row for item in added], np.uint32).tobytes(),
            np.array([len(item.terms) for item in added], np.int64).tobytes(),
            b"".join(item.terms.tobytes() for item in added),
            b"".join(item.impacts.tobytes() for item in added),
        ]
        params = {"remove": sorted(removed), "after": self._applied_seq, "last": last}
        with self._turns.take(ahead=False):
            answer = self._call("apply", params, blobs)
        self._learn(answer)
        if answer.get("done") is not True:
            raise SearchUnavailableError(f"the keyword index fell back to item {self._applied_seq} of the feed")

    def flush(self) -> int:
        """Make everything applied durable and return its `applied_seq`."""
        with self._lock, self._turns.take(ahead=False):
            self._learn(self._call("flush", {}))
            return self._applied_seq

    def clear(self) -> None:
        """Forget everything, durably: the feed starts over."""
        with self._lock:
            self._learn(self._call("clear", {}))

    def search(self, text: str, rows: AbstractBitMap, limit: int) -> list[int]:
        """See `service.index.base.Keywords`."""
        terms = self._hashed.numbers(sorted(query_terms(text))[:MAX_QUERY_TERMS])
        if not rows or not terms:
            return []
        if time.monotonic() < self._resting_until:
            raise SearchUnavailableError("the keyword index does not start, and is tried again in a moment")
        with self._turns.take(ahead=True):
            try:
                answer = self._call("search", {"terms": terms, "limit": limit}, [rows.serialize()], _SEARCH_S)
            except SearchUnavailableError:
                # Searches that each wait for a process that does not start would keep all threads from the others.
                self._resting_until = time.monotonic() + _REST_S
                raise
            self._searched_at = time.monotonic()
        found = answer.get("rows")
        if not isinstance(found, list):
            raise SearchUnavailableError("the keyword index sent an answer without rows")
        # The second wall: whatever the process did, nothing leaves that was not asked for.
        if not all(type(row) is int and row in rows for row in found):
            raise SearchUnavailableError("the keyword index answered with a row outside the permitted ones")
        return found

    def close(self) -> None:
        """Flush and release what is held."""
        try:
            if self._child.alive:
                self.flush()
        finally:
            self._child.close()

    def _call(
        self,
        method: str,
        params: Mapping[str, object],
        blobs: Sequence[bytes] = (),
        timeout_s: float | None = None,
    ) -> dict[str, object]:
        # A process that died is started again by the next call, and everything it is asked may be asked twice.
        for last in (False, True):
            try:
                return self._child.call(method, params, blobs, timeout_s=timeout_s)[0]
            except ChildRefusedError as err:
                raise SearchUnavailableError(str(err)) from err
            except ChildCrashedError as err:
                if last:
                    raise SearchUnavailableError(str(err)) from err
            except ChildError as err:
                raise SearchUnavailableError(str(err)) from err
        raise AssertionError("unreachable")

    def _learn(self, answer: Mapping[str, object]) -> None:
        numbers = [answer.get(name) for name in ("applied_seq", "count", "segments")]
        applied, count, segments = (one if isinstance(one, int) else -1 for one in numbers)
        if min(applied, count, segments) < 0:
            raise SearchUnavailableError("the keyword index sent an answer without its state")
        self._applied_seq, self._count, self._segments = applied, count, segments
        self._process = self._child.pid
