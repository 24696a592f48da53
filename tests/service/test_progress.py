"""How a run shows itself while it goes on: phase, rate and time left, on a terminal, in a log and for machines."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from remit.client import SyncCounts, SyncPhase, SyncProblem, SyncProgress, SyncRun, SyncState, _read, source_values
from rich.console import Console

from service.api import wire
from service.api.sources import SourceState
from service.cli import progress as shown
from service.stores.records import Counts, Phase, Removal, RunState, StoredRun, StoredSource
from service.sync.runs import Progress

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Seconds:
    """A clock in seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(expected: int, clock: Seconds) -> Progress:
    """The progress of a run that was just opened."""
    return Progress(StoredRun("r", "s", RunState.RUNNING, NOON, None, Counts()), expected, clock)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    """Fifty a second for a long time and then ten a second is ten a second; what was long ago is forgotten."""
    clock = Seconds()
    progress = opened(0, clock)

    rates = []
    for per_second in [50] * 40 + [10] * 12:
        clock.now += 1
        progress.add(Counts(stored=per_second))
        live = progress.snapshot().live
        assert live is not None
        rates.append(live.rate)

    assert rates[39] == pytest.approx(50)
    assert rates[-1] == pytest.approx(10)


def test_time_left_is_told_from_what_was_there_and_then_from_what_was_counted() -> None:
    """While it walks the source is taken to be as large as before; after it, what waits is known."""
    clock = Seconds()
    known, first = opened(1000, clock), opened(0, clock)

    def advance(progress: Progress) -> timedelta | None:
        progress.snapshot()
        progress.add(Counts(seen=100, unchanged=100))
        live = progress.snapshot().live
        assert live is not None
        return live.time_left

    clock.now += 10
    assert advance(known) == timedelta(seconds=90)
    assert advance(first) is None

    first.phase(Phase.STORING)
    first.remaining(50)
    live = first.snapshot().live
    assert live is not None
    assert (live.phase, live.time_left) == (Phase.STORING, timedelta(seconds=5))


def test_nothing_is_promised_without_ground() -> None:
    """A source that is silent, one that has grown beyond what it was, and a run that has ended have no time left."""
    clock = Seconds()
    progress = opened(10, clock)
    clock.now += 5
    silent = progress.snapshot().live
    progress.add(Counts(unchanged=50))
    grown = progress.snapshot().live
    progress.end(progress.ended(RunState.SUCCEEDED, "", NOON))

    assert silent is not None
    assert grown is not None
    assert (silent.rate, silent.time_left, grown.time_left) == (0.0, None, None)
    assert progress.snapshot().live is None


def run(phase: SyncPhase | None = SyncPhase.READING, *, stored: int = 5, problems: int = 0) -> SyncRun:
    """A run as a client sees it."""
    found = tuple(SyncProblem(f"/{'long' * 60}/{number}.pdf", "encrypted", "it asks") for number in range(problems))
    counts = SyncCounts(20, stored, 10, 0, problems, 0, 30, 2, 0)
    live = None if phase is None else SyncProgress(phase, 40, 12.5, timedelta(seconds=100))
    state = SyncState.RUNNING if phase is not None else SyncState.SUCCEEDED
    return SyncRun("r", "company", state, NOON, None, counts, found, "", live)


def test_a_log_gets_plain_lines_when_something_else_begins() -> None:
    """No escape sequence, no line that overwrites another, and not a line for every change."""
    stream = io.StringIO()

    with shown._lines(Console(file=stream, soft_wrap=True)) as show:
        for number in range(50):
            show(run(stored=number))
        show(run(SyncPhase.STORING))
        show(run(None))

    text = stream.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    assert len(lines) == 2
    assert lines[0] == "company: reading, 20 met, 0 stored, 0 skipped, 10 of 40 documents 12/s, about 1 min left"
    assert lines[1].startswith("company: storing, 20 met, 5 stored")


def test_a_terminal_gets_a_bar_with_the_last_problems() -> None:
    """Colour, the bar, the pace, and at most three problems, each on one line however long its place is."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=140, legacy_windows=False)

    with shown._bar(console) as show:
        show(run(problems=5))

    text = stream.getvalue()
    assert "\x1b[" in text
    assert "12/s, about 1 min left" in text
    assert text.count("/longlong") == 3
    assert "15/40" in text or "20/40" in text


def test_what_is_said_of_a_source_arrives_at_the_client() -> None:
    """When it is read next, that somebody must act, and that it was removed; nothing of it for one without."""
    stored = StoredSource("company", "feed", NOON, 1, 2, 3, None)

    full = _read.source(
        wire.source(SourceState(stored, timedelta(hours=1), timedelta(hours=2), NOON, True, Removal.PURGED))
    )
    bare = _read.source(wire.source(SourceState(stored, timedelta(hours=1), timedelta(hours=2))))

    assert (full.next_run_at, full.waits_for_a_person, full.removal) == (NOON, True, source_values.Removal.PURGED)
    assert (bare.next_run_at, bare.waits_for_a_person, bare.removal) == (None, False, None)
