"""The trace of a decision: equal to `decide`, complete, and its remedies are enough."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given

from acl.decide import OWN, Allowed, Denied, Match, Reason, decide, judge
from acl.errors import CallerExpiredError
from acl.model import Acl, Caller, Clause, Effect, Rule, Scope, ScopeId, Unknown
from acl.principal import Principal
from acl.trace import Remedy, trace
from tests import strategies
from tests.strategies import FAR, PRINCIPALS, REALMS, START


@given(strategies.acls, strategies.doubtful_callers, strategies.moments)
def test_a_trace_says_what_decide_says(acl: Acl | Unknown, caller: Caller, at: datetime) -> None:
    """The decision of the trace is that of `decide`, details included."""
    assert trace(acl, caller, at).decision == decide(acl, caller, at)


@given(strategies.acls, strategies.doubtful_callers, strategies.moments)
def test_a_trace_has_every_clause(acl: Acl | Unknown, caller: Caller, at: datetime) -> None:
    """Those behind the first that denies, too; each as that clause alone would say."""
    found = trace(acl, caller, at)

    clauses = () if isinstance(acl, Unknown) else acl.clauses()
    assert [step.verdict for step in found.steps] == [
        judge(step.name, clause, caller, at) for step, clause in zip(found.steps, clauses, strict=True)
    ]
    for step, clause in zip(found.steps, clauses, strict=True):
        if step.rule is not None:
            rule = clause.rules[step.rule]
            assert step.principal in rule.principals & (caller.principals | caller.doubtful)
            assert at < rule.expires_at == step.expires_at
            assert (rule.effect is Effect.ALLOW) == isinstance(step.verdict, Match)


@given(strategies.acls, strategies.doubtful_callers, strategies.moments)
def test_every_remedy_opens_its_clause(acl: Acl | Unknown, caller: Caller, at: datetime) -> None:
    """With each of the principals that it names; a clause that is open has none."""
    if isinstance(acl, Unknown):
        return
    for step, clause in zip(trace(acl, caller, at).steps, acl.clauses(), strict=True):
        if isinstance(step.verdict, Match):
            assert step.remedies == ()
        for remedy in step.remedies:
            assert remedy.leave <= caller.principals | caller.doubtful
            for more in remedy.hold or (None,):
                held = (caller.principals - remedy.leave) | ({more} if more is not None else frozenset())
                changed = replace(caller, principals=held, doubtful=caller.doubtful - remedy.leave)
                assert isinstance(judge(OWN, clause, changed, at), Match)


@given(strategies.clauses, strategies.doubtful_callers, strategies.moments)
def test_whatever_one_principal_more_would_open_is_named(clause: Clause, caller: Caller, at: datetime) -> None:
    """No single principal opens a clause without standing among the remedies."""
    if not isinstance(judge(OWN, clause, caller, at), Denied):
        return
    (step,) = trace(Acl(None, clause), caller, at).steps
    named = {one for remedy in step.remedies if not remedy.leave for one in remedy.hold}

    for one in PRINCIPALS:
        held = replace(caller, principals=caller.principals | {one})
        assert isinstance(judge(OWN, clause, held, at), Match) == (one in named)


def test_a_denied_person_can_leave_or_hold_more() -> None:
    """A deny before an allow: without the denied group, or with one that is allowed before it."""
    first, denied, allowed, other = PRINCIPALS[0], PRINCIPALS[1], PRINCIPALS[2], PRINCIPALS[3]
    clause = Clause(tuple(Rule(effect, frozenset({one})) for effect, one in [
        (Effect.ALLOW, first), (Effect.DENY, denied), (Effect.ALLOW, allowed), (Effect.ALLOW, other),
    ]))  # fmt: skip
    scope = Scope(ScopeId("s"), None, Clause((Rule(Effect.ALLOW, frozenset({denied})),)), "/s")

    def steps(*held: Principal) -> list[tuple[str, int | None, tuple[Remedy, ...]]]:
        who = Caller("alice", frozenset(held), frozenset(REALMS), START, FAR)
        return [(step.name, step.rule, step.remedies) for step in trace(Acl(scope, clause), who, START).steps]

    assert steps(denied, allowed) == [
        ("/s", 0, ()),
        (OWN, 1, (Remedy(frozenset(), (first,)), Remedy(frozenset({denied}), ()))),
    ]
    assert steps(denied)[1][2] == (
        Remedy(frozenset(), (first,)),
        Remedy(frozenset({denied}), tuple(sorted([first, allowed, other]))),
    )
    assert steps()[0] == ("/s", None, (Remedy(frozenset(), (denied,)),))


def test_an_incomplete_realm_has_no_remedy_and_an_expired_caller_no_trace() -> None:
    """What only a directory can say is nobody's to fix by a group; and nothing is explained with stale groups."""
    clause = Clause((Rule(Effect.ALLOW, frozenset({PRINCIPALS[0]})),))
    who = Caller("alice", frozenset({PRINCIPALS[0]}), frozenset(), START, FAR)

    (step,) = trace(Acl(None, clause), who, START).steps
    assert (step.verdict, step.remedies) == (Denied(OWN, Reason.INCOMPLETE_REALM, PRINCIPALS[0].realm), ())
    complete = replace(who, complete=frozenset(REALMS))
    assert isinstance(trace(Acl(None, clause), complete, START).decision, Allowed)
    with pytest.raises(CallerExpiredError):
        trace(Acl(None, clause), complete, FAR + timedelta(seconds=1))
