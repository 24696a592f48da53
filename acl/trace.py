"""Why: the decision of `decide` with every clause, and what would open those that deny. It decides nothing.

`decide` stops at the first clause that denies; a person who asks why wants to see the others, too. The decision that a
trace implies must be that of `decide`, and a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from acl.decide import OWN, Allowed, Decision, Denied, Match, Reason, judge
from acl.errors import CallerExpiredError
from acl.model import Acl, Caller, Clause, Effect, Rule, ScopeId, Unknown, instant
from acl.principal import Principal


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change of what a caller holds after which one clause lets them through: without all of `leave`, and with any
    one of `hold`, sorted; an empty `hold` asks for nothing more.
    """

    leave: frozenset[Principal]
    hold: tuple[Principal, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """How one clause took the caller. scope: None for the document's own clause.

    rule: the number of the rule that decided, from 0; None when none did, and then `expires_at` is None as well.
    principal: by which it matched. remedies: each alone opens the clause; empty when it is open, and when only a
    directory that answers could.
    """

    name: str
    scope: ScopeId | None
    rules: int
    verdict: Match | Denied
    rule: int | None
    principal: Principal | None
    expires_at: datetime | None
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """Every clause, outermost first, and the decision that they make. No steps for an ACL that is not understood."""

    decision: Decision
    steps: tuple[Step, ...]


def trace(acl: Acl | Unknown, caller: Caller, at: datetime) -> Trace:
    """Take a decision apart. Raises as `decide` does."""
    at = instant(at, "the moment of a decision")
    if at >= caller.expires_at:
        raise CallerExpiredError(f"the resolution of `{caller.subject}` expired at {caller.expires_at.isoformat()}")
    if isinstance(acl, Unknown):
        return Trace(Denied(OWN, Reason.UNKNOWN, acl.reason), ())
    around = () if acl.scope is None else tuple(acl.scope.chain())
    steps = (
        *(_step(scope.label or scope.id, scope.id, scope.clause, caller, at) for scope in around),
        _step(OWN, None, acl.own, caller, at),
    )
    matches: list[Match] = []
    for step in steps:
        if isinstance(step.verdict, Denied):
            return Trace(step.verdict, steps)
        matches.append(step.verdict)
    return Trace(Allowed(tuple(matches)), steps)


def _step(name: str, scope: ScopeId | None, clause: Clause, caller: Caller, at: datetime) -> Step:
    verdict = judge(name, clause, caller, at)
    if isinstance(verdict, Denied) and verdict.reason not in (Reason.DENY_RULE, Reason.NO_RULE):
        return Step(name, scope, len(clause.rules), verdict, None, None, None, ())
    found = _deciding(clause, caller.principals, caller.doubtful, at)
    remedies = _remedies(clause, caller, at) if isinstance(verdict, Denied) else ()
    if found is None:
        return Step(name, scope, len(clause.rules), verdict, None, None, None, remedies)
    number, rule = found
    named = min(rule.principals & _counting(rule, caller.principals, caller.doubtful))
    return Step(name, scope, len(clause.rules), verdict, number, named, rule.expires_at, remedies)


def _deciding(
    clause: Clause, held: frozenset[Principal], doubtful: frozenset[Principal], at: datetime
) -> tuple[int, Rule] | None:
    """The first rule in force that names one of these, with its number."""
    for number, rule in enumerate(clause.rules):
        if at < rule.expires_at and not rule.principals.isdisjoint(_counting(rule, held, doubtful)):
            return number, rule
    return None


def _counting(rule: Rule, held: frozenset[Principal], doubtful: frozenset[Principal]) -> frozenset[Principal]:
    """By which principals this rule can name a caller: by doubtful ones it can only deny."""
    return held if _allows(rule) else held | doubtful


def _remedies(clause: Clause, caller: Caller, at: datetime) -> tuple[Remedy, ...]:
    """The smallest changes first: to hold something more, to leave what is denied, and both."""
    first = _first_rules(clause, at)
    found: list[Remedy] = []
    left: set[Principal] = set()
    held, doubtful = caller.principals, caller.doubtful
    while True:
        deciding = _deciding(clause, held, doubtful, at)
        if deciding is not None and deciding[1].effect is Effect.ALLOW:
            found.append(Remedy(frozenset(left), ()))
            break
        before = len(clause.rules) if deciding is None else deciding[0]
        opening = sorted(p for p, number in first.items() if number < before and _allows(clause.rules[number]))
        if opening:
            found.append(Remedy(frozenset(left), tuple(opening)))
        if deciding is None:
            break
        left |= deciding[1].principals & (held | doubtful)
        held, doubtful = caller.principals - left, caller.doubtful - left
    return tuple(found)


def _first_rules(clause: Clause, at: datetime) -> dict[Principal, int]:
    """For each principal the first rule in force that names it."""
    found: dict[Principal, int] = {}
    for number, rule in enumerate(clause.rules):
        if at < rule.expires_at:
            for principal in rule.principals:
                found.setdefault(principal, number)
    return found


def _allows(rule: Rule) -> bool:
    return rule.effect is Effect.ALLOW
