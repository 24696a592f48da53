"""Rows for recertification: which principal opens how much of which source, and when an answer last rested on it.

A row counts what `decide` says of somebody who holds that principal and nothing beside it but classes, which everybody
of a realm holds: what the one membership is worth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from acl.decide import Allowed, decide
from acl.model import Acl, Caller, Effect, Unknown
from acl.principal import Principal
from service.access.index import Access

_BATCH: Final = 500
"""ACLs that are looked at while others wait for the rules."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A row. opens: documents that the principal opens. named: documents with an allow rule in force for it."""

    source: str
    principal: Principal
    opens: int
    named: int


@dataclass(frozen=True, slots=True)
class UsedGrant:
    """A row with when an answer last returned a passage by it; None when none did."""

    grant: Grant
    last_used_at: datetime | None


class Uses(Protocol):
    """What knows when a principal was last used: `service.audit.AuditReader`."""

    def last_use(self, source: str, principal: str) -> datetime | None:
        """Return when a passage of the source last left by a rule that named the principal."""


class Grants:
    """Works rows out; everything blocks."""

    def __init__(self, access: Access, uses: Uses) -> None:
        self._access = access
        self._uses = uses

    def page(self, sources: Callable[[str], bool], first: int, limit: int) -> tuple[list[UsedGrant], int | None]:
        """Return rows from number `first` on, by source and principal, and where the next page begins."""
        rows = self._rows(sources)
        found = [
            UsedGrant(one, self._uses.last_use(one.source, one.principal.token)) for one in rows[first : first + limit]
        ]
        return found, first + limit if first + limit < len(rows) else None

    def _rows(self, sources: Callable[[str], bool]) -> list[Grant]:
        with self._access.snapshot() as snapshot:
            counted = [one for one in snapshot.reader.documents_by_acl() if sources(one.source)]
        opens: Counter[tuple[str, Principal]] = Counter()
        named: Counter[tuple[str, Principal]] = Counter()
        for start in range(0, len(counted), _BATCH):
            batch = counted[start : start + _BATCH]
            with self._access.snapshot() as snapshot:
                acls = {one.acl_id: snapshot.rules_of(one.acl_id) for one in batch}
                at = snapshot.at
            for one in batch:
                for principal, opened in _worth(acls[one.acl_id], at):
                    named[one.source, principal] += one.documents
                    opens[one.source, principal] += one.documents if opened else 0
        return [Grant(source, who, opens[source, who], count) for (source, who), count in sorted(named.items())]


def _worth(acl: Acl | Unknown, at: datetime) -> Iterable[tuple[Principal, bool]]:
    """Every principal that an allow rule in force names, and whether it opens the document."""
    if isinstance(acl, Unknown):
        return
    clauses = acl.clauses()
    named = {
        principal
        for clause in clauses
        for rule in clause.rules
        if rule.effect is Effect.ALLOW and at < rule.expires_at
        for principal in rule.principals
    }
    classes = frozenset(one for one in named if one.is_class)
    complete = frozenset().union(*(clause.realms for clause in clauses))
    for one in named:
        holder = Caller("a holder", classes | {one}, complete, at, at + timedelta(seconds=1))
        yield one, isinstance(decide(acl, holder, at), Allowed)
