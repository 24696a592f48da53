"""Files that are there whole or not at all, and survive a power cut. For small files that are written in one go."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

PRIVATE: Final = 0o600


def create(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a new file. Raises FileExistsError and other OSErrors: nothing is ever overwritten."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        _write(draft, os.O_EXCL, data, mode)
        # A link, unlike a rename, never replaces what stands there: a key that something may be sealed with, say.
        path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Write a private file in the place of the one that may be there. For one writer at a time. Raises OSError."""
    draft = path.with_name(f"{path.name}.new")
    _write(draft, os.O_TRUNC, data, PRIVATE)
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, how: int, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)
