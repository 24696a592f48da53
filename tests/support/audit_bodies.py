"""Keys for the bodies of audit logs in tests: each is derived from its name, so that every process has the same."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service import audit_keys
from service.audit import AuditKey, Bodies, segments
from service.audit.bodies import HEAD_BYTES, _place
from service.keys import open_provider
from service.keys.envelope import seal
from service.settings import Settings


class DerivedKeys:
    """See `service.audit.BodyKeys`. `gone`: names of keys that were destroyed."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.gone: set[str] = set()

    def sealing(self, name: str) -> AESGCM:
        """See `BodyKeys`."""
        self.made.add(name)
        return AESGCM(hashlib.sha256(name.encode()).digest())

    def opening(self, name: str) -> AESGCM | None:
        """See `BodyKeys`."""
        return None if name in self.gone else AESGCM(hashlib.sha256(name.encode()).digest())

    def names(self) -> frozenset[str]:
        """See `BodyKeys`."""
        return frozenset(self.made - self.gone)

    def destroy(self, names: Collection[str]) -> None:
        """See `BodyKeys`."""
        self.gone |= set(names)


NAME_KEY = bytes(32)


def bodies() -> Bodies:
    """Bodies under derived keys of their own."""
    return Bodies(DerivedKeys(), NAME_KEY)


BODIES = bodies()


def opened(folder: Path, by: Bodies = BODIES) -> Iterator[bytes]:
    """The records of a log, opened."""
    for index, stored in enumerate(segments.Reader(folder).records()):
        data = by.open(index, stored)
        assert isinstance(data, bytes), f"record {index} is gone"
        yield data


def sealed(folder: Path, records: list[bytes], by: Bodies = BODIES) -> list[bytes]:
    """What a log stores of records, as somebody would write it who has its keys and says what each record says."""
    kept = [stored[:HEAD_BYTES] for stored in segments.Reader(folder).records()]
    return [_again(kept[min(number, len(kept) - 1)], number, data, by) for number, data in enumerate(records)]


def _again(head: bytes, index: int, data: bytes, by: Bodies) -> bytes:
    cipher = by._cipher(head)
    assert cipher is not None
    rest = head[5:] + seal(cipher, data, _place(index, head[5:]))
    return head[:1] + zlib.crc32(rest).to_bytes(4) + rest


def recorded(config: Settings) -> list[dict[str, Any]]:
    """Every record of the log of a service, which may be running, opened with its own keys."""
    opener = audit_keys.opener(config.keys.store, open_provider(config.keys), AuditKey.load(config.keys.audit))
    found = [opener.open(index, one) for index, one in enumerate(segments.Reader(config.data / "audit").records())]
    return [json.loads(one) for one in found if isinstance(one, bytes)]
