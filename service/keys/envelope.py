"""Authenticated encryption of one value, bound to its place. Which key is used is left to `service.keys.store`.

A sealed value is one format byte, a random 96-bit nonce, and AES-256-GCM's ciphertext with its tag. A key seals few
values (those of one document), so that random nonces stay far below the limit of NIST SP 800-38D.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import RemitError

KEY_BYTES: Final = 32
_FORMAT: Final = b"\x01"
_NONCE_BYTES: Final = 12
HEAD_BYTES: Final = len(_FORMAT) + _NONCE_BYTES
"""Of a sealed value: what stands before the ciphertext."""

_SCHEMA: Final = b"remit/1"
_SCHEMA_PART: Final = len(_SCHEMA).to_bytes(4, "big") + _SCHEMA


class UnsealError(RemitError):
    """A sealed value was changed, moved to another place, or sealed under another key."""


def associated(*parts: str | int) -> bytes:
    """Encode where a value belongs: each part with its length before it, so that no two lists of parts look alike."""
    return within(_SCHEMA_PART, *parts)


def within(place: bytes, *parts: str | int) -> bytes:
    """Encode a place inside another one: `associated` of the parts of both."""
    written = [place]
    for part in parts:
        encoded = str(part).encode("utf-8", "surrogatepass")
        written += (len(encoded).to_bytes(4, "big"), encoded)
    return b"".join(written)


def seal(cipher: AESGCM, plaintext: bytes, place: bytes) -> bytes:
    """Encrypt `plaintext` so that it opens only with the same key and the same `place`."""
    nonce = os.urandom(_NONCE_BYTES)
    return _FORMAT + nonce + cipher.encrypt(nonce, plaintext, place)


def unseal(cipher: AESGCM, sealed: bytes, place: bytes) -> bytes:
    """Decrypt what `seal` made. Raises UnsealError."""
    if not sealed.startswith(_FORMAT) or len(sealed) < HEAD_BYTES:
        raise UnsealError("a sealed value has an unknown format")
    try:
        return cipher.decrypt(sealed[len(_FORMAT) : HEAD_BYTES], sealed[HEAD_BYTES:], place)
    except InvalidTag as err:
        raise UnsealError("a sealed value was changed, moved, or sealed under another key") from err
