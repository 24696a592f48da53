"""Scopes out of rows. Rows may dangle or go in circles, scopes may not: what does so is unknown, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from acl.model import MAX_DEPTH, Acl, Clause, Scope, ScopeId, Unknown


@dataclass(frozen=True, slots=True)
class ScopeRow:
    """A container as it is stored."""

    id: ScopeId
    parent: ScopeId | None
    clause: Clause | Unknown
    label: str = ""


class ScopeTree:
    """The scopes that a set of rows makes, each built once, when asked for."""

    def __init__(self, rows: Iterable[ScopeRow]) -> None:
        found: dict[ScopeId, ScopeRow] = {}
        self._find: Callable[[ScopeId], ScopeRow | None] = found.get
        self._built: dict[ScopeId, Scope | Unknown] = {}
        for row in rows:
            if found.setdefault(row.id, row) != row:
                # Neither row can be preferred, and everything inside inherits the doubt.
                self._built[row.id] = Unknown(f"scope `{row.id}` is stored twice, differently")

    @classmethod
    def found_by(cls, find: Callable[[ScopeId], ScopeRow | None]) -> ScopeTree:
        """A tree whose rows are looked up when they are needed; `find` gives None for one that does not exist."""
        tree = cls(())
        tree._find = find
        return tree

    def __len__(self) -> int:
        """How many scopes were built so far."""
        return len(self._built)

    def scope(self, scope_id: ScopeId) -> Scope | Unknown:
        """Return the scope with all that is around it; Unknown when any of that is missing, circular or unknown."""
        waiting: list[ScopeRow] = []
        seen: set[ScopeId] = set()
        here: ScopeId | None = scope_id
        found: Scope | Unknown | None = None
        while here is not None:
            if here in self._built:
                found = self._built[here]
                break
            row = self._find(here)
            if row is None:
                found = Unknown(f"scope `{here}` is not known")
                break
            if here in seen:
                found = Unknown(f"scope `{here}` lies inside itself")
                break
            seen.add(here)
            waiting.append(row)
            here = row.parent
        while waiting:
            row = waiting.pop()
            found = self._built[row.id] = _inside(row, found)
        # The loops above leave None only when `waiting` never held a row, and then `found` was set.
        assert found is not None
        return found

    def acl(self, scope_id: ScopeId | None, own: Clause | Unknown) -> Acl | Unknown:
        """Return the ACL of a document in this scope, or in none, with this clause of its own."""
        scope = None if scope_id is None else self.scope(scope_id)
        if isinstance(scope, Unknown):
            return scope
        if isinstance(own, Unknown):
            return own
        return Acl(scope, own)


def _inside(row: ScopeRow, parent: Scope | Unknown | None) -> Scope | Unknown:
    if isinstance(parent, Unknown):
        return parent
    if isinstance(row.clause, Unknown):
        return Unknown(f"scope `{row.id}`: {row.clause.reason}")
    if parent is not None and parent.depth >= MAX_DEPTH:
        return Unknown(f"scope `{row.id}` lies deeper than {MAX_DEPTH} scopes")
    return Scope(row.id, parent, row.clause, row.label)
