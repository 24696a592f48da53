"""Keeping bodies of records for as long as their class is kept, and no longer, but for what a legal hold keeps.

A sweep, in this order, so that a crash in between is made good by the next one:

1. which classes and days are past their time, and which of them no hold keeps; when that cannot be told, nothing goes
2. a record says which they are, and of which records
3. the index forgets what it knew of these records
4. their keys are destroyed

Nothing is destroyed when the clock cannot be trusted: one that jumped while the service ran, or that stands far ahead
of the last record before the start, until the service has run for a day.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

import structlog

from service.audit.bodies import Period
from service.audit.errors import AuditTamperedError
from service.audit.log import AuditLog
from service.audit.reading import AuditReader
from service.audit.standing import Hold, Tally, expired_record, lifted_record
from service.errors import NotFoundError, RemitError

_EVERY_S: Final = 3600.0
_CLOCK_TOLERANCE: Final = timedelta(hours=1)
_LONGEST_SILENCE: Final = timedelta(days=30)
_A_DAY_S: Final = 24 * 3600.0

_log = structlog.get_logger()


class Retention:
    """Sweeps one log by a thread of its own once it is started. `close` it before the reader.

    kept: for how long each class is kept; one that is not there never expires. Holds are placed and lifted here.
    """

    def __init__(
        self,
        log: AuditLog,
        reader: AuditReader,
        kept: Mapping[str, timedelta],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        uptime_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._audit = log
        self._reader = reader
        self._kept = dict(kept)
        self._now = now
        self._uptime_s = uptime_s
        self._opened = (now(), uptime_s())
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit retention", daemon=True)

    def start(self) -> None:
        """Sweep from now on, once an hour."""
        self._thread.start()

    def close(self) -> None:
        """Stop sweeping."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()

    # --- holds ---

    @property
    def holds(self) -> tuple[Hold, ...]:
        """The holds that stand, the oldest first."""
        return tuple(sorted(self._audit.standing.holds.values(), key=lambda hold: (hold.placed_at, hold.hold_id)))

    def hold(self, asked: Hold) -> Hold:
        """Place a hold; return it with its id. From then on nothing that it names expires.

        Raises AuditUnavailableError.
        """
        placed = replace(asked, hold_id=secrets.token_hex(8))
        with self._lock:  # not between a sweep's look at the holds and its end
            self._audit.append_blocking(placed.record())
        return self._audit.standing.holds[placed.hold_id]

    def lift(self, hold_id: str, by: str, why: str) -> Hold:
        """End a hold; what it alone kept goes with a later sweep. Raises NotFoundError and AuditUnavailableError."""
        with self._lock:
            found = self._audit.standing.holds.get(hold_id)
            if found is None:
                raise NotFoundError("no hold has this id")
            self._audit.append_blocking(lifted_record(hold_id, by, why))
        return found

    # --- sweeping ---

    def sweep(self) -> frozenset[Period]:
        """Let everything expire that is due; return what did. Raises what reading and writing the log raises."""
        with self._lock:
            due = self._due()
            if not due:
                return frozenset()
            held = self._held(due)
            going = due - held
            if not going:
                return frozenset()
            numbers = self._reader.of_periods(going)
            tallies = {period: Tally() for period in going}
            for index, gone in numbers.items():
                tallies[gone.period].add(index)
            kept = {kind: duration.days for kind, duration in self._kept.items()}
            self._audit.append_blocking(expired_record(tallies, kept, len(held)))
            self._reader.expire(numbers)
            self._audit.bodies.destroy(going)
        _log.info("audit_bodies_expired", records=len(numbers), expected=len(going))
        return frozenset(going)

    def _due(self) -> frozenset[Period]:
        now = self._now()
        return frozenset(
            period
            for period in self._audit.bodies.periods()
            if period.kind in self._kept and _end(period.day) + self._kept[period.kind] <= now
        )

    def _held(self, due: Iterable[Period]) -> frozenset[Period]:
        found: set[Period] = set()
        for hold in self._audit.standing.holds.values():
            days: frozenset[date] | None = None
            for period in due:
                if not hold.covers(period):
                    continue
                if hold.names_somebody and days is None:
                    days = self._reader.days_naming(hold.document_id, hold.person)
                if days is None or period.day in days:
                    found.add(period)
        return frozenset(found)

    def clock_trouble(self) -> str:
        """Why nothing may be destroyed by this clock, or nothing."""
        opened, at = self._opened
        up_s = self._uptime_s() - at
        if abs(self._now() - opened - timedelta(seconds=up_s)) > _CLOCK_TOLERANCE:
            return "the clock was changed while the service ran"
        before = self._audit.last_before
        if before is not None and opened - before > _LONGEST_SILENCE and up_s < _A_DAY_S:
            return "the last record before the start is more than 30 days older than the start"
        return ""

    def _run(self) -> None:
        failing = ""
        while not self._ending.is_set():
            why = self.clock_trouble()
            try:
                if not why:
                    self.sweep()
            except (RemitError, AuditTamperedError, sqlite3.Error, OSError) as err:
                why = type(err).__name__
            if why and why != failing:
                # Whatever it is: what is kept too long is kept, and somebody is told.
                _log.error("audit_retention_failed", detail=why)
            failing = why
            self._ending.wait(_EVERY_S)


def _end(day: date) -> datetime:
    return datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)
