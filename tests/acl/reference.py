"""A second evaluator, slow and literal, written from the specification alone. Shares no code with `acl`.

It works on plain data: an ACL is None (unknown) or a list of clauses, a clause a list of (effect, principals, expiry):
effect is "allow" or "deny", principals a list of (realm, id), and expiry a number or None.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PlainRule = tuple[str, list[tuple[str, str]], float | None]
PlainClause = list[PlainRule]


def plain_clause(clause: Any) -> PlainClause:
    """Take a clause apart."""
    found: PlainClause = []
    for rule in clause.rules:
        expiry = None if rule.expires_at.year == 9999 else rule.expires_at.timestamp()
        found.append((rule.effect.value, [(p.realm, p.id) for p in rule.principals], expiry))
    return found


def may_read(
    clauses: list[PlainClause] | None, held: Iterable[tuple[str, str]], complete: Iterable[str], at: float
) -> bool:
    """Whether somebody who holds `held` may read what has these clauses, at a moment."""
    if clauses is None:
        return False
    if len(clauses) == 0:
        return False
    held, complete = list(held), list(complete)
    for clause in clauses:
        # A clause that names a realm which is incomplete for the caller denies.
        for _, principals, _ in clause:
            for realm, _ in principals:
                if realm not in complete:
                    return False
        # Ordered rules, the first match wins, default deny.
        verdict = "deny"
        for effect, principals, expiry in clause:
            if expiry is not None and not at < expiry:
                continue
            matches = False
            for principal in principals:
                if principal in held:
                    matches = True
            if matches:
                verdict = effect
                break
        if verdict != "allow":
            return False
    return True


def chain(rows: dict[str, tuple[str | None, Any]], scope: str | None) -> list[Any] | None:
    """The clauses of a scope and of all around it; None when a row is missing, in a circle or not understood.

    rows: for each scope its parent and its clause, None for a clause that is not understood.
    """
    found = []
    steps = 0
    while scope is not None:
        if scope not in rows:
            return None
        parent, clause = rows[scope]
        if clause is None:
            return None
        found.append(clause)
        scope = parent
        steps += 1
        if steps > 257:
            return None
    return found
