"""Queries that are compiled once: the same rows as SQLAlchemy's, in any number, and the same errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, bindparam, create_engine, insert, select
from sqlalchemy.exc import DBAPIError

from service.stores.errors import StorageError, storage_errors
from service.stores.prepared import VALUES, Prepared

_TABLE = Table("things", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))
_THINGS = select(_TABLE.c.id, _TABLE.c.name)


@pytest.fixture
def connection() -> Iterator[Connection]:
    """A database with 1,500 things."""
    engine = create_engine("sqlite://")
    with engine.begin() as opened:
        _TABLE.create(opened)
        opened.execute(insert(_TABLE), [{"id": n, "name": f"thing {n}"} for n in range(1500)])
        yield opened
    engine.dispose()


@pytest.mark.parametrize("count", [1, 2, 3, 20, 511, 512, 513, 1100])
def test_every_value_is_asked_for_once(connection: Connection, count: int) -> None:
    """Whatever their number, all rows that exist are found, each once, and no other."""
    wanted = list(range(1499, 1499 - count, -1))

    found = Prepared(_THINGS.where(_TABLE.c.id.in_(VALUES))).among(connection, [*wanted, 9999])

    assert sorted(found) == [(n, f"thing {n}") for n in sorted(wanted)]


def test_no_values_find_nothing(connection: Connection) -> None:
    """An empty list selects no row, and never all of them."""
    assert Prepared(_THINGS.where(_TABLE.c.id.in_(VALUES))).among(connection, []) == []


def test_parameters_go_to_their_places(connection: Connection) -> None:
    """Parameters by name, and what the statement sets itself, stand where the statement has them."""
    wanted = _THINGS.where(_TABLE.c.id >= bindparam("first", type_=Integer), _TABLE.c.name != "thing 8")
    prepared = Prepared(wanted.order_by(_TABLE.c.id).limit(bindparam("count", type_=Integer)))

    for first, count in ((7, 3), (20, 1), (1499, 5)):
        expected = [n for n in range(first, 1500) if n != 8][:count]
        assert [number for number, _ in prepared.rows(connection, first=first, count=count)] == expected
    assert prepared.rows(connection, first=0, count=0) == []


def test_what_goes_wrong_is_said_as_ever(connection: Connection) -> None:
    """An error of the database is SQLAlchemy's, so that it becomes the sentence that people know."""
    gone = Prepared(select(Table("gone", MetaData(), Column("id", Integer)).c.id))

    with pytest.raises(DBAPIError, match="no such table"):
        gone.rows(connection)
    with (
        pytest.raises(StorageError, match="`catalog` cannot be read or written: no such table"),
        storage_errors(Path("catalog")),
    ):
        gone.rows(connection)
    assert len(Prepared(_THINGS).rows(connection)) == 1500
