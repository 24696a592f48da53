"""The data folder: its format version and its lock. What is in its files is left to those who open them.

The keys of what lies here are elsewhere: in the key store's own folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from service.errors import StartError
from service.files import durable_file, lock_file
from service.stores.errors import FormatError, LockedError, StorageError, storage_errors

FORMAT: Final = "2"
"""The version of the folder's layout and tables that this code reads and writes."""

_MAY_PRECEDE: Final = frozenset({"FORMAT.new", "lock"})
"""What a crash can leave behind before the folder has a format."""


class DataFolder:
    """An opened data folder, locked until `close` or the end of the process."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd: int | None = lock_fd

    @property
    def catalog(self) -> Path:
        """The documents, their rules, and the runs."""
        return self.path / "catalog.sqlite"

    @property
    def index(self) -> Path:
        """The vector index, derived from the catalog."""
        return self.path / "index"

    @property
    def keywords(self) -> Path:
        """The keyword index, derived from the catalog."""
        return self.path / "keywords"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.path / "audit"

    def close(self) -> None:
        """Let go of the lock. Close everything that is in the folder first."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def open_folder(path: Path) -> DataFolder:
    """Open the data folder at `path`, or create it, and lock it.

    Raises FormatError, LockedError, StorageFullError, and StartError when it cannot be read or written.
    """
    path = path.absolute()
    try:
        with storage_errors(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_format(path)
            fd = _lock(path)
            try:
                # The lock was taken after the first look: another process may have created the folder in between.
                _check_format(path)
                if not (path / "FORMAT").exists():
                    durable_file.replace(path / "FORMAT", f"{FORMAT}\n".encode())
            except BaseException:
                os.close(fd)
                raise
    except StorageError as err:
        raise StartError(str(err)) from err
    return DataFolder(path, fd)


def _check_format(path: Path) -> None:
    """Raise FormatError unless the folder is empty or of this format."""
    try:
        found = (path / "FORMAT").read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        others = sorted(entry.name for entry in path.iterdir() if entry.name not in _MAY_PRECEDE)
        if others:
            raise FormatError(
                f"`{path}` holds other files (`{others[0]}`) and is no data folder: name an empty or a new one"
            ) from None
        return
    if found != FORMAT:
        shown = found[:20] or "unknown"
        raise FormatError(
            f"`{path}` was written in format {shown}, and this version reads format {FORMAT}: "
            "set `data` and `keys.store` to new folders and sync again, or run the version that wrote it"
        )


def _lock(path: Path) -> int:
    try:
        return lock_file.acquire(path / "lock")
    except lock_file.HeldError as err:
        raise LockedError(
            f"data folder `{path}` is already open by {err.holder}: stop it first, or use its listener"
        ) from None
