"""The timetable: what is due is started, one run a source, and nothing keeps it from the next."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from service.errors import AuditUnavailableError, SyncRunningError
from service.stores.records import Counts, Recovery, RunState, StoredRun, SyncPass
from service.sync import timetable
from service.sync.schedules import History, Schedule
from service.sync.timetable import Timetable
from service.telemetry import logging_to
from tests.service.harness import EPOCH, Clock

HOUR = timedelta(hours=1)


class FakeRuns:
    """Runs that last until a test ends them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.runs: dict[str, list[StoredRun]] = {}
        self.refuse: Exception | None = None
        self.asked = 0
        self.started = threading.Event()

    def start(self, name: str, sync_pass: SyncPass) -> StoredRun:
        """See `service.sync.timetable.Runs`."""
        if self.refuse is not None:
            raise self.refuse
        number = len(self.runs.setdefault(name, []))
        run = StoredRun(f"{name}-{number}", name, RunState.RUNNING, self.clock(), None, Counts(), sync_pass=sync_pass)
        self.runs[name].insert(0, run)
        self.started.set()
        return run

    def history(self, name: str, limit: int) -> History:
        """See `service.sync.timetable.Runs`."""
        self.asked += 1
        return History(self.runs.get(name, [])[:limit])

    def end(self, name: str, state: RunState = RunState.SUCCEEDED, recovery: Recovery = Recovery.RETRY) -> None:
        """End the run that is under way."""
        self.runs[name][0] = replace(self.runs[name][0], state=state, ended_at=self.clock(), recovery=recovery)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def runs(clock: Clock) -> FakeRuns:
    return FakeRuns(clock)


@pytest.fixture
def table(runs: FakeRuns, clock: Clock) -> Iterator[Timetable]:
    found = Timetable(runs, {"a": Schedule(HOUR), "b": Schedule(HOUR)}, clock)
    yield found
    found.close()


def count(runs: FakeRuns) -> dict[str, int]:
    return {name: len(found) for name, found in runs.runs.items()}


def test_what_is_due_is_started_and_what_runs_is_left_alone(table: Timetable, runs: FakeRuns, clock: Clock) -> None:
    """Each source once at first; again when its interval has passed since, and only then."""
    table.turn()
    table.turn()
    assert count(runs) == {"a": 1, "b": 1}
    runs.end("a")
    table.ran("a")
    clock.advance(HOUR / 2)
    assert table.turn() <= 60
    assert count(runs) == {"a": 1, "b": 1}

    clock.advance(HOUR / 2)
    table.turn()

    assert count(runs) == {"a": 2, "b": 1}, "b is under way for an hour, and is not begun a second time"


def test_a_source_without_a_schedule_is_never_started(runs: FakeRuns, clock: Clock) -> None:
    """Also not by a notice."""
    table = Timetable(runs, {"a": Schedule(HOUR)}, clock)

    table.notice("c")
    table.turn()

    assert count(runs) == {"a": 1}
    assert table.next_at("c") is None


def test_a_start_that_is_refused_is_tried_again_in_a_minute(table: Timetable, runs: FakeRuns, clock: Clock) -> None:
    """Without a record nothing is read; the other source, and the time after, are as ever."""
    runs.refuse = AuditUnavailableError("the disk is full")
    table.turn()
    runs.refuse = None
    table.turn()
    assert count(runs) == {}
    assert table.next_at("a") == EPOCH + timedelta(minutes=1)

    clock.advance(timedelta(minutes=1))
    table.turn()

    assert count(runs) == {"a": 1, "b": 1}


def test_a_run_that_somebody_started_meanwhile_is_no_error(table: Timetable, runs: FakeRuns) -> None:
    """The race between a person and the clock has one winner, and no line in the log."""
    runs.refuse = SyncRunningError("a", "theirs")
    stream = io.StringIO()

    with logging_to(stream):
        table.turn()

    assert stream.getvalue() == ""
    runs.refuse = None
    table.turn()
    assert count(runs) == {"a": 1, "b": 1}


def test_a_notice_starts_a_run_early(table: Timetable, runs: FakeRuns, clock: Clock) -> None:
    """A second after the change; the neighbour, which said nothing, waits for its turn."""
    table.turn()
    for name in ("a", "b"):
        runs.end(name)
        table.ran(name)
    clock.advance(timedelta(minutes=5))
    table.notice("a")
    assert table.turn() == pytest.approx(1.0)
    assert count(runs) == {"a": 1, "b": 1}

    clock.advance(timedelta(seconds=1))
    table.turn()
    runs.end("a")
    table.ran("a")
    clock.advance(timedelta(minutes=1))
    table.turn()

    assert count(runs) == {"a": 2, "b": 1}, "once for one notice"


def test_a_failure_for_a_person_is_said_once_and_loudly(table: Timetable, runs: FakeRuns, clock: Clock) -> None:
    """One line of level error a run; the next is due hours later."""
    table.turn()
    runs.end("a", RunState.FAILED, Recovery.PERSON)
    table.ran("a")
    stream = io.StringIO()

    with logging_to(stream):
        for _ in range(30):
            clock.advance(timedelta(minutes=5))
            table.turn()

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(one["event"], one["level"], one["source"]) for one in lines] == [
        ("source_waits_for_a_person", "error", "a")
    ]
    assert count(runs) == {"a": 1, "b": 1}
    clock.advance(timedelta(hours=5))
    table.turn()
    assert count(runs)["a"] == 2


def test_other_schedules_are_in_force_at_once(table: Timetable, runs: FakeRuns, clock: Clock) -> None:
    """A source that is not in them is not started, and one that is, by its new interval."""
    table.turn()
    for name in ("a", "b"):
        runs.end(name)
    clock.advance(timedelta(minutes=10))

    table.replace({"a": Schedule(timedelta(minutes=10))})
    table.turn()

    assert count(runs) == {"a": 2, "b": 1}


def test_a_source_with_other_settings_is_due_at_once(table: Timetable, runs: FakeRuns, clock: Clock) -> None:
    """What failed for a person may be mended by them; the one whose settings are the same waits for its turn."""
    table.turn()
    runs.end("a", RunState.FAILED, Recovery.PERSON)
    runs.end("b")
    clock.advance(timedelta(minutes=1))
    both = {"a": Schedule(HOUR), "b": Schedule(HOUR)}

    table.replace(both, {"a"})
    table.turn()
    table.turn()

    assert count(runs) == {"a": 2, "b": 1}
    runs.end("a")
    table.ran("a")
    table.turn()
    assert count(runs) == {"a": 2, "b": 1}


def test_a_run_by_former_settings_is_waited_for(table: Timetable, runs: FakeRuns, clock: Clock) -> None:
    """Never two at once: the other one begins when it has ended, although it had just begun."""
    table.turn()
    clock.advance(timedelta(minutes=1))
    table.replace({"a": Schedule(HOUR)}, {"a"})
    table.turn()
    assert count(runs)["a"] == 1

    runs.end("a", RunState.CANCELLED)
    table.ran("a")
    table.turn()

    assert count(runs)["a"] == 2


def test_the_history_is_read_when_something_happened_alone(table: Timetable, runs: FakeRuns) -> None:
    """Looking at the clock does not cost a reading of the catalog."""
    table.turn()
    runs.end("a")
    runs.end("b")
    table.turn()
    before = runs.asked

    for _ in range(100):
        table.turn()

    assert runs.asked == before


def test_the_thread_starts_what_is_due_and_ends(runs: FakeRuns) -> None:
    """`start` begins without anybody calling `turn`; after `close` nothing is started."""
    table = Timetable(runs, {"a": Schedule(HOUR)}, lambda: datetime.now(EPOCH.tzinfo))

    table.start()

    assert runs.started.wait(30)
    table.close()
    table.close()
    runs.runs.clear()
    table.ran("a")
    table.turn()
    assert count(runs) == {}


def test_rules_are_verified_in_between(runs: FakeRuns, clock: Clock) -> None:
    """The run that is started is of the pass that is due."""
    table = Timetable(runs, {"a": Schedule(HOUR, permissions_every=HOUR / 6)}, clock)
    for _ in range(13):
        table.turn()
        runs.end("a")
        table.ran("a")
        clock.advance(HOUR / 6)

    passes = [run.sync_pass for run in reversed(runs.runs["a"])]
    assert passes == [SyncPass.CONTENT, *[SyncPass.PERMISSIONS] * 5] * 2 + [SyncPass.CONTENT]


def test_a_defect_ends_no_schedule(runs: FakeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is said with its place, and the next look starts what is due."""
    monkeypatch.setattr(timetable, "_LONGEST_SLEEP_S", 0.05)
    runs.refuse = RuntimeError("words that may be anybody's")
    table = Timetable(runs, {"a": Schedule(HOUR)}, lambda: datetime.now(EPOCH.tzinfo))
    stream = io.StringIO()

    with logging_to(stream):
        table.start()
        for _ in range(400):
            if "timetable_failed" in stream.getvalue():
                break
            threading.Event().wait(0.05)
        runs.refuse = None
        assert runs.started.wait(30)
        table.close()

    line = json.loads(stream.getvalue().splitlines()[0])
    assert (line["event"], line["level"], line["error"]) == ("timetable_failed", "error", "RuntimeError")
    assert "anybody" not in stream.getvalue()
