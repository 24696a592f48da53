"""Mode bits and POSIX ACLs as clauses, deciding exactly as the Linux kernel decides. Reads nothing itself.

Not modelled: uid 0 and capabilities, security modules, user namespaces, idmapped mounts, NFS exports.
An unmapped id shows as the overflow id (65534) and is taken at its word.
Source: `acl_permission_check` in fs/namei.c and `posix_acl_permission` in fs/posix_acl.c of Linux 6.x.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from acl.model import Clause, Effect, Rule, Unknown
from acl.principal import Principal, Realm, realm

READ: Final = 4
SEARCH: Final = 1

_NO_ID: Final = 0xFFFFFFFF

# SOURCE: include/uapi/linux/posix_acl_xattr.h and posix_acl.h; always little-endian.
_HEAD: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_VERSION: Final = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


def file_clause(st_mode: int, uid: int, gid: int, acl: bytes | None, id_domain: str) -> Clause | Unknown:
    """Who may read the content of a file with these attributes, the directories above it aside.

    acl: the value of `system.posix_acl_access`, or None when the file has none.
    id_domain: uids and gids mean something only within one; principals are of realm `posix:<id_domain>`.
    Unknown when the attributes are damaged or contradict each other. Raises InvalidValueError for a bad `id_domain`.
    """
    return _clause(READ, st_mode, uid, gid, acl, id_domain)


def directory_clause(st_mode: int, uid: int, gid: int, acl: bytes | None, id_domain: str) -> Clause | Unknown:
    """Who may pass through a directory with these attributes to a name inside it. Listing it is not asked.

    Arguments and errors as for `file_clause`.
    """
    return _clause(SEARCH, st_mode, uid, gid, acl, id_domain)


def _clause(want: int, st_mode: int, uid: int, gid: int, acl: bytes | None, id_domain: str) -> Clause | Unknown:
    where = realm("posix", id_domain)
    if not (0 <= uid < _NO_ID and 0 <= gid < _NO_ID):
        return Unknown(f"owner {uid} or group {gid} is not an id")
    rules: list[Rule] = []

    def add(allowed: bool, principals: Iterable[Principal]) -> None:
        named = frozenset(principals)
        if named:
            rules.append(Rule(Effect.ALLOW if allowed else Effect.DENY, named))

    entries: _Entries | Unknown | None = None if acl is None else _parse(acl)
    if isinstance(entries, Unknown):
        return entries
    if entries is not None and not entries.agree_with(st_mode):
        return Unknown("the mode bits and the ACL contradict each other")

    # 1. The owner's bits decide for the owner, whatever else would.
    add(bool(st_mode >> 6 & want), [_user(where, uid)])
    # 2. With an ACL, the group bits of the mode are its mask. When they are zero the kernel does not look at the ACL.
    # SOURCE: `IS_POSIXACL(inode) && (mode & S_IRWXG)`. acl(5) does not say so: a user listed as `---` reads as other.
    if entries is None or not st_mode & 0o070:
        add(bool(st_mode >> 3 & want), [_group(where, gid)])
        add(bool(st_mode & want), [Principal(where, "other")])
        return Clause(tuple(rules))
    masked = bool(entries.mask & want)
    # 3. A named user's entry decides for that user, within the mask.
    for granted in (True, False):
        add(granted and masked, [_user(where, user) for user, perm in entries.users if bool(perm & want) is granted])
    # 4. Any one group that grants is enough, within the mask; a group that only matches ends the search.
    groups = [(gid, entries.group), *entries.groups]
    granting = [_group(where, group) for group, perm in groups if perm & want]
    add(masked, granting)
    add(False, {_group(where, group) for group, _ in groups} - set(granting))
    # 5. Everybody else is other; the mask does not touch other.
    add(bool(entries.other & want), [Principal(where, "other")])
    return Clause(tuple(rules))


def _user(where: Realm, uid: int) -> Principal:
    return Principal(where, f"uid-{uid}")


def _group(where: Realm, gid: int) -> Principal:
    return Principal(where, f"gid-{gid}")


class _Entries:
    """A parsed ACL. mask: the mask's bits; where there is none it limits nothing."""

    def __init__(self) -> None:
        self.single: dict[int, int] = {}
        self.users: list[tuple[int, int]] = []
        self.groups: list[tuple[int, int]] = []

    @property
    def group(self) -> int:
        return self.single[_GROUP_OBJ]

    @property
    def mask(self) -> int:
        return self.single.get(_MASK, 7)

    @property
    def other(self) -> int:
        return self.single[_OTHER]

    def agree_with(self, st_mode: int) -> bool:
        # The kernel keeps mode and ACL in step. Where they differ they were read at two moments, or the file system is
        # not one whose rules we know.
        middle = self.single.get(_MASK, self.group)
        return st_mode & 0o777 == self.single[_USER_OBJ] << 6 | middle << 3 | self.other


def _parse(data: bytes) -> _Entries | Unknown:
    if len(data) < _HEAD.size or (len(data) - _HEAD.size) % _ENTRY.size:
        return Unknown(f"an ACL of {len(data)} bytes is cut short")
    (version,) = _HEAD.unpack_from(data)
    if version != _VERSION:
        return Unknown(f"an ACL of version {version}")
    found = _Entries()
    last = 0
    for tag, perm, number in _ENTRY.iter_unpack(data[_HEAD.size :]):
        # SOURCE: posix_acl_valid(): the order of the tags is fixed, only users and groups repeat.
        if tag < last or (tag == last and tag not in (_USER, _GROUP)):
            return Unknown("the entries of an ACL are out of order")
        if tag not in (_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER):
            return Unknown(f"an ACL entry of kind {tag:#x}")
        if perm > 7:
            return Unknown(f"an ACL entry with permissions {perm:#x}")
        last = tag
        if tag not in (_USER, _GROUP):
            found.single[tag] = perm
        elif number == _NO_ID:
            return Unknown("an ACL entry without an id")
        else:
            (found.users if tag == _USER else found.groups).append((number, perm))
    return _whole(found)


def _whole(found: _Entries) -> _Entries | Unknown:
    if not {_USER_OBJ, _GROUP_OBJ, _OTHER} <= found.single.keys():
        return Unknown("an ACL without entries for owner, group and other")
    if (found.users or found.groups) and _MASK not in found.single:
        return Unknown("an ACL with named entries and no mask")
    # SOURCE: the kernel takes the first of two entries for one user. Tools never write two: nobody meant either.
    if len({user for user, _ in found.users}) != len(found.users):
        return Unknown("an ACL with two entries for one user")
    return found
