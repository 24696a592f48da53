"""Remote procedure calls as bytes: what is written to a named pipe, and what is read out of the answer.

Pure: the pipe is `connectors.smb.client`'s. What the parameters of a call mean is left to its service.
Source: [C706] chapters 12 (connection-oriented PDUs) and 14 (NDR).
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import Final

_REQUEST, _RESPONSE, _FAULT, _BIND, _BIND_ACK = 0, 2, 3, 11, 12
_FIRST, _LAST = 0x01, 0x02
# Version 5.0, kind, flags, little-endian ASCII and IEEE, length of the fragment, of the authentication, call.
_HEAD: Final = struct.Struct("<BBBB4sHHI")
_DREP: Final = b"\x10\0\0\0"
_FRAGMENT: Final = 4280
_NDR: Final = uuid.UUID("8a885d04-1ceb-11c9-9fe8-08002b104860").bytes_le + struct.pack("<I", 2)


class RpcError(Exception):
    """The server refuses, or its answer is damaged. status: a Win32 error or the fault's code, 0 when damaged."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Interface:
    """What is called: the pipe that it listens on, what people call it, and its identity."""

    pipe: str
    name: str
    uuid: str
    version: tuple[int, int]


def bind(interface: Interface) -> bytes:
    """The first message on the pipe: which interface is wanted."""
    wanted = uuid.UUID(interface.uuid).bytes_le + struct.pack("<HH", *interface.version)
    return _pdu(_BIND, struct.pack("<HHI", _FRAGMENT, _FRAGMENT, 0) + struct.pack("<BxxxHBx", 1, 0, 1) + wanted + _NDR)


def require_bound(interface: Interface, answer: bytes) -> None:
    """Raise RpcError unless the answer to `bind` accepts."""
    kind, _, _ = _head(interface, answer)
    try:
        (length,) = struct.unpack_from("<H", answer, 24)
        after = (26 + length + 3) & ~3
        count, result = struct.unpack_from("<BxxxH", answer, after)
    except struct.error as err:
        raise cut_short(interface) from err
    if kind != _BIND_ACK or count != 1 or result != 0:
        raise RpcError(f"the {interface.name} does not speak to this account")


def request(operation: int, parameters: bytes) -> bytes:
    """One call."""
    return _pdu(_REQUEST, struct.pack("<IHH", len(parameters), 0, operation) + parameters)


def is_last(interface: Interface, fragment: bytes) -> bool:
    """Whether a fragment of an answer is the last one."""
    return bool(_head(interface, fragment)[1] & _LAST)


def parameters(interface: Interface, fragments: list[bytes], at_most: int) -> bytes:
    """Return what a call gave back, out of all fragments of its answer. Raises RpcError."""
    found = b""
    for fragment in fragments:
        kind, _, size = _head(interface, fragment)
        if kind == _FAULT:
            (status,) = struct.unpack_from("<I", fragment.ljust(28, b"\0"), 24)
            raise RpcError(f"the {interface.name} refuses the call", status)
        if kind != _RESPONSE or size < 24:
            raise RpcError(f"the {interface.name} answered something else")
        found += fragment[24:size]
        if len(found) > at_most:
            raise RpcError(f"the answer of the {interface.name} is too long")
    return found


def cut_short(interface: Interface) -> RpcError:
    """The error for an answer that ends too early."""
    return RpcError(f"the answer of the {interface.name} is cut short")


def text(value: str) -> bytes:
    """A text with its end, as a conformant and varying array."""
    return characters(f"{value}\0")


def characters(value: str) -> bytes:
    """Characters as a conformant and varying array."""
    data = value.encode("utf-16-le")
    count = len(data) // 2
    return struct.pack("<III", count, 0, count) + data + b"\0" * (-len(data) % 4)


def _pdu(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(5, 0, kind, _FIRST | _LAST, _DREP, _HEAD.size + len(body), 0, 1) + body


def _head(interface: Interface, data: bytes) -> tuple[int, int, int]:
    """Kind, flags and length of a fragment."""
    try:
        major, _, kind, flags, drep, size, authentication, _ = _HEAD.unpack_from(data)
    except struct.error as err:
        raise cut_short(interface) from err
    if major != 5 or drep[0] != _DREP[0] or authentication or size != len(data):
        raise RpcError(f"the answer of the {interface.name} is damaged")
    return kind, flags, size
