"""When the next run over a source is due: a pure function of its schedule and of how the latest runs ended.

Nothing is remembered beside the runs themselves, so a restart neither forgets a back-off nor starts what is not due.
What starts the runs is `service.timetable`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final

from service.stores.records import Recovery, RunState, StoredRun

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
    """How often a source is read. every: from the beginning of one run to that of the next.

    watch: changes that the source reports are read early. They come on top: what is not reported is read in its turn.
    """

    every: timedelta
    watch: bool = True


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


def due(schedule: Schedule, runs: Sequence[StoredRun], now: datetime, notice: Notice | None = None) -> datetime | None:
    """Return when the next run may begin; None while one is under way.

    runs: the latest, the newest first.

    1. One run at a time, and what was missed meanwhile is not made up for: at most one run is due.
    2. The clock starts with the beginning of the latest run, whoever started it.
    3. A failure that may pass by itself is tried again after a minute, two, four, up to a quarter of an hour (or the
       interval, when that is longer), and not before the time that the source asked for.
    4. A failure that only a person can mend waits for six hours at least.
    5. A run that the end of the service broke off goes on at once.
    6. A notice moves the run that is due forward, but never past a failure, and never so that a source is read more
       than half of the time.
    """
    if not runs:
        return now
    latest = runs[0]
    if latest.state is RunState.RUNNING or latest.ended_at is None:
        return None
    if latest.ended_at > now:
        return now  # the clock was set back: a source does not wait for the time by which it was
    draw = random.Random(latest.run_id).random()  # the same for the same run, whenever it is asked
    if latest.state is RunState.FAILED:
        return latest.ended_at + _wait(schedule, runs, draw)
    found = max(latest.started_at + schedule.every * (1 - _JITTER * draw), latest.ended_at)
    if notice is not None and notice.last >= latest.started_at:
        quiet = min(notice.last + _QUIET, notice.first + _PATIENCE)
        found = min(found, max(quiet, latest.ended_at + (latest.ended_at - latest.started_at)))
    return found


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
            return max(schedule.every, _FOR_A_PERSON) * (1 + _JITTER * draw)
        case Recovery.RETRY:
            failures = sum(1 for _ in takewhile(lambda run: run.state is RunState.FAILED, runs))
            wait = min(schedule.every, _FIRST_RETRY) * 2.0 ** (min(failures, HISTORY) - 1)
            return max(min(wait, max(schedule.every, _LONGEST_RETRY)) * (1 - draw / 2), asked)
