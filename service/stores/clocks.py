"""The clocks of passes over sources, as they stand in the catalog: names and times in the clear."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, select

from service.stores import schema
from service.stores.records import PassClock, SyncPass


def read_clocks(connection: Connection) -> dict[str, dict[SyncPass, PassClock]]:
    """Return the clocks of every source: of each pass that was ever complete."""
    passes = schema.passes.c
    rows = connection.execute(
        select(schema.sources.c.name, passes.name.label("pass"), passes.verified_at, passes.took_ms).outerjoin(
            schema.passes, passes.source == schema.sources.c.id
        )
    )
    found: dict[str, dict[SyncPass, PassClock]] = {}
    for name, one, verified_at, took_ms in rows.all():
        clocks = found.setdefault(name, {})
        if one is not None:
            clocks[SyncPass(one)] = PassClock(verified_at, timedelta(milliseconds=took_ms))
    return found
