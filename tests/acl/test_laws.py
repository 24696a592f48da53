"""The laws of the access model, for all values that hypothesis can think of."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.decide import Allowed, Denied, Reason, decide
from acl.errors import CallerExpiredError, DecodeError
from acl.model import NOBODY, Acl, Caller, Clause, Effect, Rule, Scope, ScopeId, Unknown
from acl.normalize import decode, encode, fingerprint, normalize
from acl.principal import Principal
from tests.acl.reference import may_read, plain_clause
from tests.strategies import (
    FAR,
    PRINCIPALS,
    REALMS,
    START,
    acls,
    callers,
    clauses,
    doubtful_callers,
    moments,
    principals,
    rules,
    unknowns,
)


def _allows(clause: Clause, caller: Caller, at: datetime) -> bool:
    return isinstance(decide(Acl(None, clause), caller, at), Allowed)


@given(acls, callers, moments)
def test_decide_equals_the_literal_evaluator(acl: Acl | Unknown, caller: Caller, at: datetime) -> None:
    """`decide` gives what the specification, read literally, gives."""
    plain = None if isinstance(acl, Unknown) else [plain_clause(clause) for clause in acl.clauses()]

    allowed = isinstance(decide(acl, caller, at), Allowed)

    assert allowed == may_read(plain, caller.principals, caller.complete, at.timestamp())


@given(clauses, callers, moments)
def test_normalize_keeps_every_decision(clause: Clause, caller: Caller, at: datetime) -> None:
    """A normalized clause lets the same callers through, and denies the others for the same reason."""
    before = decide(Acl(None, clause), caller, at)
    after = decide(Acl(None, normalize(clause)), caller, at)

    assert type(before) is type(after)
    if isinstance(before, Denied) and isinstance(after, Denied):
        assert before.reason is after.reason
        assert (before.detail == after.detail) or before.reason is Reason.DENY_RULE


@given(clauses)
def test_normalize_is_idempotent(clause: Clause) -> None:
    """Normalizing twice is normalizing once."""
    assert normalize(normalize(clause)) == normalize(clause)


@given(clauses)
def test_normalize_keeps_every_realm(clause: Clause) -> None:
    """No realm loses its last mention: a caller for whom it is incomplete would be let through."""
    assert normalize(clause).realms == clause.realms


@given(callers, moments)
def test_the_empty_clause_is_nobodys(caller: Caller, at: datetime) -> None:
    """Nobody passes a clause without rules."""
    assert not _allows(NOBODY, caller, at)


@given(unknowns, callers, moments)
def test_the_unknown_is_nobodys(acl: Unknown, caller: Caller, at: datetime) -> None:
    """Nobody passes what is not understood, and the reason is handed on."""
    decision = decide(acl, caller, at)

    assert isinstance(decision, Denied)
    assert decision.detail == acl.reason


@given(clauses, rules, callers, moments)
def test_a_trailing_allow_denies_nobody(clause: Clause, rule: Rule, caller: Caller, at: datetime) -> None:
    """Whoever passed still passes with one more allow at the end, if its realms are complete for them."""
    longer = Clause((*clause.rules, Rule(Effect.ALLOW, rule.principals, rule.expires_at)))

    if _allows(clause, caller, at) and longer.realms <= caller.complete:
        assert _allows(longer, caller, at)


@given(clauses, rules, callers, moments)
def test_a_leading_deny_allows_nobody(clause: Clause, rule: Rule, caller: Caller, at: datetime) -> None:
    """Whoever did not pass does not pass with one more deny at the beginning."""
    longer = Clause((Rule(Effect.DENY, rule.principals, rule.expires_at), *clause.rules))

    if not _allows(clause, caller, at):
        assert not _allows(longer, caller, at)


@given(clauses, clauses, callers, moments)
def test_a_further_clause_allows_nobody(own: Clause, outer: Clause, caller: Caller, at: datetime) -> None:
    """A scope around a document never lets in whom its own clause keeps out, nor the other way round."""
    both = isinstance(decide(Acl(Scope(ScopeId("s"), None, outer), own), caller, at), Allowed)

    assert both == (_allows(own, caller, at) and _allows(outer, caller, at))


@given(clauses, callers, moments, st.sampled_from(REALMS))
def test_less_completeness_allows_nobody(clause: Clause, caller: Caller, at: datetime, lost: str) -> None:
    """Whoever did not pass does not pass when a realm becomes incomplete."""
    poorer = Caller(caller.subject, caller.principals, caller.complete - {lost}, caller.resolved_at, caller.expires_at)

    if not _allows(clause, caller, at):
        assert not _allows(clause, poorer, at)


@given(acls, callers)
def test_an_expired_caller_is_an_error(acl: Acl | Unknown, caller: Caller) -> None:
    """A caller at its expiry gets no decision at all, not even a deny."""
    with pytest.raises(CallerExpiredError, match="alice"):
        decide(acl, caller, caller.expires_at)


@given(clauses)
def test_a_stored_clause_is_read_back(clause: Clause) -> None:
    """`decode` gives what `encode` was given."""
    assert decode(encode(clause)) == clause


@given(clauses, clauses)
def test_stored_clauses_are_equal_only_when_the_clauses_are(one: Clause, other: Clause) -> None:
    """Equal clauses have equal bytes, different clauses different bytes; so have the fingerprints of normal forms."""
    assert (encode(one) == encode(other)) == (one == other)
    assert (fingerprint(one) == fingerprint(other)) == (normalize(one) == normalize(other))


@given(st.binary(max_size=200))
def test_random_bytes_are_no_clause(data: bytes) -> None:
    """`decode` raises its own error, or reads bytes that it would write again exactly so."""
    try:
        clause = decode(data)
    except DecodeError:
        return
    assert encode(clause) == data


@given(clauses, st.integers(0, 400), st.integers(0, 255), st.booleans())
def test_damaged_clauses_are_no_clause(clause: Clause, place: int, value: int, cut: bool) -> None:
    """With a byte changed, or cut short, `decode` raises its own error, or reads bytes that it would write itself."""
    data = bytearray(encode(clause))
    if cut:
        del data[place % len(data) :]
    else:
        data[place % len(data)] = value
    try:
        found = decode(bytes(data))
    except DecodeError:
        return
    assert encode(found) == bytes(data)


def test_equal_meanings_in_two_orders_have_one_fingerprint() -> None:
    """Neighbours of one effect are merged whatever their order, and shadowed principals are left out."""
    a, b, c = PRINCIPALS[:3]
    allow_a, allow_b, deny_c = (
        Rule(Effect.ALLOW, frozenset({a})),
        Rule(Effect.ALLOW, frozenset({b})),
        Rule(Effect.DENY, frozenset({c})),
    )
    both = Rule(Effect.ALLOW, frozenset({a, b}))

    assert normalize(Clause((allow_b, allow_a, Rule(Effect.DENY, frozenset({a, c})), both))) == Clause((both, deny_c))
    assert fingerprint(Clause((allow_a, allow_b))) == fingerprint(Clause((allow_b, both)))
    assert fingerprint(Clause((both, deny_c))) != fingerprint(Clause((deny_c, both)))


@given(acls, doubtful_callers, st.frozensets(principals), moments)
def test_what_is_doubtful_only_denies(
    acl: Acl | Unknown, caller: Caller, which: frozenset[Principal], at: datetime
) -> None:
    """Whoever is allowed with doubtful principals would be allowed with any of them held and the others not."""
    held = replace(caller, principals=caller.principals | (caller.doubtful & which), doubtful=frozenset())

    if isinstance(decide(acl, caller, at), Allowed):
        assert isinstance(decide(acl, held, at), Allowed)


@given(clauses, doubtful_callers, st.frozensets(principals), moments)
def test_normalize_lets_nobody_in_whom_a_doubt_should_stop(
    clause: Clause, caller: Caller, which: frozenset[Principal], at: datetime
) -> None:
    """In normal form a clause may allow where it denied, but only who would be allowed whatever is true."""
    held = replace(caller, principals=caller.principals | (caller.doubtful & which), doubtful=frozenset())

    if _allows(normalize(clause), caller, at):
        assert _allows(clause, held, at)
    if _allows(clause, caller, at):
        assert _allows(normalize(clause), caller, at)


def test_a_doubtful_principal_does_not_stop_what_does_not_deny_it() -> None:
    """A deny of the doubtful group denies, an allow of it does not allow, and whoever holds another one is let in."""
    sure, doubtful, other = PRINCIPALS[:3]
    caller = Caller("u", frozenset({sure}), frozenset(REALMS), START, FAR, frozenset({doubtful}))
    of_sure, of_doubtful = Rule(Effect.ALLOW, frozenset({sure})), Rule(Effect.ALLOW, frozenset({doubtful}))

    assert not _allows(Clause((of_doubtful,)), caller, START)
    assert not _allows(Clause((Rule(Effect.DENY, frozenset({doubtful})), of_sure)), caller, START)
    assert _allows(Clause((of_doubtful, Rule(Effect.DENY, frozenset({other})), of_sure)), caller, START)
    assert _allows(Clause((of_sure, Rule(Effect.DENY, frozenset({doubtful})))), caller, START)
