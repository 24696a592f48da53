"""Passwords by reference: what the settings name is read when it is needed, and kept nowhere."""

from __future__ import annotations

from pathlib import Path

from connectors.errors import FatalError


def read_password(file: Path) -> str:
    """Return what a file holds, without the newline at its end. Raises FatalError that names `password_file`."""
    try:
        found = file.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as err:
        raise FatalError(f"`password_file`: {file} cannot be read") from err
    if not found:
        raise FatalError(f"`password_file`: {file} is empty")
    return found
