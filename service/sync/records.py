"""What the audit log says of syncs besides their runs: what the breaker holds, and leases that run out."""

from __future__ import annotations

from service.audit import Kind, Record, record
from service.audit.record import micros
from service.stores.stops import Stop, StopState
from service.sync.leases import LeaseAlert


def held_record(stop: Stop) -> Record:
    """The record of what the circuit breaker holds."""
    return record(
        Kind.INGEST,
        {
            "event": "held",
            "hold_id": stop.hold_id,
            "kind": stop.kind.value,
            "source": stop.source,
            "run_id": stop.run_id,
            "documents": stop.documents,
            "total": stop.total,
            # Of members of the source's own groups: how many groups. Names and people are in the sealed question alone.
            **({"groups": len(stop.groups) + stop.more_groups} if stop.groups else {}),
        },
    )


def lease_record(alert: LeaseAlert) -> Record:
    """The record of a lease that is half over, or over, so that documents are withheld."""
    return record(
        Kind.INGEST,
        {
            "event": "lease_over" if alert.over else "lease_half_over",
            "source": alert.source,
            "pass": alert.sync_pass.value,
            "age_us": micros(alert.age),
            "limit_us": micros(alert.limit),
        },
    )


def decided_record(stop: Stop, state: StopState, by: str) -> Record:
    """The record of a person's word on what is held."""
    facts = {"hold_id": stop.hold_id, "kind": stop.kind.value, "source": stop.source, "by": by}
    return record(Kind.CONTROL, {"event": f"hold_{state.value}", **facts})
