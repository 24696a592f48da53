"""Secrets by reference: a file that the settings name holds one password or one private key, read when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from connectors.errors import FatalError

_MAX_BYTES: Final = 64 * 1024


class SecretError(Exception):
    """The file cannot be used; the message is a sentence about it, for operators, and never says what it holds."""


def read_secret(path: Path) -> str:
    """Return the secret, without the line's end. Raises SecretError: unreadable, empty, or open to everybody."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
            mode = path.stat().st_mode
        text = data.decode().rstrip("\r\n")
    except OSError as err:
        raise SecretError(f"the file {path} cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise SecretError(f"the file {path} is not text") from err
    if mode & 0o007:
        raise SecretError(f"the file {path} is open to everybody: `chmod o-rwx` it")
    if not text.strip() or "\0" in text or len(data) > _MAX_BYTES:
        raise SecretError(f"the file {path} holds no secret")
    return text


def read_password(file: Path) -> str:
    """Return a connector's password. Raises FatalError that names the option `password_file`."""
    try:
        return read_secret(file)
    except SecretError as err:
        raise FatalError(f"`password_file`: {err}") from err
