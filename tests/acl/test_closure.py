"""Membership is transitive, survives circles, and says how."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from acl.closure import Memberships
from acl.principal import Principal, Realm

_AD, _SITE, _POSIX = Realm("ad"), Realm("spo:site"), Realm("posix:corp")


def _p(name: str, where: Realm = _AD) -> Principal:
    return Principal(where, name)


def test_a_path_says_how_a_group_is_held() -> None:
    """The closure goes through groups in groups, over several directories, and keeps a shortest way."""
    people = {_p("alice"): [_p("fin-emea"), _p("all")], _p("fin-emea"): [_p("finance")], _p("finance"): [_p("all")]}
    site = {_p("finance"): [_p("members", _SITE)]}

    found = Memberships(people, site).closure([_p("alice")], frozenset({_AD, _SITE}))

    assert found.path(_p("finance")) == (_p("alice"), _p("fin-emea"), _p("finance"))
    assert found.path(_p("members", _SITE))[-2:] == (_p("finance"), _p("members", _SITE))
    assert found.path(_p("all")) == (_p("alice"), _p("all"))
    assert found.path(_p("legal")) == ()
    assert found.principals == {_p(n) for n in ("alice", "fin-emea", "finance", "all")} | {_p("members", _SITE)}


def test_circles_end() -> None:
    """Groups that contain each other, or themselves, are each held once."""
    found = Memberships({_p("u"): [_p("a")], _p("a"): [_p("b"), _p("a")], _p("b"): [_p("a")]}).closure(
        [_p("u")], frozenset({_AD})
    )

    assert found.principals == {_p("u"), _p("a"), _p("b")}


def test_membership_does_not_go_downwards() -> None:
    """A group's members and its other groups are not the caller's."""
    found = Memberships({_p("u"): [_p("a")], _p("v"): [_p("a"), _p("b")]}).closure([_p("u")], frozenset({_AD}))

    assert found.principals == {_p("u"), _p("a")}


def test_an_incomplete_realm_spreads_to_the_groups_that_hold_its_members() -> None:
    """When a directory is incomplete, so are the groups elsewhere that its principals may be in; others are not."""
    memberships = Memberships({_p("staff"): [_p("members", _SITE)], _p("members", _SITE): [_p("x", Realm("wiki"))]})
    everything = frozenset({_AD, _SITE, _POSIX, Realm("wiki")})

    assert memberships.closure([_p("u")], everything).complete == everything
    assert memberships.closure([_p("u")], everything - {_AD}).complete == {_POSIX}
    assert memberships.closure([_p("u")], everything - {_POSIX}).complete == everything - {_POSIX}


_principals = st.sampled_from([_p(name, where) for where in (_AD, _SITE) for name in "abcd"])


@given(st.dictionaries(_principals, st.lists(_principals, max_size=3)), st.lists(_principals, max_size=2))
def test_the_closure_is_what_can_be_reached(edges: dict[Principal, list[Principal]], start: list[Principal]) -> None:
    """It equals the fixed point of one step, and every path is a way along memberships."""
    reached = set(start)
    while True:
        step = reached | {group for member in reached for group in edges.get(member, ())}
        if step == reached:
            break
        reached = step

    found = Memberships(edges).closure(start, frozenset())

    assert found.principals == reached
    for principal in reached:
        path = found.path(principal)
        assert path[0] in start
        assert path[-1] == principal
        assert all(b in edges[a] for a, b in itertools.pairwise(path))


def test_a_long_chain_is_followed() -> None:
    """A chain of 20,000 groups is followed to its end, without recursion."""
    groups = [_p(str(n)) for n in range(20_000)]
    memberships = Memberships({a: [b] for a, b in itertools.pairwise(groups)})

    found = memberships.closure([groups[0]], frozenset({_AD}))

    assert len(found.path(groups[-1])) == 20_000


_edges = st.lists(st.tuples(_principals, st.frozensets(_principals, max_size=4)), max_size=12)


@given(_edges, st.frozensets(_principals, max_size=3), st.frozensets(st.sampled_from([_AD, _SITE])))
def test_groups_that_are_put_again_and_again_are_as_if_only_the_last_had_been(
    puts: list[tuple[Principal, frozenset[Principal]]],
    start: frozenset[Principal],
    complete: frozenset[Realm],
) -> None:
    """In any order, with groups that are emptied and filled: the same as building it of what is left."""
    patched = Memberships()
    for group, members in puts[:6]:
        patched.put({group: members})
    patched.put(dict(puts[6:]))
    left: dict[Principal, list[Principal]] = {}
    for group, members in (dict(puts[:6]) | dict(puts[6:])).items():
        for member in members:
            left.setdefault(member, []).append(group)

    assert patched.closure(start, complete) == Memberships(left).closure(start, complete)


@given(_edges, _edges, st.frozensets(_principals, max_size=3), st.frozensets(st.sampled_from([_AD, _SITE])), st.data())
def test_what_is_certain_is_so_whichever_of_the_doubtful_memberships_are(
    certain: list[tuple[Principal, frozenset[Principal]]],
    doubtful: list[tuple[Principal, frozenset[Principal]]],
    start: frozenset[Principal],
    complete: frozenset[Realm],
    data: st.DataObject,
) -> None:
    """With any part of them, everything certain is reached, nothing beyond the doubtful, and no realm is less known."""
    some = {
        (group, member) for group, members in dict(doubtful).items() for member in members if data.draw(st.booleans())
    }
    sure, maybe, true = Memberships(), Memberships(), Memberships()
    sure.put(dict(certain))
    maybe.put(dict(doubtful))
    true.put(
        {
            group: dict(certain).get(group, frozenset()) | {member for of, member in some if of == group}
            for group in {*dict(certain), *dict(doubtful)}
        }
    )
    least = sure.closure(start, complete)

    more, known = sure.beyond(least, maybe)

    found = true.closure(start, complete)
    assert least.principals <= found.principals <= least.principals | more
    assert known <= found.complete
