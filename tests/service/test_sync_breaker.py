"""The circuit breaker: what widens or removes for more than a share waits for a person, what narrows never does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from acl.model import Clause, ScopeId, Unknown
from connectors.errors import RetriableError
from connectors.testing.hostile import Faults, MemoryScope, MemorySource
from service.stores import schema
from service.stores.records import RunState, SyncPass
from service.stores.stops import Stop, StopKind, StopState
from service.sync.breaker import BreakerLimits
from service.sync.engine import Policy
from tests.service.history import History, held
from tests.service.sync_support import SOURCE, World, allow, open_world, truth

ROOT, TEAM = ScopeId("root"), ScopeId("team")
DOCUMENTS = 40
FEW = 6
"""Below both the share and the least number."""

POLICY = Policy(BreakerLimits(max_widening=0.2, max_purge=0.2, least=8))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path, policy=POLICY) as opened:
        opened.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2), "/team")
        for number in range(DOCUMENTS):
            opened.add(f"{number:02}.txt", f"text {number}", allow(1, 2), ("root", "team")[number % 2])
        opened.sync()
        assert opened.stops == [], "a first sync of an empty source widens nothing"
        assert len(opened.readable(1)) == DOCUMENTS
        yield opened


def grant(world: World, count: int, *users: int) -> None:
    """Give documents other readers."""
    for name, document in list(world.source.documents.items())[:count]:
        world.source.documents[name] = replace(document, own=allow(*users))


def listed(world: World) -> list[Stop]:
    """What is held."""
    with world.catalog.reader() as reader:
        return reader.stops(SOURCE)


def decide(world: World, state: StopState) -> Stop:
    """Decide about the one thing that waits."""
    (stop,) = [one for one in listed(world) if one.state is StopState.WAITING]
    decided = world.catalog.decide_stop(stop.hold_id, state, "u-1007", world.clock())
    assert decided is not None
    return decided


def sync(world: World, sync_pass: SyncPass = SyncPass.CONTENT) -> None:
    """Run one sync to its end."""
    run = world.sync(sync_pass)
    assert run.state is RunState.SUCCEEDED, run


@pytest.mark.parametrize("sync_pass", list(SyncPass))
def test_a_few_documents_are_opened_and_many_wait(world: World, sync_pass: SyncPass) -> None:
    """Below the share a run is let through; above it old and new rules count both, and it is listed once."""
    grant(world, FEW, 1, 2, 3)
    sync(world, sync_pass)
    assert (len(world.readable(3)), world.stops) == (FEW // 2, []), "user 3 gets past the root alone"

    grant(world, DOCUMENTS, 1, 3)
    for _ in range(3):
        sync(world, sync_pass)
    (stop,) = listed(world)
    assert world.stops == [stop]
    assert (stop.kind, stop.state, stop.total) == (StopKind.WIDENING, StopState.WAITING, DOCUMENTS)
    assert stop.documents == DOCUMENTS - FEW, "for the few, user 3 is nobody new"
    assert len(world.readable(3)) == FEW // 2
    assert len(world.readable(1)) == DOCUMENTS
    assert world.readable(2) == {}, "who lost the right has lost it at once"
    assert world.finished[-1].problems[-1].reason == "held"


def test_what_is_approved_is_applied_by_the_next_complete_run(world: World) -> None:
    """Not before, and not by a run that fails; afterwards nothing is held or listed any more."""
    grant(world, DOCUMENTS, 1, 2, 3)
    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2, 3), "/team")
    sync(world)
    assert world.readable(3) == {}

    assert decide(world, StopState.APPROVED).decided_by == "u-1007"
    world.source.faults = Faults(fail_at=3, error=RetriableError("gone"))
    assert world.sync().state is RunState.FAILED
    world.source.faults = Faults()
    assert world.readable(3) == {}
    sync(world)

    assert len(world.readable(3)) == DOCUMENTS
    assert (held(world), listed(world)) == (0, [])


def test_an_approval_is_of_what_was_listed_and_of_nothing_else(world: World) -> None:
    """The source said more meanwhile: what was approved is opened, the rest waits for another word."""
    grant(world, DOCUMENTS // 2, 1, 2, 3)
    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2, 3), "/team")
    sync(world)
    decide(world, StopState.APPROVED)
    for name, document in list(world.source.documents.items())[DOCUMENTS // 2 :]:
        world.source.documents[name] = replace(document, own=allow(1, 2, 3, 4))

    sync(world)

    assert len(world.readable(3)) == DOCUMENTS // 2
    assert len(world.readable(1)) == DOCUMENTS
    assert [one.state for one in listed(world)] == [StopState.WAITING]


def test_an_approval_is_of_documents_and_a_rejection_of_their_change(world: World) -> None:
    """More documents get the very rules that were approved or rejected for some: a question, and no question."""
    grant(world, DOCUMENTS // 2, 1, 2, 3)
    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2, 3), "/team")
    sync(world)
    decide(world, StopState.APPROVED)
    grant(world, DOCUMENTS, 1, 2, 3)
    sync(world)
    assert len(world.readable(3)) == DOCUMENTS // 2, "of the others nobody was asked"

    (stop,) = listed(world)
    assert (stop.state, stop.documents) == (StopState.WAITING, DOCUMENTS // 2)
    decide(world, StopState.REJECTED)
    for number in range(FEW):
        world.add(f"more {number}.txt", f"more {number}", allow(1, 2), "team")
    sync(world)
    grant(world, DOCUMENTS + FEW, 1, 2, 3)
    sync(world)
    assert len(world.readable(3)) == DOCUMENTS // 2, "few, and yet what was rejected"


def test_an_approval_is_spent_also_where_not_everything_could_be_verified(world: World) -> None:
    """Some file is written to all the time; what was opened, closed and is opened again is another question."""
    opened, closed = allow(1, 2, 3), allow(1, 2)
    grant(world, DOCUMENTS, 1, 2, 3)
    world.source.scopes[TEAM] = MemoryScope(ROOT, opened, "/team")
    sync(world)
    decide(world, StopState.APPROVED)
    sync(world)
    for clause in (closed, opened):
        world.source.scopes[ROOT] = MemoryScope(None, clause, "/")
        sync(world)
    decide(world, StopState.APPROVED)
    world.source.documents["00.txt"] = replace(world.source.documents["00.txt"], content=b"a line")
    world.source.faults = Faults(changing={"00.txt"})

    sync(world)
    assert (len(world.readable(3)), listed(world)) == (DOCUMENTS - 1, [])

    for clause in (closed, opened):
        world.source.scopes[ROOT] = MemoryScope(None, clause, "/")
        sync(world)
    assert world.readable(3) == {}
    assert [one.state for one in listed(world)] == [StopState.WAITING]


def test_an_approval_waits_for_the_document_that_could_not_be_verified(world: World) -> None:
    """It is applied when its text is read at last, and nobody is asked twice."""
    grant(world, DOCUMENTS, 1, 2, 3)
    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2, 3), "/team")
    sync(world)
    decide(world, StopState.APPROVED)
    world.source.documents["00.txt"] = replace(world.source.documents["00.txt"], content=b"a line")
    world.source.faults = Faults(changing={"00.txt"})
    sync(world)
    assert len(world.readable(3)) == DOCUMENTS - 1
    (stop,) = listed(world)
    assert (stop.state, len(stop.keys)) == (StopState.APPROVED, 1)

    world.source.faults = Faults()
    sync(world)
    assert (len(world.readable(3)), listed(world)) == (DOCUMENTS, [])


def test_what_is_rejected_stays_until_the_source_says_something_else(world: World) -> None:
    """Not listed again, and not opened below the share either; a third word is a new question."""
    before = dict(world.source.documents)
    grant(world, DOCUMENTS, 1, 2, 3)
    sync(world)
    decide(world, StopState.REJECTED)
    sync(world)
    assert [one.state for one in listed(world)] == [StopState.REJECTED]
    world.source.documents.update(list(before.items())[FEW:])
    sync(world)
    assert (world.readable(3), [one.state for one in listed(world)]) == ({}, [StopState.REJECTED])

    world.source.documents.update(before)
    sync(world)
    assert (held(world), listed(world)) == (0, []), "back to what it was: nothing is asked for"
    grant(world, DOCUMENTS, 1, 2, 3, 4)
    sync(world)
    assert [one.state for one in listed(world)] == [StopState.WAITING]
    assert len(world.stops) == 2


def test_a_container_counts_for_all_documents_below_it(world: World) -> None:
    """One row changes; half of the documents would be opened. Narrowing it takes effect all the same."""
    grant(world, FEW, 1, 2, 3)
    sync(world)
    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 3), "/team")

    sync(world, SyncPass.PERMISSIONS)

    (stop,) = listed(world)
    assert stop.documents == DOCUMENTS // 2
    assert len(world.readable(2)) == DOCUMENTS // 2
    assert len(world.readable(3)) == FEW // 2
    decide(world, StopState.APPROVED)
    sync(world, SyncPass.PERMISSIONS)
    assert len(world.readable(3)) == FEW


def test_new_texts_do_not_carry_wider_rules_past_the_breaker(world: World) -> None:
    """Rules and texts changed at once: the new texts are served, under old and new rules."""
    for name, document in list(world.source.documents.items()):
        world.source.documents[name] = replace(document, own=allow(1, 3), content=b"new " + document.content)

    sync(world)

    assert world.readable(3) == {}
    assert all(passages[0].startswith("new") for passages in world.readable(1).values())
    decide(world, StopState.APPROVED)
    sync(world)
    assert len(world.readable(3)) == DOCUMENTS // 2


def test_new_documents_are_no_widening(world: World) -> None:
    """However many: nobody could read them before, and nobody's access to anything else changed."""
    for number in range(3 * DOCUMENTS):
        world.add(f"new {number}.txt", f"new {number}", allow(3))

    sync(world)

    assert (len(world.readable(3)), listed(world)) == (3 * DOCUMENTS, [])


def test_what_was_unreadable_for_a_time_comes_back_by_itself(world: World) -> None:
    """A container or documents that were withheld return with the rules that counted last: nobody is asked."""
    before = dict(world.source.scopes)
    world.source.scopes[TEAM] = MemoryScope(ROOT, Unknown("the server did not say"), "/team")
    grant(world, DOCUMENTS, 1, 2)
    documents = dict(world.source.documents)
    for name, document in list(documents.items())[::2]:
        world.source.documents[name] = replace(document, own=Unknown("not understood"))
    sync(world)
    assert world.readable(1) == {}

    world.source.scopes.update(before)
    world.source.documents.update(documents)
    sync(world)

    assert (len(world.readable(1)), held(world), listed(world)) == (DOCUMENTS, 0, [])


def test_what_comes_back_wider_than_it_went_waits(world: World) -> None:
    """Withheld in between is no way around the breaker."""
    world.source.scopes[TEAM] = MemoryScope(ROOT, Unknown("the server did not say"), "/team")
    sync(world)
    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2, 3), "/team")

    sync(world)

    (stop,) = listed(world)
    assert (stop.documents, world.readable(3)) == (DOCUMENTS // 2, {})


@pytest.mark.parametrize("sync_pass", list(SyncPass))
def test_what_waits_is_held_by_what_counted_last_alone(world: World, sync_pass: SyncPass) -> None:
    """However often the rules change while they wait, a complete run leaves one rule before them: nothing heaps up, and
    who was let in by what counted last, and is by what the source says now, is let in."""
    for user in (4, 5, 6):
        world.source.scopes[TEAM] = MemoryScope(ROOT, allow(2, 3, user), "/team")
        grant(world, DOCUMENTS, 2, 3, user)
        sync(world, sync_pass)
        assert (len(world.readable(2)), world.readable(1), world.readable(3)) == (DOCUMENTS, {}, {})
        assert held(world) == 3, "around the container, and between documents and each of the two containers"

    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2, 3), "/team")
    grant(world, DOCUMENTS, 1, 2, 3)
    sync(world, sync_pass)

    assert (len(world.readable(1)), world.readable(3), held(world)) == (DOCUMENTS, {}, 3)
    decide(world, StopState.APPROVED)
    sync(world, sync_pass)
    assert (len(world.readable(3)), held(world)) == (DOCUMENTS, 0)


def test_a_text_that_was_not_confirmed_stays_closed_when_what_waits_is_eased(world: World) -> None:
    """It may be of the time of rules in between, which nobody holds any more."""
    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(3), "/team")
    world.add("01.txt", "for user 3 alone", allow(1, 2), "team")
    sync(world)
    assert "01.txt" not in world.readable(1)

    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2, 3), "/team")
    world.add("01.txt", "redacted", allow(1, 2), "team")
    world.source.faults.changing.add("01.txt")
    sync(world)

    assert len(world.readable(1)) == DOCUMENTS - 1
    assert "01.txt" not in world.readable(1)
    world.source.faults.changing.clear()
    sync(world)
    assert world.readable(1)["01.txt"] == ["redacted"]


@pytest.mark.parametrize("lost", ["documents", "everything"])
def test_a_listing_that_lost_much_removes_nothing(world: World, lost: str) -> None:
    """Withheld at once, with keys and texts; the next whole listing brings all of it back, unasked and unread."""
    documents, scopes = dict(world.source.documents), dict(world.source.scopes)
    keys = world.keys.documents(SOURCE)
    world.source.documents.clear()
    if lost == "everything":
        world.source.empty()

    sync(world)
    (stop,) = listed(world)
    assert (stop.kind, stop.documents, stop.total) == (StopKind.PURGE, DOCUMENTS, DOCUMENTS)
    assert world.readable(1) == {}
    assert world.keys.documents(SOURCE) == keys
    sync(world)
    assert world.stops == [stop]

    world.source.documents.update(documents)
    world.source.scopes.update(scopes)
    world.source.reads.clear()
    sync(world)
    assert len(world.readable(1)) == DOCUMENTS
    assert (world.source.reads, listed(world), held(world)) == ([], [], 0)


def test_a_purge_that_is_approved_removes_and_one_that_is_rejected_withholds(world: World) -> None:
    """A few documents that go later are removed without a question."""
    documents = dict(world.source.documents)
    for name in list(documents)[: DOCUMENTS // 2]:
        del world.source.documents[name]
    sync(world)
    decide(world, StopState.REJECTED)
    sync(world)
    assert [one.state for one in listed(world)] == [StopState.REJECTED]
    assert len(world.documents()) == DOCUMENTS
    assert len(world.readable(1)) == DOCUMENTS // 2

    for name in list(documents)[-FEW:]:
        del world.source.documents[name]
    sync(world)
    assert len(world.documents()) == DOCUMENTS - FEW

    world.catalog.decide_stop(listed(world)[0].hold_id, StopState.APPROVED, "u-1007", world.clock())
    sync(world)
    assert len(world.documents()) == DOCUMENTS // 2 - FEW
    assert len(world.keys.documents(SOURCE)) == DOCUMENTS // 2 - FEW
    assert listed(world) == []


def test_a_decision_that_was_forged_on_the_disk_is_none(world: World) -> None:
    """Whoever can write to the catalog's file but has no key can approve nothing more than a person did."""
    grant(world, DOCUMENTS, 1, 2, 3)
    sync(world)
    decide(world, StopState.APPROVED)
    with world.catalog._writer.begin() as connection:
        connection.exec_driver_sql("UPDATE stops SET keys = x'789c030000000001'")

    sync(world)

    assert world.readable(3) == {}


def test_a_damaged_hold_is_asked_about_anew_and_stops_no_run(world: World) -> None:
    """Neither what was approved nor what was rejected is known of it."""
    grant(world, DOCUMENTS, 1, 2, 3)
    sync(world)
    decide(world, StopState.APPROVED)
    with world.catalog._writer.begin() as connection:
        connection.execute(update(schema.stops).values(report=b"\x01" + bytes(40)))

    sync(world)

    assert world.readable(3) == {}
    assert [(one.state, one.documents) for one in listed(world)] == [(StopState.WAITING, DOCUMENTS)]
    decide(world, StopState.APPROVED)
    sync(world)
    assert len(world.readable(3)) == DOCUMENTS // 2


_clauses = st.sampled_from([allow(1), allow(2), allow(1, 2), allow(1, 2, 3), Clause(()), Unknown("unknown")])
_step = st.one_of(
    st.tuples(st.just("own"), st.integers(0, 9), _clauses),
    st.tuples(st.just("container"), _clauses),
    st.tuples(st.just("text"), st.integers(0, 9)),
    st.tuples(st.just("drop"), st.integers(0, 9)),
    st.tuples(st.just("put"), st.integers(0, 9), _clauses),
    st.tuples(st.just("sync"), st.sampled_from(list(SyncPass))),
)


@settings(max_examples=max(15, settings().max_examples // 6))
@given(st.lists(_step, min_size=2, max_size=10))
def test_the_breaker_never_delays_what_narrows_and_never_serves_what_was_not_so(
    steps: list[tuple[object, ...]],
) -> None:
    """With a breaker that holds everything: after each complete run nobody reads what the source does not allow, and
    nothing is served that was never so there."""
    closed = Policy(BreakerLimits(0.0, 0.0, least=1))
    with tempfile.TemporaryDirectory() as folder, open_world(Path(folder), MemorySource(), closed) as world:
        world.source.scopes[TEAM] = MemoryScope(None, allow(1, 2, 3), "/team")
        history = History(world, users=(1, 2, 3))
        for number in range(10):
            history.change(lambda number=number: world.add(f"{number}", f"{number} 0", allow(1, 2), "team"))  # type: ignore[misc]
        history.sync()
        for text, step in enumerate(steps):
            history.change(lambda step=step, text=text: _apply(world, step, text))  # type: ignore[misc]
            if step[0] == "sync":
                assert isinstance(step[1], SyncPass)
                assert world.sync(step[1]).state is RunState.SUCCEEDED
                history.check()
                assert history.leaks == []
                for user in history.users:
                    assert set(world.readable(user)) <= set(truth(world.source, user))


def _apply(world: World, step: tuple[object, ...], text: int) -> None:
    name = str(step[1])
    found = world.source.documents.get(name)
    match step:
        case ("own", _, Clause() | Unknown() as clause) if found is not None:
            world.source.documents[name] = replace(found, own=clause)
        case ("container", Clause() | Unknown() as clause):
            world.source.scopes[TEAM] = MemoryScope(None, clause, "/team")
        case ("text", _) if found is not None:
            world.source.documents[name] = replace(found, content=f"{name} {text + 1}".encode())
        case ("drop", _):
            world.source.documents.pop(name, None)
        case ("put", _, Clause() | Unknown() as clause):
            world.add(name, f"{name} {text + 1}", clause, "team")
        case _:
            pass
