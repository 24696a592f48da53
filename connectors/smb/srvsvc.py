"""One call of the server service, NetrShareGetInfo at level 502, as bytes: the share's own security descriptor.

Pure: the named pipe is `connectors.smb.client`'s.
Source: [MS-SRVS] 3.1.4.10 and 2.2.4.26 (SHARE_INFO_502_I), [C706] chapters 12 (connection-oriented PDUs) and 14 (NDR).
"""

from __future__ import annotations

import struct
import uuid
from typing import Final

PIPE: Final = "srvsvc"

_REQUEST, _RESPONSE, _FAULT, _BIND, _BIND_ACK = 0, 2, 3, 11, 12
_FIRST, _LAST = 0x01, 0x02
# Version 5.0, kind, flags, little-endian ASCII and IEEE, length of the fragment, of the authentication, call.
_HEAD: Final = struct.Struct("<BBBB4sHHI")
_DREP: Final = b"\x10\0\0\0"
_FRAGMENT: Final = 4280
_MAX_REPLY: Final = 1 << 20
_SRVSVC: Final = uuid.UUID("4b324fc8-1670-01d3-1278-5a47bf6ee188").bytes_le + struct.pack("<HH", 3, 0)
_NDR: Final = uuid.UUID("8a885d04-1ceb-11c9-9fe8-08002b104860").bytes_le + struct.pack("<I", 2)
_SHARE_GET_INFO: Final = 16
_LEVEL: Final = 502


class RpcError(Exception):
    """The server refuses, or its answer is damaged. status: a Win32 error or the fault's code, 0 when damaged."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def bind() -> bytes:
    """The first message on the pipe: which interface is wanted."""
    context = struct.pack("<BxxxHBx", 1, 0, 1) + _SRVSVC + _NDR
    return _pdu(_BIND, struct.pack("<HHI", _FRAGMENT, _FRAGMENT, 0) + context)


def require_bound(answer: bytes) -> None:
    """Raise RpcError unless the answer to `bind` accepts."""
    kind, _, _ = _head(answer)
    try:
        (length,) = struct.unpack_from("<H", answer, 24)
        after = (26 + length + 3) & ~3
        count, result = struct.unpack_from("<BxxxH", answer, after)
    except struct.error as err:
        raise RpcError("the answer of the server service is cut short") from err
    if kind != _BIND_ACK or count != 1 or result != 0:
        raise RpcError("the server service does not speak to this account")


def share_info_request(server: str, share: str) -> bytes:
    """Ask for everything about a share."""
    stub = struct.pack("<I", 0x20000) + _text(f"\\\\{server}") + _text(share) + struct.pack("<I", _LEVEL)
    return _pdu(_REQUEST, struct.pack("<IHH", len(stub), 0, _SHARE_GET_INFO) + stub)


def is_last(fragment: bytes) -> bool:
    """Whether a fragment of an answer is the last one."""
    return bool(_head(fragment)[1] & _LAST)


def share_descriptor(fragments: list[bytes]) -> bytes | None:
    """Return the share's descriptor out of the answer, None when the server holds none. Raises RpcError."""
    stub = b""
    for fragment in fragments:
        kind, _, size = _head(fragment)
        if kind == _FAULT:
            (status,) = struct.unpack_from("<I", fragment.ljust(28, b"\0"), 24)
            raise RpcError("the server service refuses the call", status)
        if kind != _RESPONSE or size < 24:
            raise RpcError("the server service answered something else")
        stub += fragment[24:size]
    if len(stub) > _MAX_REPLY:
        raise RpcError("the answer of the server service is too long")
    try:
        return _descriptor(stub)
    except struct.error as err:
        raise RpcError("the answer of the server service is cut short") from err


def _descriptor(stub: bytes) -> bytes | None:
    (status,) = struct.unpack_from("<I", stub, len(stub) - 4)
    if status != 0:
        raise RpcError("the server service refuses", status)
    level, there = struct.unpack_from("<II", stub)
    if level != _LEVEL or not there:
        raise RpcError("the server service answered another level")
    name, _, remark, _, _, _, path, password, size, descriptor = struct.unpack_from("<10I", stub, 8)
    place = 48
    for pointer in (name, remark, path, password):
        if pointer:
            _, _, count = struct.unpack_from("<3I", stub, place)
            place = (place + 12 + 2 * count + 3) & ~3
    if not descriptor:
        return None
    (count,) = struct.unpack_from("<I", stub, place)
    found = stub[place + 4 : place + 4 + count]
    if count != size or len(found) != count:
        raise RpcError("the answer of the server service is damaged")
    return found


def _pdu(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(5, 0, kind, _FIRST | _LAST, _DREP, _HEAD.size + len(body), 0, 1) + body


def _head(data: bytes) -> tuple[int, int, int]:
    """Kind, flags and length of a fragment."""
    try:
        major, _, kind, flags, drep, size, authentication, _ = _HEAD.unpack_from(data)
    except struct.error as err:
        raise RpcError("the answer of the server service is cut short") from err
    if major != 5 or drep[0] != _DREP[0] or authentication or size != len(data):
        raise RpcError("the answer of the server service is damaged")
    return kind, flags, size


def _text(text: str) -> bytes:
    data = f"{text}\0".encode("utf-16-le")
    count = len(data) // 2
    return struct.pack("<III", count, 0, count) + data + b"\0" * (-len(data) % 4)
