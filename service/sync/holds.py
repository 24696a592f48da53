"""What is held when rules are replaced: the old ones count besides the new ones until their release (docs/adr/0004).

Pure functions of what is stored and what the source says now. When something is released is left to `service.sync.walk`
and `service.sync.texts`, how it is stored to `service.stores.holds`, what more than a few may not release to
`service.sync.breaker`.
"""

from __future__ import annotations

from acl.model import ScopeId
from service.stores.holds import WITHHELD, Held, Interned
from service.stores.writes import Former, KnownScope


def around_container(known: KnownScope, parent: ScopeId | None, clause: bytes | None) -> Held:
    """Return what is held around a container once it has this parent and clause; None: one that is not understood."""
    if known.parent != parent:
        # What was around it is in another branch of the tree: no row can stand for all of that.
        return WITHHELD
    if known.clause == clause:
        return known.held
    if known.clause is None:
        return _returned(known.former, parent)
    return _and(known.held, known.clause) if clause is not None else known.held


def around_document(was: Interned | None, former: Former | None, scope: ScopeId | None, own: bytes) -> Held:
    """Return what is held for a stored document once it has this container and own clause. was: None when nobody's."""
    if was is None:
        return _returned(former, scope)
    if was.scope != scope:
        return WITHHELD
    return was.held if was.own == own else _and(was.held, was.own)


def former(around: ScopeId | None, held: Held, clause: bytes) -> Former | None:
    """Return what to remember of rules that nobody passes from now on: those that counted last without being held."""
    counted = counted_last(held, clause)
    return None if counted is None else Former(around, counted)


def counted_last(held: Held, clause: bytes) -> bytes | None:
    """Return the clause that counted before anything was held; None when nobody knows it."""
    return held[0] if held else clause


def kept(held: Held) -> Held:
    """Return what the breaker keeps once a complete run has verified what is below: what counted last, and no more.

    The others were held until then for the sake of the texts alone. Without this, every change of what waits for a
    person would be one rule more that everybody has to pass, until nobody does.
    """
    return held if None in held else held[:1]


def withheld(held: Held, clause: bytes) -> Held:
    """Return what is held around rules that nobody may pass until their release."""
    counted = counted_last(held, clause)
    return WITHHELD if counted is None else (counted, None)


def _returned(former: Former | None, around: ScopeId | None) -> Held:
    """Nobody until it is released; what counted last comes first, if it stood at the same place."""
    return (former.clause, None) if former is not None and former.around == around else WITHHELD


def _and(held: Held, clause: bytes) -> Held:
    return held if clause in held or None in held else (*held, clause)
