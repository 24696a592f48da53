"""POSIX ACLs as the bytes of `system.posix_acl_access`."""

from __future__ import annotations

import struct
from collections.abc import Sequence

OWNER, USER, GROUP, NAMED_GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFFFFFF

Entry = tuple[int, int, int]
"""Tag, permissions, id."""


def packed(entries: Sequence[Entry], version: int = 2) -> bytes:
    """The bytes of an ACL."""
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def acl(
    owner: int,
    group: int,
    other: int,
    *,
    users: Sequence[tuple[int, int]] = (),
    groups: Sequence[tuple[int, int]] = (),
    mask: int | None = None,
) -> bytes:
    """An ACL in the order that the kernel wants. users, groups: (id, permissions)."""
    return packed(
        [
            (OWNER, owner, NO_ID),
            *((USER, perm, number) for number, perm in sorted(users)),
            (GROUP, group, NO_ID),
            *((NAMED_GROUP, perm, number) for number, perm in sorted(groups)),
            *([(MASK, mask, NO_ID)] if mask is not None else []),
            (OTHER, other, NO_ID),
        ]
    )
