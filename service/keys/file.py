"""The key-encryption key in a file that only its owner can read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import StartError
from service.files import durable_file, key_file
from service.keys.envelope import KEY_BYTES, seal, unseal
from service.keys.provider import ProviderError, Wrapped, other_key

_HEADER: Final = "remit key-encryption key 1"


class FileKey:
    """A key-encryption key in a file that only its owner can read: a header line, then 32 bytes in base64.

    While a rotation is under way there are several, one a line, the newest first.
    """

    def __init__(self, path: Path) -> None:
        """Read the keys. Raises StartError with what is wrong with the file and what to do."""
        self._path = path
        self._lock = threading.Lock()
        self._load(_read(path))

    @property
    def key_id(self) -> str:
        """See `KeyProvider`."""
        return next(iter(self._keys))

    @property
    def described(self) -> str:
        """See `KeyProvider`."""
        return f"file {self._path}"

    def has(self, kek: str) -> bool:
        """See `KeyProvider`."""
        return kek in self._keys

    def wrap(self, key: bytes, place: bytes) -> Wrapped:
        """See `KeyProvider`."""
        kek = self.key_id
        return Wrapped(kek, seal(AESGCM(self._keys[kek]), key, place))

    def unwrap(self, kek: str, wrapped: bytes, place: bytes) -> bytes:
        """See `KeyProvider`."""
        key = self._keys.get(kek)
        if key is None:
            raise other_key(kek, self)
        return unseal(AESGCM(key), wrapped, place)

    def rotate(self) -> None:
        """See `KeyProvider`. Both keys stand in the file until `retire`."""
        self._write([os.urandom(KEY_BYTES), *self._keys.values()])

    def retire(self, in_use: Collection[str]) -> tuple[str, ...]:
        """See `KeyProvider`. Each goes to a file of its own beside, named by its id: backups may need it."""
        gone = {kek: key for kek, key in self._keys.items() if kek not in in_use and kek != self.key_id}
        for kek, key in gone.items():
            try:
                durable_file.create(self._path.with_name(f"{self._path.name}.retired-{kek}"), _text([key]))
            except FileExistsError:
                pass  # An earlier rotation came this far and no further.
            except OSError as err:
                raise ProviderError(f"`{self._path.parent}` cannot be written: {err.strerror}") from err
        if gone:
            self._write([key for kek, key in self._keys.items() if kek not in gone])
        return tuple(gone)

    def check(self) -> None:
        """See `KeyProvider`. A file that is gone, or another's, would end with the process: nothing starts again."""
        with self._lock:  # not while the file is being changed
            try:
                found = _read(self._path)
            except StartError as err:
                raise ProviderError(str(err)) from err
            same = _ids(found).keys() == self._keys.keys()
        if not same:
            raise ProviderError(f"the key file `{self._path}` holds another key than `{self.key_id}`: restore it")

    def close(self) -> None:
        """See `KeyProvider`."""

    def _write(self, keys: list[bytes]) -> None:
        with self._lock:
            try:
                durable_file.replace(self._path, _text(keys))
            except OSError as err:
                raise ProviderError(f"the key file `{self._path}` cannot be written: {err.strerror}") from err
            self._load(keys)

    def _load(self, keys: list[bytes]) -> None:
        self._keys = _ids(keys)


def create_key_file(path: Path) -> None:
    """Write a new random key to `path`, readable by its owner alone. Raises StartError when the file exists."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable_file.create(path, _text([os.urandom(KEY_BYTES)]))
    except FileExistsError as err:
        raise StartError(f"`{path}` exists already: a key is never overwritten, name another file") from err
    except OSError as err:
        raise StartError(f"the key file `{path}` cannot be written: {err.strerror}") from err


def _ids(keys: list[bytes]) -> dict[str, bytes]:
    return {hmac.new(key, b"remit key id", hashlib.sha256).hexdigest()[:16]: key for key in keys}


def _text(keys: list[bytes]) -> bytes:
    return "".join(f"{line}\n" for line in (_HEADER, *(base64.b64encode(key).decode() for key in keys))).encode("ascii")


def _read(path: Path) -> list[bytes]:
    text = key_file.read(path, "the key-encryption key")
    header, _, rest = text.decode("utf-8", "replace").partition("\n")
    try:
        keys = [base64.b64decode(line, validate=True) for line in rest.split()]
    except (binascii.Error, ValueError):
        keys = []
    if header.strip() != _HEADER or not keys or any(len(key) != KEY_BYTES for key in keys):
        raise StartError(f"`{path}` is not a key file of remit: restore it from where the key is kept")
    return keys
