"""The circuit breaker: what widens access, or removes documents, for more than a configured share of a source waits
for a person. What narrows or withholds never comes here.

What a run changed is held anyway until its walk is complete (docs/adr/0004); the breaker says what may be released.
It compares what counted last with what would count, so that a change held by one run is the same change in the next:
1. A document or container widens unless it is proved that nobody gets in who was not let in (`acl.compare`). What
   moved, and what nobody knows the former rules of, widens.
2. A container counts for every document below it of which text is stored; a document counts once.
3. A document without text, and one that is new, shows nothing to anybody yet: it does not widen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from acl.compare import narrows
from acl.model import AclId, Clause, ScopeId, Unknown
from service.containers import Containers
from service.holds import counted_last
from service.stores.holds import Held, Interned
from service.stores.known import KnownDocuments
from service.stores.stops import KEY_BYTES, Stop, StopKind, StopState
from service.stores.writes import KnownScope

LEAST: Final = 20
"""Fewer documents than this are never held, so that a small source is not all share."""

_MOST_REMEMBERED: Final = 100_000


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """Which share of a source's documents one run may open wider, and remove. 1: any."""

    max_widening: float = 0.2
    max_purge: float = 0.2
    least: int = LEAST

    def holds(self, share: float, documents: int, total: int) -> bool:
        """Whether a run that concerns so many documents of so many is held."""
        return documents >= self.least and documents > share * total


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the breaker says of one kind.

    kept: the changes that stay held, by their keys. listed: what a person is asked now; 0 documents when nobody is.
    applied: stops that were approved, which end with this run. moot: stops that hold nothing that is still asked for.
    """

    kept: frozenset[bytes] = frozenset()
    listed: frozenset[bytes] = frozenset()
    documents: int = 0
    total: int = 0
    applied: tuple[str, ...] = ()
    moot: tuple[str, ...] = ()


class Comparison:
    """Whether rules widen, by their digests. Not thread-safe."""

    def __init__(self, clause: Callable[[bytes], Clause | Unknown]) -> None:
        self._clause = clause
        self._known: dict[tuple[bytes, bytes], bool] = {}

    def widens(self, held: Held, clause: bytes) -> bool:
        """Whether the release of what is held would let somebody in who was not let in when it last counted."""
        before = counted_last(held, clause)
        if before is None:
            return True
        if before == clause:
            return False
        found = self._known.get((before, clause))
        if found is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            old, new = self._clause(before), self._clause(clause)
            # What cannot be read lets nobody through, and can be compared with nothing.
            found = not isinstance(new, Unknown) and (isinstance(old, Unknown) or not narrows(old, new))
            self._known[before, clause] = found
        return found


class Breaker:
    """The breaker of one run, asked when its walk is complete."""

    def __init__(self, limits: BreakerLimits, comparison: Comparison, stops: Collection[Stop]) -> None:
        self._limits = limits
        self._comparison = comparison
        self._stops = stops

    def widening(
        self, documents: KnownDocuments, interned: Mapping[AclId, Interned], containers: Containers
    ) -> Verdict:
        """Say what of that which is held may not be released by this run."""
        scopes = {
            scope: key_of_scope(scope, known)
            for scope, known in containers.to_release().items()
            if known.clause is not None and self._comparison.widens(known.held, known.clause)
        }
        acls = {
            acl_id: key_of_rules(rules)
            for acl_id, rules in interned.items()
            if rules.held and self._comparison.widens(rules.held, rules.own)
        }
        if acls:
            # An ACL outlives its last document until the end of a run.
            in_use = documents.acls()
            acls = {acl_id: key for acl_id, key in acls.items() if acl_id in in_use}
        asked = {*scopes.values(), *acls.values()}
        decided = self._decided(StopKind.WIDENING, asked)
        fresh_scopes = {scope for scope, key in scopes.items() if key not in decided}
        fresh_acls = [acl_id for acl_id, key in acls.items() if key not in decided]
        count = total = 0
        if fresh_scopes or fresh_acls:
            below: dict[ScopeId | None, bool] = {}
            for scope, served in documents.served_by_scope().items():
                total += served
                below[scope] = any(here in fresh_scopes for here in containers.around(scope))
                count += served if below[scope] else 0
            own = documents.with_acls(fresh_acls)
            count += sum(known.served and not below.get(known.scope, False) for known in documents.get(own))
        return self._verdict(StopKind.WIDENING, self._limits.max_widening, asked, count, total, decided)

    def purge(self, gone: Collection[int], total: int) -> Verdict:
        """Say which documents that are gone may not be removed by this run."""
        asked = {key_of_purge(ordinal) for ordinal in gone}
        decided = self._decided(StopKind.PURGE, asked)
        return self._verdict(StopKind.PURGE, self._limits.max_purge, asked, len(asked - decided.keys()), total, decided)

    def _decided(self, kind: StopKind, asked: Collection[bytes]) -> Mapping[bytes, bool]:
        """What persons decided of that which is asked for: True when it was approved. A rejection counts more."""
        found: dict[bytes, bool] = {}
        for stop in self._stops:
            if stop.kind is kind and stop.state is not StopState.WAITING:
                for key in stop.keys.intersection(asked):
                    found[key] = found.get(key, True) and stop.state is StopState.APPROVED
        return found

    def _verdict(
        self,
        kind: StopKind,
        share: float,
        asked: Collection[bytes],
        documents: int,
        total: int,
        decided: Mapping[bytes, bool],
    ) -> Verdict:
        fresh = frozenset(asked).difference(decided)
        held = fresh if self._limits.holds(share, documents, total) else frozenset()
        of_kind = [stop for stop in self._stops if stop.kind is kind]
        return Verdict(
            kept=held.union(key for key, approved in decided.items() if not approved),
            listed=held,
            documents=documents if held else 0,
            total=total,
            applied=tuple(stop.hold_id for stop in of_kind if stop.state is StopState.APPROVED),
            moot=tuple(
                stop.hold_id
                for stop in of_kind
                if (stop.state is StopState.WAITING and not held)
                or (stop.state is StopState.REJECTED and stop.keys.isdisjoint(asked))
            ),
        )


def key_of_rules(rules: Interned) -> bytes:
    """Name the change of the documents that have these rules."""
    return _key("document", rules.scope or "", counted_last(rules.held, rules.own), rules.own)


def key_of_scope(scope: ScopeId, known: KnownScope) -> bytes:
    """Name the change of a container."""
    clause = known.clause or b""
    return _key("scope", f"{scope} in {known.parent or ''}", counted_last(known.held, clause), clause)


def key_of_purge(ordinal: int) -> bytes:
    """Name the removal of a document."""
    return _key("purge", str(ordinal), None, b"")


def _key(kind: str, what: str, before: bytes | None, after: bytes) -> bytes:
    # Digests have one length, so that no two changes have one name.
    parts = [kind.encode(), what.encode(), b"-" if before is None else b"+" + before, after]
    return sha256(b"\0".join(parts)).digest()[:KEY_BYTES]
