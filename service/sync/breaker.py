"""The circuit breaker: what widens access, or removes documents, for more than a configured share of a source waits
for a person. What narrows or withholds never comes here. What widens by members of groups is left to `joins`.

What a run changed is held anyway until its walk is complete (docs/adr/0004); the breaker says what may be released.
It compares what counted last with what would count, so that a change held by one run is the same change in the next:
1. A document or container widens unless it is proved that nobody gets in who was not let in (`acl.compare`). What
   moved, and what nobody knows the former rules of, widens.
2. A container counts for every document below it of which text is stored; a document counts once.
3. A document without text, and one that is new, shows nothing to anybody yet: it does not widen.
4. An approval is of documents and containers, each with its change: another document with the same change is another
   question. A rejection is of the change, whichever documents it meets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from pyroaring import BitMap

from acl.compare import narrows
from acl.model import AclId, Clause, ScopeId, Unknown
from service.stores.holds import Held, Interned
from service.stores.known import KnownDocuments
from service.stores.stops import KEY_BYTES, Stop, StopKind, StopState
from service.stores.writes import KnownScope
from service.sync.containers import Containers
from service.sync.holds import counted_last

LEAST: Final = 20
"""Fewer documents than this are never held, so that a small source is not all share."""

_MOST_REMEMBERED: Final = 100_000
_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """Which share of a source's documents one run may open wider by rules, remove, and open by members. 1: any."""

    max_widening: float = 0.2
    max_purge: float = 0.2
    max_joining: float = 0.2
    least: int = LEAST

    def holds(self, share: float, documents: int, total: int) -> bool:
        """Whether a run that concerns so many documents of so many is held."""
        return documents >= self.least and documents > share * total


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the breaker says of one kind.

    kept: the changes that stay held, by their keys. listed: what a person is asked now, and by what a rejection is of
    more than that; 0 documents when nobody is.
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
        own = documents.with_acls(acls) if acls else BitMap()
        changed = {
            known.ordinal: acls[known.acl_id]
            for part in _parts(own)
            for known in documents.get(part)
            if known.acl_id in acls
        }
        asked = {key: key for key in scopes.values()}
        asked.update((key_of_document(ordinal, rules), rules) for ordinal, rules in changed.items())
        decided = self._decided(StopKind.WIDENING, asked)
        fresh_scopes = {scope for scope, key in scopes.items() if key not in decided}
        fresh = [ordinal for ordinal, rules in changed.items() if key_of_document(ordinal, rules) not in decided]
        count = total = 0
        if fresh_scopes or fresh:
            count, total = count_below(documents, containers, fresh_scopes, fresh)
        return self._verdict(StopKind.WIDENING, self._limits.max_widening, asked, count, total, decided)

    def purge(self, gone: Collection[int], total: int) -> Verdict:
        """Say which documents that are gone may not be removed by this run."""
        asked = {key: key for key in map(key_of_purge, gone)}
        decided = self._decided(StopKind.PURGE, asked)
        fresh = len(asked.keys() - decided.keys())
        return self._verdict(StopKind.PURGE, self._limits.max_purge, asked, fresh, total, decided)

    def members(self, asked: Collection[bytes], count: Callable[[Collection[bytes]], tuple[int, int]]) -> Verdict:
        """Say which members of groups may not be released. count: the documents that changes concern, and all."""
        changes = {key: key for key in asked}
        decided = self._decided(StopKind.MEMBERS, changes)
        fresh = changes.keys() - decided.keys()
        documents, total = count(fresh) if fresh else (0, 0)
        return self._verdict(StopKind.MEMBERS, self._limits.max_joining, changes, documents, total, decided)

    def _decided(self, kind: StopKind, asked: Mapping[bytes, bytes]) -> Mapping[bytes, bool]:
        """What persons decided of that which is asked for: True when it was approved. A rejection counts more."""
        of_kind = [stop for stop in self._stops if stop.kind is kind]
        approved = frozenset[bytes]().union(*(stop.keys for stop in of_kind if stop.state is StopState.APPROVED))
        rejected = frozenset[bytes]().union(*(stop.keys for stop in of_kind if stop.state is StopState.REJECTED))
        found: dict[bytes, bool] = {}
        for key, change in asked.items():
            if key in rejected or change in rejected:
                found[key] = False
            elif key in approved:
                found[key] = True
        return found

    def _verdict(
        self,
        kind: StopKind,
        share: float,
        asked: Mapping[bytes, bytes],
        documents: int,
        total: int,
        decided: Mapping[bytes, bool],
    ) -> Verdict:
        fresh = frozenset(asked).difference(decided)
        held = fresh if self._limits.holds(share, documents, total) else frozenset()
        of_kind = [stop for stop in self._stops if stop.kind is kind]
        return Verdict(
            kept=held.union(key for key, approved in decided.items() if not approved),
            listed=held.union(asked[key] for key in held),
            documents=documents if held else 0,
            total=total,
            applied=tuple(stop.hold_id for stop in of_kind if stop.state is StopState.APPROVED),
            moot=tuple(
                stop.hold_id
                for stop in of_kind
                if (stop.state is StopState.WAITING and not held)
                or (stop.state is StopState.REJECTED and stop.keys.isdisjoint([*asked, *asked.values()]))
            ),
        )


def count_below(
    documents: KnownDocuments, containers: Containers, scopes: Collection[ScopeId], own: Iterable[int]
) -> tuple[int, int]:
    """Count the documents with text that lie in some containers, or are among `own`, each once; and all with text."""
    count = total = 0
    below: dict[ScopeId | None, bool] = {}
    for scope, served in documents.served_by_scope().items():
        total += served
        below[scope] = any(here in scopes for here in containers.around(scope))
        count += served if below[scope] else 0
    count += sum(
        known.served and not below.get(known.scope, False) for part in _parts(own) for known in documents.get(part)
    )
    return count, total


def key_of_document(ordinal: int, rules: bytes) -> bytes:
    """Name the change of one document. rules: what `key_of_rules` calls it."""
    return _key("of", str(ordinal), rules, b"")


def key_of_rules(rules: Interned) -> bytes:
    """Name the change of all documents that have these rules."""
    return _key("document", rules.scope or "", counted_last(rules.held, rules.own), rules.own)


def key_of_scope(scope: ScopeId, known: KnownScope) -> bytes:
    """Name the change of a container."""
    clause = known.clause or b""
    return _key("scope", f"{scope} in {known.parent or ''}", counted_last(known.held, clause), clause)


def key_of_purge(ordinal: int) -> bytes:
    """Name the removal of a document."""
    return _key("purge", str(ordinal), None, b"")


def _parts(ordinals: Iterable[int]) -> Iterable[list[int]]:
    listed = list(ordinals)
    for start in range(0, len(listed), _BATCH):
        yield listed[start : start + _BATCH]


def _key(kind: str, what: str, before: bytes | None, after: bytes) -> bytes:
    # Digests have one length, and so have keys, so that no two changes have one name.
    parts = [kind.encode(), what.encode(), b"-" if before is None else b"+" + before, after]
    return sha256(b"\0".join(parts)).digest()[:KEY_BYTES]
