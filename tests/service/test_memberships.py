"""Groups that sources have themselves: from the source into the catalog, and from there into what somebody holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from remit.v1.retrieval_pb2 import SearchRequest, SearchResponse

from acl.decide import Allowed, decide
from acl.model import Acl, Clause, Effect, Rule
from acl.principal import Principal, Realm
from connectors.base import Membership, own_realm
from service.audit.call import Authority, Call
from service.audit.record import Kind
from service.authn import Subject
from service.identity.directories import Link
from service.identity.lookups import Keeping
from service.identity.resolver import Identity, Resolved
from service.identity.roles import Roles
from service.identity.source_groups import SourceGroups
from service.stores.records import RunState
from tests.service.directory_fake import FakeDirectory
from tests.service.harness import ALICE, COMPANY, serving
from tests.service.harness import BOB as AS_BOB
from tests.service.sync_support import SOURCE, World, open_world

AD, CLOUD = Realm("ad"), Realm("entra:t")
OWN = own_realm(SOURCE)
STAFF, BOB = Principal(AD, "staff"), Principal(AD, "bob")
TEAM, BOARD, ENEMIES = Principal(OWN, "team"), Principal(OWN, "board"), Principal(OWN, "enemies")
LIMIT = timedelta(hours=1)


@dataclass
class People:
    """alice and bob of `corp`, bob in the cloud too; a data folder over one source in memory. Time stands still."""

    world: World
    directory: FakeDirectory
    cloud: FakeDirectory
    identity: Identity
    groups: SourceGroups
    at: list[datetime] = field(default_factory=list)

    def resolve(self, name: str = "alice") -> Resolved:
        """Resolve somebody."""
        expires = self.now() + timedelta(days=1)
        return self.identity.resolve(Subject("https://i", name, "corp", "sid", name, expires, "t"), mark=self.seq)

    def may(self, name: str, clause: Clause) -> bool:
        """Whether somebody may read under one clause."""
        found = self.resolve(name)
        return isinstance(decide(Acl(None, clause), found.caller, self.now()), Allowed)

    def held(self, name: str = "alice") -> set[str]:
        """What somebody holds of the source."""
        return {principal.id for principal in self.resolve(name).caller.principals if principal.realm == OWN}

    def sync(self) -> None:
        """Run one sync, which must end well."""
        run = self.world.sync()
        assert run.failure == "", run

    def seq(self) -> int:
        """The catalog's latest change."""
        with self.world.catalog.reader() as reader:
            return reader.seq

    def now(self) -> datetime:
        """The time of questions: that of the world's clock, which only a sync moves, unless a test says otherwise."""
        return self.at[-1] if self.at else self.world.clock.time


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    """Two people, a source with no groups yet."""
    with open_world(tmp_path) as world:
        yield _people(world)


def _people(world: World) -> People:
    directory, cloud = FakeDirectory("corp", AD), FakeDirectory("cloud", CLOUD)
    directory.add("sid", "alice", "staff", sid="alice")
    directory.add("sid", "bob", sid="bob")
    cloud.add("onprem", "bob", account="cloud-bob")
    world.source.groups = {}
    times: list[datetime] = []

    def now() -> datetime:
        return times[-1] if times else world.clock.time

    directory.now = cloud.now = now
    groups = SourceGroups(world.catalog, {SOURCE: LIMIT}, now)
    keeping = Keeping(timedelta(seconds=15), timedelta(days=10))
    identity = Identity(
        {"corp": directory, "cloud": cloud},
        Roles({"operator": frozenset({TEAM})}),
        links=[Link("corp", "sid", "cloud", "onprem")],
        keeping={"corp": keeping, "cloud": keeping},
        groups=groups,
        now=now,
        clock=lambda: 0.0,
    )
    return People(world, directory, cloud, identity, groups, times)


def of(*principals: Principal) -> Clause:
    """A clause for these and nobody else."""
    return Clause((Rule(Effect.ALLOW, frozenset(principals)),))


def but(enemies: Principal, *friends: Principal) -> Clause:
    """A clause for some, but for those in one group."""
    return Clause((Rule(Effect.DENY, frozenset({enemies})), *of(*friends).rules))


# --- who is in ---


def test_a_group_of_a_source_holds_who_is_in_it_through_directories_and_nested_groups(people: People) -> None:
    """alice by her directory group, in a group within a group; bob by himself; each with the path, and nobody more."""
    people.world.source.groups = {TEAM: {STAFF}, BOARD: {TEAM, BOB}}
    people.sync()

    assert people.held("alice") == {"team", "board"}
    assert people.held("bob") == {"board"}
    assert people.resolve("alice").resolution.paths[BOARD] == ("alice", "staff", "team", "board")
    assert OWN in people.resolve("alice").caller.complete
    assert people.may("alice", of(TEAM))
    assert not people.may("bob", of(TEAM))


def test_groups_may_contain_each_other(people: People) -> None:
    """A circle ends, and everybody in it is in every group of it."""
    people.world.source.groups = {TEAM: {BOARD, STAFF}, BOARD: {TEAM}, ENEMIES: {ENEMIES}}
    people.sync()

    assert people.held("alice") == {"team", "board"}
    assert people.held("bob") == set()


def test_a_deny_of_a_source_group_denies_its_members_alone(people: People) -> None:
    """Whoever is in the group through another one is denied, whoever is not is let in."""
    people.world.source.groups = {ENEMIES: {TEAM}, TEAM: {BOB}}
    people.sync()
    everybody = Principal(AD, "members")

    assert not people.may("bob", but(ENEMIES, everybody))
    assert people.may("alice", but(ENEMIES, everybody))


# --- revocation ---


def test_a_membership_that_ended_ends_with_the_commit(people: People) -> None:
    """On the next question, although the directory's answer is kept; who stayed in still is."""
    people.world.source.groups = {TEAM: {STAFF, BOB}}
    people.sync()
    assert people.held("alice") == people.held("bob") == {"team"}
    asked = people.directory.asked

    people.world.source.groups[TEAM].discard(STAFF)
    people.sync()

    assert people.held("alice") == set()
    assert people.held("bob") == {"team"}
    assert people.directory.asked == asked, "the control: the directory was not asked again"


def test_a_group_that_lost_members_does_not_wait_for_the_end_of_the_walk(people: People) -> None:
    """The walk breaks off after the groups: who was taken out is out, although the run failed."""
    people.world.source.groups = {TEAM: {STAFF, BOB}, BOARD: {BOB}}
    people.sync()

    people.world.source.groups = {TEAM: {BOB}, BOARD: {BOB}}
    people.world.source.faults.fail_at = 3
    assert people.world.sync().state is RunState.FAILED

    assert people.held("alice") == set()
    assert people.held("bob") == {"team", "board"}


def test_a_group_that_a_whole_pass_does_not_send_is_gone(people: People) -> None:
    """And the others stay."""
    people.world.source.groups = {TEAM: {STAFF}, BOARD: {STAFF}}
    people.sync()

    del people.world.source.groups[TEAM]
    people.sync()

    assert people.held() == {"board"}


def test_a_pass_that_does_not_end_removes_no_group_and_verifies_none(people: People) -> None:
    """What was not seen may be there: a deny of it goes on, and the groups grow old."""
    people.world.source.groups = {ENEMIES: {BOB}, TEAM: {STAFF}}
    people.sync()
    before = _verified(people)

    people.world.source.faults.withhold_groups = {ENEMIES}
    people.world.source.faults.groups_incomplete = True
    people.sync()

    assert people.held("bob") == {"enemies"}
    assert _verified(people) == before

    people.world.source.faults.groups_incomplete = False
    people.sync()
    assert people.held("bob") == set()
    assert _verified(people) > before


def test_an_unchanged_pass_writes_nothing_but_its_time(people: People) -> None:
    """The change log stays where it was, and the groups are as fresh as the run."""
    people.world.source.groups = {TEAM: {STAFF}, BOARD: {TEAM}}
    people.sync()
    seq, before = people.seq(), _verified(people)

    people.sync()

    assert people.seq() == seq
    assert _verified(people) > before
    assert people.held() == {"team", "board"}


# --- nobody knows ---


def test_a_group_with_unknown_members_closes_what_names_its_source(people: People) -> None:
    """For everybody, whichever group of the source is named; what names others alone stays open; then it heals."""
    people.world.source.groups = {TEAM: {STAFF}, ENEMIES: {BOB}}
    people.world.source.faults.unknown_groups = {ENEMIES}
    people.sync()

    for name in ("alice", "bob"):
        found = people.resolve(name)
        assert OWN not in found.caller.complete
        assert found.incomplete
        assert "not known" in found.sources_left_out[SOURCE]
        assert not people.may(name, of(TEAM))
        assert not people.may(name, but(ENEMIES, Principal(AD, "members")))
        assert people.may(name, of(Principal(AD, "members"))), "the neighbour"

    people.world.source.faults.unknown_groups = set()
    people.sync()
    assert people.may("alice", of(TEAM))
    assert people.may("alice", but(ENEMIES, Principal(AD, "members")))
    assert not people.may("bob", but(ENEMIES, Principal(AD, "members")))
    assert not people.resolve().incomplete


def test_a_pass_that_could_not_read_every_group_closes_what_names_the_source(people: People) -> None:
    """At once, as a group that nobody saw could deny; nothing is removed; then it heals."""
    people.world.source.groups = {TEAM: {STAFF}, ENEMIES: {BOB}}
    people.sync()
    people.world.source.faults.withhold_groups = {ENEMIES}
    people.world.source.faults.groups_unread = "a page of groups did not come"
    people.sync()

    assert not people.may("alice", of(TEAM))
    assert "a page of groups" in people.resolve().sources_left_out[SOURCE]
    assert people.held("bob") == {"enemies"}
    assert people.may("alice", of(STAFF)), "the neighbour"

    people.world.source.faults.withhold_groups = set()
    people.world.source.faults.groups_unread = ""
    people.sync()
    assert people.may("alice", of(TEAM))


def test_groups_that_were_read_too_long_ago_count_as_unknown(people: People) -> None:
    """From exactly the limit on: the caller ends then too, so that nobody decides on it later."""
    people.world.source.groups = {TEAM: {STAFF}}
    people.sync()
    verified = _verified(people)
    assert people.resolve().caller.expires_at == verified + LIMIT

    people.at.append(verified + LIMIT - timedelta(microseconds=1))
    assert people.may("alice", of(TEAM))
    people.at.append(verified + LIMIT)
    assert not people.may("alice", of(TEAM))
    assert "3600 s ago" in people.resolve().sources_left_out[SOURCE]
    assert people.may("alice", of(STAFF)), "the neighbour"

    people.at.clear()
    people.sync()
    assert people.may("alice", of(TEAM))


def test_a_clock_that_was_set_back_makes_groups_unknown(people: People) -> None:
    """A pass that lies in the future has no age."""
    people.world.source.groups = {TEAM: {STAFF}}
    people.sync()
    people.at.append(_verified(people) - timedelta(seconds=1))

    assert not people.may("alice", of(TEAM))


def test_groups_of_which_no_pass_was_whole_are_unknown(people: People) -> None:
    """Although alice is known to be in, somebody else may be in a group that denies."""
    people.world.source.groups = {TEAM: {STAFF}}
    people.world.source.faults.groups_incomplete = True
    people.sync()

    assert not people.may("alice", of(TEAM))
    assert "never" in people.resolve().sources_left_out[SOURCE]


def test_a_source_that_speaks_of_no_groups_has_none_that_anybody_could_name(people: People) -> None:
    """What names one denies, and nothing is said to be left out: there is nothing."""
    people.world.source.groups = None
    people.sync()

    assert OWN not in people.resolve().caller.complete
    assert not people.resolve().incomplete


def test_a_source_that_is_not_configured_gives_nothing(people: People) -> None:
    """Its groups stay in the catalog, and nobody is in them."""
    people.world.source.groups = {TEAM: {STAFF}}
    people.sync()
    groups = SourceGroups(people.world.catalog, {"other": LIMIT}, people.now)
    held = {STAFF: ("alice", "staff")}

    assert OWN in people.groups.join(held, frozenset({AD})).complete
    assert groups.join(held, frozenset({AD})).complete == {AD}


def test_members_of_a_realm_that_is_incomplete_for_somebody_make_the_source_incomplete_for_them(people: People) -> None:
    """alice has no account in the cloud, and may be in by one that nobody could name; bob has one; carol's is down."""
    people.world.source.groups = {TEAM: {STAFF, BOB}, BOARD: {Principal(CLOUD, "x")}}
    people.sync()

    assert OWN not in people.resolve("alice").caller.complete
    assert people.may("bob", of(TEAM))

    people.directory.add("sid", "carol", "staff", sid="carol")
    people.cloud.add("onprem", "carol", account="cloud-carol")
    people.cloud.down = "gone"
    assert OWN not in people.resolve("carol").caller.complete


def test_the_audit_log_is_told_how_old_the_groups_are(people: People) -> None:
    """Of whoever holds one, beside the digest and the number of all principals; of others nothing is said of it."""
    people.world.source.groups = {TEAM: {STAFF}}
    people.sync()
    people.at.append(_verified(people) + timedelta(minutes=5))

    ages: dict[str, object] = {}
    for name in ("alice", "bob"):
        found = people.resolve(name)
        authority = Authority.of(found.caller, people.now(), found.roles, found.groups_verified_at)
        call = Call(Kind.ACCESS, "x/GetCaller", "r", "OK", timedelta(0), authority=authority)
        said = json.loads(call.record().body)["authority"]
        assert said["principals"] == len(found.caller.principals)
        ages[name] = said.get("groups_age_us")
    assert ages == {"alice": 300_000_000, "bob": None}


# --- what a source may not say ---


@pytest.mark.parametrize("token", ["ad:S-1-5-21-1-2-3-512", "source:other:team", "static:people:group-operators"])
def test_a_source_says_nothing_of_the_groups_of_others(people: People, token: str) -> None:
    """The run fails with a sentence, nobody is in that group, and what was known of its own groups stays."""
    people.world.source.groups = {TEAM: {STAFF}}
    people.sync()

    foreign = Principal.parse(token)
    people.world.source.groups = {TEAM: {STAFF}, foreign: {BOB}}
    run = people.world.sync()

    assert run.state is RunState.FAILED
    assert token in run.failure
    assert f"`{OWN}:…`" in run.failure
    assert foreign not in people.resolve("bob").caller.principals
    assert people.held("alice") == {"team"}


def test_a_source_gives_nobody_a_role(people: People) -> None:
    """Even one that a binding names: whoever writes to the source would administer the service."""
    people.world.source.groups = {TEAM: {STAFF}}
    people.sync()

    assert people.held() == {"team"}
    assert people.resolve().roles == frozenset()


def test_nothing_comes_after_the_last_group(people: People) -> None:
    """A connector that goes on after it is refused."""
    people.world.source.groups = {}
    people.world.source.faults.after_complete = (Membership(TEAM, frozenset({STAFF}), "team"),)

    assert people.world.sync().state is RunState.FAILED
    assert people.held() == set()


# --- in the catalog ---


def test_who_is_in_a_group_is_not_to_be_read_in_the_files(people: People) -> None:
    """Neither the members, nor the group, nor its name."""
    secret = Principal(AD, "S-1-5-21-99-98-97-4711")
    people.world.source.groups = {Principal(OWN, "canary-group"): {secret}}
    people.sync()

    files = [file.read_bytes() for file in people.world.folder.path.rglob("*") if file.is_file()]
    assert not any(b"4711" in data or b"canary-group" in data for data in files)


def test_groups_outlive_a_restart(tmp_path: Path) -> None:
    """What a new process reads of the catalog is what the old one knew."""
    with open_world(tmp_path) as world:
        people = _people(world)
        world.source.groups = {TEAM: {STAFF}, BOARD: {TEAM}, ENEMIES: {BOB}}
        people.sync()
        at = people.now()
    with open_world(tmp_path) as world:
        people = _people(world)
        people.at.append(at)
        assert people.held("alice") == {"team", "board"}
        assert people.held("bob") == {"enemies"}


def test_a_source_that_is_shredded_has_no_groups(people: People) -> None:
    """Its rows are gone, and nobody is in any."""
    people.world.source.groups = {TEAM: {STAFF}}
    people.sync()
    fence = people.world.catalog.take_fence(SOURCE)

    people.world.catalog.shred_source(SOURCE, fence)

    assert people.held() == set()
    with people.world.catalog.reader() as reader:
        assert reader.groups_since(0) == []
        assert reader.group_passes() == {}


def test_a_row_that_does_not_open_is_a_group_that_nobody_knows(people: People) -> None:
    """A damaged row closes what names the source, instead of being a group without members."""
    people.world.source.groups = {TEAM: {STAFF}, ENEMIES: {BOB}}
    people.sync()
    with people.world.catalog._write() as connection:
        connection.exec_driver_sql("UPDATE memberships SET body = x'00' WHERE rowid = 1")

    assert not people.may("alice", of(TEAM))
    assert not people.may("alice", of(ENEMIES))


def test_an_uncommitted_change_is_never_taken_for_the_last_word(people: People) -> None:
    """While a transaction changes groups nothing is kept; after it, kept or undone, everybody reads what is there."""
    people.world.source.groups = {TEAM: {STAFF}}
    people.sync()
    settled = people.groups.settled()
    assert settled is not None
    fence = people.world.catalog.take_fence(SOURCE)

    def undone() -> None:
        with people.world.catalog.writer(SOURCE, fence) as writer:
            writer.groups.forget()
            assert people.groups.settled() is None
            assert people.held() == {"team"}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        undone()
    assert people.groups.settled() not in (None, settled)
    assert people.held() == {"team"}
    with people.world.catalog.writer(SOURCE, fence) as writer:
        writer.groups.forget()
    assert people.held() == set()


async def test_a_document_opens_and_closes_with_the_group_of_its_source(tmp_path: Path) -> None:
    """The whole way, by the API: found by a member, not by others, and not any more once the sync has committed."""
    team = Principal(own_realm(COMPANY), "team")
    async with serving(tmp_path / "remit") as service:

        async def found(name: str) -> set[str]:
            request = SearchRequest(query="lighthouse", limit=10)
            outcome = await service.call("RetrievalService/Search", request, token=service.token(name))
            assert outcome.code == "OK", outcome
            return {hit.chunk.document.location for hit in SearchResponse.FromString(outcome.message).hits}

        service.add("plan", "the lighthouse opens in May", of(team))
        service.add("news", "the lighthouse has a new lamp", of(ALICE, AS_BOB))
        service.source.groups = {team: {ALICE}}
        service.sync()
        assert (await found("alice"), await found("bob")) == ({"plan", "news"}, {"news"})

        service.source.groups = {team: {AS_BOB}}
        service.sync()
        assert (await found("alice"), await found("bob")) == ({"news"}, {"plan", "news"})

        service.source.faults.unknown_groups = {team}
        service.sync()
        assert (await found("alice"), await found("bob")) == ({"news"}, {"news"})


def _verified(people: People) -> datetime:
    with people.world.catalog.reader() as reader:
        found = reader.group_passes()[SOURCE].verified_at
    assert found is not None
    return found
