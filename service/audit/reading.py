"""Reading a log that is being written, for auditors: records by what they name, pages of them, proofs, and stretches.

Whatever is returned was held against its leaf first. Everything blocks; thread-safe.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final

import structlog

from service.audit import segments
from service.audit.bodies import HEAD_BYTES, BodyError, Gone, Period, glance
from service.audit.errors import AuditTamperedError, IndexBehindError, RecordError
from service.audit.index import RecordIndex, Wanted, use_of
from service.audit.key import AuditKey
from service.audit.leaves import Leaves
from service.audit.log import AuditLog, SignedCheckpoint
from service.audit.merkle import leaf_hash
from service.audit.record import parse
from service.audit.segments import Place
from service.keys.envelope import UnsealError

_PATIENCE_S: Final = 5.0
_EVERY_S: Final = 1.0
_STRETCH_BYTES: Final = 512 * 1024
_STRETCH_RECORDS: Final = 1000
_MOST_ENDS: Final = 64

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """A record with its number and its leaf hash; `data` is its canonical form.

    expired: its class and day when its body is gone; then `data` is empty.
    """

    index: int
    leaf: bytes
    data: bytes
    expired: Period | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the records that are wanted, in order. following: where the next page begins, None after the last."""

    entries: list[Entry]
    following: int | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Records from `first` up to, and without, `stop` under a signed checkpoint.

    before, behind: the roots of the complete subtrees on both sides, so that the records give the checkpoint's root.
    expiries: the records that say which bodies in it expired, with their proofs of inclusion.
    """

    signed: SignedCheckpoint
    first: int
    stop: int
    before: list[bytes]
    behind: list[bytes]
    expiries: list[tuple[Entry, list[bytes]]]


class AuditReader:
    """Reads one log. `start` it to keep its index close behind the log; `close` it before the log."""

    def __init__(self, log: AuditLog, folder: Path, key: AuditKey) -> None:
        self._log = log
        self._key = key
        self._folder = folder
        self._leaves = Leaves(folder)
        self._bodies = log.bodies
        self._index = RecordIndex(folder, key.verifier.name, log.bodies)
        self._ends: dict[int, Place] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit index", daemon=True)
        self.public_key = key.verifier.text

    def start(self) -> None:
        """Follow the log from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop following and close the index."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._index.close()

    @property
    def size(self) -> int:
        """How many records are durable."""
        return self._log.size

    @property
    def behind(self) -> int:
        """How many records cannot be found by what they name yet."""
        return max(self._log.size - self._index.size, 0)

    def by_response(self, response_id: str) -> list[Entry]:
        """The records of one answer, in order; empty when there is none. Raises as `page`."""
        wanted = Wanted(response_id=response_id)
        return self.page(wanted, first=0, last=self.size, limit=_STRETCH_RECORDS, newest=False).entries

    def page(self, wanted: Wanted, *, first: int, last: int, limit: int, newest: bool) -> Page:
        """The records that are wanted, numbered from `first` to `last`, in order, at most `limit`.

        Raises IndexBehindError while the index is built, and AuditTamperedError for a record that is not what it was.
        """
        with self._asking():
            self._catch_up(self.size)
            places = self._index.find(wanted, first=first, last=last, limit=limit, newest=newest)
        entries = [self._entry(place) for place in places]
        following = None if len(entries) < limit else entries[-1].index + (-1 if newest else 1)
        return Page([entry for entry in entries if self._fits(wanted, entry)], following)

    def _fits(self, wanted: Wanted, entry: Entry) -> bool:
        # Of a body that is gone the index knows the response alone, so nothing else can have proposed it.
        return entry.expired is not None or wanted.fits(_parsed(entry))

    def last_use(self, source: str, principal: str) -> datetime | None:
        """When a passage of a source last left by a rule for this principal; None when the log knows of none."""
        wanted = Wanted(use=use_of(source, principal))
        for entry in self.page(wanted, first=0, last=self.size, limit=1, newest=True).entries:
            if entry.expired is None:
                return datetime.fromisoformat(str(_parsed(entry)["time"]))
        return None

    def query_text(self, response_id: str) -> str | None:
        """The text of one search's query; None when there is none. Raises AuditTamperedError when it does not open."""
        for entry in self.by_response(response_id):
            if entry.expired is not None:
                continue
            body = _parsed(entry)["body"]
            query = body.get("query") if isinstance(body, dict) else None
            if query is not None and "sealed" in query:
                try:
                    return self._key.open_query(query["sealed"], response_id)
                except UnsealError as err:
                    raise AuditTamperedError(f"record {entry.index}: {err}", entry.index) from err
        return None

    def checkpoint(self, size: int = 0) -> SignedCheckpoint:
        """A signed checkpoint over at least `size` records. Raises AuditUnavailableError."""
        return self._log.covering(min(size, self.size))

    def leaf(self, index: int) -> bytes:
        """The leaf hash of one record. Raises ValueError when there is none."""
        if not 0 <= index < self.size:
            raise ValueError(f"no record {index} in a log of {self.size}")
        return self._leaves.read(index, index + 1)[0]

    def inclusion(self, index: int) -> tuple[SignedCheckpoint, list[bytes]]:
        """The proof that record `index` is under a signed checkpoint. Raises ValueError when there is none."""
        self.leaf(index)
        signed = self.checkpoint(index + 1)
        return signed, self._leaves.inclusion(index, signed.checkpoint.size, signed.checkpoint.root)

    def consistency(self, first: int) -> tuple[SignedCheckpoint, list[bytes]]:
        """The proof that the first `first` records are the beginning of what a signed checkpoint covers.

        Raises ValueError unless 0 < first <= number of records.
        """
        signed = self.checkpoint(first)
        return signed, self._leaves.consistency(first, signed.checkpoint.size, signed.checkpoint.root)

    def stretch(self, wanted: Wanted, first: int = 0) -> Stretch:
        """All records from number `first` on, within the times of `wanted`, under a checkpoint that covers them."""
        size = self.size
        stop = size
        if wanted.since is not None or wanted.until is not None:
            ends = [
                self.page(wanted, first=first, last=size - 1, limit=1, newest=newest).entries
                for newest in (False, True)
            ]
            first, stop = (ends[0][0].index, ends[1][0].index + 1) if all(ends) else (size, size)
        first = min(first, stop)
        saying = self._expiries(first, stop)
        signed = self.checkpoint(max([stop, *(index + 1 for index in saying)]))
        size, expected = signed.checkpoint.size, signed.checkpoint.root
        before, behind = self._leaves.around(first, stop, size, expected)
        expiries = [
            (self._entry(self._place(index)), self._leaves.inclusion(index, size, expected)) for index in saying
        ]
        return Stretch(signed, first, stop, before, behind, expiries)

    def _expiries(self, first: int, stop: int) -> list[int]:
        """The numbers of the records that say which bodies expired on the days of a stretch."""
        if first >= stop:
            return []
        ends = [self._day(index) for index in (first, stop - 1)]
        # Days only grow; a record from before bodies were sealed has none.
        since, until = ends[0] or date.min, ends[1] or date.min
        said = self._log.standing.expired.items()
        return sorted({one.index for period, one in said if since <= period.day <= until})

    def _day(self, index: int) -> date | None:
        place = self._place(index)
        for _, stored in segments.read_from(self._folder, place, index + 1):
            found = glance(stored)
            return None if found is None else found.period.day
        return None

    def read(self, first: int, stop: int) -> Iterator[list[Entry]]:
        """Records from number `first` up to, and without, `stop`, in parts. Raises AuditTamperedError."""
        if first >= stop:
            return
        part: list[bytes] = []
        room = _STRETCH_BYTES
        try:
            for place, stored in segments.read_from(self._folder, self._place(first), stop):
                part.append(stored)
                room -= len(stored)
                if room <= 0 or len(part) >= _STRETCH_RECORDS or place.index == stop - 1:
                    self._remember(Place(place.index + 1, place.segment, place.offset + segments.stored_bytes(stored)))
                    yield self._checked(place.index + 1 - len(part), part)
                    part, room = [], _STRETCH_BYTES
        except segments.DamagedError as err:
            raise AuditTamperedError(f"record {err.index}: {err}", err.index) from err

    def _place(self, index: int) -> Place:
        """Where a record stands: where a reading ended, or from the first record of its segment on, by counting."""
        known = self._ends.get(index)
        if known is not None:
            return known
        start = segments.place_before(self._folder, index)
        return next((at for at, _ in segments.read_from(self._folder, start, index + 1) if at.index == index), start)

    def _remember(self, place: Place) -> None:
        # Whoever follows the log asks next for what comes behind.
        with self._lock:
            self._ends[place.index] = place
            while len(self._ends) > _MOST_ENDS:
                del self._ends[next(iter(self._ends))]

    def _entry(self, place: Place) -> Entry:
        for at, stored in segments.read_from(self._folder, place, place.index + 1):
            return self._checked(at.index, [stored])[0]
        raise AuditTamperedError(f"record {place.index} is missing", place.index)

    def _checked(self, first: int, part: Sequence[bytes]) -> list[Entry]:
        """Open records from number `first` on, and hold them against their leaves."""
        leaves = self._leaves.read(first, first + len(part))
        found: list[Entry] = []
        for index, (stored, leaf) in enumerate(zip(part, leaves, strict=True), first):
            try:
                data = self._bodies.open(index, stored)
            except BodyError as err:
                raise AuditTamperedError(f"record {index}: {err}", index) from err
            if isinstance(data, Gone):
                found.append(Entry(index, leaf, b"", self._expired(index, data)))
                continue
            if leaf_hash(data) != leaf:
                raise AuditTamperedError(f"record {index} and its leaf hash do not belong together", index)
            found.append(Entry(index, leaf, data))
        return found

    def _expired(self, index: int, gone: Gone) -> Period:
        """The class and day of a record whose body is gone, as the log says. Raises AuditTamperedError."""
        if gone.period not in self._log.standing.expired:
            raise AuditTamperedError(f"record {index}: the key `{gone.period.name}` is missing", index)
        return gone.period

    # --- what expires ---

    def of_periods(self, periods: Collection[Period]) -> dict[int, Gone]:
        """Every record of these classes and days, by its number. Raises AuditTamperedError."""
        found: dict[int, Gone] = {}
        last = max((period.day for period in periods), default=date.min)
        try:
            for index, head in segments.heads(self._folder, self.size, HEAD_BYTES):
                said = glance(head)
                if said is not None and said.period.day > last:
                    break  # days only grow
                if said is not None and said.period in periods:
                    found[index] = said
        except segments.DamagedError as err:
            raise AuditTamperedError(f"record {err.index}: {err}", err.index) from err
        return found

    def days_naming(self, document_id: str, person: str) -> frozenset[date]:
        """The days on which the log names a document and a person, of which one may be empty.

        Raises IndexBehindError when that cannot be told.
        """
        wanted = Wanted(document_id=document_id, person=person)
        with self._asking():
            self._catch_up(self.size)
            places = [self._index.places_naming(name) for name in wanted.names()]
        # The day that a body was sealed for, which is not that of its time when a clock was set back.
        days = [frozenset(self._days(one)) for one in places]
        return frozenset.intersection(*days) if days else frozenset()

    def _days(self, places: Iterable[Place]) -> Iterator[date]:
        for place in places:
            found = glance(segments.head(self._folder, place, HEAD_BYTES))
            if found is not None:
                yield found.period.day

    def expire(self, gone: Mapping[int, Gone]) -> None:
        """Forget what the index knows of these records beside class, day and response. Raises IndexBehindError."""
        with self._asking():
            self._catch_up(self.size)
            self._index.expire(gone)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as err:
            self._mend(err)
            raise IndexBehindError(f"the index of the audit log cannot be used: {type(err).__name__}") from err
        except segments.DamagedError as err:
            raise AuditTamperedError(f"record {err.index}: {err}", err.index) from err
        except BodyError as err:
            raise AuditTamperedError(f"a record cannot be read: {err}") from err

    # --- the index ---

    def _catch_up(self, size: int) -> None:
        until = time.monotonic() + _PATIENCE_S
        while not self._index.follow(size):
            if time.monotonic() > until:
                raise IndexBehindError(f"the index of the audit log is being built: {self._index.size} of {size}")

    def _mend(self, err: Exception) -> None:
        """Drop an index whose file is damaged; the next call begins another."""
        if isinstance(err, sqlite3.DatabaseError) and not isinstance(err, sqlite3.OperationalError):
            self._index.forget()

    def _run(self) -> None:
        failing = False
        while not self._ending.is_set():
            try:
                done = self._index.follow(self._log.size)
                failing = False
            except (sqlite3.Error, OSError, segments.DamagedError, BodyError, RecordError, ValueError, KeyError) as err:
                # Records are written all the same; whoever reads the log is told.
                if not failing:
                    _log.error("audit_index_failed", error=type(err).__name__)
                failing = done = True
                self._mend(err)
            if done:
                self._ending.wait(_EVERY_S)


def _parsed(entry: Entry) -> dict[str, object]:
    try:
        return parse(entry.data)
    except RecordError as err:
        raise AuditTamperedError(f"record {entry.index}: {err}", entry.index) from err
