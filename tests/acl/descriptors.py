"""Security descriptors as bytes, well-formed and otherwise."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

Entry = tuple[int, int, int, str]
"""Type, flags, mask, SID."""


def sid(text: str) -> bytes:
    """The bytes of a SID."""
    _, revision, authority, *subs = text.split("-")
    return (
        struct.pack("<BB", int(revision), len(subs))
        + int(authority, 0).to_bytes(6, "big")
        + b"".join(struct.pack("<I", int(sub)) for sub in subs)
    )


def ace(entry: Entry) -> bytes:
    """The bytes of an entry."""
    kind, flags, mask, who = entry
    body = struct.pack("<I", mask) + sid(who)
    return struct.pack("<BBH", kind, flags, 4 + len(body)) + body


def descriptor(
    entries: Sequence[Entry] | None,
    owner: str | None = "S-1-5-21-1-2-3-1000",
    *,
    present: bool = True,
    raw: Iterable[bytes] = (),
) -> bytes:
    """A self-relative descriptor. entries: None for a null DACL. present: whether it says that it has a DACL."""
    body = b""
    owner_at = dacl_at = 0
    if owner is not None:
        owner_at = 20
        body += sid(owner)
    if entries is not None:
        dacl_at = 20 + len(body)
        packed = [*map(ace, entries), *raw]
        size = 8 + sum(map(len, packed))
        body += struct.pack("<BBHHH", 2, 0, size, len(packed), 0) + b"".join(packed)
    control = 0x8000 | (0x0004 if present else 0)
    return struct.pack("<BBHIIII", 1, 0, control, owner_at, 0, 0, dacl_at) + body
