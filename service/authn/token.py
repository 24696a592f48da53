"""The text of a token, read strictly: its header, its claims, and the rules that need no key. Pure.

One text for each value: strict base64url, no member twice, no number that is none; bounded before anything is parsed.
Source: RFC 7515 section 4.1, RFC 8725 sections 3.3 to 3.11, RFC 9068 section 4.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from service.authn.certificates import ClientCertificate
from service.authn.subject import TokenRefusedError, text_claim
from service.files import strict_json
from service.sections.issuers import IssuerSettings

SKEW: Final = timedelta(seconds=60)
MAX_BYTES: Final = 16 * 1024

_BEARER: Final = re.compile(r"(?i:bearer) ([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_TYPES: Final = {"at+jwt": frozenset({"at+jwt", "application/at+jwt"}), "JWT": frozenset({"jwt", "application/jwt"})}

# Where the type is only `JWT`, these tell what else an issuer signs.
# SOURCE: OpenID Connect Core 3.1.3.6 and 3.3.2.11 (ID tokens), RFC 8417 section 2.2 (events, such as logout tokens).
_OF_OTHER_TOKENS: Final = frozenset({"nonce", "at_hash", "c_hash", "s_hash", "events"})
# Keycloak says `ID`, `Refresh` or `Logout` in a claim of its own.
_CLAIMED_TYPES: Final = frozenset({"bearer", "at+jwt"})
# SOURCE: RFC 9068 section 2.2 (client_id), OpenID Connect Core 2 (azp); Entra ID's tokens of version 1 say appid.
_CLIENT: Final = ("client_id", "azp", "appid")


@dataclass(frozen=True, slots=True)
class Presented:
    """A token as it was presented: nothing in it is proven. text: the compact form that is signed."""

    text: str
    header: Mapping[str, object]
    claims: Mapping[str, object]


def parse(value: str | None) -> Presented:
    """Read the value of `authorization`. Raises TokenRefusedError."""
    if value is None:
        raise TokenRefusedError("missing")
    if len(value) > MAX_BYTES:
        raise TokenRefusedError("too large")
    parts = _BEARER.fullmatch(value)
    if parts is None:
        raise TokenRefusedError("not a bearer token")
    header, claims = (_members(part) for part in (parts[1], parts[2]))
    return Presented(value.partition(" ")[2], header, claims)


def check_kind(presented: Presented, issuer: IssuerSettings) -> None:
    """Refuse what is not an access token, or says something in its header that must be understood and is not.

    What a header says of keys (`jwk`, `jku`, `x5u`, `x5c`) is never looked at.
    """
    header, claims = presented.header, presented.claims
    if "crit" in header:
        raise TokenRefusedError("critical header")
    kind = header.get("typ")
    if not isinstance(kind, str) or kind.lower() not in _TYPES[issuer.token_type]:
        raise TokenRefusedError("wrong type")
    if issuer.token_type == "JWT":
        claimed = claims.get("typ", "Bearer")
        if _OF_OTHER_TOKENS & claims.keys() or not isinstance(claimed, str) or claimed.lower() not in _CLAIMED_TYPES:
            raise TokenRefusedError("wrong type")


def check_claims(
    claims: Mapping[str, object], issuer: IssuerSettings, now: datetime, certificate: ClientCertificate | None = None
) -> datetime:
    """Check audience, client, binding and times; return when the token proves nothing any more, the skew included.

    certificate: the client certificate of the connection.
    """
    audience = claims.get("aud")
    if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
        raise TokenRefusedError("wrong audience")
    if issuer.clients:
        named = [claims[name] for name in _CLIENT if name in claims]
        # All that is said must be of the list: two names would let one reader see another client than the next.
        if not named or not all(isinstance(one, str) and one in issuer.clients for one in named):
            raise TokenRefusedError("wrong client")
    if "cnf" in claims and (certificate is None or claims["cnf"] != {"x5t#S256": certificate.thumbprint}):
        # Bound to a key that the presenter must prove to hold. SOURCE: RFC 7800 section 3.1, RFC 8705 section 3.
        raise TokenRefusedError("bound token")
    expires, issued = _moment(claims.get("exp")), _moment(claims.get("iat"))
    if now >= expires + SKEW:
        raise TokenRefusedError("expired")
    if issued > now + SKEW or ("nbf" in claims and _moment(claims["nbf"]) > now + SKEW):
        raise TokenRefusedError("not yet valid")
    if not timedelta(0) < expires - issued <= issuer.max_token_lifetime:
        raise TokenRefusedError("lives too long")
    return expires + SKEW


def token_id(presented: Presented) -> str:
    """The token's `jti`, or where it has none a prefix of its SHA-256."""
    if "jti" in presented.claims:
        return text_claim(presented.claims["jti"])
    return hashlib.sha256(presented.text.encode()).hexdigest()[:16]


def _members(part: str) -> dict[str, object]:
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != part:
            raise TokenRefusedError("malformed")
        found = strict_json.parse(data)
    except ValueError as err:
        raise TokenRefusedError("malformed") from err
    if not isinstance(found, dict):
        raise TokenRefusedError("malformed")
    return found


def _moment(value: object) -> datetime:
    # The bound is in the year 5138, so that no sum of times overflows.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 100_000_000_000:
        raise TokenRefusedError("no times")
    return datetime.fromtimestamp(value, UTC)
