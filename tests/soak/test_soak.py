"""A short soak, seeded, and the control of its checker. `make soak` and `make chaos-service` run the long ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.report import Report
from tests.soak.__main__ import Plan, soak
from tests.soak.checker import check
from tests.soak.measure import Measured
from tests.soak.watch import Memory
from tests.soak.world import World


def world(**documents: Sequence[tuple[object, float, float]]) -> dict[str, object]:
    """A world of one person, one scope and some documents."""
    return {
        "parents": {"s": None},
        "scopes": {"s": [([["allow", ["members"]]], 0.0, 0.0)]},
        "people": {"p": [(["members", "group-g", "user-p"], 0.0, 0.0), (["members", "user-p"], 50.0, 50.1)]},
        "documents": documents,
    }


def document(text: int, *names: str) -> dict[str, object]:
    """A state of a document that these may read."""
    return {"scope": "s", "rules": [["allow", list(names)]], "text": text}


CLOSED_AT_20 = [(document(1, "group-g"), 0.0, 0.0), (document(2), 20.0, 22.0), (document(3, "members"), 40.0, 42.0)]


@pytest.mark.parametrize(
    ("at", "text", "leaks"),
    [
        (10.0, 1, 0),  # open
        (10.0, 2, 1),  # a text that was not there yet
        (21.0, 1, 0),  # the run that closes it is under way
        (23.0, 1, 1),  # closed
        (23.0, 2, 1),  # the new text is nobody's
        (41.0, 3, 0),  # the run that opens it is under way
        (45.0, 1, 1),  # open again, with another text
    ],
)
def test_the_checker_finds_passages_that_no_state_allowed(tmp_path: Path, at: float, text: int, leaks: int) -> None:
    """A passage counts only with the text and the rules of one state that may have been in force at that moment."""
    history = tmp_path / "history.jsonl"
    seen = {"person": "p", "began": at, "ended": at + 0.1, "passages": [("d", text)]}
    history.write_text(f"{json.dumps(seen)}\n{json.dumps({'world': world(d=CLOSED_AT_20)})}\n")

    found = check(history)

    assert (found.decisions, found.leaks) == (1, leaks)


@pytest.mark.parametrize(
    ("at", "document_name", "told", "leaks", "denied"),
    [
        (10.0, "d", True, 0, 0),
        (10.0, "d", False, 0, 1),
        (49.0, "e", True, 0, 0),
        (51.0, "e", True, 1, 0),  # the person has left the group
        (51.0, "e", False, 0, 0),
        (51.0, "gone", True, 1, 0),
    ],
)
def test_the_checker_finds_decisions_that_no_state_allowed(
    tmp_path: Path, at: float, document_name: str, told: bool, leaks: int, denied: int
) -> None:
    """What is told of a document follows its rules and the person's groups at that moment; a late `yes` is a leak."""
    history = tmp_path / "history.jsonl"
    seen = {"person": "p", "began": at, "ended": at + 0.01, "probes": {document_name: told}}
    everything = world(d=CLOSED_AT_20, e=[(document(1, "group-g"), 0.0, 0.0)])
    history.write_text(f"{json.dumps(seen)}\n{json.dumps({'world': everything})}\n")

    found = check(history)

    assert (found.decisions, found.leaks, found.denied) == (1, leaks, denied)


def test_the_world_changes_and_does_not_grow(tmp_path: Path) -> None:
    """As many documents, and people with as many groups, after a thousand changes as at the start: what grows in a
    soak is the service's."""
    made = World(tmp_path, 3, people=30, documents=100)
    made.write_feed = made.write_people = lambda: None  # type: ignore[method-assign]
    held = made.held
    sizes: set[int] = set()
    means: list[float] = []

    for _ in range(1000):
        made.churn_rules()
        made.churn_groups()
        sizes.add(len(made.there))
        means.append(made.held)

    assert sizes <= set(range(78, 101))
    assert len(made.documents.versions) > 500, "documents come and go"
    late = sum(means[-200:]) / 200
    assert late < 1.5 * sum(means[:200]) / 200
    assert late < held + 5, "far from everything, which is what a closure over many nestings comes to"


def test_growth_is_of_what_processes_have_for_themselves(tmp_path: Path) -> None:
    """From the first tenth to the last one; files that are mapped count beside it; latencies by their minute."""
    measured = Measured(
        memory=[(float(n), {"service": Memory(1000 + 3 * n, 100 + n // 10)}) for n in range(100)],
        latencies=[(n / 10, 0.1 if n < 900 else 0.2) for n in range(1800)],
    )

    assert measured.growth == pytest.approx(0.09)
    assert measured.resident_growth == pytest.approx(0.267, abs=0.01)
    assert measured.p95_ratio == 2.0


@pytest.mark.slow
@pytest.mark.live
def test_a_short_soak_leaks_nothing(tmp_path: Path) -> None:
    """Twelve seconds of churn and load with a kill and faults: no leak, no answer without its record."""
    outcome = soak(Plan(0.2, 7, None, people=12, documents=60, embedding="hash", pause_s=0.5), tmp_path / "soak")

    assert outcome.problems == []
    assert outcome.verdict.decisions > 1000
    assert outcome.syncs >= 2
    assert outcome.measured is not None
    report = Report("soak", 7)
    outcome.measured.add_to(report)
    names = {str(one["metric"]) for one in report.results}
    assert {"service_own_start", "vectors_resident_end", "words_own_end", "p95_minute_01", "rows_changes_end"} <= names


@pytest.mark.slow
@pytest.mark.live
def test_a_service_that_is_killed_under_load_answers_for_everything(tmp_path: Path) -> None:
    """Twice, with SIGKILL, in the middle of a run: clients see UNAVAILABLE and then answers, each with its record."""
    outcome = soak(Plan(0.0, 8, 2, people=8, documents=40, embedding="hash", pause_s=0.2), tmp_path / "soak")

    assert outcome.problems == []
    assert outcome.kills == len(outcome.keyword_s) == 2
    assert outcome.codes["UNAVAILABLE"] > 0
