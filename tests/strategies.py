"""Hypothesis strategies for the access model. Alphabets are small, so that everything collides with everything."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from acl.model import NEVER, Acl, Caller, Clause, Effect, Rule, Scope, ScopeId, Unknown
from acl.principal import Principal, Realm

START = datetime(2030, 1, 1, tzinfo=UTC)
MOMENTS = [START + timedelta(hours=n) for n in range(5)]
FAR = START + timedelta(days=365)
REALMS = [Realm("ad"), Realm("posix:corp"), Realm("static:people")]
PRINCIPALS = [Principal(where, name) for where in REALMS for name in ("a", "b", "c")]

moments = st.sampled_from(MOMENTS)
expiries = st.one_of(st.just(NEVER), st.just(NEVER), moments)
effects = st.sampled_from(Effect)
principals = st.sampled_from(PRINCIPALS)
rules = st.builds(Rule, effects, st.frozensets(principals, min_size=1, max_size=3), expiries)
clauses = st.builds(Clause, st.lists(rules, max_size=6).map(tuple))
unknowns = st.builds(Unknown, st.sampled_from(["unreadable", "of an unknown kind"]))
callers = st.builds(
    Caller,
    subject=st.just("alice"),
    principals=st.frozensets(principals, max_size=6),
    complete=st.one_of(st.just(frozenset(REALMS)), st.frozensets(st.sampled_from(REALMS))),
    resolved_at=st.just(START),
    expires_at=st.just(FAR),
)

doubtful_callers = st.builds(
    lambda caller, doubtful: replace(caller, doubtful=doubtful), callers, st.frozensets(principals, max_size=4)
)


@st.composite
def scopes(draw: st.DrawFn) -> Scope | None:
    """A chain of up to four scopes."""
    here: Scope | None = None
    for number in range(draw(st.integers(0, 4))):
        here = Scope(ScopeId(f"s{number}"), here, draw(clauses))
    return here


acls = st.one_of(st.builds(Acl, scopes(), clauses), unknowns)
