"""Cosignatures: a witness says that it saw a checkpoint at a time, and that it follows from all that it saw before.

Pure, but for the key's file.
Source: C2SP `tlog-cosignature` (cosignature/v1, Ed25519) and `signed-note`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from service.audit.checkpoint import NoteError
from service.errors import StartError
from service.files import durable_file, key_file

_COSIGNATURE: Final = b"\x04"
_NAME: Final = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}")
_WHAT: Final = "the key of the witness"


@dataclass(frozen=True, slots=True)
class CosignVerifier:
    """A witness's public key under its name: `<name>+<key id>+<base64>`, the base64 of 0x04 and the key."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.public) != 32:
            raise NoteError("not a witness's key")

    @property
    def key_id(self) -> bytes:
        """Four bytes that name the key within a note."""
        return hashlib.sha256(self.name.encode() + b"\n" + _COSIGNATURE + self.public).digest()[:4]

    @property
    def text(self) -> str:
        """The text form, to be handed to auditors."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_COSIGNATURE + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> CosignVerifier:
        """Read the text form. Raises NoteError."""
        name, _, rest = text.strip().partition("+")
        key_id, _, data = rest.partition("+")
        raw = _decode(data)
        found = cls(name, raw[1:])
        if raw[:1] != _COSIGNATURE or found.key_id.hex() != key_id:
            raise NoteError("not a witness's key")
        return found

    def seen_at(self, note: bytes) -> datetime:
        """When the witness saw this checkpoint. Raises NoteError without its good cosignature."""
        body, lines = _split(note)
        for line in lines:
            _, _, rest = line.partition(" ")
            name, _, data = rest.partition(" ")
            raw = _decode(data)
            if name != self.name or raw[:4] != self.key_id:
                continue
            if len(raw) != 4 + 8 + 64:
                raise NoteError("a malformed cosignature")
            (seconds,) = struct.unpack(">Q", raw[4:12])
            try:
                Ed25519PublicKey.from_public_bytes(self.public).verify(raw[12:], _message(body, seconds))
                return datetime.fromtimestamp(seconds, UTC)
            except (InvalidSignature, ValueError, OverflowError, OSError) as err:
                raise NoteError(f"the cosignature of `{self.name}` does not verify") from err
        raise NoteError(f"no cosignature of `{self.name}`")


class Cosigner:
    """A witness's private key. Not shown by `repr`."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self.verifier = CosignVerifier(name, key.public_key().public_bytes_raw())
        self._key = key

    def __repr__(self) -> str:
        return f"Cosigner({self.verifier.name!r})"

    def cosign(self, note: bytes, at: datetime) -> bytes:
        """The note with a line that says that it was seen. Raises NoteError when it is none."""
        body, _ = _split(note)
        seconds = int(at.timestamp())
        raw = self.verifier.key_id + struct.pack(">Q", seconds) + self._key.sign(_message(body, seconds))
        return note + f"— {self.verifier.name} {base64.b64encode(raw).decode()}\n".encode()

    @classmethod
    def create(cls, path: Path, name: str) -> Cosigner:
        """Make a key and write it to a file of mode 0600. Raises FileExistsError and NoteError."""
        key = Ed25519PrivateKey.generate()
        made = cls(name, key)
        secret = base64.b64encode(_COSIGNATURE + key.private_bytes_raw()).decode()
        durable_file.create(path, f"PRIVATE+KEY+{name}+{made.verifier.key_id.hex()}+{secret}\n".encode())
        return made

    @classmethod
    def load(cls, path: Path) -> Cosigner:
        """Read the key. Raises StartError: missing, open to others, or not a witness's key."""
        data = key_file.read(path, _WHAT)
        try:
            parts = data.decode("ascii").strip().split("+", 4)
            raw = _decode(parts[4]) if len(parts) == 5 and parts[:2] == ["PRIVATE", "KEY"] else b""
            if raw[:1] != _COSIGNATURE or len(raw) != 33:
                raise NoteError("not a witness's key")
            return cls(parts[2], Ed25519PrivateKey.from_private_bytes(raw[1:]))
        except (NoteError, UnicodeDecodeError) as err:
            raise StartError(f"{path} is not {_WHAT}: `remit witness init` makes one") from err


def _message(body: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{body}".encode()


def _split(note: bytes) -> tuple[str, list[str]]:
    """The text that is signed, and the signature lines."""
    try:
        body, middle, tail = note.decode().rpartition("\n\n")
    except UnicodeDecodeError as err:
        raise NoteError("a note that is not UTF-8") from err
    if not middle or not tail.endswith("\n"):
        raise NoteError("a note without signatures")
    return body + "\n", tail.removesuffix("\n").split("\n")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise NoteError("malformed base64") from err
