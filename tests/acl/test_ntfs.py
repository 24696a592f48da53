"""Windows security descriptors read as Windows reads them. See test_ntfs_oracle for Samba's own word."""

from __future__ import annotations

import struct
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.decide import Allowed, decide
from acl.dialects import ntfs
from acl.dialects.ntfs import Translation, file_clauses, named_in, share_clauses
from acl.errors import InvalidValueError
from acl.model import NOBODY, Acl, Caller, Unknown
from acl.principal import Principal, Realm
from tests.acl.descriptors import Entry, ace, descriptor, sid
from tests.strategies import FAR, START

_AD = Realm("ad")
_NAME = named_in(_AD)
_OWNER, _ALICE, _BOB, _GROUP = (f"S-1-5-21-1-2-3-{n}" for n in (1000, 1101, 1102, 1200))
_EVERYONE = "S-1-1-0"
_ALLOW, _DENY = 0, 1
_INHERITED, _INHERIT_ONLY = 0x10, 0x08
_FULL = ntfs.GENERIC_READ
_WRITE = 0x120116


def _reads(found: Translation | Unknown, *held: str) -> bool:
    caller = Caller("u", frozenset(map(_NAME, (*held, _EVERYONE))), frozenset({_AD}), START, FAR)
    clauses = [NOBODY] if isinstance(found, Unknown) else found.clauses
    return all(isinstance(decide(Acl(None, clause), caller, START + timedelta(1)), Allowed) for clause in clauses)


def test_the_stored_order_decides() -> None:
    """A deny after an allow denies nobody whom the allow let in; before it, it does."""
    canonical = file_clauses(descriptor([(_DENY, 0, _FULL, _ALICE), (_ALLOW, 0, _FULL, _GROUP)]), _NAME)
    otherwise = file_clauses(descriptor([(_ALLOW, 0, _FULL, _GROUP), (_DENY, 0, _FULL, _ALICE)]), _NAME)

    assert not _reads(canonical, _ALICE, _GROUP)
    assert _reads(canonical, _BOB, _GROUP)
    assert _reads(otherwise, _ALICE, _GROUP)


def test_an_explicit_allow_beats_an_inherited_deny() -> None:
    """Inherited or not makes no difference; the place in the list does."""
    found = file_clauses(
        descriptor(
            [(_ALLOW, 0, _FULL, _ALICE), (_DENY, _INHERITED, _FULL, _GROUP), (_ALLOW, _INHERITED, _FULL, _EVERYONE)]
        ),
        _NAME,
    )

    assert _reads(found, _ALICE, _GROUP)
    assert not _reads(found, _BOB, _GROUP)
    assert _reads(found, _BOB)


def test_an_inherit_only_entry_is_not_for_the_object() -> None:
    """An entry for what will be created inside neither grants nor denies here."""
    assert not _reads(file_clauses(descriptor([(_ALLOW, _INHERIT_ONLY, _FULL, _EVERYONE)]), _NAME))
    assert _reads(
        file_clauses(descriptor([(_DENY, _INHERIT_ONLY, _FULL, _EVERYONE), (_ALLOW, 0, _FULL, _EVERYONE)]), _NAME)
    )


def test_an_allow_without_the_read_bit_is_no_read() -> None:
    """Whoever may only write does not read, although an entry names them."""
    found = file_clauses(descriptor([(_ALLOW, 0, _WRITE, _ALICE), (_ALLOW, 0, _FULL, _BOB)]), _NAME)

    assert not _reads(found, _ALICE)
    assert _reads(found, _BOB)


def test_a_denied_write_blocks_the_usual_open() -> None:
    """A deny of writing holds SYNCHRONIZE, which an ordinary open asks for; reading data alone is configured away."""
    data = descriptor([(_DENY, 0, _WRITE, _ALICE), (_ALLOW, 0, _FULL, _EVERYONE)])

    assert not _reads(file_clauses(data, _NAME), _ALICE)
    assert _reads(file_clauses(data, _NAME, ntfs.READ_DATA), _ALICE)
    assert _reads(file_clauses(data, _NAME), _BOB)


def test_bits_may_come_from_different_entries() -> None:
    """Reading data through a group and the rest through the user is reading; each bit has its own clause then."""
    data = descriptor([(_ALLOW, 0, 0x1, _GROUP), (_ALLOW, 0, _FULL & ~0x1, _ALICE)])
    found = file_clauses(data, _NAME)

    assert _reads(found, _ALICE, _GROUP)
    assert not _reads(found, _ALICE)
    assert not _reads(found, _GROUP)
    assert isinstance(found, Translation)
    assert len(found.clauses) == 2


def test_an_empty_list_is_nobodys_and_a_null_list_everyones() -> None:
    """No entry lets nobody in; a DACL that is present and null lets everyone of the realm in, and is reported."""
    null = file_clauses(descriptor(None), _NAME)

    assert not _reads(file_clauses(descriptor([]), _NAME), _OWNER, _ALICE)
    assert _reads(null, _ALICE)
    assert isinstance(null, Translation)
    assert "null DACL" in null.findings[0]


def test_a_descriptor_read_without_its_list_is_unknown() -> None:
    """A DACL that was not sent is not a null one."""
    found = file_clauses(descriptor(None, present=False), _NAME)

    assert isinstance(found, Unknown)
    assert "without its DACL" in found.reason


def test_owner_rights_stand_for_the_owner() -> None:
    """An entry for OWNER RIGHTS speaks of the owner and of nobody else; CREATOR OWNER speaks of nobody."""
    found = file_clauses(descriptor([(_ALLOW, 0, _FULL, "S-1-3-4")], _OWNER), _NAME)
    creator = file_clauses(descriptor([(_ALLOW, 0, _FULL, "S-1-3-0")], _OWNER), _NAME)

    assert _reads(found, _OWNER)
    assert not _reads(found, _ALICE)
    assert not _reads(creator, _OWNER)
    assert isinstance(file_clauses(descriptor([(_ALLOW, 0, _FULL, "S-1-3-4")], None), _NAME), Unknown)


def test_an_owner_does_not_read_by_owning() -> None:
    """The owner may always read the descriptor, never for that reason the data."""
    data = descriptor([(_DENY, 0, 0x20000, _OWNER), (_ALLOW, 0, 0x1, _ALICE)], _OWNER)

    assert not _reads(file_clauses(data, _NAME), _OWNER)
    assert _reads(file_clauses(data, _NAME, ntfs.READ_CONTROL), _OWNER)
    assert not _reads(file_clauses(data, _NAME, ntfs.READ_CONTROL), _ALICE)


def _callback(kind: int, who: str, mask: int = _FULL) -> bytes:
    body = struct.pack("<I", mask) + sid(who) + b"artx" + bytes(4)
    return struct.pack("<BBH", kind, 0, 4 + len(body)) + body


def test_a_conditional_allow_is_left_out() -> None:
    """An allow with a condition gives nothing and is reported; plain entries beside it still count."""
    found = file_clauses(descriptor([(_ALLOW, 0, _FULL, _BOB)], raw=[_callback(0x09, _ALICE)]), _NAME)

    assert not _reads(found, _ALICE)
    assert _reads(found, _BOB)
    assert isinstance(found, Translation)
    assert found.findings == ("entry 1 is a conditional allow, which is left out",)


@pytest.mark.parametrize("kind", [0x0A, 0x0C, 0x11, 0x12, 0x13, 0x14, 0xFF])
def test_nobody_gets_past_an_entry_that_may_deny(kind: int) -> None:
    """A conditional deny, or a kind that is not known, stops everybody whom nothing before it let in."""
    first, second = ace((_ALLOW, 0, _FULL, _BOB)), ace((_ALLOW, 0, _FULL, _ALICE))
    found = file_clauses(descriptor([], raw=[first, _callback(kind, _GROUP), second]), _NAME)

    assert _reads(found, _BOB)
    assert not _reads(found, _ALICE)
    assert isinstance(found, Translation)
    assert len(found.findings) == 1


def test_an_entry_that_denies_something_else_is_no_matter() -> None:
    """A conditional deny of writing alone does not touch readers."""
    found = file_clauses(descriptor([], raw=[_callback(0x0A, _GROUP, 0x2), ace((_ALLOW, 0, _FULL, _ALICE))]), _NAME)

    assert _reads(found, _ALICE)


def test_generic_bits_count_on_a_share_and_not_in_a_stored_entry() -> None:
    """Servers map generic bits when they check a share, and when they store an entry, so not when they check a file."""
    data = descriptor([(_ALLOW, 0, 0x8000_0000, _ALICE)])
    stored = file_clauses(data, _NAME)

    assert _reads(share_clauses(data, _NAME), _ALICE)
    assert not _reads(stored, _ALICE)
    assert isinstance(stored, Translation)
    assert "generic bits" in stored.findings[0]
    assert not _reads(
        share_clauses(descriptor([(_DENY, 0, 0x1000_0000, _ALICE), (_ALLOW, 0, 0x8000_0000, _EVERYONE)]), _NAME), _ALICE
    )


def test_a_servers_own_groups_have_a_realm_of_their_own() -> None:
    """BUILTIN\\\\Users of one server are not those of another, nor the domain's."""
    local = named_in(_AD, Realm("smb:files"))

    assert local("S-1-5-32-545") == Principal(Realm("smb:files"), "S-1-5-32-545")
    assert local(_ALICE) == Principal(_AD, _ALICE)
    assert _NAME("S-1-5-32-545") == Principal(_AD, "S-1-5-32-545")


_GOOD = descriptor([(_ALLOW, 0, _FULL, _ALICE), (_ALLOW, 0, _FULL, _BOB)])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        _GOOD[:19],
        *(_GOOD[:n] for n in range(20, len(_GOOD))),
        b"\2" + _GOOD[1:],
        _GOOD[:2] + b"\4\0" + _GOOD[4:],
        _GOOD[:4] + b"\xff" + _GOOD[5:],
        _GOOD[:16] + b"\1" + _GOOD[17:],
        _GOOD[:16] + b"\xff\xff\xff\xff" + _GOOD[20:],
        _GOOD[:52] + b"\3" + _GOOD[53:],
        _GOOD[:21] + b"\x10" + _GOOD[22:],
    ],
)
def test_a_damaged_descriptor_is_unknown(data: bytes) -> None:
    """Cut short anywhere, or with an offset or a length that lies, it is unknown; whole, it is read."""
    assert isinstance(file_clauses(data, _NAME), Unknown)
    assert _reads(file_clauses(_GOOD, _NAME), _ALICE)


def test_bits_to_ask_for_must_be_some() -> None:
    """Asking for no bit would let everybody in, and generic bits are no bits: both are refused."""
    for required in (0, -1, 0x8000_0000):
        with pytest.raises(InvalidValueError):
            file_clauses(_GOOD, _NAME, required)


@given(st.binary(max_size=200))
def test_random_bytes_are_unknown_or_a_descriptor(data: bytes) -> None:
    """Nothing but a translation or Unknown ever comes of any bytes."""
    assert isinstance(file_clauses(data, _NAME), Translation | Unknown)


_entries: st.SearchStrategy[Entry] = st.tuples(
    st.integers(0, 20),
    st.sampled_from([0, 8, 16, 3]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([_OWNER, _ALICE, "S-1-3-4"]),
)


@given(st.lists(_entries, max_size=5), st.integers(0), st.integers(0, 255), st.booleans())
def test_damaged_bytes_are_unknown_or_a_descriptor(entries: list[Entry], place: int, value: int, cut: bool) -> None:
    """A descriptor with a byte changed, or cut, gives a translation with a clause, or Unknown."""
    data = bytearray(descriptor(entries))
    if cut:
        del data[place % len(data) :]
    else:
        data[place % len(data)] = value

    found = share_clauses(bytes(data), _NAME)

    assert isinstance(found, Unknown) or found.clauses
