"""The bytes of one regular file, of exactly the version that was met before."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Final

from connectors.errors import SkippableError
from connectors.posix.walk import version_of

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_BLOCK_BYTES: Final = 1 << 20
_TICK_S: Final = 0.02
"""Longer than the clock of a file system without fine time stamps needs to move on (SOURCE: 1/HZ, HZ >= 100)."""


def read_file(folder: int, name: str, version: str, location: str, limit_bytes: int) -> bytes:
    """Read the regular file `name` in an open folder; symlinks are not followed.

    version: what `version_of` says of it. location: where it stands, for people.
    Raises SkippableError("changed") and ("too large"); OSError is the caller's to word.
    """
    descriptor = _opened(folder, name)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
        settle(os.fstat(descriptor))
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode) or version_of(before) != version:
            raise SkippableError("changed", f"`{location}`: it was written to or replaced")
        blocks: list[bytes] = []
        size = 0
        while block := file.read(_BLOCK_BYTES):
            blocks.append(block)
            size += len(block)
            if size > limit_bytes:
                raise too_large(location, limit_bytes)
        if version_of(os.fstat(descriptor)) != version or size != before.st_size:
            raise SkippableError("changed", f"`{location}`: it was written to while it was read")
    return b"".join(blocks)


def settle(status: os.stat_result) -> None:
    """Wait until a later write must get a later time stamp, so that it cannot pass for what is read now."""
    age_s = time.time() - status.st_ctime
    if 0 <= age_s < _TICK_S:
        time.sleep(_TICK_S - age_s)


def too_large(location: str, limit_bytes: int) -> SkippableError:
    """Say that a document has more bytes than are read."""
    return SkippableError("too large", f"`{location}` is larger than {limit_bytes} bytes")


def _opened(folder: int, name: str) -> int:
    try:
        return os.open(name, _OPEN | os.O_NOATIME, dir_fd=folder)
    except PermissionError as err:
        # O_NOATIME is for the owner alone, and fails with EPERM where a plain open may not.
        if err.errno != errno.EPERM:
            raise
    return os.open(name, _OPEN, dir_fd=folder)
