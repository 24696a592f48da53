"""Rows become scopes, or unknown with the reason."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from acl.model import MAX_DEPTH, NOBODY, Acl, Clause, Effect, Rule, ScopeId, Unknown
from acl.principal import Principal, Realm
from acl.scopes import ScopeRow, ScopeTree
from tests.acl.reference import chain
from tests.strategies import clauses

_SOME = Clause((Rule(Effect.ALLOW, frozenset({Principal(Realm("ad"), "a")})),))


def _row(name: str, parent: str | None, clause: Clause | Unknown = _SOME) -> ScopeRow:
    return ScopeRow(ScopeId(name), None if parent is None else ScopeId(parent), clause)


def test_a_document_gets_its_chain() -> None:
    """The scopes around a document come outermost first, whatever the order of the rows."""
    tree = ScopeTree([_row("c", "b"), _row("a", None), _row("b", "a"), _row("z", "y")])

    found = tree.acl(ScopeId("c"), NOBODY)

    assert isinstance(found, Acl)
    assert found.scope is not None
    assert [scope.id for scope in found.scope.chain()] == ["a", "b", "c"]
    assert tree.acl(None, _SOME) == Acl(None, _SOME)


def test_what_dangles_or_circles_is_unknown() -> None:
    """A missing scope, a scope inside itself and everything inside these is unknown, and says why."""
    tree = ScopeTree([_row("in", "gone"), _row("a", "b"), _row("b", "a"), _row("below", "a"), _row("self", "self")])

    for name, why in [
        ("in", "`gone` is not known"),
        ("gone", "not known"),
        ("below", "inside itself"),
        ("self", "itself"),
    ]:
        found = tree.acl(ScopeId(name), _SOME)
        assert isinstance(found, Unknown)
        assert why in found.reason


def test_what_is_not_understood_reaches_everything_inside() -> None:
    """A scope whose rules are unknown makes what lies in it unknown, with its reason."""
    tree = ScopeTree([_row("a", None, Unknown("unreadable")), _row("b", "a"), _row("ok", None)])

    found = tree.acl(ScopeId("b"), _SOME)

    assert isinstance(found, Unknown)
    assert "unreadable" in found.reason
    assert tree.acl(ScopeId("b"), Unknown("also")) == found
    assert tree.acl(ScopeId("ok"), Unknown("also")) == Unknown("also")
    assert isinstance(tree.acl(ScopeId("ok"), _SOME), Acl)


def test_a_scope_stored_twice_differently_is_unknown() -> None:
    """Of two rows for one scope neither is believed; two equal rows are one."""
    tree = ScopeTree([_row("a", None), _row("a", None, NOBODY), _row("b", "a"), _row("c", None), _row("c", None)])

    assert isinstance(tree.scope(ScopeId("b")), Unknown)
    assert not isinstance(tree.scope(ScopeId("c")), Unknown)


def test_a_chain_that_is_too_deep_is_unknown() -> None:
    """The deepest scope that is allowed is a scope, the next is unknown; nothing is exhausted by 50,000 of them."""
    tree = ScopeTree([_row(str(n), str(n - 1) if n else None) for n in range(50_000)])

    assert isinstance(tree.scope(ScopeId("49999")), Unknown)
    assert not isinstance(tree.scope(ScopeId(str(MAX_DEPTH))), Unknown)
    assert isinstance(tree.scope(ScopeId(str(MAX_DEPTH + 1))), Unknown)


_NAMES = [ScopeId(name) for name in "abcde"]


@given(
    st.lists(
        st.tuples(st.sampled_from(_NAMES), st.sampled_from([None, *_NAMES]), clauses | st.just(None)),
        unique_by=lambda row: row[0],
    )
)
def test_a_tree_is_what_its_rows_say(rows: list[tuple[ScopeId, ScopeId | None, Clause | None]]) -> None:
    """Whatever is asked first, a scope is known exactly when its chain is whole, and then has these clauses."""
    tree = ScopeTree([ScopeRow(n, p, Unknown("?") if c is None else c) for n, p, c in rows])
    plain: dict[str, tuple[str | None, Any]] = {name: (parent, clause) for name, parent, clause in rows}

    for name in [*_NAMES, *reversed(_NAMES)]:
        found = tree.scope(name)
        expected = chain(plain, name)
        assert (None if isinstance(found, Unknown) else [s.clause for s in found.chain()][::-1]) == expected
