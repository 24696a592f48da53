"""Everything that somebody belongs to: transitive membership over any number of directories, with the path kept.

Groups may contain each other in circles. Where memberships come from, and whether they are current, is not known here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from acl.principal import Principal, Realm


@dataclass(frozen=True, slots=True)
class Closure:
    """All principals that were reached, each with the one through which it was reached first."""

    via: Mapping[Principal, Principal | None]
    complete: frozenset[Realm]

    @property
    def principals(self) -> frozenset[Principal]:
        """All principals, those started from included."""
        return frozenset(self.via)

    def path(self, principal: Principal) -> tuple[Principal, ...]:
        """A shortest way from a principal started from to `principal`, both included; empty if it was not reached."""
        way: list[Principal] = []
        here: Principal | None = principal if principal in self.via else None
        while here is not None:
            way.append(here)
            here = self.via[here]
        return tuple(reversed(way))


class Memberships:
    """Who is directly in which group, from any number of directories and sources."""

    def __init__(self, *sources: Mapping[Principal, Iterable[Principal]]) -> None:
        """Each source maps a member, a user or a group, to the groups that hold it directly."""
        held: dict[Principal, set[Principal]] = {}
        # How many members of one realm are in groups of another.
        self._feeds: dict[Realm, dict[Realm, int]] = {}
        self._put: dict[Principal, frozenset[Principal]] = {}
        for source in sources:
            for member, groups in source.items():
                held.setdefault(member, set()).update(groups)
        # Sorted, so that the path that is kept does not depend on the order of a set.
        self._groups = {member: tuple(sorted(groups)) for member, groups in held.items()}
        for member, groups in self._groups.items():
            for group in groups:
                self._count(member.realm, group.realm, 1)

    def put(self, groups: Mapping[Principal, Collection[Principal]]) -> None:
        """Say who is directly in each group, in place of what was put before; nobody: the group is gone."""
        lost: defaultdict[Principal, list[Principal]] = defaultdict(list)
        got: defaultdict[Principal, list[Principal]] = defaultdict(list)
        for group, members in groups.items():
            before, now = self._put.pop(group, frozenset()), frozenset(members)
            if now:
                self._put[group] = now
            for changed, by, where in ((before - now, -1, lost), (now - before, 1, got)):
                for member in changed:
                    where[member].append(group)
                for realm, many in Counter([member.realm for member in changed]).items():
                    self._count(realm, group.realm, by * many)
        # Each member once, however many groups it is in.
        for member in lost:
            kept = set(self._groups.pop(member)).difference(lost[member])
            if kept:
                self._groups[member] = tuple(sorted(kept))
        for member, more in got.items():
            self._groups[member] = tuple(sorted({*self._groups.get(member, ()), *more}))

    def _count(self, member: Realm, group: Realm, by: int) -> None:
        if group == member:
            return
        fed = self._feeds.setdefault(member, {})
        fed[group] = fed.get(group, 0) + by
        if not fed[group]:
            del fed[group]

    def closure(self, start: Iterable[Principal], complete: frozenset[Realm]) -> Closure:
        """Return everything that the principals of `start` belong to.

        complete: the realms for which `start` and these memberships together are all there is. The closure's own
        `complete` is narrower where a group has members of an incomplete realm: such a member may be the caller, by a
        principal that nobody could name, so that group's realm is incomplete for the caller too.
        """
        via: dict[Principal, Principal | None] = dict.fromkeys(sorted(start))
        queue = list(via)
        for here in queue:
            for group in self._groups.get(here, ()):
                if group not in via:
                    via[group] = here
                    queue.append(group)
        return Closure(via, complete - self._tainted(complete))

    def beyond(self, closure: Closure, doubtful: Memberships) -> tuple[frozenset[Principal], frozenset[Realm]]:
        """Return what else somebody may belong to, `doubtful` memberships counted too, and the realms then complete.

        closure: what `self.closure` returned. Of memberships that are doubtful each may be so or not: what is returned
        holds whichever are.
        """
        reached = set(closure.via)
        queue = list(closure.via)
        for here in queue:
            for group in (*self._groups.get(here, ()), *doubtful._groups.get(here, ())):
                if group not in reached:
                    reached.add(group)
                    queue.append(group)
        return frozenset(reached.difference(closure.via)), closure.complete - self._tainted(closure.complete, doubtful)

    def _tainted(self, complete: frozenset[Realm], beside: Memberships | None = None) -> set[Realm]:
        feeds = [self._feeds] if beside is None else [self._feeds, beside._feeds]
        found: set[Realm] = set()
        queue = [name for name in {*feeds[0], *feeds[-1]} if name not in complete]
        for name in queue:
            for fed in {*feeds[0].get(name, ()), *feeds[-1].get(name, ())}:
                if fed not in found:
                    found.add(fed)
                    queue.append(fed)
        return found
