"""Whom a credential proves, and the one error for every credential that proves nobody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from acl.principal import Principal
from service.errors import UnauthenticatedError

_MAX_CLAIM_BYTES: Final = 512


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
class OnBehalf:
    """A service that named the subject. Both must be allowed to read what is returned.

    name, service: which service account, and whom its certificate proves.
    groups: the subject must hold one of these. never: and none of these, which have roles.
    """

    name: str
    service: Subject
    groups: frozenset[Principal]
    never: frozenset[Principal]


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a verified credential proves: by which issuer, and which account of which directory.

    expires_at: past it the credential proves nothing, the allowed skew of clocks included.
    token_id: the token's `jti`, or where it has none a prefix of its SHA-256.
    acting: who acts for the account by its own token; None when nobody does.
    on_behalf: the service that named the account; None when a credential of its own proves it.
    """

    issuer: str
    subject: str
    directory: str
    attribute: str
    value: str
    expires_at: datetime
    token_id: str
    acting: Acting | None = None
    on_behalf: OnBehalf | None = None

    @property
    def acts_itself(self) -> bool:
        """Whether nobody acts for the account."""
        return self.acting is None and self.on_behalf is None


def text_claim(value: object) -> str:
    """An id: text that is not empty, bounded, and has nothing that another reader could take for its end."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise TokenRefusedError("no subject")
    if len(value.encode("utf-8", "replace")) > _MAX_CLAIM_BYTES:
        raise TokenRefusedError("no subject")
    return value
