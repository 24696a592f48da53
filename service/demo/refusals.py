"""Part 3: Alice tries to reach Bob's document, and somebody forges a token."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich import box
from rich.table import Table

from service.demo.calls import Calls, Outcome, random_id
from service.demo.people import FINANCE
from service.demo.question import Found
from service.demo.screen import Screen

CLAIMS: Final = (
    ("x-remit-user", "bob"),
    ("x-forwarded-user", "u-1002"),
    ("x-remit-principals", f"posix:corp:gid-{FINANCE}"),
)
"""Metadata of a caller who says that she is somebody else."""


def refuse(screen: Screen, calls: Calls, tokens: dict[str, str], wanted: Found) -> None:
    """Show that what may not be read and what does not exist are the same answer. Raises BrokenClaimError."""
    alice, bob = tokens["alice"], tokens["bob"]
    screen.say(f"Alice has learned the id of Bob's document, {wanted.document_id}, and asks for it.")
    screen.say()
    hidden = calls.document(alice, wanted.document_id)
    claimed = calls.document(alice, wanted.document_id, CLAIMS)
    absent = calls.document(alice, random_id(wanted.document_id))
    allowed = calls.document(bob, wanted.document_id)
    forged = calls.document(forge(bob), wanted.document_id)
    without = calls.document(None, wanted.document_id)

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("who asks", "status", "message", "details"):
        # A status or a fingerprint that is cut off compares badly; sentences may go on in the next line.
        table.add_column(name, no_wrap=name in {"status", "details"})
    table.add_row("Alice, by its id", *_shown(hidden))
    table.add_row("Alice, and the metadata says that she is Bob", *_shown(claimed))
    table.add_row("Alice, for an id that does not exist", *_shown(absent))
    table.add_row("Bob's token, signed with another key", *_shown(forged))
    table.add_row("nobody: no token at all", *_shown(without))
    table.add_row("Bob himself", *_shown(allowed))
    screen.table(table)

    screen.claim(
        "hidden and absent are one answer: same status, same message, same bytes of details",
        hidden == claimed == absent and hidden.code == "NOT_FOUND" and bool(hidden.details),
        "a document that Alice may not read was answered otherwise than one that does not exist",
    )
    screen.claim(
        "a forged token and no token are one answer, too",
        forged == without and forged.code == "UNAUTHENTICATED",
        f"a forged token was answered with {forged.code}, no token with {without.code}: both should be refused alike",
    )
    screen.claim(
        f"Bob still reads it: {allowed.title}",
        allowed.code == "OK",
        f"Bob may read his document and was answered with {allowed.code}",
    )


def _shown(outcome: Outcome) -> tuple[str, str, str]:
    if outcome.code == "OK":
        return outcome.code, outcome.title, ""
    return outcome.code, outcome.message, f"{len(outcome.details)} bytes {sha256(outcome.details).hexdigest()[:12]}"


def forge(token: str) -> str:
    """The same header and claims, signed with a fresh key of the same kind."""
    claims = jwt.decode(token, options={"verify_signature": False})
    header = jwt.get_unverified_header(token)
    return jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers=header)
