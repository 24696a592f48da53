"""An issuer for tests: keys, a key set file, and tokens that are wrong in exactly one way."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from service.sections.issuers import IssuerSettings, KeyFile

ISSUER = "https://issuer.example/one"
AUDIENCE = "remit"
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)

ED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_ED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)

Key = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def public_jwk(key: Key, key_id: str, algorithm: str) -> dict[str, object]:
    """The entry of a key set for the public half of a key."""
    match key:
        case ed25519.Ed25519PrivateKey():
            text = OKPAlgorithm.to_jwk(key.public_key())
        case ec.EllipticCurvePrivateKey():
            text = ECAlgorithm.to_jwk(key.public_key())
        case rsa.RSAPrivateKey():
            text = RSAAlgorithm.to_jwk(key.public_key())
    entry: dict[str, object] = json.loads(text)
    entry.pop("key_ops", None)
    return entry | {"kid": key_id, "alg": algorithm, "use": "sig"}


KEYS = [
    public_jwk(ED, "ed", "EdDSA"),
    public_jwk(EC, "ec", "ES256"),
    public_jwk(RSA, "rs", "RS256"),
    public_jwk(RSA, "ps", "PS256"),
]


def write_keys(path: Path, keys: object) -> Path:
    """Replace a key set file."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": keys}))
    fresh.replace(path)
    return path


def issuer(jwks: Path, name: str = ISSUER, **changes: object) -> IssuerSettings:
    """The settings of an issuer whose keys are in a file, with some changed."""
    good: dict[str, object] = {
        "issuer": name,
        "audience": AUDIENCE,
        "keys": KeyFile(jwks),
        "claim": "sub",
        "directory": "people",
        "attribute": "id",
    }
    return IssuerSettings(**(good | changes))  # type: ignore[arg-type]  # a test's own choice


def claims(**changes: object) -> dict[str, object]:
    """Good claims with some changed; None takes one away."""
    good: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "u-1001",
        "iat": int(NOW.timestamp()),
        "exp": int((NOW + timedelta(minutes=15)).timestamp()),
        "jti": "t-1",
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


def encode(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def compact(header: str, payload: str, key: Key = ED) -> str:
    """A token over exactly these two texts, signed with Ed25519, whatever the header says."""
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    signed = f"{encode(header.encode())}.{encode(payload.encode())}"
    return f"{signed}.{encode(key.sign(signed.encode()))}"


def token(
    payload: Mapping[str, object] | None = None, *, key: Key = ED, algorithm: str = "EdDSA", **header: object
) -> str:
    """A token of good claims, or of these; header members may be changed, None takes one away."""
    members = {"typ": "at+jwt", "kid": "ed"} | header
    body = claims() if payload is None else dict(payload)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        whole = {"alg": algorithm} | members
        kept = {name: value for name, value in whole.items() if value is not None}
        return compact(json.dumps(kept), json.dumps(body), key)
    return jwt.encode(body, key, algorithm=algorithm, headers=members)


def hmac_token(secret: bytes, **header: object) -> str:
    """A token signed with HS256, as one does who takes a public key for the secret."""
    members = json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": "ed"} | header)
    signed = f"{encode(members.encode())}.{encode(json.dumps(claims()).encode())}"
    return f"{signed}.{encode(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"
