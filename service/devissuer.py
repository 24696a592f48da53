"""The development issuer: a key pair beside the settings, and short-lived tokens for people of a static directory.

For trying Remit and for tests, not for production: whoever holds the key can be anybody. A deployment that does not
want it deletes the private key and lists its real issuer instead.
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from connectors.directories.base import DirectoryError
from connectors.directories.static import StaticDirectory
from service.errors import StartError
from service.files import durable_file, key_file, strict_json
from service.identity import directories
from service.sections.issuers import IssuerSettings, KeyFile
from service.settings import Settings

LIFETIME: Final = timedelta(minutes=15)
_PUBLIC: Final = ".jwks.json"


def private_key_path(jwks: Path) -> Path:
    """Where the private key stands that belongs to a key set of the development issuer."""
    return jwks.with_name(jwks.name.removesuffix(_PUBLIC) + ".private.json")


def create_keys(jwks: Path) -> None:
    """Write a new key pair: the public set to `jwks`, the private key beside it (0600).

    Raises FileExistsError: a key is never overwritten.
    """
    key = Ed25519PrivateKey.generate()
    shared = {"kid": f"dev-{secrets.token_hex(4)}", "alg": "EdDSA", "use": "sig"}
    private = json.loads(OKPAlgorithm.to_jwk(key)) | shared | {"key_ops": ["sign"]}
    public = json.loads(OKPAlgorithm.to_jwk(key.public_key())) | shared | {"key_ops": ["verify"]}
    _write(private_key_path(jwks), private, 0o600)
    _write(jwks, {"keys": [public]}, 0o644)


def mint(settings: Settings, name: str, *, lifetime: timedelta = LIFETIME, at: datetime | None = None) -> str:
    """A token for the person called `name`, from the first issuer whose private key is there.

    Raises StartError: no such key, one that is open to others, or nobody of that name with an enabled account.
    """
    found = ((i, private_key_path(i.keys.path)) for i in settings.issuers if isinstance(i.keys, KeyFile))
    issuer, private = next(((i, path) for i, path in found if path.exists()), (None, Path()))
    if issuer is None:
        raise StartError(f"{settings.file} lists no development issuer: tokens come from your identity provider")
    issued = at if at is not None else datetime.now(UTC)
    account = _account(settings, issuer, name)
    claims = {
        "iss": issuer.issuer,
        "aud": issuer.audience,
        "sub": account,
        issuer.claim: account,
        "iat": int(issued.timestamp()),
        "exp": int((issued + lifetime).timestamp()),
        "jti": secrets.token_hex(16),
    }
    key, key_id = _read_private(private)
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": key_id})


def _account(settings: Settings, issuer: IssuerSettings, name: str) -> str:
    if issuer.attribute != "id":
        raise StartError(f"the issuer `{issuer.issuer}` names people by `{issuer.attribute}`, expected `attribute: id`")
    directory = next(d for d in settings.directories if d.name == issuer.directory)
    found = directories.build(directory, settings.base)
    if not isinstance(found, StaticDirectory):
        raise StartError(f"the development issuer names people of a static directory, not of `{directory.name}`")
    try:
        return found.account_id(name)
    except DirectoryError as err:
        raise StartError(err.detail) from err


def _read_private(path: Path) -> tuple[Ed25519PrivateKey, str]:
    text = key_file.read(path, "the key of the development issuer")
    try:
        found = strict_json.parse(text)
        if not isinstance(found, dict):
            raise ValueError("not a key")
        key, key_id = OKPAlgorithm.from_jwk(found), found.get("kid")
    except (jwt.PyJWTError, TypeError, ValueError) as err:
        raise StartError(f"{path} is not a private key of the development issuer") from err
    if not isinstance(key, Ed25519PrivateKey) or not isinstance(key_id, str):
        raise StartError(f"{path} is not a private key of the development issuer")
    return key, key_id


def _write(path: Path, value: object, mode: int) -> None:
    durable_file.create(path, f"{json.dumps(value, indent=2)}\n".encode(), mode)
