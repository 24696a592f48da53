"""Ends the connections of a listener from below, in the moment in which gRPC stops, and lets no other come before.

gRPC ends calls that it has received and not yet handed to the service as CANCELLED when a server stops, which is true
of any load, and which no client tries again. A connection that ends says UNAVAILABLE for the same call, and every
standard client tries again. gRPC for Python can neither say GOAWAY first nor wait for such calls, so the sockets are
shut down where the system has them; gRPC sees the end of each and closes it.

Whoever is hung up on connects again at once, and gRPC would take that connection, with a call on it, until it stops. So
`turn_away` comes first: the system answers no new connection any more, as if the packet had been lost; once the
listener is closed it says that nobody listens, which is UNAVAILABLE, too.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_SO_ATTACH_FILTER: Final = 26
_RETURN: Final = 0x06
# SOURCE: struct sock_filter and struct sock_fprog of <linux/filter.h>: one instruction, which keeps 0 bytes.
_DROP: Final = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0), 8)
_PROGRAM: Final = struct.pack("HP", 1, ctypes.addressof(_DROP))
_WAITING: Final = 24
"""Where `tcpi_unacked` stands in struct tcp_info: of a listener, how many connections wait to be taken."""


def turn_away(ports: Collection[int]) -> int:
    """Let nobody connect any more to what listens in this process on one of the ports.

    Return how many had connected before and were not taken yet: `hang_up` would not see them. Ask again until it is 0.
    """
    waiting = 0
    for one in _sockets(ports):
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM)
            info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING + 4)
            waiting += int.from_bytes(info[_WAITING : _WAITING + 4], "little")
    return waiting


def hang_up(ports: Collection[int]) -> int:
    """Shut down every connection of this process whose own end has one of the ports; return how many there were."""
    ended = 0
    for one in _sockets(ports):
        try:
            one.getpeername()
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # it listens, or its peer has gone
        ended += 1
    return ended


def _sockets(ports: Collection[int]) -> Iterator[socket.socket]:
    """Every TCP socket of this process whose own end has one of the ports."""
    for entry in Path("/proc/self/fd").iterdir():
        with _copy(entry) as one:
            if one is not None and one.getsockname()[1] in ports:
                yield one


@contextmanager
def _copy(entry: Path) -> Iterator[socket.socket | None]:
    """The socket behind a descriptor; None when it is none of TCP, or was closed meanwhile."""
    try:
        found = str(entry.readlink()).startswith("socket:")
        copy = socket.socket(fileno=os.dup(int(entry.name))) if found else None
    except OSError:
        copy = None
    if copy is None:
        yield None
        return
    with copy:
        tcp = copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM
        yield copy if tcp else None
