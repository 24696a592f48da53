"""Who may join a source's own groups now, and leave them where that opens something: what widens waits above a share.

A group is one row with two words on who is in it, the one that counted last and the source's; nobody is let in who is
not in both, and whom one of the two denies is denied (docs/adr/0027). Here is decided which differences end:
1. A step is one member who joins a group or leaves it. Only a whole pass is judged, all its steps together.
2. A step widens by a group that the member then belongs to and did not before, through however many, if a rule allows
   it; and by one that the member does not certainly belong to any more, if a rule denies it.
3. It concerns every document with text of which such a rule is a way, be the rule in force, held or the last one that
   counted. Above the share of the source all steps that widen wait; all others end at once.
4. What a person rejected waits also while nothing names the group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from acl.closure import Memberships
from acl.model import AclId, Effect, Unknown
from acl.principal import Principal, Realm
from service.stores.holds import Interned
from service.stores.known import KnownDocuments
from service.stores.memberships import Group
from service.stores.stops import HeldGroup, Stop, StopState
from service.sync.breaker import Breaker, Verdict, count_below
from service.sync.containers import Containers
from service.sync.names import Names

_SHOWN_GROUPS: Final = 10
_SHOWN_MEMBERS: Final = 5


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of groups, by id: as they stand from now on where that is news, and those that are gone.

    unreleased: what was approved and waits on, as nobody knows now whether it is still asked for.
    held: of what a person is asked, the groups with the most steps. more: how many others there are.
    """

    verdict: Verdict
    groups: Mapping[str, Group]
    gone: tuple[str, ...]
    unreleased: frozenset[bytes] = frozenset()
    held: tuple[HeldGroup, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class _Step:
    """A member who joins a group or leaves it. through: what the member then belongs to, or does not any more."""

    group: Group
    member: Principal
    joins: bool
    through: frozenset[Principal]


class Joins:
    """Judges the passes over the groups of one source.

    containers, interned: what the run knows of rules, as it goes on.
    """

    def __init__(
        self,
        realm: Realm,
        names: Names,
        documents: KnownDocuments,
        interned: Mapping[AclId, Interned],
        containers: Containers,
    ) -> None:
        self._realm = realm
        self._names = names
        self._documents = documents
        self._interned = interned
        self._containers = containers

    def judge(
        self, breaker: Breaker, stored: Mapping[str, Group], unsent: Collection[str], stops: Collection[Stop]
    ) -> Judgement:
        """Judge a whole pass: all groups as they are stored, those of them that the source does not have any more, and
        what was held before.
        """
        gone = frozenset(unsent)
        groups = {
            ref: replace(group, members=frozenset(), before=group.counted_last) if ref in gone else group
            for ref, group in stored.items()
        }
        steps = {self._key(step): step for step in _steps(groups.values())}
        rejected = {key for stop in stops if stop.state is StopState.REJECTED for key in stop.keys}
        allowed, denied = self._named() if steps else ({}, {})
        rules = {key: _rules(step, allowed if step.joins else denied) for key, step in steps.items()}
        asked = [key for key, digests in rules.items() if digests or key in rejected]

        def count(keys: Collection[bytes]) -> tuple[int, int]:
            return self._count(frozenset().union(*[rules[key] for key in keys]))

        verdict = breaker.members(asked, count)
        unreleased: frozenset[bytes] = frozenset()
        if any(isinstance(group.members, Unknown) for group in groups.values()):
            # Of these nobody knows what is still asked for: what was decided of them goes on to count.
            decided = {stop.hold_id for stop in stops if stop.state is not StopState.WAITING}
            verdict = replace(verdict, moot=tuple(one for one in verdict.moot if one not in decided))
            approved = [stop.keys for stop in stops if stop.hold_id in verdict.applied]
            unreleased = frozenset[bytes]().union(*approved).difference(steps)
        kept: dict[Principal, list[_Step]] = {}
        for key in verdict.kept:
            kept.setdefault(steps[key].group.principal, []).append(steps[key])
        settled = {ref: _settled(group, kept.get(group.principal, ())) for ref, group in groups.items()}
        ended = tuple(ref for ref in gone if ref not in settled or settled[ref].before is None)
        news = {ref: group for ref, group in settled.items() if group != stored[ref] and ref not in ended}
        asking: dict[Principal, list[bytes]] = {}
        for key in verdict.listed:
            asking.setdefault(steps[key].group.principal, []).append(key)
        most = sorted(asking.values(), key=lambda keys: (-len(keys), steps[keys[0]].group.principal))
        held = tuple(_held([steps[key] for key in keys], count(keys)[0]) for keys in most[:_SHOWN_GROUPS])
        return Judgement(verdict, news, ended, unreleased, held, max(len(most) - _SHOWN_GROUPS, 0))

    def _key(self, step: _Step) -> bytes:
        return self._names.member(step.group.principal.token, step.member.token, step.joins)

    def _named(self) -> tuple[dict[Principal, set[bytes]], dict[Principal, set[bytes]]]:
        """By group of the source, the digests of the clauses that allow it, and of those that deny it."""
        allowed: dict[Principal, set[bytes]] = {}
        denied: dict[Principal, set[bytes]] = {}
        for digest, clause in self._documents.clauses_naming(self._realm).items():
            for rule in clause.rules:
                named = allowed if rule.effect is Effect.ALLOW else denied
                for principal in rule.principals:
                    if principal.realm == self._realm:
                        named.setdefault(principal, set()).add(digest)
        return allowed, denied

    def _count(self, digests: frozenset[bytes]) -> tuple[int, int]:
        scopes = self._containers.ruled_by(digests)
        acls = [
            acl_id
            for acl_id, rules in self._interned.items()
            if rules.own in digests or not digests.isdisjoint(rules.held)
        ]
        own = self._documents.with_acls(acls) | self._documents.formerly(digests)
        return count_below(self._documents, self._containers, scopes, own)


def _steps(groups: Iterable[Group]) -> Iterator[_Step]:
    listed = list(groups)
    before, now, certain = Memberships(), Memberships(), Memberships()
    before.put({group.principal: group.counted_last for group in listed})
    # Of a group whose members are not known now, those who counted last are the best guess.
    now.put(
        {
            group.principal: group.counted_last if isinstance(group.members, Unknown) else group.members
            for group in listed
        }
    )
    certain.put({group.principal: group.certain for group in listed})
    # Who joins by a way more to the same group is in nothing new. Who leaves by one of two ways still belongs there by
    # the other, unless that is new itself and may never come to count.
    belonged, belongs, stays = _Belonging(before), _Belonging(now), _Belonging(certain)
    for group in listed:
        if group.before is None or isinstance(group.members, Unknown):
            continue
        for member in group.members - group.before:
            yield _Step(group, member, True, belongs.to(group.principal) - belonged.to(member))
        for member in group.before - group.members:
            yield _Step(group, member, False, belonged.to(group.principal) - stays.to(member))


class _Belonging:
    """What somebody belongs to by some memberships, themselves included."""

    def __init__(self, memberships: Memberships) -> None:
        self._memberships = memberships
        self._found: dict[Principal, frozenset[Principal]] = {}

    def to(self, somebody: Principal) -> frozenset[Principal]:
        """Return it."""
        found = self._found.get(somebody)
        if found is None:
            found = self._found[somebody] = self._memberships.closure([somebody], frozenset()).principals
        return found


def _rules(step: _Step, named: Mapping[Principal, set[bytes]]) -> frozenset[bytes]:
    return frozenset().union(*[named[group] for group in step.through if group in named])


def _settled(group: Group, kept: Collection[_Step]) -> Group:
    """The group once all its steps have ended but those that are kept."""
    if group.before is None or isinstance(group.members, Unknown):
        return group
    joining = {step.member for step in kept if step.joins}
    leaving = {step.member for step in kept if not step.joins}
    before = (group.members - joining) | leaving
    return replace(group, before=None if before == group.members else before)


def _held(steps: Collection[_Step], documents: int) -> HeldGroup:
    group = next(iter(steps)).group
    joining = sum(step.joins for step in steps)
    # Those who join first: they are what most people ask about.
    shown = sorted(steps, key=lambda step: (not step.joins, step.member))[:_SHOWN_MEMBERS]
    return HeldGroup(
        group.principal.token,
        group.name,
        joining,
        len(steps) - joining,
        documents,
        tuple(step.member.token for step in shown),
    )
