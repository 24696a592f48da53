"""The clocks of passes over sources, as they stand in the catalog: names and times in the clear."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, select

from service.stores import moment, schema
from service.stores.prepared import Prepared
from service.stores.records import PassClock, SyncPass

_CLOCKS: Final = Prepared(
    select(
        schema.sources.c.name, schema.passes.c.name.label("pass"), schema.passes.c.verified_at, schema.passes.c.took_ms
    ).outerjoin(schema.passes, schema.passes.c.source == schema.sources.c.id)
)


def read_clocks(connection: Connection) -> dict[str, dict[SyncPass, PassClock]]:
    """Return the clocks of every source: of each pass that was ever complete."""
    found: dict[str, dict[SyncPass, PassClock]] = {}
    for name, one, verified_at, took_ms in _CLOCKS.rows(connection):
        clocks = found.setdefault(name, {})
        if one is not None:
            clocks[SyncPass(one)] = PassClock(moment.read(verified_at), timedelta(milliseconds=took_ms))
    return found
