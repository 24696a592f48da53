"""From a credential to a subject: OAuth 2.0 access tokens as signed JWTs, verified against pinned keys.

PyJWT checks the signature; which key and which one algorithm it may use is chosen here, never by the token.
What the subject belongs to is `service.identity`.
Source: RFC 8725 (JWT best practices), RFC 9068 (access tokens), RFC 7515 section 4.1.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from service import strict_json
from service.errors import StartError, UnauthenticatedError
from service.settings import IssuerSettings

SKEW: Final = timedelta(seconds=60)
MAX_CREDENTIAL_BYTES: Final = 16 * 1024
_MAX_CLAIM_BYTES: Final = 512
_MAX_JWKS_BYTES: Final = 1024 * 1024

# One algorithm for each kind of key. Nothing symmetric, so that a public key can never serve as a secret.
_ALGORITHMS: Final = ("EdDSA", "ES256", "RS256", "PS256")
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
_BEARER: Final = re.compile(r"(?i:bearer) ([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")

_Key = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


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


@dataclass(frozen=True, slots=True)
class _Trusted:
    algorithm: str
    key: _Key


class _KeyFile:
    """The public keys of one issuer, read again when their file changes. A file that cannot be used is no keys."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int, int] | None = None
        self._keys: Mapping[str, _Trusted] = {}
        self._load()

    def key(self, key_id: str) -> _Trusted | None:
        """The key of this id as the file says now. Raises TokenRefusedError while the file cannot be used."""
        try:
            if self._stamp(os.stat(self._path)) != self._seen:  # noqa: PTH116  a third of the time, at every call
                self._load()
        except (OSError, StartError) as err:
            self._seen, self._keys = None, {}
            raise TokenRefusedError("no keys") from err
        return self._keys.get(key_id)

    def _load(self) -> None:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                data = file.read(_MAX_JWKS_BYTES + 1)
        except FileNotFoundError as err:
            raise StartError(f"the keys of the issuer, `{self._path}`, do not exist") from err
        except OSError as err:
            raise StartError(f"the keys of the issuer, `{self._path}`, cannot be read: {err.strerror}") from err
        self._keys = _read_keys(self._path, data)
        # A file that was just written may be written again within the same tick of its clock: look again next time.
        settled = time.time_ns() - status.st_mtime_ns > 2_000_000_000
        self._seen = self._stamp(status) if settled else None

    @staticmethod
    def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Authenticator:
    """Verifies credentials of the configured issuers."""

    def __init__(
        self, issuers: Iterable[IssuerSettings], *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Read the keys of every issuer. Raises StartError: missing, no keys, or keys that may not verify tokens."""
        self._issuers = {one.issuer: (one, _KeyFile(one.jwks)) for one in issuers}
        self._now = now

    def authenticate(self, value: str | None) -> Subject:
        """Verify the value of `authorization` and return whom it proves. Raises TokenRefusedError, one text for all."""
        # 1. Form: one bearer token of three strict base64url parts, bounded.
        if value is None:
            raise TokenRefusedError("missing")
        if len(value) > MAX_CREDENTIAL_BYTES:
            raise TokenRefusedError("too large")
        parts = _BEARER.fullmatch(value)
        if parts is None:
            raise TokenRefusedError("not a bearer token")
        header, claims = (_members(part) for part in (parts[1], parts[2]))
        # 2. Kind: an access token, with nothing in its header that must be understood and is not. What a header says
        #    of keys (`jwk`, `jku`, `x5u`, `x5c`) is never looked at.
        if "crit" in header:
            raise TokenRefusedError("critical header")
        kind = header.get("typ")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise TokenRefusedError("wrong type")
        # 3. Key: of the issuer that the token names, by its id; the algorithm is the key's.
        issuer, key_id = claims.get("iss"), header.get("kid")
        if not isinstance(issuer, str) or issuer not in self._issuers:
            raise TokenRefusedError("unknown issuer")
        settings, keys = self._issuers[issuer]
        trusted = keys.key(key_id) if isinstance(key_id, str) else None
        if trusted is None:
            raise TokenRefusedError("unknown key")
        if header.get("alg") != trusted.algorithm:
            raise TokenRefusedError("wrong algorithm")
        # 4. Signature, with exactly that one algorithm.
        token = value.partition(" ")[2]
        try:
            jwt.PyJWS().decode_complete(token, trusted.key, algorithms=[trusted.algorithm])
        except jwt.PyJWTError as err:
            raise TokenRefusedError("wrong signature") from err
        # 5. Claims. INVARIANT: from here on they are what the issuer signed.
        audience = claims.get("aud")
        if settings.audience not in (audience if isinstance(audience, list) else [audience]):
            raise TokenRefusedError("wrong audience")
        expires_at = self._check_times(claims, settings.max_token_lifetime)
        token_id = claims["jti"] if "jti" in claims else hashlib.sha256(token.encode()).hexdigest()[:16]
        return Subject(
            issuer=issuer,
            subject=_text(claims.get("sub")),
            directory=settings.directory,
            attribute=settings.attribute,
            value=_text(claims.get(settings.claim)),
            expires_at=expires_at,
            token_id=_text(token_id),
        )

    def _check_times(self, claims: Mapping[str, object], max_lifetime: timedelta) -> datetime:
        expires, issued = _moment(claims.get("exp")), _moment(claims.get("iat"))
        now = self._now()
        if now >= expires + SKEW:
            raise TokenRefusedError("expired")
        if issued > now + SKEW or ("nbf" in claims and _moment(claims["nbf"]) > now + SKEW):
            raise TokenRefusedError("not yet valid")
        if not timedelta(0) < expires - issued <= max_lifetime:
            raise TokenRefusedError("lives too long")
        return expires + SKEW


def _members(part: str) -> dict[str, object]:
    """Decode one part of a token, strictly: one text for each value, and no member twice."""
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


def _text(value: object) -> str:
    # An account's id: text that is not empty, bounded, and has nothing that another reader could take for its end.
    if not isinstance(value, str) or not value or not value.isprintable():
        raise TokenRefusedError("no subject")
    if len(value.encode("utf-8", "replace")) > _MAX_CLAIM_BYTES:
        raise TokenRefusedError("no subject")
    return value


def _moment(value: object) -> datetime:
    # The bound is in the year 5138, so that no sum of times overflows.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 100_000_000_000:
        raise TokenRefusedError("no times")
    return datetime.fromtimestamp(value, UTC)


def _read_keys(path: Path, data: bytes) -> dict[str, _Trusted]:
    try:
        found = strict_json.parse(data) if len(data) <= _MAX_JWKS_BYTES else None
    except ValueError as err:
        raise StartError(f"`{path}` is not a JSON web key set: {err}") from err
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise StartError(f"`{path}` is not a JSON web key set: expected `keys` with a list of keys")
    keys: dict[str, _Trusted] = {}
    for entry in entries:
        key_id = entry.get("kid")
        if _PRIVATE & entry.keys():
            raise StartError(f"`{path}` holds a private or symmetric key, `{key_id}`: list public keys only")
        operations = entry.get("key_ops", ["verify"])
        if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
            continue  # for encryption, say: not ours
        if not isinstance(key_id, str) or not key_id:
            raise StartError(f"`{path}` holds a key without `kid`: a token names its key by it")
        if key_id in keys:
            raise StartError(f"`{path}` holds two keys with the id `{key_id}`")
        keys[key_id] = _trust(path, key_id, entry)
    if not keys:
        raise StartError(f"`{path}` holds no key that verifies signatures")
    return keys


def _trust(path: Path, key_id: str, entry: Mapping[str, object]) -> _Trusted:
    algorithm = entry.get("alg")
    if algorithm not in _ALGORITHMS or not isinstance(algorithm, str):
        raise StartError(f"`{path}`: key `{key_id}`: expected `alg` to be one of {', '.join(_ALGORITHMS)}")
    try:
        key = jwt.PyJWK(dict(entry), algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError) as err:
        raise StartError(f"`{path}`: key `{key_id}` is malformed or not a key of {algorithm}") from err
    match algorithm, key:
        case "EdDSA", Ed25519PublicKey():
            return _Trusted(algorithm, key)
        case "ES256", EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return _Trusted(algorithm, key)
        case "RS256" | "PS256", RSAPublicKey() if key.key_size >= 2048 and key.public_numbers().e >= 65537:
            return _Trusted(algorithm, key)
        case _:
            raise StartError(f"`{path}`: key `{key_id}` is too short, or not a key of {algorithm}")
