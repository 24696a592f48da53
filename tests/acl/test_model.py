"""Wrong values cannot be built, and right ones say what they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from acl.decide import Allowed, Denied, Match, Reason, decide, require
from acl.errors import AccessDeniedError, InvalidValueError
from acl.model import (
    MAX_DEPTH,
    MAX_PRINCIPALS,
    MAX_RULES,
    NOBODY,
    Acl,
    AclState,
    Caller,
    Clause,
    Effect,
    Rule,
    Scope,
    ScopeId,
    Unknown,
    clause_of,
    state_of,
)
from acl.principal import Principal, Realm
from tests.strategies import FAR, START

_AD = Realm("ad")
_ALICE = Principal(_AD, "alice")
_SALES = Principal(_AD, "sales")
_EVERYONE = Principal(_AD, "S-1-1-0")


def _caller(*held: Principal) -> Caller:
    return Caller("alice", frozenset(held), frozenset({_AD}), START, FAR)


def _allow(*principals: Principal, expires_at: datetime | None = None) -> Rule:
    return Rule(Effect.ALLOW, frozenset(principals), *([expires_at] if expires_at is not None else []))


def _deny(*principals: Principal) -> Rule:
    return Rule(Effect.DENY, frozenset(principals))


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Rule, ("allow", frozenset({_ALICE}))),
        (Rule, (Effect.ALLOW, {_ALICE})),
        (Rule, (Effect.ALLOW, frozenset({"ad:alice"}))),
        (Rule, (Effect.ALLOW, frozenset({("ad", "alice")}))),
        (Rule, (Effect.ALLOW, _ALICE)),
        (Rule, (Effect.ALLOW, None)),
        (Rule, (Effect.ALLOW, frozenset())),
        (Rule, (Effect.ALLOW, frozenset({_ALICE}), datetime(2030, 1, 1))),  # noqa: DTZ001 (the point)
        (Rule, (Effect.ALLOW, frozenset({_ALICE}), None)),
        (Rule, (Effect.ALLOW, frozenset({_ALICE}), datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))))),
        (Clause, ([_allow(_ALICE)],)),
        (Clause, (None,)),
        (Clause, ((None,),)),
        (Clause, ((_allow(_ALICE),) * (MAX_RULES + 1),)),
        (Scope, ("", None, NOBODY)),
        (Scope, (None, None, NOBODY)),
        (Scope, ("s", "t", NOBODY)),
        (Scope, ("s", None, Unknown("unread"))),
        (Scope, ("s", None, None)),
        (Acl, (None, None)),
        (Acl, (None, Unknown("unread"))),
        (Acl, ("s", NOBODY)),
        (Caller, ("", frozenset(), frozenset(), START, FAR)),
        (Caller, ("a", {_ALICE}, frozenset(), START, FAR)),
        (Caller, ("a", frozenset({"ad:alice"}), frozenset(), START, FAR)),
        (Caller, ("a", frozenset(), {"ad"}, START, FAR)),
        (Caller, ("a", frozenset(), frozenset(), START.replace(tzinfo=None), FAR)),
        (Caller, ("a", frozenset(), frozenset(), START, FAR.replace(tzinfo=None))),
        (Principal, ("", "a")),
        (Principal, ("AD", "a")),
        (Principal, ("ad", "")),
        (Principal, ("ad", None)),
        (Principal, ("ad", "a" * 513)),
        (Principal, ("ad", "\ud800")),
        (Principal, ("ad:" + "d" * 300, "a")),
        (Principal, ("ad:a:b", "c")),
    ],
)
def test_a_wrong_value_cannot_be_built(kind: Any, arguments: tuple[Any, ...]) -> None:
    """What would mean more than was said, or nothing, is refused where it is built."""
    with pytest.raises(InvalidValueError):
        kind(*arguments)


def test_an_unknown_clause_is_made_of_too_many_rules() -> None:
    """Rules from outside, 10,000 of them, are unknown with the reason rather than an error; fewer are a clause."""
    many = clause_of([_allow(_ALICE)] * 10_000)

    assert isinstance(many, Unknown)
    assert "10000 rules" in many.reason
    assert clause_of([_allow(_ALICE)]) == Clause((_allow(_ALICE),))


def test_a_clause_with_too_many_principals_is_refused() -> None:
    """A clause that names more principals than anything real is refused; one that names as many as allowed is not."""
    many = [Principal(_AD, str(number)) for number in range(MAX_PRINCIPALS)]

    Clause((_allow(*many),))
    with pytest.raises(InvalidValueError, match="names 100001"):
        Clause((_allow(*many), _allow(_ALICE)))


def test_scopes_have_a_greatest_depth() -> None:
    """A chain as deep as allowed decides; one deeper cannot be built."""
    here = None
    for number in range(MAX_DEPTH + 1):
        here = Scope(ScopeId(str(number)), here, Clause((_allow(_ALICE),)))

    assert isinstance(decide(Acl(here, Clause((_allow(_ALICE),))), _caller(_ALICE), START), Allowed)
    with pytest.raises(InvalidValueError, match="deeper"):
        Scope(ScopeId("one more"), here, NOBODY)


def test_values_compare_and_hash_by_content() -> None:
    """Two equal ACLs are one key."""
    one = Acl(Scope(ScopeId("s"), None, Clause((_allow(_ALICE, _SALES),))), NOBODY)
    other = Acl(Scope(ScopeId("s"), None, Clause((_allow(_SALES, _ALICE),))), Clause(()))

    assert len({one, other}) == 1


def test_a_decision_has_no_truth_value() -> None:
    """`if decide(...)` is an error for an allow as for a deny, so a deny can never pass for true."""
    for held in ((_ALICE,), ()):
        with pytest.raises(TypeError, match="no truth value"):
            bool(decide(Acl(None, Clause((_allow(_ALICE),))), _caller(*held), START))


def test_an_allow_names_the_rule_and_the_principal() -> None:
    """Every clause says by which rule and which principal it let the caller through, the outermost first."""
    scope = Scope(ScopeId("1"), None, Clause((_allow(_EVERYONE),)), "share")
    acl = Acl(scope, Clause((_deny(Principal(_AD, "bob")), _allow(_SALES))))

    decision = require(acl, _caller(_ALICE, _SALES, _EVERYONE), START)

    assert decision.matches == (Match("share", 0, _EVERYONE), Match("own", 1, _SALES))


@pytest.mark.parametrize(
    ("clause", "reason", "detail"),
    [
        (Clause((_deny(_SALES), _allow(_ALICE))), Reason.DENY_RULE, "ad:sales"),
        (Clause((_allow(Principal(_AD, "bob")),)), Reason.NO_RULE, ""),
        (Clause((_allow(_ALICE), _deny(Principal(Realm("entra:t"), "x")))), Reason.INCOMPLETE_REALM, "entra:t"),
    ],
)
def test_a_denial_names_the_clause_and_the_reason(clause: Clause, reason: Reason, detail: str) -> None:
    """The first clause that fails is named, with why."""
    acl = Acl(Scope(ScopeId("17"), None, clause), Clause((_allow(_ALICE),)))

    assert decide(acl, _caller(_ALICE, _SALES), START) == Denied("17", reason, detail)
    with pytest.raises(AccessDeniedError, match="clause `17` denies"):
        require(acl, _caller(_ALICE, _SALES), START)


def test_a_decision_needs_a_moment_with_a_zone() -> None:
    """A moment without a time zone is refused rather than guessed."""
    with pytest.raises(InvalidValueError, match="time zone"):
        decide(Acl(None, NOBODY), _caller(_ALICE), datetime(2030, 1, 1))  # noqa: DTZ001 (the point)


def test_expiry_is_an_instant_and_not_a_clock_face() -> None:
    """In the hour that autumn repeats, a rule that expired in its first pass is not in force in the second."""
    berlin = ZoneInfo("Europe/Berlin")
    expiry = datetime(2030, 10, 27, 2, 30, tzinfo=berlin)
    clause = Clause((_allow(_ALICE, expires_at=expiry),))

    before = decide(Acl(None, clause), _caller(_ALICE), datetime(2030, 10, 27, 2, 15, tzinfo=berlin))
    after = decide(Acl(None, clause), _caller(_ALICE), datetime(2030, 10, 27, 2, 15, fold=1, tzinfo=berlin))

    assert isinstance(before, Allowed)
    assert isinstance(after, Denied)


def test_a_rule_ends_at_its_expiry() -> None:
    """The moment of expiry itself is no longer in force."""
    acl = Acl(None, Clause((_allow(_ALICE, expires_at=START),)))

    assert isinstance(decide(acl, _caller(_ALICE), START - timedelta(microseconds=1)), Allowed)
    assert isinstance(decide(acl, _caller(_ALICE), START), Denied)


@pytest.mark.parametrize(
    ("acl", "state"),
    [
        (Unknown("unread"), AclState.UNKNOWN),
        (Acl(None, NOBODY), AclState.NOBODY),
        (Acl(None, Clause((_deny(_ALICE),))), AclState.NOBODY),
        (Acl(Scope(ScopeId("s"), None, NOBODY), Clause((_allow(_EVERYONE),))), AclState.NOBODY),
        (Acl(None, Clause((_allow(_EVERYONE),))), AclState.CLASS_WIDE),
        (Acl(Scope(ScopeId("s"), None, Clause((_allow(_SALES),))), Clause((_allow(_EVERYONE),))), AclState.RESTRICTED),
        (Acl(None, Clause((_allow(_SALES),))), AclState.RESTRICTED),
    ],
)
def test_the_four_states(acl: Acl | Unknown, state: AclState) -> None:
    """An ACL is unknown, nobody's, class-wide or restricted, never two of these."""
    assert state_of(acl) is state


def test_times_are_kept_in_utc() -> None:
    """Two spellings of one instant make one rule."""
    plus_two = timezone(timedelta(hours=2))

    assert _allow(_ALICE, expires_at=datetime(2030, 1, 1, 2, tzinfo=plus_two)) == _allow(
        _ALICE, expires_at=datetime(2030, 1, 1, tzinfo=UTC)
    )
