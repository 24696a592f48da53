"""Secrets that open with the key-encryption key: small files beside the settings, worth nothing without it.

A blob is a header, the version of the key, and what it made of the secret. It is made by `remit keys seal-secret`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from connectors.secret import SecretError
from service.errors import StartError
from service.files import durable_file
from service.keys.envelope import UnsealError, associated
from service.keys.provider import KeyProvider, ProviderError, Wrapped

_HEADER: Final = "remit sealed secret 1"
_PLACE: Final = associated("sealed secret")
_MAX_BYTES: Final = 16 * 1024


@dataclass(slots=True)
class SealedSecret:
    """A blob, opened when it is needed and kept while the file holds the same. Its `repr` says where it is."""

    path: Path
    provider: Callable[[], KeyProvider] = field(repr=False, compare=False)
    _opened: tuple[Wrapped, str] | None = field(default=None, repr=False, compare=False)

    def read(self) -> str:
        """See `connectors.secret.Secret`."""
        wrapped = read_blob(self.path)
        if self._opened is None or self._opened[0] != wrapped:
            try:
                self._opened = wrapped, self.provider().unwrap(*wrapped, _PLACE).decode()
            except (UnsealError, ProviderError, StartError) as err:
                raise SecretError(f"`{self.path}` does not open: {err}") from err
        return self._opened[1]


def seal_secret(provider: KeyProvider, text: str, path: Path, *, replace: bool) -> None:
    """Write a blob. Raises StartError: no secret, too long, something is there already; and ProviderError."""
    data = text.encode()
    if not text.strip() or "\0" in text or len(data) > _MAX_BYTES:
        raise StartError(f"expected a secret of at most {_MAX_BYTES} bytes on standard input, found none")
    wrapped = provider.wrap(data, _PLACE)
    lines = f"{_HEADER}\n{wrapped.kek}\n{base64.b64encode(wrapped.wrapped).decode()}\n".encode()
    try:
        (durable_file.replace if replace else durable_file.create)(path, lines)
    except FileExistsError as err:
        raise StartError(f"`{path}` exists: `--replace` writes another secret in its place") from err
    except OSError as err:
        raise StartError(f"`{path}` cannot be written: {err.strerror}") from err


def read_blob(path: Path) -> Wrapped:
    """Read a blob without opening it. Raises SecretError."""
    try:
        with path.open("rb") as file:
            lines = file.read(4 * _MAX_BYTES).decode("ascii").splitlines()
        header, kek, text = lines
        wrapped = base64.b64decode(text, validate=True)
    except OSError as err:
        raise SecretError(f"the file {path} cannot be read: {err.strerror}") from err
    except (ValueError, binascii.Error) as err:
        raise SecretError(f"the file {path} is no sealed secret: `remit keys seal-secret` makes one") from err
    if header != _HEADER or not kek:
        raise SecretError(f"the file {path} is no sealed secret: `remit keys seal-secret` makes one")
    return Wrapped(kek, wrapped)
