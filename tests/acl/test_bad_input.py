"""What cannot be read or understood is nobody's, with the reason, and nothing else happens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.changes import AclPut, Change, DocumentPut, ScopePut
from acl.decide import Allowed, Denied, Reason, decide
from acl.dialects.ntfs import Translation, file_clauses, named_in, share_clauses
from acl.dialects.posix import directory_clause, file_clause
from acl.errors import DecodeError, InvalidValueError
from acl.model import NOBODY, AclId, Caller, Clause, Effect, Rule, ScopeId, Unknown, clause_of
from acl.normalize import decode, encode
from acl.principal import Principal, Realm, realm
from acl.readable import ReadableIndex
from tests.acl.descriptors import descriptor
from tests.acl.posix_acls import acl
from tests.strategies import FAR, START

_AD = Realm("ad")
_ALICE = Principal(_AD, "alice")
_CALLER = Caller("alice", frozenset({_ALICE}), frozenset({_AD}), START, FAR)
_ALLOW = Rule(Effect.ALLOW, frozenset({_ALICE}))
_OPEN = Clause((_ALLOW,))
_NAME = named_in(_AD)


def _decoded(data: bytes) -> Clause | Unknown:
    """As a store reads its clauses."""
    try:
        return decode(data)
    except DecodeError as err:
        return Unknown(str(err))


def _first(found: Translation | Unknown) -> Clause | Unknown:
    return found if isinstance(found, Unknown) else found.clauses[0]


_POSIX = acl(6, 4, 4, users=[(7, 4)], mask=4)
_NTFS = descriptor([(0, 0, 0x1F01FF, "S-1-1-0")])
_BAD: dict[str, tuple[Clause | Unknown, str]] = {
    "a clause of another version": (_decoded(b"\2" + encode(_OPEN)[1:]), "version 2"),
    "a clause cut short": (_decoded(encode(_OPEN)[:-1]), "cut short"),
    "a clause with more behind it": (_decoded(encode(_OPEN) + b"\0"), "left over"),
    "a clause of 10,000 rules": (clause_of([_ALLOW] * 10_000), "10000 rules"),
    "a POSIX ACL of another version": (file_clause(0o644, 1, 2, b"\3" + _POSIX[1:], "corp"), "version"),
    "a POSIX ACL cut short": (file_clause(0o644, 1, 2, _POSIX[:-1], "corp"), ""),
    "a descriptor cut short": (_first(file_clauses(_NTFS[:-1], _NAME)), ""),
    "a descriptor of another revision": (_first(file_clauses(b"\2" + _NTFS[1:], _NAME)), ""),
}


@pytest.mark.parametrize("what", _BAD)
def test_bad_input_is_nobodys_with_its_reason(what: str) -> None:
    """It is unknown with a reason, and nobody's, be it a document's rules or a container's; its neighbour is read."""
    found, why = _BAD[what]
    assert isinstance(found, Unknown)
    assert found.reason
    assert why in found.reason
    index = ReadableIndex()
    changes: list[Change] = [
        ScopePut(ScopeId("bad"), None, found),
        AclPut(AclId(1), None, found),
        AclPut(AclId(2), ScopeId("bad"), _OPEN),
        AclPut(AclId(3), None, _OPEN),
    ]
    index.apply("source", changes + [DocumentPut(n, AclId(n), ((n, n + 1),)) for n in (1, 2, 3)])

    decisions = [decide(index.acl(AclId(n)), _CALLER, START) for n in (1, 2, 3)]

    assert set(index.readable(_CALLER, START).documents) == {3}
    assert isinstance(decisions[2], Allowed)
    for decision in decisions[:2]:
        assert isinstance(decision, Denied)
        assert decision.reason is Reason.UNKNOWN
        assert found.reason in decision.detail


def test_scopes_in_a_circle_are_nobodys_with_the_reason() -> None:
    """A circle of scopes is unknown to `decide` and closed to `readable`; a scope beside it is open."""
    index = ReadableIndex()
    rows = {"a": "b", "b": "c", "c": "a", "alone": None}
    puts: list[Change] = [ScopePut(ScopeId(name), ScopeId(up) if up else None, _OPEN) for name, up in rows.items()]
    index.apply("source", [*puts, AclPut(AclId(1), ScopeId("a"), _OPEN), AclPut(AclId(2), ScopeId("alone"), _OPEN)])

    decision = decide(index.acl(AclId(1)), _CALLER, START)

    assert isinstance(decision, Denied)
    assert "inside itself" in decision.detail
    assert set(index.readable(_CALLER, START).acl_ids) == {2}


_PARSERS: dict[str, Callable[[bytes], object]] = {
    "stored clause": _decoded,
    "POSIX file": lambda data: file_clause(0o664, 1, 2, data, "corp"),
    "POSIX folder": lambda data: directory_clause(0o775, 1, 2, data, "corp"),
    "NTFS file": lambda data: _first(file_clauses(data, _NAME)),
    "NTFS share": lambda data: _first(share_clauses(data, _NAME)),
}
_WHOLE = {
    "stored clause": encode(Clause((_ALLOW, Rule(Effect.DENY, frozenset({_ALICE}), FAR), _ALLOW))),
    "POSIX file": _POSIX,
    "POSIX folder": _POSIX,
    "NTFS file": _NTFS,
    "NTFS share": _NTFS,
}


@st.composite
def _damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with pieces replaced, left out, repeated and put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start, size = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        data[start : start + size] = draw(st.one_of(st.binary(max_size=8), st.just(bytes(data[start : start + 20]))))
    return bytes(data)


@pytest.mark.parametrize("parser", _PARSERS)
@given(data=st.data())
def test_no_bytes_escape_a_parser(parser: str, data: st.DataObject) -> None:
    """Random and damaged bytes give a clause or Unknown with a reason, and no exception that nobody expects."""
    sent = data.draw(st.one_of(st.binary(max_size=120), _damaged(_WHOLE[parser])))

    found = _PARSERS[parser](sent)

    assert isinstance(found, Clause) or (isinstance(found, Unknown) and found.reason)


_ANY_TEXT = st.text(st.characters(), max_size=20) | st.text(st.characters(categories=["Cs", "Cc", "Lu"]), max_size=4)


@given(_ANY_TEXT, _ANY_TEXT)
def test_no_text_escapes_a_principal(where: str, name: str) -> None:
    """Any two texts, half characters included, are a principal whose token is read back, or are refused."""
    builders: list[Callable[[], Principal]] = [
        lambda: Principal(Realm(where), name),
        lambda: Principal(Realm("ad"), name),
        lambda: Principal.parse(f"{where}:{name}"),
        lambda: Principal.parse(f"ad:{name}"),
        lambda: Principal(realm(where, name), "x"),
    ]
    for build in builders:
        try:
            found = build()
        except InvalidValueError:
            continue
        assert Principal.parse(found.token) == found


def test_nobody_is_not_unknown() -> None:
    """A clause that lets nobody through is understood, and stored and read back as such."""
    assert decode(encode(NOBODY)) == NOBODY
