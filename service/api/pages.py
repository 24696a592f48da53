"""Page tokens: where the next page begins, sealed, and good only for the caller and the request that they came from.

A token proves nothing and opens nothing: every page is asked for, decided on and recorded like the first.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Protocol, Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.api.wrapper import Call
from service.errors import InvalidRequestError
from service.keys.envelope import UnsealError, associated, seal, unseal

_MAX_BYTES = 512


class Paged(Protocol):
    """A request for a page, as in AIP-158."""

    page_size: int
    page_token: str

    def CopyFrom(self, other: Self, /) -> None:
        """As of every message."""

    def SerializeToString(self, *, deterministic: bool) -> bytes:
        """As of every message."""


class PageTokens:
    """key: 32 bytes, of nothing else."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def write(self, position: int, request: Paged, call: Call) -> str:
        """A token for `position` in what this caller asked for."""
        # Of one length for all: how many digits a position has says how much there is that the caller may not see.
        sealed = seal(self._cipher, f"{position:020d}".encode("ascii"), _place(request, call))
        return base64.urlsafe_b64encode(sealed).decode("ascii").rstrip("=")

    def read(self, request: Paged, call: Call) -> int | None:
        """Where the page begins, None for the first. Raises InvalidRequestError for any token but one of `write`."""
        token = request.page_token
        if not token:
            return None
        try:
            if len(token) > _MAX_BYTES:
                raise ValueError
            sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            return int(unseal(self._cipher, sealed, _place(request, call)))
        except (UnsealError, binascii.Error, ValueError) as err:
            raise InvalidRequestError("page_token", "not a token of this list for this caller") from err


def _place(request: Paged, call: Call) -> bytes:
    bare = type(request)()
    bare.CopyFrom(request)
    bare.page_token, bare.page_size = "", 0
    asked = hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()
    subject = call.caller.subject
    # With the account and who acts for it: one credential can stand for several callers.
    actors = () if subject.acting is None else subject.acting.actors
    service = "" if subject.on_behalf is None else subject.on_behalf.name
    return associated(
        "page", call.rpc, subject.issuer, subject.subject, subject.directory, subject.value, service, *actors, asked
    )
