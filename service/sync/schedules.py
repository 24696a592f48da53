"""When the next run over a source is due: a pure function of its schedule and of how the latest runs ended.

Nothing is remembered beside the runs themselves, so a restart neither forgets a back-off nor starts what is not due.
What starts the runs is `service.sync.timetable`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final

from service.stores.records import Recovery, RunState, StoredRun, SyncPass

HISTORY: Final = 12
"""How many of the latest runs are looked at: more failures in a row wait no longer."""

_JITTER: Final = 0.1
"""Runs begin up to this share of the interval early, so that sources do not keep step with each other."""

_FIRST_RETRY: Final = timedelta(minutes=1)
_LONGEST_RETRY: Final = timedelta(minutes=15)
_FOR_A_PERSON: Final = timedelta(hours=6)
"""After a failure that only a person can mend. A wrong password that is tried often locks the account."""

_LONGEST_ASKED: Final = timedelta(days=1)
"""What a source asks for with its failure counts up to here: it may be wrong, or lie."""

_QUIET: Final = timedelta(seconds=1)
"""How long the source must have been quiet after a notice of a change, so that one copy of a folder is one run."""

_PATIENCE: Final = timedelta(seconds=10)
"""And after that long it is read although it is not quiet."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often a source is read. every: from the beginning of one run over everything to that of the next.

    permissions_every: the same of runs that verify rules alone, in between; None when there are none.
    watch: changes that the source reports are read early. They come on top: what is not reported is read in its turn.
    """

    every: timedelta
    watch: bool = True
    permissions_every: timedelta | None = None

    @property
    def shortest(self) -> timedelta:
        """The time between two runs of any kind."""
        return self.every if self.permissions_every is None else min(self.every, self.permissions_every)


@dataclass(frozen=True, slots=True)
class History:
    """What was run. runs: the latest, the newest first. content_at: when the latest whole run over everything began."""

    runs: Sequence[StoredRun] = ()
    content_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """When the next run may begin, and what it verifies."""

    at: datetime
    sync_pass: SyncPass = SyncPass.CONTENT


@dataclass(frozen=True, slots=True)
class Notice:
    """The source said that something changed: at first at `first`, and lately at `last`."""

    first: datetime
    last: datetime

    @classmethod
    def after(cls, before: Notice | None, now: datetime) -> Notice:
        """The notice of a change at `now`: the same one while the source was never quiet in between."""
        same = before is not None and timedelta(0) <= now - before.last <= _QUIET
        return cls(before.first if same and before is not None else now, now)


def due(schedule: Schedule, history: History, now: datetime, notice: Notice | None = None) -> Due | None:
    """Return which run is next; None while one is under way.

    1. One run at a time, and what was missed meanwhile is not made up for: at most one run is due.
    2. The clock starts with the beginning of the latest run, whoever started it. A run over everything verifies rules
       too, so it starts both clocks, and when both are due it is the one.
    3. A failure that may pass by itself is tried again after a minute, two, four, up to a quarter of an hour (or the
       interval, when that is longer), and not before the time that the source asked for.
    4. A failure that only a person can mend waits for six hours at least.
    5. A run that the end of the service broke off goes on at once.
    6. A notice moves the run over everything forward, but never past a failure, and never so that a source is read
       more than half of the time.
    """
    if not history.runs:
        return Due(now)
    latest = history.runs[0]
    if latest.state is RunState.RUNNING or latest.ended_at is None:
        return None
    if max(latest.started_at, latest.ended_at) > now:
        return Due(now)  # the clock was set back: a source does not wait for the time by which it was
    history = _until(now, history)
    draw = random.Random(latest.run_id).random()  # the same for the same run, whenever it is asked
    found = _next(schedule, history, draw)
    if latest.state is RunState.FAILED:
        at = latest.ended_at + _wait(schedule, history.runs, draw)
        return Due(at, found.sync_pass if found.at <= at else latest.sync_pass)
    began = _began(history, SyncPass.CONTENT)
    if notice is not None and (began is None or notice.last >= began):
        quiet = min(notice.last + _QUIET, notice.first + _PATIENCE)
        early = max(quiet, latest.ended_at + (latest.ended_at - latest.started_at))
        if early <= found.at:
            return Due(early)
    return replace(found, at=max(found.at, latest.ended_at))


def _until(now: datetime, history: History) -> History:
    """Leave out what began in the future, by a clock that was set back since: no run waits for it."""
    content_at = history.content_at
    return History(
        [run for run in history.runs if run.started_at <= now],
        None if content_at is None or content_at > now else content_at,
    )


def _next(schedule: Schedule, history: History, draw: float) -> Due:
    """By the intervals alone: the run that is due first, and of two that are due that over everything."""
    share = 1 - _JITTER * draw
    began, verified = _began(history, SyncPass.CONTENT), _began(history, SyncPass.PERMISSIONS)
    ended = history.runs[0].ended_at
    assert ended is not None
    if began is None:
        return Due(ended)
    content = Due(began + schedule.every * share)
    if schedule.permissions_every is None or verified is None:
        return content
    rules = Due(verified + schedule.permissions_every * share, SyncPass.PERMISSIONS)
    return content if content.at <= max(rules.at, ended) else rules


def _began(history: History, sync_pass: SyncPass) -> datetime | None:
    """When the latest run began that counts for a pass, and did not fail; None when there was none."""
    counts = {SyncPass.CONTENT} if sync_pass is SyncPass.CONTENT else {SyncPass.CONTENT, SyncPass.PERMISSIONS}
    found = [one.started_at for one in history.runs if one.sync_pass in counts and one.state is not RunState.FAILED]
    return max([*found, *([] if history.content_at is None else [history.content_at])], default=None)


def waits_for_a_person(runs: Sequence[StoredRun]) -> bool:
    """Whether the latest run failed by what only a person can mend."""
    return bool(runs) and runs[0].state is RunState.FAILED and runs[0].recovery is Recovery.PERSON


def _wait(schedule: Schedule, runs: Sequence[StoredRun], draw: float) -> timedelta:
    latest = runs[0]
    asked = min(latest.retry_after or timedelta(0), _LONGEST_ASKED)
    match latest.recovery:
        case Recovery.RESUME:
            return timedelta(0)
        case Recovery.PERSON:
            return max(schedule.shortest, _FOR_A_PERSON) * (1 + _JITTER * draw)
        case Recovery.RETRY:
            failures = sum(1 for _ in takewhile(lambda run: run.state is RunState.FAILED, runs))
            wait = min(schedule.shortest, _FIRST_RETRY) * 2.0 ** (min(failures, HISTORY) - 1)
            return max(min(wait, max(schedule.shortest, _LONGEST_RETRY)) * (1 - draw / 2), asked)
