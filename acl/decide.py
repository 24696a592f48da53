"""The one function that decides. Everything fast elsewhere proposes; this disposes.

Pure: values in, a value out; no clock, no I/O, no logging.
Source: `acl/README.md`, the algorithm; its steps carry the same numbers here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, NoReturn

from acl.errors import AccessDeniedError, CallerExpiredError
from acl.model import Acl, Caller, Clause, Effect, Unknown, instant
from acl.principal import Principal

OWN: Final = "own"
"""The name of a document's own clause in a decision."""

_NO_TRUTH: Final = "a decision has no truth value: use `require`, or match on Allowed and Denied"


class Reason(Enum):
    """Why a clause did not let the caller through."""

    UNKNOWN = "unknown"
    INCOMPLETE_REALM = "incomplete realm"
    DENY_RULE = "deny rule"
    NO_RULE = "no rule matches"


@dataclass(frozen=True, slots=True)
class Match:
    """How one clause let the caller through: the number of the rule, from 0, and the principal that it named.

    When the rule names several of the caller's principals, the first in their order.
    """

    clause: str
    rule: int
    principal: Principal


@dataclass(frozen=True, slots=True)
class Allowed:
    """The caller may read; one match a clause, outermost first."""

    matches: tuple[Match, ...]

    def __bool__(self) -> NoReturn:
        raise TypeError(_NO_TRUTH)


@dataclass(frozen=True, slots=True)
class Denied:
    """The caller may not read; the first clause that failed, and why.

    detail: the incomplete realm, the token of the denied principal, or why the ACL is unknown; otherwise empty.
    """

    clause: str
    reason: Reason
    detail: str

    def __bool__(self) -> NoReturn:
        raise TypeError(_NO_TRUTH)


Decision = Allowed | Denied


def decide(acl: Acl | Unknown, caller: Caller, at: datetime) -> Decision:
    """Decide whether `caller` may read under `acl` at the moment `at`.

    Raises CallerExpiredError when the caller's resolution is no longer valid: that is not a deny, resolve again.
    Raises InvalidValueError when `at` has no time zone.
    """
    at = instant(at, "the moment of a decision")
    # 1. A stale caller decides nothing.
    if at >= caller.expires_at:
        raise CallerExpiredError(f"the resolution of `{caller.subject}` expired at {caller.expires_at.isoformat()}")
    # 2. What is not understood is nobody's.
    if isinstance(acl, Unknown):
        return Denied(OWN, Reason.UNKNOWN, acl.reason)
    # 3. Every clause must let the caller through, the outermost first.
    matches: list[Match] = []
    if acl.scope is not None:
        for scope in acl.scope.chain():
            verdict = judge(scope.label or scope.id, scope.clause, caller, at)
            if isinstance(verdict, Denied):
                return verdict
            matches.append(verdict)
    verdict = judge(OWN, acl.own, caller, at)
    if isinstance(verdict, Denied):
        return verdict
    matches.append(verdict)
    return Allowed(tuple(matches))


def judge(name: str, clause: Clause, caller: Caller, at: datetime) -> Match | Denied:
    """How one clause takes a caller. One clause is no decision: `decide` asks all of them, and whether both still hold.

    name: the clause's in what is returned. at: in UTC.
    """
    # 4. A deny rule needs all of the caller's principals, so an incomplete realm ends the matter.
    if not clause.realms <= caller.complete:
        return Denied(name, Reason.INCOMPLETE_REALM, min(clause.realms - caller.complete))
    # 5. The first rule in force that names the caller decides. What it is doubtful that the caller holds only denies.
    against = caller.principals | caller.doubtful if caller.doubtful else caller.principals
    for number, rule in enumerate(clause.rules):
        # Asked this way round, whatever is not an allow denies.
        held = caller.principals if rule.effect is Effect.ALLOW else against
        if at < rule.expires_at and not rule.principals.isdisjoint(held):
            named = min(rule.principals & held)
            if rule.effect is Effect.ALLOW:
                return Match(name, number, named)
            return Denied(name, Reason.DENY_RULE, named.token)
    # 6. No rule is no access.
    return Denied(name, Reason.NO_RULE, "")


def require(acl: Acl | Unknown, caller: Caller, at: datetime) -> Allowed:
    """Return the allowing decision, or raise AccessDeniedError: for callers that must not go on after a deny."""
    decision = decide(acl, caller, at)
    if isinstance(decision, Allowed):
        return decision
    raise AccessDeniedError(f"clause `{decision.clause}` denies: {decision.reason.value}")
