"""Where the key-encryption key comes from: for now a file. The key itself stays here; others wrap and unwrap."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service import durable_file, key_file
from service.errors import StartError
from service.keys.envelope import KEY_BYTES, seal, unseal

_HEADER: Final = "remit key-encryption key 1"


class KeyProvider(Protocol):
    """Holds a key-encryption key and uses it, without giving it away."""

    @property
    def key_id(self) -> str:
        """Names the key without telling anything about it."""

    def wrap(self, key: bytes, place: bytes) -> bytes:
        """Encrypt a key, bound to its place."""

    def unwrap(self, wrapped: bytes, place: bytes) -> bytes:
        """Decrypt what `wrap` made. Raises UnsealError."""


class FileKey:
    """A key-encryption key in a file that only its owner can read: a header line, then 32 bytes in base64."""

    def __init__(self, path: Path) -> None:
        """Read the key. Raises StartError with what is wrong with the file and what to do."""
        key = _read(path)
        self._cipher = AESGCM(key)
        self._key_id = hmac.new(key, b"remit key id", hashlib.sha256).hexdigest()[:16]

    @property
    def key_id(self) -> str:
        """Names the key without telling anything about it."""
        return self._key_id

    def wrap(self, key: bytes, place: bytes) -> bytes:
        """Encrypt a key, bound to its place."""
        return seal(self._cipher, key, place)

    def unwrap(self, wrapped: bytes, place: bytes) -> bytes:
        """Decrypt what `wrap` made. Raises UnsealError."""
        return unseal(self._cipher, wrapped, place)


def create_key_file(path: Path) -> None:
    """Write a new random key to `path`, readable by its owner alone. Raises StartError when the file exists."""
    text = f"{_HEADER}\n{base64.b64encode(os.urandom(KEY_BYTES)).decode()}\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable_file.create(path, text.encode("ascii"))
    except FileExistsError as err:
        raise StartError(f"`{path}` exists already: a key is never overwritten, name another file") from err
    except OSError as err:
        raise StartError(f"the key file `{path}` cannot be written: {err.strerror}") from err


def _read(path: Path) -> bytes:
    text = key_file.read(path, "the key-encryption key")
    header, _, rest = text.decode("utf-8", "replace").partition("\n")
    try:
        key = base64.b64decode("".join(rest.split()), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if header.strip() != _HEADER or len(key) != KEY_BYTES:
        raise StartError(f"`{path}` is not a key file of remit: restore it from where the key is kept")
    return key
