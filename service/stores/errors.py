"""What can go wrong with the data folder. Messages are one sentence for people."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError

from service.errors import RemitError, StartError, UnavailableError


class FormatError(StartError):
    """The folder was written by another version, or by something else."""


class LockedError(StartError):
    """Another process has the data folder open."""


class ModelChangedError(StartError):
    """The stored vectors were made by another model than the configured one."""


class StorageError(UnavailableError):
    """A database of the data folder cannot be read or written. Nothing was half written."""


class StorageFullError(StorageError):
    """There is no space left for the data folder. Nothing was half written."""


class FencedError(RemitError):
    """A write of a run that is no longer the source's latest. It wrote nothing."""

    def __init__(self, source: str, fence: int) -> None:
        super().__init__(f"run number {fence} over `{source}` is no longer the latest and may not write")


# SOURCE: https://sqlite.org/rescode.html, primary result codes.
_FULL: Final = 13
_IO: Final = 10
_CANNOT_OPEN: Final = 14

_NEARLY_FULL_BYTES: Final = 256 * 1024
"""SQLite reports a full disk as an I/O error when it cannot grow its shared-memory file (32 KiB at a time)."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise about `path` into one sentence."""
    try:
        yield
    except DBAPIError as err:
        code = getattr(err.orig, "sqlite_errorcode", 0) & 0xFF
        if code == _FULL or (code in (_IO, _CANNOT_OPEN) and _nearly_full(path)):
            raise StorageFullError(full_sentence(path)) from err
        raise StorageError(f"`{path}` cannot be read or written: {err.orig}") from err
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(full_sentence(path)) from err
        raise StorageError(f"`{path}` cannot be read or written: {err.strerror}") from err


def full_sentence(path: Path) -> str:
    """What to say when there is no space left for `path`."""
    return f"no space left to write `{path}`: free some, then start again; nothing was half written"


def _nearly_full(path: Path) -> bool:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _NEARLY_FULL_BYTES
