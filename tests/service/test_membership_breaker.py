"""The circuit breaker on members of a source's own groups: who would read more by them waits, who leaves never does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acl.model import Clause, Unknown
from acl.principal import Principal
from connectors.errors import RetriableError
from connectors.testing.hostile import Faults, MemoryScope, MemorySource
from service.stores.records import RunState, SyncPass
from service.stores.stops import StopKind, StopState
from service.sync.breaker import BreakerLimits
from service.sync.engine import Policy
from tests.service.groups_support import (
    AD,
    BOARD,
    ENEMIES,
    OWN,
    STAFF,
    SUB,
    TEAM,
    Readers,
    but,
    counted_last,
    decide_all,
    fill,
    listed,
    of,
    people,
    somebody,
    sync,
    truth,
)
from tests.service.sync_support import World, everything, open_world

MANY, FEW = 30, 6
POLICY = Policy(BreakerLimits(max_widening=0.2, max_purge=0.2, max_joining=0.2, least=8))
CROWD = [f"p{number:02}" for number in range(12)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """alice is in the team, which reads thirty documents, and in the board, which reads six; carol in what is denied
    ten others, which everybody else reads.
    """
    with open_world(tmp_path, policy=POLICY) as opened:
        opened.source.scopes.clear()
        opened.source.groups = {
            TEAM: people(["alice"]),
            BOARD: people(["alice"]),
            ENEMIES: people(["carol"]),
            SUB: people(["bob"]),
        }
        fill(opened, "team", MANY, of(TEAM))
        fill(opened, "board", FEW, of(BOARD))
        fill(opened, "staff", 10, but(ENEMIES, STAFF))
        sync(opened)
        assert listed(opened) == [], "the first pass opens what nobody could read before"
        yield opened


@pytest.fixture
def readers(world: World) -> Readers:
    """Who reads what."""
    return Readers(world)


def groups(world: World) -> dict[Principal, set[Principal]]:
    """The source's groups, to be changed."""
    assert world.source.groups is not None
    return world.source.groups


# --- joining ---


@pytest.mark.parametrize("sync_pass", list(SyncPass))
def test_who_joins_what_reads_much_waits_and_who_leaves_is_out(
    world: World, readers: Readers, sync_pass: SyncPass
) -> None:
    """A broken export: everybody in the team. Asked once, with the group, how many, and some of them by name."""
    assert (readers.count("alice"), readers.count("bob")) == (MANY + FEW + 10, 10)
    groups(world)[TEAM] = people([*CROWD, "bob"])

    for _ in range(3):
        sync(world, sync_pass)

    assert readers.count("bob") == readers.count("p00") == 10, "what they read before"
    assert readers.count("alice") == FEW + 10, "out of the team at once"
    (stop,) = listed(world)
    assert world.stops == [stop]
    assert (stop.kind, stop.state) == (StopKind.MEMBERS, StopState.WAITING)
    assert (stop.documents, stop.total) == (MANY, MANY + FEW + 10)
    (group,) = stop.groups
    assert (group.group, group.name) == (TEAM.token, TEAM.id)
    assert (group.joining, group.leaving, group.documents) == (len(CROWD) + 1, 0, MANY)
    assert group.examples == tuple(sorted(one.token for one in groups(world)[TEAM])[:5])
    assert world.finished[-1].problems[-1].reason == "held"


def test_members_and_rules_have_a_share_each(tmp_path: Path) -> None:
    """Where people join every day nobody is asked about them; rules that open as much are held all the same."""
    policy = Policy(replace(POLICY.breaker, max_joining=1.0))
    with open_world(tmp_path, policy=policy) as world:
        world.source.scopes.clear()
        world.source.groups = {TEAM: people(["alice"])}
        fill(world, "team", MANY, of(TEAM))
        sync(world)
        groups(world)[TEAM] |= people(["bob"])
        sync(world)
        readers = Readers(world)
        assert (readers.count("bob"), listed(world)) == (MANY, [])

        fill(world, "team", MANY, of(TEAM, STAFF))
        sync(world)
        assert [stop.kind for stop in listed(world)] == [StopKind.WIDENING]
        assert (readers.count("bob"), readers.count("dora")) == (MANY, 0)


def test_who_joins_what_reads_little_is_in_with_the_pass(world: World, readers: Readers) -> None:
    """However many they are: six documents are below the least number; and a group that nothing names opens nothing."""
    groups(world)[BOARD] |= people(CROWD)
    groups(world)[SUB] |= people(CROWD)

    sync(world)

    assert readers.count("p00") == FEW + 10
    assert SUB in readers.caller("p00").principals
    assert listed(world) == []


def test_an_unchanged_source_writes_nothing_while_something_waits(world: World) -> None:
    """But the times of its passes."""
    groups(world)[TEAM] |= people(CROWD)
    sync(world)
    but_for = ("runs", "passes", "membership_passes", "sources")
    before = everything(world, but_for)

    sync(world)

    assert everything(world, but_for) == before


def test_who_joins_is_not_in_before_the_pass_is_whole(world: World, readers: Readers) -> None:
    """The run breaks off after the group was sent, in whichever way: nobody is in, who left is out; then it heals."""
    groups(world)[BOARD] = people(["bob"])
    for faults in (Faults(fail_at=3, error=RetriableError("gone")), Faults(groups_incomplete=True)):
        world.source.faults = faults
        world.sync()
        assert readers.count("bob") == 10
        assert BOARD not in readers.caller("alice").principals

    world.source.faults = Faults()
    sync(world)
    assert readers.count("bob") == FEW + 10


def test_a_group_within_a_group_brings_all_its_members(world: World, readers: Readers) -> None:
    """One step, of a group: those in it wait, and read on what they read by it."""
    groups(world)[BOARD] |= {SUB}
    sync(world)
    assert readers.count("bob") == FEW + 10, "six documents"

    groups(world)[TEAM] |= {SUB}
    sync(world)

    (stop,) = listed(world)
    assert [(one.joining, one.examples) for one in stop.groups] == [(1, (SUB.token,))]
    assert readers.count("bob") == FEW + 10
    decide_all(world, StopState.APPROVED)
    sync(world)
    assert (readers.count("bob"), listed(world)) == (MANY + FEW + 10, [])


def test_who_joins_a_group_within_one_waits_for_what_the_outer_one_reads(world: World, readers: Readers) -> None:
    """No rule names the inner group: it is counted by the way up."""
    groups(world)[TEAM] |= {SUB}
    sync(world)
    decide_all(world, StopState.APPROVED)
    sync(world)

    groups(world)[SUB] |= people(["dora"])
    sync(world)

    assert [one.groups[0].group for one in listed(world)] == [SUB.token]
    assert readers.count("dora") == 10
    assert readers.count("bob") == MANY + 10


def test_another_way_to_the_same_group_is_nothing_new(world: World, readers: Readers) -> None:
    """alice joins by a group within the team, in which she is: nobody is asked, and she reads on."""
    groups(world)[TEAM] |= {SUB}
    sync(world)
    decide_all(world, StopState.APPROVED)
    sync(world)

    groups(world)[SUB] |= people(["alice"])
    sync(world)

    assert (readers.count("alice"), listed(world)) == (MANY + FEW + 10, [])


# --- deciding ---


def test_an_approval_is_of_who_was_listed_and_is_applied_by_a_whole_pass(world: World, readers: Readers) -> None:
    """Not by one that breaks off; who joined meanwhile is another question; who does not join any more is not in."""
    groups(world)[TEAM] |= people(CROWD)
    sync(world)
    assert [one.decided_by for one in decide_all(world, StopState.APPROVED)] == ["u-1007"]
    world.source.faults = Faults(groups_incomplete=True)
    world.sync()
    assert readers.count("p00") == 10
    world.source.faults = Faults()
    groups(world)[TEAM] |= people(["late"])
    groups(world)[TEAM] -= people(["p01"])

    sync(world)

    assert readers.count("p00") == MANY + 10
    assert readers.count("p01") == readers.count("late") == 10
    (stop,) = listed(world)
    assert (stop.state, stop.groups[0].examples) == (StopState.WAITING, (somebody("late").token,))


def test_who_was_rejected_stays_out_until_the_source_says_something_else(world: World, readers: Readers) -> None:
    """Not asked again, not let in while nothing names the group for a time, nor with groups that nobody can read; who
    was in stays in.
    """
    groups(world)[TEAM] |= people(CROWD)
    sync(world)
    decide_all(world, StopState.REJECTED)
    sync(world)
    documents = dict(world.source.documents)
    fill(world, "team", MANY, Clause(()))
    sync(world)
    world.source.faults = Faults(unknown_groups={TEAM})
    sync(world)
    world.source.faults = Faults(groups_unread="a page did not come")
    sync(world)
    world.source.faults = Faults()
    world.source.documents.update(documents)
    sync(world)
    assert [one.kind for one in decide_all(world, StopState.APPROVED)] == [StopKind.WIDENING], "its rules came back"
    sync(world)

    assert (readers.count("alice"), readers.count("p00")) == (MANY + FEW + 10, 10)
    assert [one.state for one in listed(world)] == [StopState.REJECTED]

    groups(world)[TEAM] = people(["alice"])
    sync(world)
    assert listed(world) == []
    groups(world)[TEAM] |= people(["p00"])
    sync(world)
    assert [one.state for one in listed(world)] == [StopState.WAITING]


def test_an_approval_lasts_while_nobody_knows_the_members_and_is_spent_after(world: World, readers: Readers) -> None:
    """Of two groups, one cannot be read in the next pass: the other's steps are applied, and its own later. Whoever
    leaves then and joins again is another question.
    """
    groups(world)[TEAM] |= people(["bob"])
    groups(world)[ENEMIES].clear()
    sync(world)
    decide_all(world, StopState.APPROVED)
    world.source.faults = Faults(unknown_groups={TEAM})
    sync(world)
    assert [one.state for one in listed(world)] == [StopState.APPROVED]
    world.source.faults = Faults()
    sync(world)
    assert (readers.count("bob"), readers.count("carol"), listed(world)) == (MANY + 10, 10, [])

    groups(world)[TEAM] -= people(["bob"])
    sync(world)
    groups(world)[TEAM] |= people(["bob"])
    sync(world)

    assert readers.count("bob") == 10
    assert [one.state for one in listed(world)] == [StopState.WAITING]


def test_a_decision_that_was_forged_on_the_disk_is_none(world: World, readers: Readers) -> None:
    """Whoever can write to the catalog's file but has no key lets nobody in; the neighbours stay."""
    groups(world)[TEAM] |= people(CROWD)
    sync(world)
    decide_all(world, StopState.APPROVED)
    with world.catalog._writer.begin() as connection:
        connection.exec_driver_sql("UPDATE stops SET keys = x'789c030000000001'")
        connection.exec_driver_sql("UPDATE memberships SET facts = substr(facts, 9) WHERE length(facts) = 24")

    sync(world)

    assert readers.count("p00") == 10
    assert readers.count("alice") == MANY + FEW + 10


# --- leaving what denies ---


@pytest.mark.parametrize("how", ["emptied", "gone"])
def test_who_leaves_what_denies_much_is_denied_until_it_is_approved(world: World, readers: Readers, how: str) -> None:
    """A group that lost its members, or is not sent any more: carol still reads nothing of it, everybody else does."""
    if how == "gone":
        del groups(world)[ENEMIES]
    else:
        groups(world)[ENEMIES].clear()
    for _ in range(2):
        sync(world)

    assert (readers.count("carol"), readers.count("bob")) == (0, 10)
    (stop,) = listed(world)
    assert world.stops == [stop]
    assert [(one.group, one.joining, one.leaving, one.documents) for one in stop.groups] == [(ENEMIES.token, 0, 1, 10)]
    decide_all(world, StopState.APPROVED)
    sync(world)
    assert (readers.count("carol"), listed(world)) == (10, [])
    with world.catalog.reader() as reader:
        sent = {change.group.principal for change in reader.groups_since(0) if change.group is not None}  # type: ignore[union-attr]
    assert (ENEMIES in sent) == (how == "emptied"), "what is gone is gone from the catalog"


def test_who_leaves_a_group_within_what_denies_is_denied_too(world: World, readers: Readers) -> None:
    """Also who moves to another group within it, while nobody has said that the move counts."""
    groups(world)[ENEMIES] |= {SUB, BOARD}
    sync(world)
    assert (readers.count("bob"), readers.count("p00")) == (0, 10)
    groups(world)[TEAM] |= {BOARD}
    groups(world)[SUB] = set()
    groups(world)[BOARD] |= people(["bob"])
    sync(world)

    assert {one.group: (one.joining, one.leaving) for one in listed(world)[0].groups} == {
        SUB.token: (0, 1),
        BOARD.token: (1, 0),
        TEAM.token: (1, 0),
    }
    decide_all(world, StopState.REJECTED)
    groups(world)[BOARD] -= people(["bob"])
    sync(world)
    assert (readers.count("bob"), readers.count("p00")) == (0, 10)


def test_who_joins_what_is_denied_is_denied_at_once(world: World, readers: Readers) -> None:
    """Also while another step of the same group waits, and although the run breaks off."""
    groups(world)[ENEMIES] = people(["bob"])
    world.source.faults = Faults(fail_at=4, error=RetriableError("gone"))
    assert world.sync().state is RunState.FAILED

    assert (readers.count("bob"), readers.count("carol")) == (0, 0)
    world.source.faults = Faults()
    sync(world)
    assert (readers.count("bob"), readers.count("carol"), readers.count("p00")) == (0, 0, 10)


def test_a_group_that_is_allowed_here_and_denied_there_counts_as_old_and_new(world: World, readers: Readers) -> None:
    """Who joins it is denied at once and let in later; who leaves it is out at once and let in later; what neither
    rule is about is read all the time.
    """
    fill(world, "other", 12, but(TEAM, STAFF))
    sync(world)
    assert (readers.count("alice"), readers.count("bob")) == (MANY + FEW + 10, 10 + 12)

    groups(world)[TEAM] = people(["bob"])
    sync(world)

    assert (readers.count("alice"), readers.count("bob"), readers.count("p00")) == (FEW + 10, 10, 10 + 12)
    (stop,) = listed(world)
    assert [(one.joining, one.leaving) for one in stop.groups] == [(1, 1)]
    decide_all(world, StopState.APPROVED)
    sync(world)
    assert (readers.count("alice"), readers.count("bob")) == (FEW + 10 + 12, MANY + 10)


def test_a_rule_that_comes_later_denies_who_may_be_in_the_group(world: World, readers: Readers) -> None:
    """bob's joining waits; a document that denies the group is not his, and is his neighbour's."""
    groups(world)[TEAM] |= people(["bob"])
    sync(world)

    fill(world, "late", 2, but(TEAM, STAFF))
    sync(world)

    assert (readers.count("bob"), readers.count("p00")) == (10, 12)


# --- what is no widening ---


def test_a_group_that_comes_with_its_documents_widens_nothing(world: World, readers: Readers) -> None:
    """Like new documents; once they are there, it does."""
    new = Principal(OWN, "new")
    groups(world)[new] = people(["bob"])
    fill(world, "new", 3 * MANY, of(new))

    sync(world)

    assert (readers.count("bob"), listed(world)) == (3 * MANY + 10, [])
    groups(world)[new] |= people(["dora"])
    sync(world)
    assert (readers.count("dora"), [one.documents for one in listed(world)]) == (10, [3 * MANY])


def test_a_first_sync_that_was_interrupted_is_no_question(tmp_path: Path) -> None:
    """Its documents were stored in part: the groups were in force before, so that the second part widens nothing."""
    source = MemorySource(checkpoint_every=5)
    with open_world(tmp_path, source, POLICY) as world:
        source.groups = {TEAM: people(["alice"])}
        fill(world, "team", MANY, of(TEAM))
        source.faults = Faults(fail_at=MANY, error=RetriableError("gone"))
        assert world.sync().state is RunState.FAILED
        source.faults = Faults()

        sync(world)

        assert (Readers(world).count("alice"), listed(world)) == (MANY, [])


def test_a_run_that_is_taken_up_again_asks_nothing_twice(tmp_path: Path) -> None:
    """The first part asked; the second sends the groups again, and the question is the same one."""
    source = MemorySource(checkpoint_every=5)
    with open_world(tmp_path, source, POLICY) as world:
        source.groups = {TEAM: people(["alice"])}
        fill(world, "team", MANY, of(TEAM))
        sync(world)
        source.groups[TEAM] |= people(CROWD)
        source.faults = Faults(fail_at=MANY, error=RetriableError("gone"))
        assert world.sync().state is RunState.FAILED
        source.faults = Faults()

        sync(world)

        assert world.stops == listed(world)
        assert (len(world.stops), Readers(world).count("p00")) == (1, 0)


def test_a_group_whose_members_were_unknown_for_a_time_comes_back_by_itself(world: World, readers: Readers) -> None:
    """With those who counted last; whoever came meanwhile waits."""
    world.source.faults = Faults(unknown_groups={TEAM})
    sync(world)
    assert readers.count("alice") == 0
    world.source.faults = Faults()
    groups(world)[TEAM] |= people(CROWD)

    sync(world)

    assert (readers.count("alice"), readers.count("p00")) == (MANY + FEW + 10, 10)
    assert [one.groups[0].joining for one in listed(world)] == [len(CROWD)]


def test_a_group_that_went_and_comes_back_is_a_question(world: World, readers: Readers) -> None:
    """Everybody is out at once, and nobody remembers who was in."""
    was = groups(world).pop(TEAM)
    sync(world)
    assert readers.count("alice") == FEW + 10
    groups(world)[TEAM] = was

    sync(world)

    assert readers.count("alice") == FEW + 10
    decide_all(world, StopState.APPROVED)
    sync(world)
    assert readers.count("alice") == MANY + FEW + 10


def test_documents_below_a_container_that_nobody_can_read_now_count(world: World, readers: Readers) -> None:
    """It comes back by itself with the rules that counted last, and must not find everybody in its group."""
    world.source.scopes["share"] = MemoryScope(None, of(SUB), "/share")  # type: ignore[index]
    for number in range(MANY):
        world.add(f"share{number}", f"share {number}", of(STAFF), "share")
    sync(world)
    assert readers.count("bob") == MANY + 10
    scope = world.source.scopes["share"]  # type: ignore[index]
    world.source.scopes["share"] = MemoryScope(None, Unknown("the server did not say"), "/share")  # type: ignore[index]
    sync(world)
    groups(world)[SUB] |= people(CROWD)
    sync(world)
    world.source.scopes["share"] = scope  # type: ignore[index]
    sync(world)

    assert (readers.count("bob"), readers.count("p00")) == (MANY + 10, 10)


def test_a_way_by_a_realm_that_nobody_can_tell_of_closes_as_the_new_word_would(world: World, readers: Readers) -> None:
    """A group of another directory joins: who has no account there may be in it, so no deny of the source can be
    decided for them; what does not name its groups is read on.
    """
    fill(world, "open", 2, of(STAFF))
    groups(world)[TEAM] |= {Principal(AD.__class__("entra:t"), "everybody")}

    sync(world)

    assert OWN not in readers.caller("alice").complete
    assert readers.reads("alice") == {"open00", "open01"}


# --- whatever happens ---

_PEOPLE = ("a", "b", "c")
_GROUPS = (TEAM, BOARD, SUB, ENEMIES)
_members = st.frozensets(st.sampled_from([*people(_PEOPLE), *_GROUPS]), max_size=4)
_clauses = st.sampled_from(
    [of(TEAM), of(BOARD, STAFF), of(BOARD), but(ENEMIES, STAFF), but(TEAM, STAFF), but(TEAM, BOARD), but(BOARD, TEAM)]
)
"""No rule names the group `sub`: it opens and denies by what it is in."""
_step = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(_GROUPS), st.one_of(st.none(), _members)),
    st.tuples(st.just("say"), st.sampled_from(_GROUPS), st.one_of(st.none(), _members)),
    st.tuples(st.just("sync")),
    st.tuples(st.just("sync")),
    st.tuples(st.just("break"), st.integers(0, 4)),
    st.tuples(st.just("unknown"), st.sampled_from(_GROUPS)),
    st.tuples(st.just("reject")),
    st.tuples(st.just("approve")),
)


@settings(max_examples=max(30, settings().max_examples // 3))
@given(
    st.lists(_clauses, min_size=2, max_size=5),
    st.dictionaries(st.sampled_from(_GROUPS), _members, max_size=4),
    st.lists(_step, min_size=3, max_size=12),
)
def test_nobody_gets_in_by_groups_without_a_word_and_whoever_left_is_out(
    clauses: list[Clause], first: dict[Principal, frozenset[Principal]], steps: list[tuple[object, ...]]
) -> None:
    """With a breaker that holds everything, whatever is said and however a pass ends: nobody reads what they do not by
    what counted last, which opens nothing more to anybody without a word; after a whole pass nobody reads what the
    source does not allow, either; and what is approved is as the source says.
    """
    closed = Policy(BreakerLimits(0.0, 0.0, 0.0, least=1))
    with tempfile.TemporaryDirectory() as folder, open_world(Path(folder), MemorySource(), closed) as world:
        for number, clause in enumerate(clauses):
            world.add(f"{number}", f"text {number}", clause, None)
        world.source.groups = {group: set(members) for group, members in first.items()}
        readers = Readers(world)
        sync(world)
        approved = _as_the_source_says(world, readers)
        for step in steps:
            match step:
                case ("say", Principal() as group, None):
                    world.source.groups.pop(group, None)
                case ("say", Principal() as group, frozenset() as members):
                    world.source.groups[group] = set(members)
                case ("reject",):
                    decide_all(world, StopState.REJECTED)
                case ("approve",):
                    # What waits is of the last whole pass: another one, and then it is all as the source says.
                    sync(world)
                    for stop in listed(world):
                        world.catalog.decide_stop(stop.hold_id, StopState.APPROVED, "u-1007", world.clock())
                    sync(world)
                    assert listed(world) == []
                    approved = _as_the_source_says(world, readers)
                case _:
                    approved = _pass(world, readers, step, approved)


def _as_the_source_says(world: World, readers: Readers) -> dict[str, set[str]]:
    found = {name: readers.reads(name) for name in _PEOPLE}
    assert found == {name: truth(world.source, name) for name in _PEOPLE}
    return found


def _pass(
    world: World, readers: Readers, step: tuple[object, ...], approved: dict[str, set[str]]
) -> dict[str, set[str]]:
    """Run a pass, and return what everybody may read by what counts since then."""
    match step:
        case ("break", int() as number):
            world.source.faults = Faults(fail_at=number, error=RetriableError("gone"))
        case ("unknown", Principal() as group):
            world.source.faults = Faults(unknown_groups={group})
        case _:
            pass
    world.sync()
    world.source.faults = Faults()
    counts = {name: truth(world.source, name, counted_last(world)) for name in _PEOPLE}
    for name in _PEOPLE:
        assert counts[name] <= approved[name]
        assert readers.reads(name) <= counts[name]
        if step[0] == "sync":
            assert readers.reads(name) <= truth(world.source, name)
    return counts
