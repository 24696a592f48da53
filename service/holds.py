"""What is held when rules are replaced: the old ones count besides the new ones until their release (docs/adr/0004).

Pure functions of what is stored and what the source says now. When something is released is left to `service.walk` and
`service.texts`, how it is stored to `service.stores.holds`.
"""

from __future__ import annotations

from acl.model import ScopeId
from service.stores.holds import WITHHELD, Held, Interned
from service.stores.writes import KnownScope


def around_container(known: KnownScope, parent: ScopeId | None, clause: bytes | None) -> Held:
    """Return what is held around a container once it has this parent and clause; None: one that is not understood."""
    if known.parent != parent:
        # What was around it is in another branch of the tree: no row can stand for all of that.
        return WITHHELD
    if known.clause == clause:
        return known.held
    return _and(known.held, known.clause) if clause is not None or known.clause is None else known.held


def around_document(was: Interned | None, scope: ScopeId | None, own: bytes) -> Held:
    """Return what is held for a stored document once it has this container and own clause. was: None when nobody's."""
    if was is None or was.scope != scope:
        return WITHHELD
    return was.held if was.own == own else _and(was.held, was.own)


def _and(held: Held, clause: bytes | None) -> Held:
    if clause is None or None in held:
        return WITHHELD
    return held if clause in held else (*held, clause)
