"""What the circuit breaker holds of a source: listed, decided by a person, and gone once it is applied or moot.

A stop is known by the changes that it holds, as hashes: who approves it approves these and no others.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import zlib
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from service.keys.envelope import UnsealError
from service.stores import schema
from service.stores.sealing import Sealing

KEY_BYTES: Final = 16


class StopKind(Enum):
    """What is held: rules that would let more people in, the removal of documents, or members of the source's groups
    who would read more, because they join, or leave one that is denied.
    """

    WIDENING = "widening"
    PURGE = "purge"
    MEMBERS = "members"


class StopState(Enum):
    """What was decided. An approved one is applied by the next complete run, and then gone."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class HeldGroup:
    """A group of which members are held: its token, its name, how many would join and leave, and some of them by their
    tokens. documents: how many its changes concern.
    """

    group: str
    name: str
    joining: int
    leaving: int
    documents: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Changes that are held.

    documents: how many they concern. total: how many documents the source had. run_id: the run that met them.
    keys: a hash of `KEY_BYTES` for each change. decided_by, decided_at: empty while it waits.
    groups: of members, the groups with the most changes, that first. more_groups: how many others there are.
    """

    hold_id: str
    source: str
    kind: StopKind
    state: StopState
    documents: int
    total: int
    run_id: str
    listed_at: datetime
    keys: frozenset[bytes]
    decided_by: str = ""
    decided_at: datetime | None = None
    groups: tuple[HeldGroup, ...] = ()
    more_groups: int = 0


class Stops:
    """The stops of one source, in one write transaction of a run."""

    def __init__(self, connection: Connection, source: str, source_id: int, sealing: Sealing) -> None:
        self._connection = connection
        self._source = source
        self._source_id = source_id
        self._sealing = sealing

    def all(self) -> list[Stop]:
        """Return them, the newest first."""
        return stops_of(self._connection, self._sealing, self._source)

    def hold(self, made: Stop) -> Stop:
        """List a stop in place of the one of its kind that waits, unless that holds the very same; return what waits.

        `hold_id` of `made` is without meaning.
        """
        waiting = [one for one in self.all() if one.kind is made.kind and one.state is StopState.WAITING]
        same = next((one for one in waiting if one.keys == made.keys), None)
        if same is not None:
            return same
        self.drop([one.hold_id for one in waiting])
        made = replace(made, hold_id=secrets.token_urlsafe(12), state=StopState.WAITING)
        self._connection.execute(
            insert(schema.stops).values(
                hold_id=made.hold_id,
                source=self._source_id,
                kind=made.kind.value,
                listed_at=made.listed_at,
                keys=_packed(made.keys),
                report=_report(made, self._sealing),
            )
        )
        return made

    def drop(self, hold_ids: Collection[str]) -> None:
        """Remove stops: they were applied, or nothing of them is asked for any more."""
        table = schema.stops.c
        for hold_id in hold_ids:
            self._connection.execute(
                delete(schema.stops).where(table.source == self._source_id, table.hold_id == hold_id)
            )

    def spend(self, hold_ids: Collection[str], unreleased: frozenset[bytes]) -> None:
        """Take from approved stops what was applied: the same change, made once more, is another question.

        unreleased: the changes that wait for a later run.
        """
        table = schema.stops.c
        for stop in self.all():
            if stop.hold_id in hold_ids and (rest := stop.keys & unreleased):
                left = replace(stop, keys=rest)
                self._connection.execute(
                    update(schema.stops)
                    .where(table.source == self._source_id, table.hold_id == stop.hold_id)
                    .values(keys=_packed(rest), report=_report(left, self._sealing))
                )
            elif stop.hold_id in hold_ids:
                self.drop([stop.hold_id])

    def forget(self) -> None:
        """Remove all of the source."""
        self._connection.execute(delete(schema.stops).where(schema.stops.c.source == self._source_id))


def stops_of(connection: Connection, sealing: Sealing, source: str | None = None) -> list[Stop]:
    """Return the stops of a source, or of all, the newest first."""
    wanted = select(schema.stops, schema.sources.c.name.label("source_name")).join(
        schema.sources, schema.sources.c.id == schema.stops.c.source
    )
    if source is not None:
        wanted = wanted.where(schema.sources.c.name == source)
    rows = connection.execute(wanted.order_by(schema.stops.c.listed_at.desc(), schema.stops.c.hold_id)).all()
    return [_stop(row, sealing) for row in rows]


def decide_stop(
    connection: Connection, sealing: Sealing, hold_id: str, state: StopState, by: str, at: datetime
) -> Stop | None:
    """Write down what a person decided; None when there is no such stop. The last decision before a run counts."""
    found = next((one for one in stops_of(connection, sealing) if one.hold_id == hold_id), None)
    if found is None:
        return None
    decided = replace(found, state=state, decided_by=by, decided_at=at)
    connection.execute(
        update(schema.stops).where(schema.stops.c.hold_id == hold_id).values(report=_report(decided, sealing))
    )
    return decided


_DAMAGED: Final = {
    "documents": 0,
    "total": 0,
    "run_id": "",
    "decided_by": "",
    "decided_at": None,
    "state": StopState.WAITING.value,
    "keys": "",
}


def _report(stop: Stop, sealing: Sealing) -> bytes:
    report = {
        "documents": stop.documents,
        "total": stop.total,
        "run_id": stop.run_id,
        "decided_by": stop.decided_by,
        "decided_at": None if stop.decided_at is None else stop.decided_at.isoformat(),
        "state": stop.state.value,
        "keys": hashlib.sha256(_packed(stop.keys)).hexdigest(),
        "groups": [asdict(one) for one in stop.groups],
        "more_groups": stop.more_groups,
    }
    return sealing.seal_of_source(stop.source, "stop", stop.hold_id, json.dumps(report))


def _packed(keys: Collection[bytes]) -> bytes:
    return zlib.compress(b"".join(sorted(keys)))


def _stop(row: Row[Any], sealing: Sealing) -> Stop:
    try:
        report = json.loads(sealing.open_of_source(row.source_name, "stop", row.hold_id, row.report))
    except UnsealError:
        # Nobody knows what was decided about what: it holds nothing, and what is held is asked about anew.
        report = _DAMAGED
    # The sealed words count: whoever can write to the file but has no key approves nothing.
    intact = hmac.compare_digest(hashlib.sha256(row.keys).hexdigest(), report["keys"])
    keys = zlib.decompress(row.keys) if intact else b""
    return Stop(
        hold_id=row.hold_id,
        source=row.source_name,
        kind=StopKind(row.kind),
        state=StopState(report["state"]),
        documents=report["documents"],
        total=report["total"],
        run_id=report["run_id"],
        listed_at=row.listed_at,
        keys=frozenset(keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES)),
        decided_by=report["decided_by"],
        decided_at=None if report["decided_at"] is None else datetime.fromisoformat(report["decided_at"]),
        # Stops that an earlier version wrote have neither.
        groups=tuple(HeldGroup(**{**one, "examples": tuple(one["examples"])}) for one in report.get("groups", ())),
        more_groups=report.get("more_groups", 0),
    )
