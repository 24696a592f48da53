"""Whom a credential proves, and the one error for every credential that proves nobody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from service.errors import UnauthenticatedError


class TokenRefusedError(UnauthenticatedError):
    """A credential that does not verify. The text is one for all; `why` is a constant word for the audit log alone."""

    def __init__(self, why: str) -> None:
        super().__init__("the credential is missing or does not verify")
        self.why = why


NOWHERE: Final = frozenset({""})
"""Stands where an empty set would mean every source: no source has this name."""


@dataclass(frozen=True, slots=True)
class Acting:
    """Who acts for a subject. actors: the current one first. sources: what all of them may reach, by name."""

    actors: tuple[str, ...]
    sources: frozenset[str]

    def within(self, sources: frozenset[str]) -> frozenset[str]:
        """Return those of the sources that may be reached, NOWHERE for none. No sources: all that may be."""
        return (sources & self.sources if sources else self.sources) or NOWHERE


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a verified credential proves: by which issuer, and which account of which directory.

    expires_at: past it the credential proves nothing, the allowed skew of clocks included.
    token_id: the token's `jti`, or where it has none a prefix of its SHA-256.
    acting: who acts for the account; None when it acts itself.
    """

    issuer: str
    subject: str
    directory: str
    attribute: str
    value: str
    expires_at: datetime
    token_id: str
    acting: Acting | None = None
