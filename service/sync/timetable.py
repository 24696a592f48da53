"""Starts the runs that are due, in a thread of its own. When one is due is left to `service.sync.schedules`, how it
runs to `service.sync.engine`.

It holds nothing that matters: what was run stands in the catalog, and a service that starts again goes on from there.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from service.errors import RemitError, SyncRunningError
from service.stores.records import RunState, StoredRun, SyncPass
from service.sync.schedules import HISTORY, History, Notice, Schedule, due, waits_for_a_person

log = structlog.get_logger()

_LONGEST_SLEEP_S: Final = 60.0
"""The wall clock may be set while nobody looks."""

_AGAIN: Final = timedelta(minutes=1)
"""After a start that was refused, by a full disk or an audit log that cannot be written."""


class Runs(Protocol):
    """What is needed of `service.sync.source_runs.SourceRuns`."""

    def start(self, name: str, sync_pass: SyncPass) -> StoredRun:
        """Open a run and return at once. Raises RemitError."""

    def history(self, name: str, limit: int) -> History:
        """Return the latest runs over a source, at most `limit`."""


class Timetable:
    """The schedules of all sources. Safe to use from several threads.

    `start` begins; `close` ends it, and starts nothing any more.
    """

    def __init__(self, runs: Runs, schedules: Mapping[str, Schedule], now: Callable[[], datetime]) -> None:
        self._runs = runs
        self._now = now
        self._changed = threading.Condition()
        self._schedules = dict(schedules)
        self._history: dict[str, History] = {}
        self._notices: dict[str, Notice] = {}
        self._not_before: dict[str, datetime] = {}
        self._since: dict[str, datetime] = {}
        self._told: dict[str, str] = {}
        self._again = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="timetable")

    def start(self) -> None:
        """Begin to start runs."""
        self._thread.start()

    def close(self) -> None:
        """Start nothing any more. Does nothing the second time."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def turn(self) -> float:
        """Start every run that is due; return in how many seconds to look again, unless something happens before."""
        with self._changed:
            self._again = False
            schedules = {} if self._closed else dict(self._schedules)
        return min([_LONGEST_SLEEP_S, *(self._look(name, schedule) for name, schedule in schedules.items())])

    def ran(self, source: str) -> None:
        """Say that a run over a source began or ended, whoever started it."""
        with self._changed:
            self._history.pop(source, None)
            self._wake()

    def notice(self, source: str) -> None:
        """Say that the source reports a change."""
        now = self._now()
        with self._changed:
            self._notices[source] = Notice.after(self._notices.get(source), now)
            self._wake()

    def replace(self, schedules: Mapping[str, Schedule], differ: Iterable[str] = ()) -> None:
        """Use other schedules from now on. differ: sources whose runs up to now do not count: another is due."""
        now = self._now()
        with self._changed:
            self._schedules = dict(schedules)
            self._since.update(dict.fromkeys(differ, now))
            self._history.clear()
            self._not_before.clear()
            self._wake()

    def next_at(self, source: str) -> datetime | None:
        """Return when the next run over a source is due; None without a schedule, and while one is under way."""
        with self._changed:
            schedule, notice = self._schedules.get(source), self._notices.get(source)
            not_before = self._not_before.get(source)
        if schedule is None:
            return None
        found = due(schedule, self._read(source), self._now(), notice)
        if found is None:
            return None
        return found.at if not_before is None else max(found.at, not_before)

    def _wake(self) -> None:
        self._again = True
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            try:
                wait_s = self.turn()
            except Exception as err:  # noqa: BLE001  the thread's top: a defect must not end every schedule
                last = traceback.extract_tb(err.__traceback__)[-1]
                log.error("timetable_failed", error=type(err).__name__, where=f"{last.name}:{last.lineno}")
                wait_s = _LONGEST_SLEEP_S
            with self._changed:
                if self._closed:
                    return
                if not self._again:
                    self._changed.wait(wait_s)

    def _look(self, source: str, schedule: Schedule) -> float:
        """Start the run over a source when it is due; return in how many seconds to look again."""
        try:
            history = self._remembered(source)
            now = self._now()
            with self._changed:
                found = due(schedule, history, now, self._notices.get(source))
                not_before = self._not_before.get(source)
            self._tell(source, history.runs)
            if found is None:
                return _LONGEST_SLEEP_S
            at = found.at if not_before is None else max(found.at, not_before)
            if at <= now:
                self._begin(source, found.sync_pass)
                return _LONGEST_SLEEP_S
            return (at - now).total_seconds()
        except SyncRunningError:
            return _LONGEST_SLEEP_S  # somebody was quicker; its end wakes us
        except RemitError as err:
            log.error("scheduled_run_not_started", source=source, error=type(err).__name__)
            with self._changed:
                self._not_before[source] = self._now() + _AGAIN
            return _AGAIN.total_seconds()

    def _begin(self, source: str, sync_pass: SyncPass) -> None:
        with self._changed:
            if self._closed:
                return
        self._runs.start(source, sync_pass)
        with self._changed:
            self._history.pop(source, None)

    def _remembered(self, source: str) -> History:
        with self._changed:
            found = self._history.get(source)
        if found is None:
            found = self._read(source)
            with self._changed:
                # Not kept when a run began or ended meanwhile: then it is read once more.
                if not self._again:
                    self._history[source] = found
        return found

    def _read(self, source: str) -> History:
        """The latest runs that count, and one that is under way."""
        found = self._runs.history(source, HISTORY)
        with self._changed:
            since = self._since.get(source)
        if since is None:
            return found
        return History([run for run in found.runs if run.started_at >= since or run.state is RunState.RUNNING])

    def _tell(self, source: str, runs: Sequence[StoredRun]) -> None:
        """Say loudly, once for each run, that somebody must act."""
        if waits_for_a_person(runs) and self._told.get(source) != runs[0].run_id:
            self._told[source] = runs[0].run_id
            log.error("source_waits_for_a_person", source=source, run_id=runs[0].run_id)
