"""What a proof found, as one JSON document, signed by whoever made it.

The signature is the prover's, not the service's: who is examined does not sign the examination. To the service it is
bound by the ids of the audit records of its calls and by a checkpoint of the audit log, which the service signed.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from service.audit import Signer, Verifier
from service.audit.checkpoint import Checkpoint, NoteError
from service.errors import StartError
from service.files import durable_file, key_file, strict_json

FORMAT: Final = 1
_CONTEXT: Final = b"remit prove report\n"
_MOST_BYTES: Final = 64 * 1024 * 1024


class Result(Enum):
    """How a check or a whole proof ended. NOT_RUN: it could not be made, and that is never a pass.

    LEFT_OUT: of a check alone: whoever ran the proof said that it should not be made.
    """

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not_run"
    LEFT_OUT = "left_out"


@dataclass(frozen=True, slots=True)
class Check:
    """One claim. detail: what was found, in a sentence. facts: its numbers."""

    claim: str
    result: Result
    detail: str
    facts: Mapping[str, object] = field(default_factory=dict)


def claim(text: str, holds: bool, detail: str, **facts: object) -> Check:
    """A claim that was checked."""
    return Check(text, Result.PASSED if holds else Result.FAILED, detail, facts)


@dataclass(frozen=True, slots=True)
class Part:
    """The findings of one proof. tables: rows for the page, by name."""

    proof: str
    checks: Sequence[Check]
    tables: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    audit_ids: Sequence[str] = ()


def overall(checks: Sequence[Check]) -> Result:
    """FAILED when one failed; PASSED only when there are some and all passed, but for those that were left out."""
    results = {check.result for check in checks} - {Result.LEFT_OUT}
    if Result.FAILED in results:
        return Result.FAILED
    return Result.PASSED if results == {Result.PASSED} else Result.NOT_RUN


@dataclass(frozen=True, slots=True)
class Made:
    """Who made a report of what. checkpoint: of the audit log after the last call; audit_key: what it verifies by."""

    proof: str
    began: datetime
    ended: datetime
    person: str
    version: str
    audit_key: str
    checkpoint: str


def document(made: Made, parts: Sequence[Part], matrix: Mapping[str, object] | None) -> dict[str, Any]:
    """The report without its signature."""
    checks = [check for part in parts for check in part.checks]
    return {
        "format": FORMAT,
        "proof": made.proof,
        "result": overall(checks).value,
        "began": made.began.isoformat(),
        "ended": made.ended.isoformat(),
        "person": made.person,
        "version": made.version,
        "deployment": {"audit_key": made.audit_key, "checkpoint": made.checkpoint},
        "parts": [
            {
                "proof": part.proof,
                "result": overall(part.checks).value,
                "checks": [
                    {"claim": c.claim, "result": c.result.value, "detail": c.detail, "facts": dict(c.facts)}
                    for c in part.checks
                ],
                "tables": {name: [dict(row) for row in rows] for name, rows in part.tables.items()},
                "audit_ids": list(part.audit_ids),
            }
            for part in parts
        ],
        **({"matrix": dict(matrix)} if matrix is not None else {}),
    }


def sign(body: Mapping[str, Any], signer: Signer) -> bytes:
    """The bytes of a signed report: the signature is over the canonical form (RFC 8785) of everything else."""
    signature = signer.key.sign(_CONTEXT + rfc8785.dumps(dict(body)))
    signed = {**body, "signature": {"key": signer.verifier.text, "value": base64.b64encode(signature).decode("ascii")}}
    return json.dumps(signed, indent=1, ensure_ascii=False).encode() + b"\n"


class ReportError(StartError):
    """A file is no report, or not one that was signed by the key asked for: one sentence."""


def read(path: Path) -> bytes:
    """Read a file that should be a report. Raises ReportError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as err:
        raise ReportError(f"{path} cannot be read: {err.strerror}") from err
    if len(data) > _MOST_BYTES:
        raise ReportError(f"{path} is no report: it has more than {_MOST_BYTES} bytes")
    return data


def verify(data: bytes, key: Verifier, audit_key: Verifier | None) -> dict[str, Any]:
    """Return a report that `key` signed and that is about the deployment of `audit_key`. Raises ReportError."""
    try:
        body = strict_json.parse(data)
        assert isinstance(body, dict)
        signature = body.pop("signature")
        named, value = Verifier.parse(signature["key"]), base64.b64decode(signature["value"], validate=True)
        canonical = rfc8785.dumps(body)
        about = Verifier.parse(body["deployment"]["audit_key"])
        note = str(body["deployment"]["checkpoint"]).encode()
        known = body["format"] == FORMAT and body["result"] in {
            one.value for one in Result if one is not Result.LEFT_OUT
        }
    except (
        ValueError,
        KeyError,
        TypeError,
        AssertionError,
        RecursionError,
        binascii.Error,
        rfc8785.CanonicalizationError,
    ) as err:
        raise ReportError("this is no report of `remit prove`, or it was cut short") from err
    if not known:
        raise ReportError("this report has a format that this version does not read")
    if named != key:
        raise ReportError(f"the report was signed by `{named.name}`, not by `{key.name}`: name the key with `--key`")
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(value, _CONTEXT + canonical)
    except InvalidSignature as err:
        raise ReportError(f"the signature of `{key.name}` does not verify: the report was changed after it") from err
    if audit_key is not None and about != audit_key:
        raise ReportError(f"this is a report of another deployment, whose audit log is `{about.name}`")
    try:
        Checkpoint.open(note, about)
    except NoteError as err:
        raise ReportError(f"its checkpoint was not signed by the audit log `{about.name}`: {err}") from err
    return body


def signer_of(path: Path) -> Signer:
    """The prover's key, made with its public half when it is not there. Raises StartError."""
    if not path.exists():
        made = Signer(f"remit-prove/{secrets.token_hex(4)}", Ed25519PrivateKey.generate())
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable_file.create(path, f"{made.text}\n".encode(), 0o600)
            durable_file.create(path.with_suffix(".pub"), f"{made.verifier.text}\n".encode(), 0o644)
        except OSError as err:
            raise StartError(f"the key {path} cannot be written: {err.strerror}") from err
        return made
    try:
        return Signer.parse(key_file.read(path, "the key that signs reports").decode("ascii"))
    except (NoteError, UnicodeDecodeError) as err:
        raise StartError(f"{path} is not a key that signs reports") from err


def verifier_of(path: Path) -> Verifier:
    """A public key. Raises StartError."""
    try:
        return Verifier.parse(path.read_text())
    except OSError as err:
        raise StartError(f"{path} cannot be read: {err.strerror}; name the public key with `--key`") from err
    except (NoteError, UnicodeDecodeError) as err:
        raise StartError(f"{path} is not a public key of `remit prove`") from err
