"""Secrets by reference: settings name where a password or a private key is, and it is read when it is needed.

A secret `password` is named by exactly one of the options `password_file`, `password_env`, `password_sealed` and
`password_vault`, and never given as `password`. The first two are read here; what the last two name opens with the
service's keys, which hands in a `Secret` in the place of the text.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

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


@dataclass(frozen=True, slots=True)
class OptionSecret:
    """A secret with the option that names it, which errors name too."""

    option: str
    secret: Secret

    def read(self) -> str:
        """See `Secret`."""
        try:
            return self.secret.read()
        except SecretError as err:
            raise SecretError(f"`{self.option}`: {err}") from err


def forms(name: str) -> tuple[str, ...]:
    """The options that may name the secret `name`."""
    return tuple(f"{name}_{form}" for form in ("file", "env", "sealed", "vault"))
