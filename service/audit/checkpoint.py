"""Checkpoints: the size and the root of the log as signed notes (Ed25519), and the keys in their text forms.

Pure. A note has any number of signature lines, so that a witness can add its own; here exactly the log's own
signature is required, and lines of unknown keys are left alone.
Source: C2SP `signed-note`, `tlog-checkpoint`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from service.audit.merkle import HASH_BYTES

_ED25519: Final = b"\x01"
_NAME: Final = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}")
_MAX_NOTE: Final = 64 * 1024


class NoteError(ValueError):
    """A note or a key is malformed, or the signature asked for is not there or does not verify."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key under a name: `<name>+<key id>+<base64 of the key>`."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.public) != 32:
            raise NoteError("not a verifier key")

    @property
    def key_id(self) -> bytes:
        """Four bytes that name the key within a note."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    @property
    def text(self) -> str:
        """The text form, to be handed to auditors."""
        return f"{self.name}+{self.key_id.hex()}+{_encode(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Read the text form. Raises NoteError."""
        name, _, rest = text.strip().partition("+")
        key_id, _, data = rest.partition("+")
        raw = _decode(data)
        found = cls(name, raw[1:])
        if raw[:1] != _ED25519 or found.key_id.hex() != key_id:
            raise NoteError("not a verifier key of Ed25519")
        return found


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key under a name: `PRIVATE+KEY+<name>+<key id>+<base64 of the seed>`. Not shown by `repr`."""

    name: str
    key: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"Signer({self.name!r})"

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, self.key.public_key().public_bytes_raw())

    @property
    def text(self) -> str:
        """The text form, a secret."""
        return (
            f"PRIVATE+KEY+{self.name}+{self.verifier.key_id.hex()}+{_encode(_ED25519 + self.key.private_bytes_raw())}"
        )

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Read the text form. Raises NoteError, which never repeats the key."""
        parts = text.strip().split("+", 4)
        if len(parts) != 5 or parts[:2] != ["PRIVATE", "KEY"]:
            raise NoteError("not a signer key")
        raw = _decode(parts[4])
        if raw[:1] != _ED25519 or len(raw) != 33:
            raise NoteError("not a signer key of Ed25519")
        found = cls(parts[2], Ed25519PrivateKey.from_private_bytes(raw[1:]))
        if found.verifier.key_id.hex() != parts[3]:
            raise NoteError("not a signer key: its key id is that of another")
        return found


def sign_note(text: str, signer: Signer) -> str:
    """A note: the text, an empty line, one signature line. `text` ends with a line feed."""
    if not text.endswith("\n"):
        raise NoteError("the text of a note ends with a line feed")
    signature = signer.key.sign(text.encode())
    return f"{text}\n— {signer.name} {_encode(signer.verifier.key_id + signature)}\n"


def open_note(note: bytes, verifier: Verifier) -> str:
    """The text of a note that bears a good signature of `verifier`. Raises NoteError."""
    if len(note) > _MAX_NOTE:
        raise NoteError("a note of more than 64 KiB")
    try:
        whole = note.decode()
    except UnicodeDecodeError as err:
        raise NoteError("a note that is not UTF-8") from err
    if any(ord(c) < 32 and c != "\n" for c in whole):
        raise NoteError("a note with control characters")
    body, middle, tail = whole.rpartition("\n\n")
    if not middle or not tail.endswith("\n"):
        raise NoteError("a note without signatures")
    text, verified = body + "\n", False
    for line in tail.removesuffix("\n").split("\n"):
        dash, _, rest = line.partition(" ")
        name, _, data = rest.partition(" ")
        raw = _decode(data)
        if dash != "—" or not _NAME.fullmatch(name) or len(raw) <= 4:
            raise NoteError("a malformed signature line")
        if name == verifier.name and raw[:4] == verifier.key_id:
            try:
                Ed25519PublicKey.from_public_bytes(verifier.public).verify(raw[4:], text.encode())
            except InvalidSignature as err:
                raise NoteError(f"the signature of `{name}` does not verify") from err
            verified = True
    if not verified:
        raise NoteError(f"no signature of `{verifier.name}`")
    return text


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log: its origin (the name of its key), how many records, and the root over their leaves."""

    origin: str
    size: int
    root: bytes

    def sign(self, signer: Signer) -> str:
        """The checkpoint as a signed note."""
        return sign_note(f"{self.origin}\n{self.size}\n{_encode(self.root)}\n", signer)

    @classmethod
    def open(cls, note: bytes, verifier: Verifier) -> Checkpoint:
        """Read a checkpoint that `verifier` signed for the log of its own name. Raises NoteError."""
        lines = open_note(note, verifier).split("\n")
        if len(lines) < 4 or lines[0] != verifier.name:
            raise NoteError("not a checkpoint of this log")
        if not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]):
            raise NoteError("a checkpoint whose size is not a number")
        root = _decode(lines[2])
        if len(root) != HASH_BYTES:
            raise NoteError("a checkpoint whose root is not a hash")
        return cls(lines[0], int(lines[1]), root)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise NoteError("malformed base64") from err
    # Unused bits must be zero: one value, one text.
    if _encode(data) != text:
        raise NoteError("malformed base64")
    return data
