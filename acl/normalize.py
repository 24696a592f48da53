"""One form for clauses that decide alike, and the stored form of a clause.

`normalize` keeps every decision for every caller at every moment, also for callers with incomplete realms, and the
reason of a denial with it. Clauses of equal meaning may still normalize differently: the fingerprint shares storage,
it proves nothing.
"""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

from acl.errors import DecodeError, InvalidValueError
from acl.model import NEVER, Clause, Effect, Rule
from acl.principal import Principal, Realm

_VERSION: Final = 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_EFFECTS: Final = {Effect.ALLOW: 1, Effect.DENY: 2}
_EFFECT_OF: Final = {number: effect for effect, number in _EFFECTS.items()}
_HEAD: Final = struct.Struct(">BH")  # version, rules
_RULE: Final = struct.Struct(">BqI")  # effect, expiry in microseconds since 1970, principals
_LENGTH: Final = struct.Struct(">H")


def normalize(clause: Clause) -> Clause:
    """Return the clause with shadowed principals left out and neighbouring rules of one effect merged.

    Idempotent. The first mention of a principal always stays, so no realm is ever lost.
    """
    runs: list[tuple[Effect, dict[Principal, datetime]]] = []
    decided: dict[Principal, datetime] = {}
    for rule in clause.rules:
        # 1. An earlier rule that is in force at least as long decides first whenever this one could.
        fresh = [p for p in rule.principals if p not in decided or decided[p] < rule.expires_at]
        if not fresh:
            continue
        # 2. Among neighbours of one effect the order is without meaning, and the latest expiry is what counts.
        if not runs or runs[-1][0] is not rule.effect:
            runs.append((rule.effect, {}))
        for principal in fresh:
            decided[principal] = runs[-1][1][principal] = rule.expires_at
    rules: list[Rule] = []
    for effect, expiries in runs:
        by_expiry: dict[datetime, list[Principal]] = {}
        for principal, expires_at in expiries.items():
            by_expiry.setdefault(expires_at, []).append(principal)
        rules.extend(Rule(effect, frozenset(by_expiry[moment]), moment) for moment in sorted(by_expiry, reverse=True))
    return Clause(tuple(rules))


def encode(clause: Clause) -> bytes:
    """Return the clause's bytes: equal clauses give equal bytes, different ones different bytes.

    Every text goes with its length, so that no id can pretend to be two. The rules stay as they are: see `fingerprint`.
    """
    parts = [_HEAD.pack(_VERSION, len(clause.rules))]
    for rule in clause.rules:
        expiry = (rule.expires_at - _EPOCH) // _MICROSECOND
        parts.append(_RULE.pack(_EFFECTS[rule.effect], expiry, len(rule.principals)))
        for principal in sorted(rule.principals):
            for text in principal:
                data = text.encode()
                parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def decode(data: bytes) -> Clause:
    """Read what `encode` wrote.

    Raises DecodeError for anything else: another version, a length that lies, principals out of order, bytes left over.
    """
    try:
        version, count = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise DecodeError(f"a stored clause is of version {version}, this code reads version {_VERSION}")
        place = _HEAD.size
        rules: list[Rule] = []
        for _ in range(count):
            effect, expiry, size = _RULE.unpack_from(data, place)
            place += _RULE.size
            principals: list[Principal] = []
            for _ in range(size):
                where, place = _text(data, place)
                name, place = _text(data, place)
                principals.append(Principal(Realm(where), name))
            if any(a >= b for a, b in pairwise(principals)):
                raise DecodeError("a stored clause is damaged: principals out of order")
            moment = _EPOCH + expiry * _MICROSECOND
            rules.append(Rule(_EFFECT_OF[effect], frozenset(principals), NEVER if moment == NEVER else moment))
        if place != len(data):
            raise DecodeError(f"a stored clause is damaged: {len(data) - place} bytes left over")
        return Clause(tuple(rules))
    except struct.error as err:
        raise DecodeError("a stored clause is damaged: cut short") from err
    except (InvalidValueError, KeyError, OverflowError, UnicodeDecodeError) as err:
        raise DecodeError("a stored clause is damaged: a value that cannot be") from err


def _text(data: bytes, place: int) -> tuple[str, int]:
    (size,) = _LENGTH.unpack_from(data, place)
    place += _LENGTH.size
    if place + size > len(data):
        raise DecodeError("a stored clause is damaged: cut short")
    return data[place : place + size].decode(), place + size


def fingerprint(clause: Clause) -> bytes:
    """The SHA-256, 32 bytes, of the encoded normal form: the address of a clause by its content."""
    return hashlib.sha256(encode(normalize(clause))).digest()
