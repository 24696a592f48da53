"""Where an interrupted run can be taken up: a row for each source, written in a transaction of the run.

What it says is sealed: a cursor may name anything of the source.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pyroaring import BitMap
from sqlalchemy import Connection, delete, insert, select

from acl.model import ScopeId
from connectors.base import Cursor
from service.keys.envelope import UnsealError
from service.stores import schema
from service.stores.records import SyncPass
from service.stores.sealing import Sealing


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """Everything before it is stored, texts included.

    settings: digest of what the source was read by. began_at: when the first part of the run began; what was met since
    then is verified as of that moment.
    cursor: the connector's. seen, unconfirmed: documents that were met, and those of them whose text could not be
    confirmed, by ordinal. containers: those that were met, True when listed in full. restless: those of which two
    things were said.
    """

    settings: str
    began_at: datetime
    cursor: Cursor
    seen: BitMap
    unconfirmed: BitMap
    containers: Mapping[ScopeId, bool]
    restless: frozenset[ScopeId]


class Checkpoints:
    """The checkpoint of one source, in one write transaction."""

    def __init__(self, connection: Connection, source: str, source_id: int, sealing: Sealing) -> None:
        self._connection = connection
        self._source = source
        self._source_id = source_id
        self._sealing = sealing

    def put(self, sync_pass: SyncPass, found: StoredCheckpoint) -> None:
        """Store a checkpoint in place of the one before."""
        body = {
            "settings": found.settings,
            "cursor": found.cursor,
            "seen": _text(found.seen),
            "unconfirmed": _text(found.unconfirmed),
            "containers": found.containers,
            "restless": sorted(found.restless),
        }
        self._connection.execute(
            insert(schema.checkpoints)
            .prefix_with("OR REPLACE")
            .values(
                source=self._source_id,
                name=sync_pass.value,
                began_at=found.began_at,
                body=self._sealing.seal_of_source(self._source, "checkpoint", "", json.dumps(body)),
            )
        )

    def get(self, sync_pass: SyncPass) -> StoredCheckpoint | None:
        """Return the checkpoint of this pass; None without one, or when it cannot be read any more."""
        row = self._connection.execute(
            select(schema.checkpoints).where(
                schema.checkpoints.c.source == self._source_id, schema.checkpoints.c.name == sync_pass.value
            )
        ).one_or_none()
        if row is None:
            return None
        try:
            body = json.loads(self._sealing.open_of_source(self._source, "checkpoint", "", row.body))
        except UnsealError:
            return None
        return StoredCheckpoint(
            body["settings"],
            row.began_at,
            body["cursor"],
            _bitmap(body["seen"]),
            _bitmap(body["unconfirmed"]),
            {ScopeId(scope): complete for scope, complete in body["containers"].items()},
            frozenset(ScopeId(scope) for scope in body["restless"]),
        )

    def drop(self) -> None:
        """Remove the checkpoint: the next run begins anew."""
        self._connection.execute(delete(schema.checkpoints).where(schema.checkpoints.c.source == self._source_id))


def _text(bitmap: BitMap) -> str:
    return base64.b64encode(bitmap.serialize()).decode("ascii")


def _bitmap(text: str) -> BitMap:
    return BitMap.deserialize(base64.b64decode(text))
