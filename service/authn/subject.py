"""Whom a credential proves, and the one error for every credential that proves nobody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from service.errors import UnauthenticatedError


class TokenRefusedError(UnauthenticatedError):
    """A credential that does not verify. The text is one for all; `why` is a constant word for the audit log alone."""

    def __init__(self, why: str) -> None:
        super().__init__("the credential is missing or does not verify")
        self.why = why


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a verified credential proves: by which issuer, and which account of which directory.

    expires_at: past it the credential proves nothing, the allowed skew of clocks included.
    token_id: the token's `jti`, or where it has none a prefix of its SHA-256.
    """

    issuer: str
    subject: str
    directory: str
    attribute: str
    value: str
    expires_at: datetime
    token_id: str
