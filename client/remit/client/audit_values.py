"""What calls about the audit log return: plain frozen values, as in `values`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class ExpiredBody:
    """What is known of a record whose body expired: its class and the day (UTC) on which it was written."""

    record_class: str
    day: date


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record of the audit log. data: its canonical form, exactly as it was hashed; `record` is what it says.

    expired: set when its body was destroyed after the time for which bodies are kept; then `data` is empty.
    """

    index: int
    data: bytes
    leaf_hash: bytes
    expired: ExpiredBody | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The record as JSON has it; `docs/audit.md` says what its members mean."""
        found: dict[str, Any] = json.loads(self.data)
        return found


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some records, and the token of the next page; empty after the last."""

    records: tuple[AuditRecord, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class ExportHeader:
    """What an exported stretch is held against; see `ExportHeader` in the API."""

    first_index: int
    stop_index: int
    checkpoint: bytes
    public_key: str
    before: tuple[bytes, ...]
    behind: tuple[bytes, ...]
    expiries: tuple[ProvenRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class ProvenRecord:
    """A record with the hashes that lead from it to the root of the export's checkpoint (RFC 9162, 2.1.3)."""

    record: AuditRecord
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A signed note, and the public key as the service has it: compare it with the one that you were given."""

    checkpoint: bytes
    public_key: str


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """A record's leaf with the hashes that lead to the root of a signed checkpoint (RFC 9162, 2.1.3)."""

    checkpoint: bytes
    index: int
    leaf_hash: bytes
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """The hashes that lead from a smaller tree to that of a signed checkpoint (RFC 9162, 2.1.4)."""

    checkpoint: bytes
    first_size: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LegalHold:
    """A legal hold on records of the audit log; see `LegalHold` in the API. Empty conditions hold for all."""

    hold_id: str
    placed_by: str
    placed_at: datetime
    why: str
    classes: tuple[str, ...]
    from_day: str
    to_day: str
    document_id: str
    person: str


@dataclass(frozen=True, slots=True)
class StoppedSource:
    """A source whose documents are withheld. response_id: the answer that was not given; document_id: the canary."""

    source: str
    alert_id: str
    happened_at: datetime
    response_id: str
    document_id: str
