"""A principal has one token, and a token one principal."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.errors import InvalidValueError
from acl.principal import Principal, Realm, realm

_ids = st.text(min_size=1, max_size=40)
_realms = st.sampled_from([Realm("ad"), Realm("posix:corp"), Realm("posix:Corp"), Realm("entra:1-2")])


@given(_realms, _ids)
def test_a_token_is_read_back(where: Realm, name: str) -> None:
    """`parse` gives what `.token` was made of, whatever the id holds."""
    try:
        principal = Principal(where, name)
    except InvalidValueError:
        assert any(0xD800 <= ord(c) <= 0xDFFF for c in name)
        return
    assert Principal.parse(principal.token) == principal


@given(_realms, _ids, _realms, _ids)
def test_different_principals_have_different_tokens(a: Realm, b: str, c: Realm, d: str) -> None:
    """No two principals share a token, not even with colons and percent signs in their ids."""
    one, other = Principal(a, b), Principal(c, d)

    assert (one.token == other.token) == (one == other)


@given(st.text(max_size=30))
def test_other_texts_are_no_tokens(text: str) -> None:
    """`parse` raises its own error, or the text is exactly the token of what it gives."""
    try:
        found = Principal.parse(text)
    except InvalidValueError:
        return
    assert found.token == text


@pytest.mark.parametrize("token", ["alice", "ad:", ":a", "AD:a", "ad:%41", "ad:a%zz", "ad:a b", "ad:%ff", "ad:a:b:c"])
def test_a_doubtful_token_is_refused(token: str) -> None:
    """A token that is not in canonical form is refused."""
    with pytest.raises(InvalidValueError):
        Principal.parse(token)


@pytest.mark.parametrize(("system", "domain"), [("", ""), ("a:b", ""), ("ad", "x:y"), ("ad", "x y"), ("Ad", "")])
def test_a_doubtful_realm_is_refused(system: str, domain: str) -> None:
    """A realm that could be read in two ways is refused."""
    with pytest.raises(InvalidValueError):
        realm(system, domain)


def test_case_and_spelling_make_different_principals() -> None:
    """Nothing is folded: another case or another spelling of an umlaut is another principal."""
    names = ["Müller", "Mu\u0308ller", "müller", "muller", "Müller "]

    assert len({Principal(Realm("ad"), name) for name in names}) == len(names)


def test_no_way_around_the_checks() -> None:
    """The ways of a tuple to copy itself build checked principals too."""
    good = Principal(Realm("ad"), "alice")

    assert pickle.loads(pickle.dumps(good)) == good
    with pytest.raises(InvalidValueError):
        good._replace(id="")
    with pytest.raises(InvalidValueError):
        Principal._make(["AD", "x"])


def test_classes_are_known_by_realm() -> None:
    """`other` is a class in a posix realm and a mere name in another."""
    assert Principal(Realm("posix:corp"), "other").is_class
    assert Principal(Realm("ad"), "S-1-1-0").is_class
    assert not Principal(Realm("ad"), "other").is_class
