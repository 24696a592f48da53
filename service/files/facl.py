"""POSIX access control lists as the kernel keeps them in an extended attribute: written, read and shown.

What an entry means is decided elsewhere (by the kernel, and for Remit in `acl.dialects`); here are bytes and words.
SOURCE: acl(5); include/uapi/linux/posix_acl_xattr.h for the layout: a version, then 8 bytes an entry, little-endian.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

XATTR: Final = "system.posix_acl_access"

_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_VERSION: Final = 2
_NO_ID: Final = 0xFFFFFFFF


class Tag(IntEnum):
    """Whom an entry is about, in the order in which the kernel wants the entries."""

    OWNER = 0x01
    USER = 0x02
    OWNING_GROUP = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


_WORDS: Final = {
    Tag.OWNER: "user",
    Tag.USER: "user",
    Tag.OWNING_GROUP: "group",
    Tag.GROUP: "group",
    Tag.MASK: "mask",
    Tag.OTHER: "other",
}


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One entry. id: the uid or gid of a named user or group, None for the others. permissions: as in `r-x`."""

    tag: Tag
    id: int | None
    permissions: str

    def __str__(self) -> str:
        return f"{_WORDS[self.tag]}:{'' if self.id is None else self.id}:{self.permissions}"


def user(uid: int, permissions: str) -> Entry:
    """An entry for a named user."""
    return Entry(Tag.USER, uid, permissions)


def group(gid: int, permissions: str) -> Entry:
    """An entry for a named group."""
    return Entry(Tag.GROUP, gid, permissions)


def encode(entries: list[Entry]) -> bytes:
    """Return the attribute's bytes for a complete list. The kernel checks it; the order here is the one it wants."""
    packed = [_ENTRY.pack(e.tag, _bits(e.permissions), _NO_ID if e.id is None else e.id) for e in _in_order(entries)]
    return _HEADER.pack(_VERSION) + b"".join(packed)


def decode(attribute: bytes) -> list[Entry]:
    """Read the attribute's bytes. Raises ValueError when they are of another version or not whole entries."""
    whole = len(attribute) >= _HEADER.size and (len(attribute) - _HEADER.size) % _ENTRY.size == 0
    if not whole or _HEADER.unpack_from(attribute)[0] != _VERSION:
        raise ValueError("not an access control list of version 2")
    return [
        Entry(Tag(tag), None if number == _NO_ID else number, _letters(bits))
        for tag, bits, number in _ENTRY.iter_unpack(attribute[_HEADER.size :])
    ]


def allow_only(path: Path, named: list[Entry]) -> None:
    """Give a file or folder its owner and the named people and groups, and nobody else. Raises OSError.

    The owning group gets nothing, so it does not matter who runs the demo. The mask is what the named entries need.
    """
    owner = "rwx" if path.is_dir() else "rw-"
    # The kernel ignores the whole list when the mask is `---`: then a shut-out user might read through `other`.
    mask = "r-x" if path.is_dir() else "r--"
    rest = [Entry(Tag.OWNER, None, owner), Entry(Tag.OWNING_GROUP, None, "---"), Entry(Tag.MASK, None, mask)]
    os.setxattr(path, XATTR, encode([*rest, *named, Entry(Tag.OTHER, None, "---")]))


def read(path: Path) -> list[Entry]:
    """The list of a file or folder, as the file system has it now. Raises OSError when there is none."""
    return decode(os.getxattr(path, XATTR))


def remove(path: Path, entry: Entry) -> None:
    """Take one entry out of a file's or folder's list. Raises OSError, and ValueError when it is not there."""
    entries = read(path)
    entries.remove(entry)
    os.setxattr(path, XATTR, encode(entries))


def text(path: Path, name: str) -> str:
    """The list in the notation of getfacl with numeric ids, for a host that does not have getfacl."""
    status = path.stat()
    lines = [f"# file: {name}", f"# owner: {status.st_uid}", f"# group: {status.st_gid}"]
    mask = stat.S_IMODE(status.st_mode) >> 3 & 7
    for entry in read(path):
        effective = _letters(_bits(entry.permissions) & mask)
        masked = entry.tag in {Tag.USER, Tag.OWNING_GROUP, Tag.GROUP} and effective != entry.permissions
        lines.append(f"{entry}\t\t#effective:{effective}" if masked else str(entry))
    return "\n".join(lines)


def _in_order(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: (e.tag, e.id or 0))


def _bits(permissions: str) -> int:
    return sum(bit for bit, letter in zip((4, 2, 1), permissions, strict=True) if letter != "-")


def _letters(bits: int) -> str:
    return "".join(letter if bits & bit else "-" for bit, letter in zip((4, 2, 1), "rwx", strict=True))
