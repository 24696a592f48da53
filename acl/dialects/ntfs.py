"""Windows security descriptors as clauses, from their bytes. Reads nothing itself.

"Can read" is a set of access bits, each of which must be granted, as a file system checks an open: see READ. A
descriptor becomes one clause for each distinct way in which its entries decide such a bit; all of them must let a
caller through. For almost every descriptor that is one clause.

Only plain allow and deny entries are understood. Of the rest, what could only allow is left out, and what could deny
ends the clause there, so that nobody gets past it; both are reported. Privileges (backup, take ownership) are not
modelled, nor are central access policies, and the directories above a file are not asked: Windows does not either.
Source: [MS-DTYP] 2.4.2 to 2.4.6 and 2.5.3.2, [MS-FSA] 2.1.5.1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from acl.errors import InvalidValueError
from acl.model import Clause, Effect, Rule, Unknown
from acl.principal import Principal, Realm

READ_DATA: Final = 0x0000_0001
READ_EXTENDED_ATTRIBUTES: Final = 0x0000_0008
READ_ATTRIBUTES: Final = 0x0000_0080
READ_CONTROL: Final = 0x0002_0000
SYNCHRONIZE: Final = 0x0010_0000

READ: Final = READ_DATA | READ_ATTRIBUTES | SYNCHRONIZE
"""What an ordinary open for reading asks for. The default."""

GENERIC_READ: Final = READ | READ_EXTENDED_ATTRIBUTES | READ_CONTROL
"""FILE_GENERIC_READ: what most programs ask for. Stricter."""

# SOURCE: the file generic mapping, [MS-SMB2] 2.2.13.1.1 and winnt.h.
_GENERIC: Final = (
    (0x8000_0000, 0x12_0089),
    (0x4000_0000, 0x12_0116),
    (0x2000_0000, 0x12_00A0),
    (0x1000_0000, 0x1F_01FF),
)
_GENERIC_BITS: Final = 0xF000_0000

# SOURCE: [MS-DTYP] 2.4.6 SECURITY_DESCRIPTOR, 2.4.5 ACL, 2.4.4.1 ACE_HEADER, 2.4.2.2 SID.
_DESCRIPTOR: Final = struct.Struct("<BBHIIII")
_ACL: Final = struct.Struct("<BBHHH")
_ACE: Final = struct.Struct("<BBHI")  # with the mask, which every kind of entry has first
_DACL_PRESENT: Final = 0x0004
_SELF_RELATIVE: Final = 0x8000
_INHERIT_ONLY: Final = 0x08
_ALLOW, _DENY = 0, 1
_PLAIN: Final = frozenset({_ALLOW, _DENY, 0x02, 0x03})  # these are a head, a mask and a SID, and no more
_OBJECT: Final = frozenset({0x05, 0x06})
_ONLY_ALLOW: Final = {0x04: "compound", 0x05: "object", 0x09: "conditional", 0x0B: "conditional object"}
_NO_EFFECT: Final = frozenset({0x02, 0x03, 0x07, 0x08, 0x0D, 0x0E, 0x0F, 0x10})  # audit and alarm
_OWNER_RIGHTS: Final = "S-1-3-4"
_EVERYONE: Final = "S-1-1-0"

_MAX_SUB_AUTHORITIES: Final = 15


@dataclass(frozen=True, slots=True)
class Translation:
    """A descriptor as clauses, all of which must let a caller through; never none.

    findings: what was not understood and how it was read, in sentences for a report.
    """

    clauses: tuple[Clause, ...]
    findings: tuple[str, ...]


Naming = Callable[[str], Principal]
"""Which principal a SID such as `S-1-5-21-1-2-3-1104` is. Raises InvalidValueError: the descriptor is unknown."""


def named_in(domain: Realm, local: Realm | None = None) -> Naming:
    """Name SIDs in a domain's realm, and those of a server's own groups (`S-1-5-32-…`) in `local`, if given.

    Every server has its own Administrators and Users under the same SIDs. Without `local` they are the domain's: only
    for callers who were resolved with the groups of that very server. A directory knows none of them, and a deny of
    theirs would then be missed.
    """

    @lru_cache(maxsize=65_536)
    def name(sid: str) -> Principal:
        return Principal(local if local is not None and sid.startswith("S-1-5-32-") else domain, sid)

    return name


def file_clauses(descriptor: bytes, name: Naming, required: int = READ) -> Translation | Unknown:
    """Who may read the content of a file or folder with this self-relative descriptor.

    The descriptor must have been read with its owner and its DACL. Generic bits in a stored entry grant and deny
    nothing, as on the servers, which map them when an entry is stored; they are reported.
    Unknown, with the reason, when the bytes are damaged or carry no DACL.
    """
    return _translate(descriptor, name, required, map_generic=False)


def share_clauses(descriptor: bytes, name: Naming, required: int = READ) -> Translation | Unknown:
    """Who may connect to a share with this descriptor and read there. Generic bits count as what they stand for."""
    return _translate(descriptor, name, required, map_generic=True)


@dataclass(slots=True)
class _Entry:
    effect: Effect
    bits: int
    principal: Principal | None  # None: whoever it is about, nobody gets past it


def _translate(data: bytes, name: Naming, required: int, *, map_generic: bool) -> Translation | Unknown:
    if not 0 < required < 0x1000_0000:
        raise InvalidValueError(f"{required:#x} are no access bits to ask for")
    findings: list[str] = []
    try:
        owner, dacl = _parts(data)
        if dacl is None:
            # 1. A present but null DACL protects nothing.
            findings.append("has a null DACL, which lets everyone in")
            return Translation((Clause((_rule(Effect.ALLOW, name(_EVERYONE)),)),), tuple(findings))
        entries = _entries(data, dacl, owner, name, required, map_generic, findings)
        return Translation(_clauses(entries, required), tuple(findings))
    except struct.error:
        return Unknown("a security descriptor is cut short")
    except _DamagedError as err:
        return Unknown(f"a security descriptor {err}")
    except InvalidValueError as err:
        return Unknown(f"a security descriptor names nobody that can be: {err}")


class _DamagedError(Exception):
    """What is wrong with a descriptor; ends a sentence."""


def _parts(data: bytes) -> tuple[str | None, int | None]:
    revision, _, control, owner_at, group_at, sacl_at, dacl_at = _DESCRIPTOR.unpack_from(data)
    if revision != 1:
        raise _DamagedError(f"is of revision {revision}")
    if not control & _SELF_RELATIVE:
        raise _DamagedError("is not self-relative")
    if not control & _DACL_PRESENT:
        # Not the same as a null DACL: what was not sent is not known. [MS-DTYP] would let everyone in.
        raise _DamagedError("was read without its DACL")
    # Group and audit entries decide nothing, but bytes that are damaged there are damaged.
    if group_at:
        _sid(data, group_at, len(data))
    if sacl_at:
        _list_bounds(data, sacl_at)
    owner = _sid(data, owner_at, len(data))[0] if owner_at else None
    return owner, dacl_at or None


def _list_bounds(data: bytes, at: int) -> tuple[int, int]:
    revision, _, size, count, reserved = _ACL.unpack_from(data, at)
    if at < _DESCRIPTOR.size or revision not in (2, 4) or reserved or size < _ACL.size or at + size > len(data):
        raise _DamagedError("has a list of entries that is damaged")
    return at + size, count


def _entries(
    data: bytes, at: int, owner: str | None, name: Naming, required: int, map_generic: bool, findings: list[str]
) -> list[_Entry]:
    end, count = _list_bounds(data, at)
    place = at + _ACL.size
    found: list[_Entry] = []
    # 2. Entries decide in the order in which they are stored, canonical or not.
    for number in range(count):
        kind, flags, length, mask = _ACE.unpack_from(data, place)
        after = place + length
        if length < _ACE.size or after > end:
            raise _DamagedError(f"has a damaged entry {number}")
        sid_at, place = place + _ACE.size, after
        if kind in _OBJECT and sid_at < after:
            # What it is about comes first; only whether its SID is whole matters here.
            sid_at += 4 + 16 * (data[sid_at] & 3).bit_count()
        sid, stop = _sid(data, sid_at, after) if kind in _PLAIN or kind in _OBJECT else ("", after)
        if stop != after:
            raise _DamagedError(f"has a damaged entry {number}")
        # 3. An inherit-only entry is for what will be created inside, not for this object.
        if flags & _INHERIT_ONLY or kind in _NO_EFFECT:
            continue
        if mask & _GENERIC_BITS:
            if map_generic:
                mask |= _mapped(mask)
            elif _mapped(mask) & required & ~mask:
                findings.append(f"entry {number} has generic bits, which stand for nothing in a stored entry")
        if not mask & required:
            continue
        # 4. An entry that is not understood gives nothing, and nobody gets past it if it could deny.
        if kind in _ONLY_ALLOW:
            findings.append(f"entry {number} is a {_ONLY_ALLOW[kind]} allow, which is left out")
            continue
        if kind not in (_ALLOW, _DENY):
            findings.append(f"entry {number} is of kind {kind:#x}, which may deny anybody: nobody gets past it")
            found.append(_Entry(Effect.DENY, mask & required, None))
            continue
        # 5. OWNER RIGHTS stands for the owner.
        if sid == _OWNER_RIGHTS:
            if owner is None:
                raise _DamagedError("has an entry for its owner and was read without one")
            sid = owner
        effect = Effect.ALLOW if kind == _ALLOW else Effect.DENY
        found.append(_Entry(effect, mask & required, name(sid)))
    if owner is not None and required & READ_CONTROL and not _speaks_of_owner(data, at, count):
        # 6. Unless an entry speaks of it, an owner may always read the descriptor.
        found.insert(0, _Entry(Effect.ALLOW, READ_CONTROL, name(owner)))
    return found


def _speaks_of_owner(data: bytes, at: int, count: int) -> bool:
    place = at + _ACL.size
    for _ in range(count):
        _, flags, length, _ = _ACE.unpack_from(data, place)
        if not flags & _INHERIT_ONLY and data.startswith(_OWNER_RIGHTS_BYTES, place + _ACE.size):
            return True
        place += length
    return False


_OWNER_RIGHTS_BYTES: Final = bytes((1, 1, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0))


def _clauses(entries: list[_Entry], required: int) -> tuple[Clause, ...]:
    found: dict[tuple[int, ...], Clause] = {}
    # 7. Every required bit must be granted: for each one, the first entry with that bit that names the caller decides.
    for shift in range(required.bit_length()):
        bit = 1 << shift
        if required & bit:
            deciding = tuple(number for number, entry in enumerate(entries) if entry.bits & bit)
            if deciding not in found:
                found[deciding] = _clause([entries[number] for number in deciding])
    return tuple(found.values()) if len(found) == 1 else tuple(dict.fromkeys(found.values()))


def _clause(entries: list[_Entry]) -> Clause:
    rules: list[Rule] = []
    effect, principals = Effect.ALLOW, set[Principal]()
    for entry in entries:
        if entry.effect is not effect and principals:
            rules.append(Rule(effect, frozenset(principals)))
            principals = set()
        if entry.principal is None:
            break
        effect = entry.effect
        principals.add(entry.principal)
    if principals:
        rules.append(Rule(effect, frozenset(principals)))
    return Clause(tuple(rules))


def _rule(effect: Effect, principal: Principal) -> Rule:
    return Rule(effect, frozenset((principal,)))


def _mapped(mask: int) -> int:
    bits = 0
    for generic, meaning in _GENERIC:
        if mask & generic:
            bits |= meaning
    return bits


def _sid(data: bytes, at: int, end: int) -> tuple[str, int]:
    if not _DESCRIPTOR.size <= at <= end - 8:
        raise _DamagedError("has a SID outside its bounds")
    size = 8 + 4 * data[at + 1]
    if at + size > end:
        raise _DamagedError("has a SID that is cut short")
    return _sid_text(data[at : at + size]), at + size


@lru_cache(maxsize=65_536)
def _sid_text(raw: bytes) -> str:
    if raw[0] != 1 or raw[1] > _MAX_SUB_AUTHORITIES:
        raise _DamagedError("has a SID that is none")
    authority = int.from_bytes(raw[2:8], "big")
    # SOURCE: [MS-DTYP] 2.4.2.1: from 2^32 on the authority is written in hexadecimal.
    first = str(authority) if authority < 1 << 32 else f"0x{authority:012X}"
    return "-".join(["S-1", first, *map(str, struct.unpack_from(f"<{raw[1]}I", raw, 8))])
