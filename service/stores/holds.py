"""Held scopes: rules that were replaced and still count, as rows around what they held before (docs/adr/0004).

Responsible for what such rows are called and for the way through them; when one begins and ends is left to
`service.sync.holds`. A held scope is a scope like any other to everybody who decides: only its id tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from acl.model import AclId, ScopeId

Held = tuple[bytes | None, ...]
"""Clauses that still count besides the current one, by their digests, the oldest first; None lets nobody through."""

WITHHELD: Final[Held] = (None,)
"""Nobody until it is released."""

REASON: Final = "it moved, or its rules were not known: withheld until a complete run has verified what is in it"

_MARK: Final = "#"
"""Between a scope's id and what makes a held one of it; no name of a source holds it, and hexadecimal does not."""


class Interned(NamedTuple):
    """What an ACL is interned by: the document's container, the digest of its own clause, what is held besides."""

    scope: ScopeId | None
    own: bytes
    held: Held = ()


Acls = dict[Interned, AclId]


def is_held(scope: ScopeId) -> bool:
    """Whether this is the id of a held scope."""
    return _MARK in scope


MARKED: Final = f"%{_MARK}%"
"""The ids of held scopes as a pattern of SQL."""


def around_container(scope: ScopeId, held: Held) -> list[ScopeId]:
    """Return the ids of the held scopes around a container, the outermost first."""
    return [ScopeId(f"{scope}{_MARK}{number}") for number in range(1, len(held) + 1)]


def around_own(source: str, scope: ScopeId | None, held: Held) -> list[ScopeId]:
    """Return the ids of the held scopes between a container, or none, and own clauses, the outermost first.

    They are made of the content alone, so that documents share them.
    """
    found: list[ScopeId] = []
    content = sha256()
    for digest in held:
        content.update(b"-" if digest is None else b"+" + digest)
        found.append(ScopeId(f"{scope or source}{_MARK}{content.hexdigest()[:32]}"))
    return found


def label(of: str, number: int) -> str:
    """Return what people call the held scope with this number, from 1, around something that they call `of`."""
    return f"{of} (before this run)" if number == 1 else f"{of} (before this run, {number})"


def unwind(
    scope: ScopeId | None, rows: Mapping[ScopeId, tuple[ScopeId | None, bytes | None]]
) -> tuple[ScopeId | None, Held]:
    """Go up from `scope` through held ones: the first that is none, and what was passed, the oldest first.

    rows: parent and clause of each scope. A row that is missing is returned as if it were no held one: it is nobody's
    parent, so that what lies in it counts as moved.
    """
    held: list[bytes | None] = []
    while scope is not None and is_held(scope) and scope in rows:
        scope, clause = rows[scope]
        held.append(clause)
    return scope, tuple(reversed(held))
