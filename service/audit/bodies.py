"""Bodies of records at rest: each is sealed under the key of its class and its day, and gone with that key.

What a segment stores of a record, after its length:

    1 byte    the format, 1; a log from before bodies were sealed has the record itself there, which begins with `{`
    4 bytes   CRC-32 of all that follows: a write that was cut off shows without a key
    1 byte    the class
    3 bytes   the day (UTC) as a number of days, 1 being 0001-01-01
    8 bytes   a keyed digest of the response's id, zeros without one: so an answer is found when its body is gone
    the rest  AES-256-GCM of the record, bound to its number, class and day

Leaves are hashes of the records themselves, so the tree closes without a body and an export verifies without a key.
Each record holds random bytes that go with its body, so a leaf that stays behind tells nobody what it was of.
Where the keys are is left to `BodyKeys`, and whether a body may be gone the log itself says (`service.audit.standing`).
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.audit.record import Kind, Record
from service.keys.envelope import UnsealError, seal, unseal

PLAIN: Final = b"{"
_SEALED: Final = b"\x01"
_CRC: Final = slice(1, 5)
_KIND: Final = 5
_DAY: Final = slice(6, 9)
_NAME: Final = slice(9, 17)
HEAD_BYTES: Final = 17
_PLACE: Final = b"remit audit record 1"

# The number of a class in a segment is its place here: new ones go to the end.
_KINDS: Final = (
    *(Kind.QUERY, Kind.ACCESS, Kind.ADMIN, Kind.INGEST, Kind.CONTROL, Kind.HEARTBEAT, Kind.AUDIT),
    Kind.STANDING,
    Kind.ON_BEHALF,
)
_CODES: Final = {kind.value: bytes([code]) for code, kind in enumerate(_KINDS)}

USES: Final = 2**16
"""How many uses of a key are counted at a time, durably and before they happen."""


class BodyError(Exception):
    """A stored record is none that was written here: it was changed, moved, or made under another key."""


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """What one key is for: the records of one class, `kind`, on one day (UTC)."""

    kind: str
    day: date

    @property
    def name(self) -> str:
        """As the key is called, such as `query 2026-11-25`."""
        return f"{self.kind} {self.day.isoformat()}"

    @classmethod
    def named(cls, name: str) -> Period:
        """Read a name. Raises ValueError."""
        kind, _, day = name.partition(" ")
        return cls(Kind(kind).value, date.fromisoformat(day))


@dataclass(frozen=True, slots=True)
class Gone:
    """A record whose body has no key any more. name: the digest of its response's id, zero without one."""

    period: Period
    name: int


class OpeningKeys(Protocol):
    """The keys of bodies by name, to read with."""

    def opening(self, name: str) -> AESGCM | None:
        """The key of this name, None when there is none."""


class BodyKeys(OpeningKeys, Protocol):
    """The keys of bodies by name. Thread-safe."""

    def sealing(self, name: str) -> AESGCM:
        """The key of this name to seal `USES` times with; made, durably, when there is none. Raises StorageError."""

    def names(self) -> frozenset[str]:
        """The names of all keys."""

    def destroy(self, names: Collection[str]) -> None:
        """Delete keys for good. Durable on return."""


class Opener:
    """Opens what segments store. Thread-safe. name_key: of the digests by which records are found."""

    def __init__(self, keys: OpeningKeys, name_key: bytes) -> None:
        self._opening_keys = keys
        self._name_key = name_key
        self._opening: dict[int, AESGCM | None] = {}
        self._lock = threading.Lock()

    def digest(self, name: str) -> int:
        """The digest of a name by which records are found, such as `response:<id>`, below 2^63."""
        data = name.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=self._name_key).digest()) >> 1

    def open(self, index: int, stored: bytes) -> bytes | Gone:
        """The canonical form of record `index`, or that its body is gone. Raises BodyError."""
        if stored.startswith(PLAIN):
            return stored
        cipher = self._cipher(stored) if stored.startswith(_SEALED) else None
        if cipher is None:
            gone = glance(stored)
            if gone is None or not is_whole(stored):
                raise BodyError("what is stored of it was changed")
            return gone
        try:
            return unseal(cipher, stored[HEAD_BYTES:], _place(index, stored[_KIND:HEAD_BYTES]))
        except UnsealError as err:
            raise BodyError("what is stored of it does not open: it was changed or moved") from err

    def _cipher(self, stored: bytes) -> AESGCM | None:
        period = int.from_bytes(stored[_KIND : _DAY.stop])
        with self._lock:  # that of `Bodies.destroy`: a key that is being destroyed is not kept
            if period not in self._opening:
                said = glance(stored)
                self._opening[period] = None if said is None else self._opening_keys.opening(said.period.name)
            return self._opening[period]


class Bodies(Opener):
    """Seals as well what segments store, and makes it unreadable for good."""

    def __init__(self, keys: BodyKeys, name_key: bytes) -> None:
        super().__init__(keys, name_key)
        self._keys = keys
        self._sealing: dict[Period, _Counted] = {}

    def seal(self, made: Record, index: int, day: date, data: bytes) -> bytes:
        """What a segment stores of record `index`, whose canonical form is `data`. Raises StorageError.

        day: never earlier than that of the record before, so that a key is never made again after it was destroyed.
        For one thread.
        """
        period = Period(made.kind.value, day)
        counted = self._sealing.get(period)
        if counted is None or not counted.left:
            counted = self._sealing[period] = _Counted(self._keys.sealing(period.name), USES)
            with self._lock:
                self._opening.pop(int.from_bytes(_period_code(period)), None)
            # Two days at most, however long the service runs.
            self._sealing = {other: one for other, one in self._sealing.items() if (day - other.day).days <= 1}
        counted.left -= 1
        name = self.digest(f"response:{made.response_id}") if made.response_id else 0
        head = _period_code(period) + name.to_bytes(8)
        rest = head + seal(counted.cipher, data, _place(index, head))
        return _SEALED + zlib.crc32(rest).to_bytes(4) + rest

    def periods(self) -> frozenset[Period]:
        """Every class and day that has a key."""
        return frozenset(Period.named(name) for name in self._keys.names())

    def destroy(self, periods: Collection[Period]) -> None:
        """Delete keys for good; what they sealed is gone. Durable on return.

        Never those of the latest day: `seal` goes on with them. A record of the expiry comes before, and is later.
        """
        with self._lock:
            self._keys.destroy([period.name for period in periods])
            self._opening = {}


@dataclass(slots=True)
class _Counted:
    """A key to seal with, and how often it may be used before more uses are counted."""

    cipher: AESGCM
    left: int


def glance(stored: bytes) -> Gone | None:
    """What a stored record says of itself without a key; None for one that is not sealed, or of no known form."""
    if not stored.startswith(_SEALED) or len(stored) < HEAD_BYTES or stored[_KIND] >= len(_KINDS):
        return None
    try:
        day = date.fromordinal(int.from_bytes(stored[_DAY]))
    except (ValueError, OverflowError):
        return None
    return Gone(Period(_KINDS[stored[_KIND]].value, day), int.from_bytes(stored[_NAME]))


def is_whole(stored: bytes) -> bool:
    """Whether all of a stored record was written. A record in the clear holds no zero byte, being JSON."""
    if stored.startswith(_SEALED):
        return zlib.crc32(memoryview(stored)[_CRC.stop :]) == int.from_bytes(stored[_CRC])
    return b"\0" not in stored


def _period_code(period: Period) -> bytes:
    return _CODES[period.kind] + period.day.toordinal().to_bytes(3)


def _place(index: int, head: bytes) -> bytes:
    """What a body is bound to."""
    return _PLACE + index.to_bytes(8) + head
