"""Who may read a document, and by what: its rules, and every person who can be named, each of them decided on.

A directory that does not list its people leaves the principals of the rules as all there is to say, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from acl.decide import OWN, Allowed, Reason, decide
from acl.model import Acl, Clause, ScopeId, Unknown
from service.access.checks import Checks, Standing
from service.access.index import Access
from service.access.review import People
from service.errors import NotFoundError
from service.identity.callers import Current

_SHOWN: Final = 1000
"""Readers that are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class NamedClause:
    """A clause with its name. scope: None for the document's own."""

    name: str
    scope: ScopeId | None
    clause: Clause


@dataclass(frozen=True, slots=True)
class Reads:
    """Somebody who may read it, and by which decision."""

    current: Current
    allowed: Allowed


@dataclass(frozen=True, slots=True)
class Readership:
    """Who may read a document. unresolved: people of whom it cannot be said now what they hold."""

    standing: Standing
    clauses: tuple[NamedClause, ...]
    readers: tuple[Reads, ...]
    more: int
    unresolved: int
    listed: tuple[str, ...]
    not_listed: tuple[str, ...]
    decided_at: datetime


class Audience:
    """Blocking: everybody is resolved, which takes a while where there are many."""

    def __init__(self, access: Access, checks: Checks, people: People) -> None:
        self._access = access
        self._checks = checks
        self._people = people

    def of(self, document_id: str) -> Readership:
        """Return who may read a document. Raises NotFoundError when there is none."""
        with self._access.snapshot() as snapshot:
            stored = snapshot.reader.document_by_id(document_id)
            if stored is None:
                raise NotFoundError("there is no such document", what="document")
            acl, rules, at = snapshot.acl(stored), snapshot.rules(stored), snapshot.at
            standing = self._checks.standing(snapshot, stored)
        listed, not_listed = self._people.everybody()
        readers: list[Reads] = []
        unresolved = 0
        for current in self._people.each(listed):
            if current is None:
                unresolved += 1
                continue
            decision = decide(acl, current.resolved.caller, at)
            if isinstance(decision, Allowed):
                readers.append(Reads(current, decision))
            elif decision.reason is Reason.INCOMPLETE_REALM and current.resolved.incomplete:
                unresolved += 1
        return Readership(
            standing,
            clauses_of(rules),
            tuple(readers[:_SHOWN]),
            max(len(readers) - _SHOWN, 0),
            unresolved,
            tuple(listed),
            not_listed,
            at,
        )


def clauses_of(rules: Acl | Unknown) -> tuple[NamedClause, ...]:
    """The clauses of an ACL, outermost first; none when it is not understood."""
    if isinstance(rules, Unknown):
        return ()
    around = () if rules.scope is None else tuple(rules.scope.chain())
    return (
        *(NamedClause(one.label or one.id, one.id, one.clause) for one in around),
        NamedClause(OWN, None, rules.own),
    )
