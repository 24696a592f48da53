"""Which public key may verify which signatures: a JSON web key set as keys by id, each with its one algorithm. Pure.

The algorithm is the key's own `alg`, or where it has none (Entra ID publishes such keys) the one that the issuer's
configured algorithms leave for a key of this kind. A token never has a say in it.
Source: RFC 7517, RFC 7518 section 3.3 (RSA of 2048 bits or more), RFC 8037, RFC 8725 sections 3.1, 3.2 and 3.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from service.files import strict_json
from service.sections.issuers import ALGORITHMS

MAX_BYTES: Final = 256 * 1024
_MAX_KEYS: Final = 200
_MAX_RSA_BITS: Final = 8192
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_OF_KIND: Final[Mapping[object, frozenset[str]]] = {
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("RSA", None): frozenset({"RS256", "PS256"}),
}

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


class KeySetError(Exception):
    """Not a key set, or one with a key that may not verify tokens. The message completes ``the key set …``."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """A key with the one algorithm that it verifies."""

    algorithm: str
    key: PublicKey


def read(data: bytes, algorithms: Collection[str]) -> dict[str, Trusted]:
    """Return the keys of a set that an administrator wrote: one that may not verify is a KeySetError.

    A key that says it is for something else than signatures is left alone.
    """
    found: dict[str, Trusted] = {}
    for entry in _entries(data):
        if _PRIVATE & entry.keys():
            raise KeySetError(f"holds a private or symmetric key, `{entry.get('kid')}`: list public keys only")
        if not _verifies(entry):
            continue
        key_id = entry.get("kid")
        if not isinstance(key_id, str) or not key_id:
            raise KeySetError("holds a key without `kid`: a token names its key by it")
        if key_id in found:
            raise KeySetError(f"holds two keys with the id `{key_id}`")
        found[key_id] = _trust(key_id, entry, algorithms)
    if not found:
        raise KeySetError("holds no key that verifies signatures")
    return found


def read_published(data: bytes, algorithms: Collection[str]) -> dict[str, Trusted]:
    """Return the keys of a set that an issuer publishes, without those that cannot be used here.

    Issuers publish keys for much else. An id that stands twice names no key, and neither does one whose private half
    is published with it. Raises KeySetError when nothing is left.
    """
    entries = _entries(data)
    times = Counter(entry["kid"] for entry in entries if isinstance(entry.get("kid"), str))
    found: dict[str, Trusted] = {}
    for entry in entries:
        key_id = entry.get("kid")
        if not isinstance(key_id, str) or not key_id or times[key_id] > 1:
            continue
        if _PRIVATE & entry.keys() or not _verifies(entry):
            continue
        try:
            found[key_id] = _trust(key_id, entry, algorithms)
        except KeySetError:
            continue
    if not found:
        raise KeySetError(f"holds no key that verifies signatures of {', '.join(sorted(algorithms))}")
    return found


def _entries(data: bytes) -> list[dict[str, object]]:
    if len(data) > MAX_BYTES:
        raise KeySetError(f"is larger than {MAX_BYTES // 1024} KiB")
    try:
        found = strict_json.parse(data)
    except ValueError as err:
        raise KeySetError(f"is not a JSON web key set: {err}") from err
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise KeySetError("is not a JSON web key set: expected `keys` with a list of keys")
    if len(entries) > _MAX_KEYS:
        raise KeySetError(f"holds more than {_MAX_KEYS} keys")
    return entries


def _verifies(entry: Mapping[str, object]) -> bool:
    operations = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _trust(key_id: str, entry: Mapping[str, object], algorithms: Collection[str]) -> Trusted:
    algorithm = entry["alg"] if "alg" in entry else _implied(key_id, entry, algorithms)
    if algorithm not in ALGORITHMS or not isinstance(algorithm, str):
        raise KeySetError(f"has the key `{key_id}`: expected `alg` to be one of {', '.join(ALGORITHMS)}")
    if algorithm not in algorithms:
        raise KeySetError(f"has the key `{key_id}` of {algorithm}, which `algorithms` does not list")
    try:
        key = jwt.PyJWK(dict(entry), algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError) as err:
        raise KeySetError(f"has the key `{key_id}`, which is malformed or not a key of {algorithm}") from err
    match algorithm, key:
        case "EdDSA", Ed25519PublicKey():
            return Trusted(algorithm, key)
        case "ES256", EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return Trusted(algorithm, key)
        case "RS256" | "PS256", RSAPublicKey() if (
            2048 <= key.key_size <= _MAX_RSA_BITS and key.public_numbers().e >= 65537
        ):
            return Trusted(algorithm, key)
        case _:
            raise KeySetError(f"has the key `{key_id}`, which is too short or not a key of {algorithm}")


def _implied(key_id: str, entry: Mapping[str, object], algorithms: Collection[str]) -> str:
    kind = (entry.get("kty"), None if entry.get("kty") == "RSA" else entry.get("crv"))
    try:
        possible = _OF_KIND.get(kind, frozenset()) & frozenset(algorithms)
    except TypeError:  # a list, say
        possible = frozenset()
    if len(possible) != 1:
        raise KeySetError(
            f"has the key `{key_id}` without `alg`: list in `algorithms` the one that keys of its kind are for"
        )
    return next(iter(possible))
