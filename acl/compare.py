"""Whether one clause lets nobody through whom another did not: a proof, or no answer.

Pure. Used to tell what widens access from what narrows it; nothing is decided by it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from acl.model import Clause, Effect
from acl.principal import Principal

_MOST_STEPS: Final = 1_000_000
"""Beyond that nothing is proved."""


def narrows(old: Clause, new: Clause) -> bool:
    """True only if at every moment `old` lets through whoever `new` lets through. False: not proved.

    For callers whose realms are complete. A clause that names fewer realms also stops denying those who are incomplete
    in the others: a caller is complete again by itself, so that this is no change of rules.

    Let `new` allow a caller at a moment by its rule i, which names p. Then:
    1. No deny before i that is in force names anything that the caller holds.
    2. `old` has an allow j that names p and lasts at least as long as i.
    3. Each deny of `old` before j names something that a deny of `new` before i names for as long, so by 1 the caller
       does not hold it: the first rule of `old` that matches is j, or an allow before it.
    """
    allows: dict[Principal, list[tuple[int, datetime]]] = {}
    denies: list[tuple[int, Principal, datetime]] = []
    for number, rule in enumerate(old.rules):
        for principal in rule.principals:
            if rule.effect is Effect.ALLOW:
                allows.setdefault(principal, []).append((number, rule.expires_at))
            else:
                denies.append((number, principal, rule.expires_at))
    if len(denies) * len(new.rules) > _MOST_STEPS:
        return False
    denied: dict[Principal, datetime] = {}
    for rule in new.rules:
        if rule.effect is Effect.DENY:
            for principal in rule.principals:
                denied[principal] = max(rule.expires_at, denied.get(principal, rule.expires_at))
            continue
        # 3. The first deny of `old` that a caller whom this rule allows may be held by.
        stop = next(
            (
                number
                for number, principal, expires_at in denies
                if principal not in denied or denied[principal] < min(expires_at, rule.expires_at)
            ),
            len(old.rules),
        )
        for principal in rule.principals:
            if principal in denied and denied[principal] >= rule.expires_at:
                continue  # 1. Never reached by who holds it.
            # 2. and 3.
            if not any(number < stop and until >= rule.expires_at for number, until in allows.get(principal, ())):
                return False
    return True
