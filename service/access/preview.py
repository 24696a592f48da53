"""What a change of groups or of a clause would do, before it happens. Nothing is changed, and nothing decided.

A change of groups compares what the person may read with what they could read then. A change of a clause is asked of
everybody who can be named, first of the clause alone: only those whom it takes otherwise than before are looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from pyroaring import AbstractBitMap, BitMap

from acl.decide import OWN, Allowed, Match, decide, judge
from acl.errors import InvalidValueError
from acl.model import Acl, AclId, Caller, Clause, Effect, Rule, Scope, ScopeId, Unknown
from acl.principal import Principal
from service.access.index import Access
from service.access.review import People, Person
from service.errors import InvalidRequestError, NotFoundError
from service.identity.callers import Current
from service.keys.envelope import UnsealError
from service.search.reading import DocumentView, view
from service.stores.sealing import Sealing

_EXAMPLES: Final = 20
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class ClauseChange:
    """A clause as it would be. scope: of the document's containers; empty for the document's own clause."""

    document_id: str
    scope: str
    revoke: frozenset[Principal]
    allow: frozenset[Principal]
    deny: frozenset[Principal]

    def of(self, clause: Clause) -> Clause:
        """Change a clause. Raises InvalidValueError when it would have too many rules."""
        rules: list[Rule] = []
        if self.deny:
            rules.append(Rule(Effect.DENY, self.deny))
        if self.allow:
            # Before what is there: clauses of a file system end with a rule for everybody else, which would hide it.
            rules.append(Rule(Effect.ALLOW, self.allow))
        for rule in clause.rules:
            left = rule.principals - self.revoke if rule.effect is Effect.ALLOW else rule.principals
            if left:
                rules.append(replace(rule, principals=left))
        return Clause(tuple(rules))


@dataclass(frozen=True, slots=True)
class Consequence:
    """What would change for one person, with some of the documents."""

    current: Current
    lost: int
    gained: int
    lost_examples: tuple[DocumentView, ...]
    gained_examples: tuple[DocumentView, ...]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would change. exact: False when it is the least that would."""

    effects: tuple[Consequence, ...]
    exact: bool
    principals_lost: frozenset[Principal] = frozenset()
    principals_gained: frozenset[Principal] = frozenset()
    listed: tuple[str, ...] = ()
    not_listed: tuple[str, ...] = ()


class Preview:
    """Blocking."""

    def __init__(self, access: Access, sealing: Sealing, people: People) -> None:
        self._access = access
        self._sealing = sealing
        self._people = people

    def membership(self, person: Person, group: str, *, join: bool) -> Outlook:
        """Return what would change if the person left a group or joined it. Raises NotFoundError."""
        supposed = self._people.supposed(person, group, member=join)
        now, then = supposed.current.resolved.caller, supposed.then
        with self._access.snapshot() as snapshot:
            before = snapshot.permitted(now, frozenset()).documents
            after = snapshot.permitted(then, frozenset()).documents
        effect = self._consequence(supposed.current, before - after, after - before)
        return Outlook((effect,), supposed.exact, now.principals - then.principals, then.principals - now.principals)

    def clause(self, change: ClauseChange) -> Outlook:
        """Return for whom something would change if a clause did. Raises NotFoundError and InvalidRequestError."""
        with self._access.snapshot() as snapshot:
            stored = snapshot.reader.document_by_id(change.document_id)
            if stored is None:
                raise NotFoundError("there is no such document", what="document")
            rules, at = snapshot.rules(stored), snapshot.at
            counted = [one.acl_id for one in snapshot.reader.documents_by_acl() if one.source == stored.source]
        if isinstance(rules, Unknown):
            raise InvalidRequestError("document_id", "the rules of the document are not understood")
        scope = ScopeId(change.scope) if change.scope else None
        old = _clause_of(rules, scope)
        try:
            new = change.of(old)
        except InvalidValueError as err:
            raise InvalidRequestError("clause", str(err)) from err
        listed, not_listed = self._people.everybody()
        changed = [
            one
            for one in self._people.each(listed)
            if one is not None and _passes(old, one.resolved.caller, at) != _passes(new, one.resolved.caller, at)
        ]
        if scope is None:
            one = BitMap([stored.ordinal])
            found = self._of_acls(changed, {AclId(stored.acl_id): (rules, one)}, scope, new, at)
        else:
            found = self._of_acls(changed, self._within(counted, scope), scope, new, at)
        return Outlook(tuple(found), True, listed=tuple(listed), not_listed=not_listed)

    def _within(self, acl_ids: Collection[AclId], scope: ScopeId) -> dict[AclId, tuple[Acl, AbstractBitMap]]:
        """The ACLs that lie in a container, each with its documents."""
        found: dict[AclId, tuple[Acl, AbstractBitMap]] = {}
        listed = list(acl_ids)
        for start in range(0, len(listed), _BATCH):
            with self._access.snapshot() as snapshot:
                for acl_id in listed[start : start + _BATCH]:
                    acl = snapshot.rules_of(acl_id)
                    if isinstance(acl, Unknown) or acl.scope is None:
                        continue
                    if any(one.id == scope for one in acl.scope.chain()):
                        found[acl_id] = (acl, BitMap(snapshot.reader.ordinals_of(acl_id)))
        return found

    def _of_acls(
        self,
        people: Iterable[Current],
        acls: dict[AclId, tuple[Acl, AbstractBitMap]],
        scope: ScopeId | None,
        new: Clause,
        at: datetime,
    ) -> Iterable[Consequence]:
        replaced = [(acl, _replaced(acl, scope, new), ordinals) for acl, ordinals in acls.values()]
        for current in people:
            caller = current.resolved.caller
            lost, gained = BitMap(), BitMap()
            for before, after, ordinals in replaced:
                was, will = (isinstance(decide(one, caller, at), Allowed) for one in (before, after))
                if was and not will:
                    lost |= ordinals
                elif will and not was:
                    gained |= ordinals
            if lost or gained:
                yield self._consequence(current, lost, gained)

    def _consequence(self, current: Current, lost: AbstractBitMap, gained: AbstractBitMap) -> Consequence:
        return Consequence(current, len(lost), len(gained), self._examples(lost), self._examples(gained))

    def _examples(self, ordinals: AbstractBitMap) -> tuple[DocumentView, ...]:
        with self._access.snapshot() as snapshot:
            documents = snapshot.reader.documents(list(ordinals[:_EXAMPLES]))
        found: list[DocumentView] = []
        for _, stored in sorted(documents.items()):
            try:
                found.append(view(self._sealing, stored))
            except UnsealError:
                continue  # its key is gone, and with it everybody's access
        return tuple(found)


def _clause_of(acl: Acl, scope: ScopeId | None) -> Clause:
    if scope is None:
        return acl.own
    for one in acl.scope.chain() if acl.scope is not None else ():
        if one.id == scope:
            return one.clause
    raise NotFoundError("the document does not lie in this container", what="scope")


def _replaced(acl: Acl, scope: ScopeId | None, new: Clause) -> Acl:
    if scope is None:
        return replace(acl, own=new)
    here: Scope | None = None
    for one in acl.scope.chain() if acl.scope is not None else ():
        here = Scope(one.id, here, new if one.id == scope else one.clause, one.label)
    return Acl(here, acl.own)


def _passes(clause: Clause, caller: Caller, at: datetime) -> bool:
    return isinstance(judge(OWN, clause, caller, at), Match)
