"""What a walk asks and hears of SMB2, as bytes: names opened to be looked at, their answers, listings.

Pure: the connection is `connectors.smb.client`'s. Read here for speed, and because the library reads a null DACL
wrongly.
SOURCE: [MS-SMB2] 2.2.14, 2.2.33, 2.2.38; [MS-FSCC] 2.4.17 (FileIdBothDirectoryInformation).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from smbprotocol.create_contexts import CreateContextName
from smbprotocol.exceptions import SMBException
from smbprotocol.header import Commands
from smbprotocol.open import CreateDisposition, CreateOptions, ImpersonationLevel

from acl.dialects.ntfs import READ_ATTRIBUTES, READ_CONTROL, SYNCHRONIZE

_NORMAL: Final = 0x80
_SHARE_ALL: Final = 0x7
_DESCRIPTOR_BYTES: Final = 1 << 16
_OWNER_GROUP_DACL: Final = 0x7
_SECURITY: Final = 3
_CREATED: Final = struct.Struct("<HBBIQQQQQQII16sII")
_CONTEXT: Final = struct.Struct("<IHHHHI")
_ENTRY: Final = struct.Struct("<IIQQQQQQIIIBx24sHQ")


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder, and what it led to when the folder was listed."""

    name: str
    attributes: int
    file_id: int
    created: int


@dataclass(frozen=True, slots=True)
class Look:
    """What a name is. Times are in units of 100 ns since 1601.

    descriptor: its bytes, or why they could not be read.
    """

    file_id: int
    volume_id: int
    created: int
    written: int
    changed: int
    size: int
    attributes: int
    descriptor: bytes | str


class Message:
    """A request as its bytes. The library's own classes take most of the time that a walk has."""

    def __init__(self, command: int, body: bytes) -> None:
        self.COMMAND: Final = command
        self._body: Final = body

    def __len__(self) -> int:
        return len(self._body)

    def pack(self) -> bytes:
        """What follows the header."""
        return self._body


def create(path: str) -> Message:
    """Open a name to look at it, and say which file it is. SOURCE: [MS-SMB2] 2.2.13, 2.2.13.2.9."""
    name = path.encode("utf-16-le", errors="surrogatepass")
    padded = name + b"\0" * (-len(name) % 8)
    access = READ_CONTROL | READ_ATTRIBUTES | SYNCHRONIZE
    first = (57, 0, 0, ImpersonationLevel.Impersonation, 0, 0, access, _NORMAL, _SHARE_ALL)
    contexts_at = 64 + _CREATE.size + len(padded)
    options = CreateOptions.FILE_OPEN_REPARSE_POINT
    rest = (CreateDisposition.FILE_OPEN, options, 64 + _CREATE.size, len(name), contexts_at, len(_WHICH_FILE))
    return Message(Commands.SMB2_CREATE, _CREATE.pack(*first, *rest) + padded + _WHICH_FILE)


_CREATE: Final = struct.Struct("<HBBIQQIIIIIHHII")
_DISK_ID: Final[bytes] = CreateContextName.SMB2_CREATE_QUERY_ON_DISK_ID
_WHICH_FILE: Final = struct.pack("<IHHHHI", 0, 16, 4, 0, 0, 0) + _DISK_ID + b"\0" * 4
# Of the file that the message before it opened. SOURCE: [MS-SMB2] 2.2.37, 2.2.15.
_THE_SAME: Final = b"\xff" * 16
QUERY: Final = Message(
    Commands.SMB2_QUERY_INFO,
    struct.pack("<HBBIHHIII", 41, _SECURITY, 0, _DESCRIPTOR_BYTES, 0, 0, 0, _OWNER_GROUP_DACL, 0) + _THE_SAME,
)
CLOSE: Final = Message(Commands.SMB2_CLOSE, struct.pack("<HHI", 24, 0, 0) + _THE_SAME)


def output(response: bytes) -> bytes:
    """The buffer of an answer to QUERY_INFO or QUERY_DIRECTORY; offsets count from the header, which has 64 bytes."""
    _, offset, length = struct.unpack_from("<HHI", response)
    found = response[offset - 64 : offset - 64 + length]
    if len(found) != length:
        raise SMBException("an answer is cut short")
    return found


def look(response: bytes, descriptor: bytes | str) -> Look:
    try:
        (_, _, _, _, born, _, written, changed, _, size, attributes, _, _, offset, length) = _CREATED.unpack_from(
            response
        )
        place, end = offset - 64, offset - 64 + length
        while length:
            after, name_at, name_length, _, data_at, data_length = _CONTEXT.unpack_from(response, place)
            name = response[place + name_at : place + name_at + name_length]
            if name == _DISK_ID and data_length >= 16:
                file_id, volume_id = struct.unpack_from("<QQ", response, place + data_at)
                return Look(file_id, volume_id, born, written, changed, size, attributes, descriptor)
            if not after or place + after >= end:
                break
            place += after
    except struct.error as err:
        raise SMBException("an answer is cut short") from err
    raise SMBException("the server gives files no numbers")


def entries(data: bytes) -> Iterator[Entry]:
    place = 0
    try:
        while True:
            after, _, created, _, _, _, _, _, attributes, length, _, _, _, _, file_id = _ENTRY.unpack_from(data, place)
            start = place + _ENTRY.size
            name = data[start : start + length].decode("utf-16-le", errors="surrogatepass")
            # A server that could name a way out of the folder would lead the walk anywhere.
            if name not in (".", "..") and not set(name) & {"\\", "/", "\0"}:
                yield Entry(name, attributes, file_id, created)
            if not after:
                return
            if after < _ENTRY.size:
                # INVARIANT: each entry is behind the one before, so that reading ends after as many as have room.
                raise SMBException("a listing is damaged: entries lie in each other")
            place += after
    except (struct.error, UnicodeDecodeError) as err:
        raise SMBException("a listing is damaged") from err
