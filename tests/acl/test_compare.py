"""What is taken for narrowing narrows: held against `decide` itself."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.compare import narrows
from acl.decide import Allowed, decide
from acl.model import Acl, Caller, Clause, Effect, Rule
from tests import strategies
from tests.strategies import FAR, MOMENTS, PRINCIPALS, REALMS, START

A, B, C = PRINCIPALS[:3]


def allow(*principals: object, hours: int | None = None) -> Rule:
    """An allow, for some hours or for ever."""
    return _rule(Effect.ALLOW, principals, hours)


def deny(*principals: object, hours: int | None = None) -> Rule:
    """A deny, for some hours or for ever."""
    return _rule(Effect.DENY, principals, hours)


def _rule(effect: Effect, principals: tuple[object, ...], hours: int | None) -> Rule:
    named = frozenset(principals)
    if hours is None:
        return Rule(effect, named)  # type: ignore[arg-type]
    return Rule(effect, named, START + timedelta(hours=hours))  # type: ignore[arg-type]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Clause, Clause]:
    """Two clauses, of which the second is often made of the first: else hardly any would narrow another."""
    old = draw(strategies.clauses)
    rules = [*draw(st.permutations(old.rules)), *draw(st.lists(strategies.rules, max_size=1))]
    made = st.lists(st.sampled_from(rules), max_size=5) if rules else st.just([])
    return old, draw(st.one_of(strategies.clauses, made.map(lambda chosen: Clause(tuple(chosen)))))


@given(pairs(), strategies.callers)
def test_nobody_gets_in_by_what_narrows(clauses: tuple[Clause, Clause], caller: Caller) -> None:
    """For all clauses, callers and moments: whom the new clause allows, the old one allowed."""
    old, new = clauses
    caller = Caller(caller.subject, caller.principals, frozenset(REALMS), START, FAR)
    if narrows(old, new):
        for moment in MOMENTS:
            if isinstance(decide(Acl(None, new), caller, moment), Allowed):
                assert isinstance(decide(Acl(None, old), caller, moment), Allowed)


@given(strategies.clauses)
def test_every_clause_narrows_itself_and_nobody_narrows_every_clause(clause: Clause) -> None:
    """What did not change does not widen; a clause that lets nobody through widens nothing."""
    assert narrows(clause, clause)
    assert narrows(clause, Clause(()))
    assert narrows(clause, Clause((deny(A),)))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((allow(A, B),), (allow(A),), True),
        ((allow(A),), (allow(A, B),), False),
        ((allow(A, B),), (deny(B), allow(A, B)), True),
        ((deny(B), allow(A)), (allow(A),), False),
        ((deny(B), allow(A)), (deny(C, B), allow(A)), True),
        ((allow(A),), (allow(A, hours=2),), True),
        ((allow(A, hours=2),), (allow(A),), False),
        ((deny(B, hours=2), allow(A)), (deny(B, hours=1), allow(A)), False),
        ((deny(B, hours=1), allow(A)), (deny(B, hours=2), allow(A)), True),
        ((allow(A), deny(B), allow(C)), (deny(B), allow(C), allow(A)), True),
        ((), (allow(A),), False),
    ],
    # By number: a set is written in another order by each worker.
    ids=map(str, range(11)),
)
def test_what_is_proved(old: tuple[Rule, ...], new: tuple[Rule, ...], expected: bool) -> None:
    """Members, denies, order and expiry, each in both directions."""
    assert narrows(Clause(old), Clause(new)) is expected
