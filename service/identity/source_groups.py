"""The groups that sources have themselves, joined to what directories say: who is in them, through however many.

1. What the catalog holds counts from its commit on: `settled` tells whether anything may have changed since.
2. A source's groups are complete when a pass read all of them, within its limit, and every one with all its members.
   Otherwise its realm is incomplete for everybody: what names it denies, and the answer says that something was left
   out. Only groups of sources that are configured count.
3. A group with members of a realm that is incomplete for somebody makes its own realm incomplete for them:
   `acl.closure` spreads it.
4. Where a change of members waits, old and new count both (docs/adr/0027): whoever belongs to a group by both does,
   whoever belongs to it by one of them alone may: that lets nobody in, and denies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from acl.closure import Memberships
from acl.model import Unknown
from acl.principal import Principal, Realm
from connectors.base import own_realm
from service.stores.memberships import Group, GroupChange, Pass, Revision
from service.stores.reader import Reader


class Catalog(Protocol):
    """What is needed of the catalog."""

    @property
    def memberships_revision(self) -> Revision:
        """What counts the changes of groups."""

    def reader(self) -> AbstractContextManager[Reader]:
        """Open one read transaction."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What groups of sources add to somebody.

    paths: their principals, each with the way to it as names, from the account on.
    complete: the realms that are complete for this person, all things taken together.
    left_out: sources whose groups are not known now, each with the reason, for operators.
    until: from then on it must be asked again, None: as long as nothing changes.
    verified_at: when the oldest of the passes began that `paths` rest on, None without any.
    doubtful: what the person may belong to besides, until what waits is released.
    """

    paths: Mapping[Principal, tuple[str, ...]]
    complete: frozenset[Realm]
    left_out: Mapping[str, str] = field(default_factory=dict)
    until: datetime | None = None
    verified_at: datetime | None = None
    doubtful: frozenset[Principal] = frozenset()


class NoGroups:
    """Stands where no source has groups of its own."""

    def settled(self) -> int | None:
        """Nothing ever changes."""
        return 0

    def join(self, held: Mapping[Principal, tuple[str, ...]], complete: frozenset[Realm]) -> Joined:
        """Add nothing."""
        return Joined({}, complete)


@dataclass(slots=True)
class _State:
    """Everything known at one change of the catalog.

    graph: who is in which group by all that was said. waiting: who by one of two words alone.
    unknown: by source, the groups whose members are not known. sources: those that ever sent a group.
    """

    graph: Memberships = field(default_factory=Memberships)
    waiting: Memberships = field(default_factory=Memberships)
    groups: dict[str, Group] = field(default_factory=dict)
    names: dict[Principal, str] = field(default_factory=dict)
    unknown: dict[str, dict[str, str]] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)
    passes: Mapping[str, Pass] = field(default_factory=dict)
    seq: int = 0


class SourceGroups:
    """Keeps the groups in step with one catalog. Thread-safe; blocks while it reads.

    limits: for each configured source, how long ago its groups may have been read.
    """

    def __init__(
        self,
        catalog: Catalog,
        limits: Mapping[str, timedelta],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._catalog: Final = catalog
        self._limits = dict(limits)
        self._now: Final = now
        self._lock: Final = threading.Lock()
        self._state = _State()
        self._revision: int | None = None
        self._limited = 0

    def limit(self, limits: Mapping[str, timedelta]) -> None:
        """Use other limits from now on: the groups of a source that they do not name are not known."""
        self._limits = dict(limits)
        self._limited += 1

    def settled(self) -> int | None:
        """Return a number that stays the same as long as no group changed; None: nobody can tell at the moment."""
        revision = self._catalog.memberships_revision.settled()
        # Neither ever gets smaller, so the sum changes with each of them.
        return None if revision is None else revision + self._limited

    def join(self, held: Mapping[Principal, tuple[str, ...]], complete: frozenset[Realm]) -> Joined:
        """Return what somebody belongs to in sources who holds `held` in directories; `complete`: realms of those."""
        with self._lock:
            state = self._current()
            whole, left_out, until = self._fresh(state)
            if not state.groups:
                return Joined({}, complete | whole, left_out, until)
            closure = state.graph.closure(held, complete | whole)
            paths: dict[Principal, tuple[str, ...]] = {}
            for principal in closure.principals:
                if principal not in held:
                    first, *further = closure.path(principal)
                    paths[principal] = (*held[first], *(state.names.get(step, step.id) for step in further))
            doubtful, complete = state.graph.beyond(closure, state.waiting)
            realms = {principal.realm for principal in paths}
            passes = [one.verified_at for name, one in state.passes.items() if own_realm(name) in realms]
            verified_at = min((one for one in passes if one is not None), default=None)
        return Joined(paths, complete, left_out, until, verified_at, doubtful)

    def _current(self) -> _State:
        revision = self.settled()
        if revision is None or revision != self._revision:
            # INVARIANT: what was applied half way says nothing: it is dropped, and read from 0 next time.
            state, self._state, self._revision = self._state, _State(), None
            with self._catalog.reader() as reader:
                certain: dict[Principal, frozenset[Principal]] = {}
                doubtful: dict[Principal, frozenset[Principal]] = {}
                for change in reader.groups_since(state.seq):
                    _apply(state, change, certain, doubtful)
                state.graph.put(certain)
                state.waiting.put(doubtful)
                state.passes = reader.group_passes()
                state.seq = reader.seq
            self._state, self._revision = state, revision
        return self._state

    def _fresh(self, state: _State) -> tuple[frozenset[Realm], dict[str, str], datetime | None]:
        now = self._now()
        whole: set[Realm] = set()
        left_out: dict[str, str] = {}
        ends: list[datetime] = []
        for name, limit in self._limits.items():
            if name in state.passes or name in state.unknown or name in state.sources:
                known = state.passes.get(name, Pass(None))
                wrong = _wrong(name, known, len(state.unknown.get(name, ())), now, limit)
                if wrong is not None:
                    left_out[name] = wrong
                elif known.verified_at is not None:
                    whole.add(own_realm(name))
                    ends.append(known.verified_at + limit)
        return frozenset(whole), left_out, min(ends, default=None)


def _wrong(name: str, known: Pass, unknown: int, now: datetime, limit: timedelta) -> str | None:
    """Why nobody can tell who is in the groups of a source, if so."""
    if known.unread:
        return f"the groups of source `{name}` could not all be read: {known.unread}"
    if known.verified_at is None:
        return f"the groups of source `{name}` were never read in full"
    age = now - known.verified_at
    if not timedelta(0) <= age < limit:
        # An age below zero means that a clock was set back: then nobody knows how old they are.
        at_most = limit.total_seconds()
        return f"the groups of source `{name}` were read {age.total_seconds():.0f} s ago, of at most {at_most:.0f} s"
    return f"the members of {unknown} groups of source `{name}` are not known" if unknown else None


def _apply(
    state: _State,
    change: GroupChange,
    certain: dict[Principal, frozenset[Principal]],
    doubtful: dict[Principal, frozenset[Principal]],
) -> None:
    """Take one change. certain, doubtful: are told who is in a group from now on, and who may be."""
    state.sources.add(change.source)
    before = state.groups.pop(change.id, None)
    state.unknown.get(change.source, {}).pop(change.id, None)
    found = change.group
    if before is not None and (not isinstance(found, Group) or found.principal != before.principal):
        certain[before.principal] = doubtful[before.principal] = frozenset()
        state.names.pop(before.principal, None)
    match found:
        case None:
            pass
        case Unknown(reason):
            state.unknown.setdefault(change.source, {})[change.id] = reason
        case Group(principal, members, name):
            state.groups[change.id] = found
            state.names[principal] = name
            certain[principal], doubtful[principal] = found.certain, found.doubtful
            if isinstance(members, Unknown):
                state.unknown.setdefault(change.source, {})[change.id] = members.reason
