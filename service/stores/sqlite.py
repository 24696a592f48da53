"""How a SQLite file is opened: one writer, a few readers, durable at commit. Tables are left to their owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, ColumnElement, Connection, Engine, Select, UnaryExpression, create_engine, event
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql.operators import custom_op

T = TypeVar("T")

_BUSY_MS: Final = 10_000
_READERS: Final = 4
_MOST_READERS: Final = 32


def open_writer(path: Path) -> Engine:
    """Open the one connection that writes. Its transactions take the write lock when they begin."""
    return _open(path, "BEGIN IMMEDIATE", size=1, most=1, pragmas=("journal_mode=WAL", "secure_delete=ON"))


def open_readers(path: Path) -> Engine:
    """Open connections that cannot write. Each transaction sees one snapshot from its first statement on."""
    return _open(path, "BEGIN", size=_READERS, most=_MOST_READERS, pragmas=("query_only=ON",))


def unindexed(column: ColumnElement[T]) -> ColumnElement[T]:
    """Name a column so that it is compared, but not looked for in an index: a unary plus.

    SQLite takes a source to have ten documents. Where others are named by their numbers, it would rather read all of
    a source's than find those. SOURCE: https://www.sqlite.org/optoverview.html, section 2.4.
    """
    return UnaryExpression(column, operator=custom_op("+"), type_=column.type)


def tuples(connection: Connection, wanted: Select[Any], values: Mapping[str, object] | None = None) -> Sequence[Any]:
    """Return rows as the driver has them, for those who read many: no names, no types but the driver's own."""
    result = connection.execute(wanted, values or {})
    assert result.cursor is not None, "a query has rows"
    try:
        return result.cursor.fetchall()
    finally:
        result.close()


def _open(path: Path, begin: str, *, size: int, most: int, pragmas: tuple[str, ...]) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=most - size,
        connect_args={"check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        # The driver's own BEGIN comes too late for snapshots and for DDL: transactions are ours.
        connection.isolation_level = None
        # FULL: a commit that was answered survives a power cut. Temporary tables never reach the disk.
        for pragma in (
            f"busy_timeout={_BUSY_MS}",
            *pragmas,
            "synchronous=FULL",
            "foreign_keys=ON",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
