"""Secrets by reference: settings name where a password or a private key is, and it is read when it is needed.

A file and an environment variable are read here; what opens with the service's keys is handed in as a `Secret`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from connectors.errors import FatalError

_MAX_BYTES: Final = 64 * 1024


class SecretError(Exception):
    """The file cannot be used; the message is a sentence about it, for operators, and never says what it holds."""


@runtime_checkable
class Secret(Protocol):
    """Where a secret is. Its `repr` never says what it holds."""

    def read(self) -> str:
        """Read it now. Raises SecretError."""


@dataclass(frozen=True, slots=True)
class FileSecret:
    """A file that holds the secret and nothing else."""

    path: Path

    def read(self) -> str:
        """See `Secret`."""
        return read_secret(self.path)


@dataclass(frozen=True, slots=True)
class EnvSecret:
    """A variable of the process's environment."""

    name: str

    def read(self) -> str:
        """See `Secret`."""
        found = os.environ.get(self.name)
        if not found:
            raise SecretError(f"there is no environment variable `{self.name}`")
        return found


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
