"""Rows of canaries in a database: inserted as copies, changed, and removed again.

What was not inserted here is neither changed nor removed: every statement that changes or removes is about one row that
`insert` noted before. Errors hold no values of rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa

from connectors.errors import ConnectorError
from connectors.registry import OptionError
from connectors.secret import Secret, SecretError
from connectors.sql.tables import Access, access, server_arguments
from service.errors import StartError
from service.settings import Settings, SourceSettings

Where = Mapping[str, object]
"""Which row: values by column."""


def engine_of(settings: Settings, source: SourceSettings, secret: Secret) -> sa.Engine:
    """Connections that may write to the database of a source, and to no other. Raises StartError.

    secret: holds the URL, with the password in it.
    """
    ca = settings.base / str(source.options["ca"]) if "ca" in source.options else None
    try:
        own = sa.make_url(str(source.options["url"]))
        given = sa.make_url(secret.read().strip())
        # Both in the one form that the connector has for them, and no form that it refuses.
        theirs = access(str(source.options["url"]), settings.base, None, ca)
        bare = sa.URL.create(
            given.drivername, given.username, None, given.host, given.port, given.database, given.query
        )
        found = access(bare.render_as_string(), settings.base, None, ca)
    except SecretError as err:
        raise StartError(f"`--database-url`: {err}") from err
    except OptionError as err:
        raise StartError(f"`--database-url`: {err}") from err
    except (sa.exc.ArgumentError, ValueError) as err:
        # Without the text: it holds a password.
        raise StartError("`--database-url`: the file holds no URL such as `postgresql://writer:…@host/db`") from err
    return _engine(found, theirs, own, given)


def _engine(found: Access, theirs: Access, own: sa.URL, given: sa.URL) -> sa.Engine:
    backend = found.url.get_backend_name()
    if (backend, found.url.database) != (theirs.url.get_backend_name(), theirs.url.database):
        raise StartError("`--database-url`: it leads to another database than the source's")
    if backend == "sqlite":
        # For writing, and never making a file.
        query = {"mode": "rw", "uri": "true"}
        return sa.create_engine(found.url.set(query=query), hide_parameters=True, connect_args={"timeout": 10})
    if given.username == own.username:
        raise StartError(
            f"`--database-url`: `{own.username}` is the account that the source is read by, which should only read: "
            "name another one, which may write to the tables that the settings declare"
        )
    try:
        arguments = server_arguments(found)
    except ConnectorError as err:
        raise StartError(f"`--database-url`: {err.detail}") from err
    return sa.create_engine(found.url.set(password=given.password), hide_parameters=True, connect_args=arguments)


class Rows:
    """One database with the rows that were put into it. Every method but `clear` raises StartError."""

    def __init__(self, engine: sa.Engine) -> None:
        """Nothing is connected to yet."""
        self._engine: Final = engine
        self._metadata: Final = sa.MetaData()
        self._ours: list[tuple[str, Where]] = []

    def column(self, table: str, name: str) -> sa.Column[Any]:
        """A column with its type."""
        with self._speaking():
            return self._table(table).c[name]

    def values(self, table: str, column: str, wanted: Where, at_most: int = 2) -> list[object]:
        """The values of a column in some rows, as the connector reads them."""
        with self._speaking() as connection:
            found = self._table(table)
            # Untyped, as an id is made of what the driver gives.
            asked: sa.Select[Any] = (
                sa.select(sa.column(column)).select_from(found).where(*_where(found, wanted)).limit(at_most)
            )
            return list(connection.execute(asked).scalars())

    def insert(self, table: str, where: Where, values: Mapping[str, object], like: Where | None) -> None:
        """Insert a row. where: its identity. values: beside it. like: a row that gives the other columns, if any."""
        with self._speaking() as connection:
            found = self._table(table)
            new = {**values, **where}
            if like is None:
                connection.execute(found.insert().values(new))
            else:
                # Whatever numbers rows by itself does so for this one, too.
                given = list(found.primary_key.columns)
                left_out = {given[0].name} - set(new) if len(given) == 1 else set()
                names = [c.name for c in found.c if c.computed is None and c.name not in left_out]
                asked: sa.Select[Any] = sa.select(
                    *(sa.literal(new[n], found.c[n].type) if n in new else found.c[n] for n in names)
                )
                asked = asked.where(*_where(found, like)).limit(1)
                connection.execute(found.insert().from_select(names, asked, include_defaults=False))
            self._ours.append((table, dict(where)))

    def update(self, table: str, where: Where, values: Mapping[str, object]) -> None:
        """Change a row of ours."""
        self._need_ours(table, where)
        with self._speaking() as connection:
            found = self._table(table)
            self._one(connection.execute(found.update().where(*_where(found, where)).values(dict(values))))

    def delete(self, table: str, where: Where) -> None:
        """Remove a row of ours."""
        self._need_ours(table, where)
        with self._speaking() as connection:
            found = self._table(table)
            self._one(connection.execute(found.delete().where(*_where(found, where))))

    def clear(self) -> list[str]:
        """Remove all rows of ours that are still there; return a sentence for each that is left."""
        left: list[str] = []
        for table, where in reversed(self._ours):
            try:
                with self._speaking() as connection:
                    found = self._table(table)
                    connection.execute(found.delete().where(*_where(found, where)))
            except StartError as err:
                row = ", ".join(f"{column} = {value}" for column, value in where.items())
                left.append(f"the row of a canary in `{table}` ({row}): {err}")
        if not left:
            self._ours.clear()
            self._engine.dispose()
        return left

    def _need_ours(self, table: str, where: Where) -> None:
        # INVARIANT: the only rows that are ever changed or removed.
        assert (table, dict(where)) in self._ours

    def _one(self, done: sa.CursorResult[Any]) -> None:
        if done.rowcount != 1:
            raise StartError(f"a change was about {done.rowcount} rows instead of one, and was not made")

    def _table(self, name: str) -> sa.Table:
        schema, _, table = name.rpartition(".")
        return sa.Table(table, self._metadata, schema=schema or None, autoload_with=self._engine)

    @contextmanager
    def _speaking(self) -> Iterator[sa.Connection]:
        """One transaction; whatever the database says against it becomes a sentence without values."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as err:
            raise StartError(f"the database cannot be written as it takes: {_said(err)}") from err
        except KeyError as err:
            raise StartError(f"a declared table has no column {err}") from err
        except OSError as err:
            raise StartError(f"the database cannot be reached: {err.strerror or err}") from err


def fresh_key(like: object, name: str) -> object:
    """A key that no row has and that none will get by counting. like: another row's. Raises StartError."""
    match like:
        case bool():
            pass
        case int():
            return -1 - uuid.uuid4().int % (2**31 - 1)
        case uuid.UUID():
            return uuid.uuid4()
        case str():
            return name
        case _:
            pass
    raise StartError(f"a key of the type {type(like).__name__} cannot be made up")


def _where(table: sa.Table, wanted: Where) -> list[sa.ColumnElement[bool]]:
    return [table.c[column] == value for column, value in wanted.items()]


def _said(err: sa.exc.SQLAlchemyError) -> str:
    if not isinstance(err, sa.exc.DBAPIError) or err.orig is None:
        return type(err).__name__
    said = err.orig.args[0] if err.orig.args else ""
    # PostgreSQL's detail (`D`) would hold values; its message names table and constraint.
    text = str(said.get("M")) if isinstance(said, dict) else str(said)
    return text.splitlines()[0] if text else type(err.orig).__name__
