"""Mode bits and POSIX ACLs read as the kernel reads them. See test_posix_oracle for the kernel's own word."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.decide import Allowed, decide
from acl.dialects.posix import directory_clause, file_clause
from acl.errors import InvalidValueError
from acl.model import Acl, Caller, Clause, Unknown
from acl.principal import Principal, Realm
from tests.acl.posix_acls import GROUP, MASK, NAMED_GROUP, NO_ID, OTHER, OWNER, USER, acl, packed
from tests.strategies import FAR, START

_POSIX = Realm("posix:corp")


def _reads(clause: Clause | Unknown, *ids: str) -> bool:
    held = frozenset(Principal(_POSIX, name) for name in (*ids, "other"))
    caller = Caller("u", held, frozenset({_POSIX}), START, FAR)
    access = clause if isinstance(clause, Unknown) else Acl(None, clause)
    return isinstance(decide(access, caller, START + timedelta(1)), Allowed)


def test_the_owners_bits_are_the_owners_only_bits() -> None:
    """An owner without `r` does not read through the group or other, while others do."""
    clause = file_clause(0o077, 1, 2, None, "corp")

    assert not _reads(clause, "uid-1", "gid-2")
    assert _reads(clause, "uid-9", "gid-2")
    assert _reads(clause, "uid-9")


def test_a_group_without_bits_is_not_other() -> None:
    """A member of the owning group with `---` does not read through other, while strangers do."""
    clause = file_clause(0o604, 1, 2, None, "corp")

    assert not _reads(clause, "uid-9", "gid-2")
    assert _reads(clause, "uid-9", "gid-3")


def test_a_directory_needs_its_search_bit() -> None:
    """A directory is passed by `x`; `r` is neither enough nor needed. A file is the other way round."""
    assert _reads(directory_clause(0o711, 1, 2, None, "corp"), "uid-9")
    assert not _reads(directory_clause(0o744, 1, 2, None, "corp"), "uid-9")
    assert not _reads(file_clause(0o711, 1, 2, None, "corp"), "uid-9")
    assert _reads(file_clause(0o744, 1, 2, None, "corp"), "uid-9")


def test_a_named_user_is_shut_out_although_its_group_is_let_in() -> None:
    """A named user's `---` wins over a group's `r`, for that user alone."""
    clause = file_clause(0o640, 1, 2, acl(6, 4, 0, users=[(5, 0)], groups=[(7, 4)], mask=4), "corp")

    assert not _reads(clause, "uid-5", "gid-2", "gid-7")
    assert _reads(clause, "uid-6", "gid-7")


def test_one_group_that_grants_is_enough() -> None:
    """Of several matching groups any one that grants lets in; when none does, other is not asked."""
    clause = file_clause(0o644, 1, 2, acl(6, 0, 4, groups=[(7, 4)], mask=4), "corp")

    assert _reads(clause, "uid-9", "gid-2", "gid-7")
    assert not _reads(clause, "uid-9", "gid-2")
    assert _reads(clause, "uid-9")


def test_the_mask_limits_everybody_named() -> None:
    """Without `r` in the mask neither named users nor groups read; owner and other do not care."""
    clause = file_clause(0o614, 1, 2, acl(6, 4, 4, users=[(5, 4)], groups=[(7, 4)], mask=1), "corp")

    assert not _reads(clause, "uid-5")
    assert not _reads(clause, "uid-9", "gid-7")
    assert not _reads(clause, "uid-9", "gid-2")
    assert _reads(clause, "uid-1")
    assert _reads(clause, "uid-9")


def test_a_mask_of_zero_switches_the_acl_off() -> None:
    """With a mask of `---` the kernel does not look at the ACL: a user listed as `---` reads through other."""
    clause = file_clause(0o604, 1, 2, acl(6, 4, 4, users=[(5, 0)], groups=[(7, 0)], mask=0), "corp")

    assert _reads(clause, "uid-5")
    assert _reads(clause, "uid-9", "gid-7")
    assert not _reads(clause, "uid-9", "gid-2")


def test_id_domains_do_not_mix() -> None:
    """The same numbers in another id domain are somebody else, and its `other` is not ours."""
    clause = file_clause(0o644, 1, 2, None, "partner")

    assert not _reads(clause, "uid-1", "gid-2")


_WHOLE = [(OWNER, 6, NO_ID), (USER, 4, 5), (GROUP, 4, NO_ID), (MASK, 4, NO_ID), (OTHER, 0, NO_ID)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cut short"),
        (packed(_WHOLE)[:-1], "cut short"),
        (packed(_WHOLE) + b"\0", "cut short"),
        (packed(_WHOLE, version=1), "version 1"),
        (packed(_WHOLE, version=3), "version 3"),
        (packed([]), "without entries"),
        (packed(_WHOLE[:1] + _WHOLE[2:4]), "without entries"),
        (packed([*_WHOLE[:3], _WHOLE[4]]), "no mask"),
        (packed([_WHOLE[1], _WHOLE[0], *_WHOLE[2:]]), "out of order"),
        (packed([_WHOLE[0], *_WHOLE]), "out of order"),
        (packed([*_WHOLE[:2], _WHOLE[1], *_WHOLE[2:]]), "two entries"),
        (packed([_WHOLE[0], (USER, 8, 5), *_WHOLE[2:]]), "permissions 0x8"),
        (packed([_WHOLE[0], (USER, 4, NO_ID), *_WHOLE[2:]]), "without an id"),
        (packed([*_WHOLE, (0x40, 4, 5)]), "kind 0x40"),
        (packed([_WHOLE[0], (0x03, 4, 5), *_WHOLE[2:]]), "kind 0x3"),
    ],
)
def test_a_damaged_acl_is_unknown(data: bytes, why: str) -> None:
    """What is not exactly an ACL is unknown, with the reason; the whole one is read."""
    found = file_clause(0o640, 1, 2, data, "corp")

    assert isinstance(found, Unknown)
    assert why in found.reason
    assert not isinstance(file_clause(0o640, 1, 2, packed(_WHOLE), "corp"), Unknown)


@pytest.mark.parametrize("mode", [0o440, 0o650, 0o644])
def test_mode_and_acl_that_contradict_each_other_are_unknown(mode: int) -> None:
    """Read at two moments, or of a file system that does not keep them in step: nobody knows which one is true."""
    assert isinstance(file_clause(mode, 1, 2, packed(_WHOLE), "corp"), Unknown)


@pytest.mark.parametrize(("uid", "gid"), [(-1, 2), (1, -1), (2**32 - 1, 2), (1, 2**32)])
def test_an_owner_that_is_no_id_is_unknown(uid: int, gid: int) -> None:
    """An owner or a group outside the range of ids makes the clause unknown."""
    assert isinstance(file_clause(0o644, uid, gid, None, "corp"), Unknown)


def test_a_bad_id_domain_is_refused() -> None:
    """An id domain that no realm can carry is a mistake of the configuration, not of the file."""
    with pytest.raises(InvalidValueError, match="not a realm"):
        file_clause(0o644, 1, 2, None, "corp domain")


@given(st.integers(0, 0o7777), st.binary(max_size=80))
def test_random_bytes_are_unknown_or_an_acl(mode: int, data: bytes) -> None:
    """Nothing but a clause or Unknown ever comes of any bytes."""
    assert isinstance(file_clause(mode, 1, 2, data, "corp"), Clause | Unknown)


_entries = st.tuples(
    st.sampled_from([OWNER, USER, GROUP, NAMED_GROUP, MASK, OTHER, 0x40]), st.integers(0, 8), st.integers(0, 3)
)


@given(st.lists(_entries, max_size=8).map(sorted), st.integers(0, 0o777))
def test_entries_of_any_kind_are_unknown_or_an_acl(entries: list[tuple[int, int, int]], mode: int) -> None:
    """Well-formed entries in any number give a clause of the right realm, or Unknown."""
    found = directory_clause(mode, 1, 2, packed(entries), "corp")

    assert isinstance(found, Unknown) or found.realms == {_POSIX}
