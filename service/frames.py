"""The frames that a parent and its child process exchange over a stream socket.

A frame is four bytes of length (big endian), a JSON header of that length, and the blobs whose lengths the header
lists. The reader takes the writer for hostile: lengths are bounded before they are believed, nothing is unpickled.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping, Sequence

Blob = bytes | bytearray | memoryview

_LENGTH = struct.Struct(">I")
_MAX_HEADER_BYTES = 64 * 2**20
_ONE_PIECE_BYTES = 256 * 2**10


def send(stream: socket.socket, header: Mapping[str, object], blobs: Sequence[Blob], deadline: float | None) -> None:
    """Write one frame. Raises TimeoutError, OSError."""
    views = [memoryview(blob).cast("B") for blob in blobs]
    encoded = json.dumps({**header, "blobs": [view.nbytes for view in views]}).encode()
    parts: list[bytes | memoryview] = [_LENGTH.pack(len(encoded)) + encoded, *views]
    if sum(map(len, parts)) <= _ONE_PIECE_BYTES:
        # In one piece, because each would wake the reader.
        parts = [b"".join(parts)]
    for part in parts:
        stream.settimeout(_remaining(deadline))
        stream.sendall(part)


def receive(stream: socket.socket, deadline: float | None, limit: int) -> tuple[dict[str, object], list[bytes]]:
    """Read one frame of at most `limit` bytes.

    Raises EOFError, TimeoutError, OSError, and ValueError or RecursionError for what is not a frame.
    """
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size, deadline))
    if length > min(limit, _MAX_HEADER_BYTES):
        raise ValueError("header over the limit")
    header = json.loads(_read(stream, length, deadline))
    if not isinstance(header, dict):
        raise ValueError("header is not an object")
    sizes = header.pop("blobs", None)
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("blob lengths are not a list of numbers")
    if sum(sizes) + length > limit:
        raise ValueError("frame over the limit")
    return header, [_read(stream, size, deadline) for size in sizes]


def _read(stream: socket.socket, size: int, deadline: float | None) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    done = 0
    while done < size:
        stream.settimeout(_remaining(deadline))
        count = stream.recv_into(view[done:])
        if count == 0:
            raise EOFError
        done += count
    return bytes(buffer)


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
