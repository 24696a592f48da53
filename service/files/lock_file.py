"""One process at a time: a file that is locked while its holder lives, with the holder's process id in it.

The kernel lets go of the lock when the process ends, however it ends; what the file says is for messages only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class HeldError(Exception):
    """Somebody else has the lock. holder: `process 123`, or `another process`."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"locked by {holder}")
        self.holder = holder


def acquire(path: Path) -> int:
    """Take the lock and return its descriptor; closing that lets go. Raises HeldError at once, and OSError."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
        os.close(handle)
        raise HeldError(f"process {holder}" if holder.isdigit() else "another process") from None
    except BaseException:
        os.close(handle)
        raise
    # A full disk takes the message away, not the lock.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def is_held(path: Path) -> bool:
    """Whether somebody has the lock now. A lock that cannot be looked at is taken for free."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
