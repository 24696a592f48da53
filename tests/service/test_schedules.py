"""When a run is due: by the interval, after failures of each kind, and after notices of a change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from service.stores.records import Counts, Recovery, RunState, StoredRun, SyncPass
from service.sync import schedules
from service.sync.schedules import HISTORY, Due, History, Notice, Schedule, waits_for_a_person

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
QUARTER = Schedule(15 * MINUTE)


def due(schedule: Schedule, runs: Sequence[StoredRun], now: datetime, notice: Notice | None = None) -> datetime | None:
    """When the next run is due."""
    found = schedules.due(schedule, History(runs), now, notice)
    return None if found is None else found.at


def run(
    state: RunState = RunState.SUCCEEDED,
    *,
    at: datetime = NOON,
    took: timedelta = timedelta(seconds=2),
    recovery: Recovery = Recovery.RETRY,
    retry_after: timedelta | None = None,
    name: str = "r",
    sync_pass: SyncPass = SyncPass.CONTENT,
) -> StoredRun:
    """A run that began at `at`."""
    ended = None if state is RunState.RUNNING else at + took
    return StoredRun(
        name, "s", state, at, ended, Counts(), recovery=recovery, retry_after=retry_after, sync_pass=sync_pass
    )


def failed(recovery: Recovery = Recovery.RETRY, retry_after: timedelta | None = None) -> StoredRun:
    """A run that failed at noon."""
    return run(RunState.FAILED, recovery=recovery, took=timedelta(0), retry_after=retry_after)


def test_the_first_run_is_due_at_once_and_none_while_one_is_under_way() -> None:
    """Nothing to wait for, and never two at once."""
    assert due(QUARTER, [], NOON) == NOON
    assert due(QUARTER, [run(RunState.RUNNING)], NOON + timedelta(days=3)) is None
    assert due(QUARTER, [run(RunState.RUNNING)], NOON, Notice(NOON, NOON)) is None


@given(name=st.text(max_size=8))
def test_the_interval_counts_from_the_beginning_and_is_never_exceeded(name: str) -> None:
    """With jitter, which is the same for the same run: early by a tenth at most, never late."""
    latest = run(name=name)

    at = due(QUARTER, [latest], NOON + MINUTE)

    assert at is not None
    assert NOON + 0.9 * QUARTER.every <= at <= NOON + QUARTER.every
    assert at == due(QUARTER, [latest], NOON + 9 * MINUTE)


def test_jitter_differs_from_run_to_run() -> None:
    """Sources that began together do not keep step."""
    assert len({due(QUARTER, [run(name=str(number))], NOON + MINUTE) for number in range(20)}) > 15


def test_missed_runs_are_one_run() -> None:
    """A run that took four intervals is followed by one run, at its end, and not by four."""
    long = run(took=4 * QUARTER.every)

    assert due(QUARTER, [long], NOON + 5 * QUARTER.every) == long.ended_at
    after = run(at=NOON + 4 * QUARTER.every, name="after")
    following = due(QUARTER, [after, long], NOON + 4 * QUARTER.every + MINUTE)
    assert following is not None
    assert following >= after.started_at + 0.9 * QUARTER.every


def test_whoever_starts_a_run_starts_the_clock_anew() -> None:
    """A run by hand two minutes before the next one was due moves that one by an interval."""
    by_hand = run(at=NOON + 13 * MINUTE, name="by hand")

    at = due(QUARTER, [by_hand, run()], NOON + 14 * MINUTE)

    assert at is not None
    assert at >= by_hand.started_at + 0.9 * QUARTER.every


def test_what_may_pass_is_tried_again_after_longer_and_longer() -> None:
    """A minute, two, four, with jitter downwards to a half; from then on a quarter of an hour or the interval."""
    for schedule, longest in ((QUARTER, 15 * MINUTE), (Schedule(timedelta(hours=2)), timedelta(hours=2))):
        for failures in range(1, HISTORY + 3):
            at = due(schedule, [failed()] * failures, NOON)
            assert at is not None
            expected = min(MINUTE * 2 ** (min(failures, HISTORY) - 1), longest)
            assert expected / 2 <= at - NOON <= expected, failures


def test_a_success_in_between_forgets_the_failures_before() -> None:
    """Only failures in a row count; without the success the same failures wait for longer."""
    once = due(QUARTER, [failed(), run(), *[failed()] * 5], NOON)
    often = due(QUARTER, [failed()] * 6, NOON)

    assert once is not None
    assert often is not None
    assert once - NOON <= MINUTE
    assert often - NOON > 7 * MINUTE


def test_a_short_interval_is_never_exceeded_in_hammering() -> None:
    """The first retry is no later than the interval, and later ones are rarer than the schedule alone would be."""
    often = Schedule(timedelta(seconds=5))

    waits = [due(often, [failed()] * failures, NOON) for failures in (1, 5, 9)]

    assert waits[0] is not None
    assert waits[0] - NOON <= often.every
    assert waits == sorted(waits, key=lambda at: at or NOON)
    assert waits[2] is not None
    assert waits[2] - NOON > 20 * often.every


def test_what_the_source_asks_for_is_honoured_up_to_a_day() -> None:
    """Retry-After is a least wait; a source that asks for a year is asked again tomorrow."""
    asked = due(QUARTER, [failed(retry_after=timedelta(hours=3))], NOON)
    absurd = due(QUARTER, [failed(retry_after=timedelta(days=365))], NOON)
    little = due(QUARTER, [failed(retry_after=timedelta(seconds=1))], NOON)

    assert asked == NOON + timedelta(hours=3)
    assert absurd == NOON + timedelta(days=1)
    assert little is not None
    assert little - NOON >= MINUTE / 2


def test_a_wrong_password_is_not_hammered() -> None:
    """What only a person can mend waits for hours however often it is due, and says that somebody must act."""
    wrong = failed(Recovery.PERSON)

    at = due(Schedule(MINUTE), [wrong], NOON, Notice(NOON, NOON))

    assert at is not None
    assert at - NOON >= timedelta(hours=6)
    assert waits_for_a_person([wrong])
    assert not waits_for_a_person([failed()])
    assert not waits_for_a_person([run(), wrong])
    assert not waits_for_a_person([])


def test_a_run_that_was_broken_off_by_the_end_of_the_service_goes_on_at_once() -> None:
    """Nothing was wrong with the source; a crash, which nobody can tell from a defect, waits as a failure does."""
    assert due(QUARTER, [failed(Recovery.RESUME)], NOON + MINUTE) == NOON
    crashed = due(QUARTER, [failed()], NOON)
    assert crashed is not None
    assert crashed > NOON


def test_a_cancelled_run_waits_for_its_turn() -> None:
    """Somebody wanted it to end: it is not begun again at once."""
    at = due(QUARTER, [run(RunState.CANCELLED)], NOON + MINUTE)

    assert at is not None
    assert at >= NOON + 0.9 * QUARTER.every


def test_a_clock_that_was_set_back_keeps_no_source_waiting() -> None:
    """Runs of the future are no reason to wait for it."""
    assert due(QUARTER, [run(at=NOON + timedelta(days=400))], NOON) == NOON
    assert due(QUARTER, [failed(Recovery.PERSON)], NOON - timedelta(days=1)) == NOON - timedelta(days=1)


def test_a_run_by_a_clock_that_was_set_back_delays_none_after_a_later_one() -> None:
    """The latest run is of the right time, an older one of next year: the interval counts from the latest."""
    ahead = NOON + timedelta(days=400)
    again = next_of([run(), run(at=ahead, name="ahead")], NOON + MINUTE, content_at=ahead)
    during = run(at=NOON + timedelta(hours=1), took=timedelta(hours=-1), name="set back meanwhile")

    assert NOON + 9 * MINUTE <= again.at <= NOON + 10 * MINUTE
    assert next_of([rules(NOON), run(at=ahead)], NOON + MINUTE, content_at=ahead).sync_pass is SyncPass.CONTENT
    assert due(QUARTER, [during, run(at=ahead)], NOON + MINUTE) == NOON + MINUTE


def test_a_notice_brings_the_next_run_forward_once_the_source_is_quiet() -> None:
    """A second after the last change, ten after the first; a notice from before the run is met already."""
    later = NOON + MINUTE
    quiet = due(QUARTER, [run()], later, Notice(later, later))
    restless = due(QUARTER, [run()], later, Notice(later - 30 * timedelta(seconds=1), later))
    before = due(QUARTER, [run()], later, Notice(NOON - MINUTE, NOON - MINUTE))
    during = due(QUARTER, [run()], later, Notice(NOON, NOON))

    assert quiet == later + timedelta(seconds=1)
    assert restless == later - 20 * timedelta(seconds=1)
    assert before == due(QUARTER, [run()], later)
    assert during is not None
    assert during < NOON + MINUTE


def test_a_busy_source_is_read_no_more_than_half_of_the_time() -> None:
    """After a run of twenty minutes a notice waits for twenty; the interval's own run is not put off by it."""
    long = run(took=20 * MINUTE)
    at = NOON + 21 * MINUTE

    assert due(Schedule(timedelta(hours=2)), [long], at, Notice(at, at)) == NOON + 40 * MINUTE
    assert due(QUARTER, [long], at, Notice(at, at)) == long.ended_at


def test_notices_belong_together_while_the_source_is_not_quiet() -> None:
    """After a pause another one begins, so that what came long before does not make it urgent."""
    first = Notice.after(None, NOON)
    second = Notice.after(first, NOON + timedelta(milliseconds=500))
    third = Notice.after(second, NOON + timedelta(seconds=5))

    assert (second.first, second.last) == (NOON, NOON + timedelta(milliseconds=500))
    assert third.first == third.last


# --- two passes ---

BOTH = Schedule(timedelta(days=1), permissions_every=10 * MINUTE)


def rules(at: datetime, state: RunState = RunState.SUCCEEDED, name: str = "p") -> StoredRun:
    """A run that verified rules alone."""
    return run(state, at=at, name=name, sync_pass=SyncPass.PERMISSIONS)


def next_of(runs: Sequence[StoredRun], now: datetime, content_at: datetime | None = None) -> Due:
    """Which run is next."""
    found = schedules.due(BOTH, History(runs, content_at), now)
    assert found is not None
    return found


def test_rules_are_verified_in_between_and_each_run_has_a_clock_of_its_own() -> None:
    """Ten minutes after a run of either kind rules are due; a day after the latest over everything, that."""
    first = next_of([run()], NOON + MINUTE)
    later = next_of([rules(NOON + 10 * MINUTE), run()], NOON + 11 * MINUTE)
    day = next_of([rules(NOON + timedelta(hours=23, minutes=59))], NOON + timedelta(days=2), content_at=NOON)

    assert first.sync_pass is later.sync_pass is SyncPass.PERMISSIONS
    assert NOON + 9 * MINUTE <= first.at <= NOON + 10 * MINUTE
    assert NOON + 19 * MINUTE <= later.at <= NOON + 20 * MINUTE
    assert day.sync_pass is SyncPass.CONTENT
    assert NOON + 0.9 * BOTH.every <= day.at <= NOON + BOTH.every


def test_what_was_run_long_ago_is_remembered_by_its_clock() -> None:
    """More runs over rules than are looked at push that over everything out of sight, not out of mind."""
    many = [rules(NOON + number * 10 * MINUTE, name=str(number)) for number in range(40, 40 - HISTORY, -1)]

    assert next_of(many, NOON + timedelta(hours=7), content_at=NOON).sync_pass is SyncPass.PERMISSIONS
    assert next_of(many, NOON + timedelta(hours=7)).sync_pass is SyncPass.CONTENT, "never run, or never to its end"


def test_a_run_over_everything_that_is_due_comes_before_one_over_rules() -> None:
    """It verifies both; nothing is run twice."""
    late = next_of([rules(NOON + 2 * BOTH.every)], NOON + 3 * BOTH.every, content_at=NOON)

    assert late.sync_pass is SyncPass.CONTENT


def test_after_a_failure_the_same_is_tried_again_or_all_if_that_is_due() -> None:
    """A source that is down is down for both: one wait, whatever failed."""
    failed_rules = rules(NOON + 30 * MINUTE, RunState.FAILED)
    again = next_of([failed_rules, run()], NOON + 31 * MINUTE)
    due_too = next_of([rules(NOON + 2 * BOTH.every, RunState.FAILED)], NOON + 3 * BOTH.every, content_at=NOON)
    both_failed = next_of([run(RunState.FAILED, at=NOON + MINUTE), failed_rules], NOON + timedelta(hours=1))

    assert again.sync_pass is SyncPass.PERMISSIONS
    assert again.at > NOON + 30 * MINUTE
    assert due_too.sync_pass is SyncPass.CONTENT
    assert both_failed.sync_pass is SyncPass.CONTENT


def test_a_notice_asks_for_everything_although_rules_were_verified_since() -> None:
    """A file that is new is met by no run over rules."""
    noticed = Notice(NOON + MINUTE, NOON + MINUTE)
    history = History([rules(NOON + 2 * MINUTE), run()])

    found = schedules.due(BOTH, history, NOON + 3 * MINUTE, noticed)

    assert found is not None
    assert found.sync_pass is SyncPass.CONTENT
    assert found.at <= NOON + 3 * MINUTE
