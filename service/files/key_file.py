"""Files that hold a secret: read only where nobody but the owner can reach them. What is in them is left to others."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from service.errors import StartError

_MAX_BYTES: Final = 64 * 1024


def read(path: Path, what: str) -> bytes:
    """Return the file's bytes, at most 64 KiB. Raises StartError with what is wrong with the file and what to do.

    what: as messages call it, such as `the key of the audit log`.
    """
    try:
        # Non-blocking, so that a pipe in the file's place cannot hold the start.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise StartError(f"`{path}`, {what}, is not a regular file")
            if found.st_mode & 0o077:
                mode = stat.S_IMODE(found.st_mode)
                raise StartError(f"`{path}`, {what}, has mode {mode:04o} and is open to others: `chmod 0600 {path}`")
            return file.read(_MAX_BYTES)
    except FileNotFoundError as err:
        raise StartError(f"`{path}`, {what}, does not exist: `remit init` makes one, or name the right one") from err
    except OSError as err:
        raise StartError(f"`{path}`, {what}, cannot be read: {err.strerror}") from err
