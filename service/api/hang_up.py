"""Ends the connections of a listener from below, in the moment in which gRPC stops.

gRPC ends calls that it has received and not yet handed to the service as CANCELLED when a server stops, which is true
of any load, and which no client tries again. A connection that ends says UNAVAILABLE for the same call, and every
standard client tries again. gRPC for Python can neither say GOAWAY first nor wait for such calls, so the sockets are
shut down where the system has them; gRPC sees the end of each and closes it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from pathlib import Path


def hang_up(ports: Collection[int]) -> int:
    """Shut down every connection of this process whose own end has one of the ports; return how many there were."""
    ended = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            copy = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue  # it was closed meanwhile
        with copy:
            if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.type != socket.SOCK_STREAM:
                continue
            try:
                if copy.getsockname()[1] in ports and copy.getpeername():
                    copy.shutdown(socket.SHUT_RDWR)
                    ended += 1
            except OSError:
                continue  # it listens, or its peer has gone
    return ended
