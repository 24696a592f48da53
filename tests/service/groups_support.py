"""A source with groups of its own, whose rules name them: who reads what of it, by the service and by the source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from typing import Final

from acl.changes import DocumentPut
from acl.decide import Allowed, decide
from acl.model import Caller, Clause, Effect, Rule
from acl.principal import Principal, Realm
from connectors.base import own_realm
from connectors.testing.hostile import MemorySource
from service.identity.source_groups import SourceGroups
from service.stores.memberships import Group
from service.stores.records import RunState, SyncPass
from service.stores.stops import Stop, StopState
from tests.acl.reference import may_read, plain_clause
from tests.service.sync_support import EPOCH, SOURCE, World, acl_of

AD: Final = Realm("ad")
OWN: Final = own_realm(SOURCE)
STAFF: Final = Principal(AD, "staff")
TEAM, BOARD, SUB, ENEMIES = (Principal(OWN, name) for name in ("team", "board", "sub", "enemies"))


def somebody(name: str) -> Principal:
    """A person of the directory. Everybody is in its group `staff`."""
    return Principal(AD, name)


def of(*principals: Principal) -> Clause:
    """A clause for these and nobody else."""
    return Clause((Rule(Effect.ALLOW, frozenset(principals)),))


def but(denied: Principal, *principals: Principal) -> Clause:
    """A clause for these, but for who is in one group."""
    return Clause((Rule(Effect.DENY, frozenset({denied})), *of(*principals).rules))


class Readers:
    """Who reads what of a world, by the catalog's current rows, `SourceGroups` and `decide` alone."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.groups = SourceGroups(world.catalog, {SOURCE: timedelta(days=900)}, lambda: world.clock.time)

    def caller(self, name: str) -> Caller:
        """Resolve somebody."""
        held = {somebody(name): (name,), STAFF: (name, "staff")}
        joined = self.groups.join(held, frozenset({AD}))
        principals = frozenset([*held, *joined.paths])
        end = EPOCH + timedelta(days=900)
        return Caller(name, principals, joined.complete, EPOCH, end, joined.doubtful)

    def reads(self, name: str) -> set[str]:
        """The documents that somebody may read, by their locations."""
        caller, found = self.caller(name), set()
        with self.world.catalog.reader() as reader:
            values = [change.value for change in reader.changes_since(0)]
            ordinals = [value.ordinal for value in values if isinstance(value, DocumentPut)]
            for document in reader.documents(ordinals).values():
                decision = decide(acl_of(document, values), caller, self.world.clock.time)
                if isinstance(decision, Allowed) and reader.chunks_of(document.ordinal):
                    found.add(self.world.catalog.sealing.location(document))
        return found

    def count(self, name: str) -> int:
        """How many documents somebody may read."""
        return len(self.reads(name))


def truth(source: MemorySource, name: str, groups: Mapping[Principal, Collection[Principal]] | None = None) -> set[str]:
    """The documents that somebody may read by what the source says now, or by other groups than it says.

    All documents are in no container.
    """
    held = {somebody(name), STAFF}
    if groups is None:
        groups = source.groups or {}
    while True:
        more = {group for group, members in groups.items() if not held.isdisjoint(members)} - held
        if not more:
            break
        held |= more
    return {
        location
        for location, document in source.documents.items()
        if isinstance(document.own, Clause)
        and may_read([plain_clause(document.own)], [(one.realm, one.id) for one in held], [AD, OWN], 0.0)
    }


def sync(world: World, sync_pass: SyncPass = SyncPass.CONTENT) -> None:
    """Run one sync to its end."""
    run = world.sync(sync_pass)
    assert run.state is RunState.SUCCEEDED, run


def listed(world: World) -> list[Stop]:
    """What is held."""
    with world.catalog.reader() as reader:
        return reader.stops(SOURCE)


def counted_last(world: World) -> dict[Principal, frozenset[Principal]]:
    """Who was in each group before anything waited."""
    with world.catalog.reader() as reader:
        found = [change.group for change in reader.groups_since(0)]
    return {group.principal: group.counted_last for group in found if isinstance(group, Group)}


def decide_all(world: World, state: StopState) -> list[Stop]:
    """Decide about whatever waits."""
    waiting = [one for one in listed(world) if one.state is StopState.WAITING]
    decided = [world.catalog.decide_stop(one.hold_id, state, "u-1007", world.clock()) for one in waiting]
    return [one for one in decided if one is not None]


def fill(world: World, prefix: str, count: int, own: Clause, text: Callable[[int], str] = str) -> None:
    """Put documents with one clause into the source, in no container."""
    for number in range(count):
        world.add(f"{prefix}{number:02}", f"{prefix} {text(number)}", own, None)


def people(names: Iterable[str]) -> set[Principal]:
    """Several of them."""
    return {somebody(name) for name in names}
