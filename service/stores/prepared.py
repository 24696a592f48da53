"""Queries that every search asks: compiled once, run by the driver itself, rows as the driver has them.

SQLAlchemy takes ten times as long to run one of these as SQLite takes to answer it, and a search waits for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Select, bindparam
from sqlalchemy.exc import DBAPIError

VALUES: Final[BindParameter[Any]] = bindparam("values", expanding=True)
"""The one list that a query may have: `column.in_(VALUES)`."""

_MOST: Final = 512
"""How many values are asked for in one statement."""


class Prepared:
    """One query. Its columns have the driver's own types, and the database one whose parameters have places, not names.

    Safe to use from several threads.
    """

    def __init__(self, wanted: Select[Any]) -> None:
        self._wanted = wanted
        self._compiled: dict[tuple[str, int], tuple[str, tuple[tuple[str, object], ...]]] = {}

    def rows(self, connection: Connection, **given: object) -> list[Any]:
        """Run it once, with these parameters by name. Raises DBAPIError, as SQLAlchemy does."""
        return self._run(connection, (), given)

    def among(self, connection: Connection, values: Sequence[int] | Sequence[str]) -> list[Any]:
        """Run it for VALUES, a batch at a time; without any it is not run. Raises DBAPIError."""
        found: list[Any] = []
        for start in range(0, len(values), _MOST):
            part = tuple(values[start : start + _MOST])
            # A few lengths only, so that this and the driver know the statement: the last value is asked for again.
            padded = part + part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))
            found += self._run(connection, padded, {})
        return found

    def _run(self, connection: Connection, values: tuple[object, ...], given: dict[str, object]) -> list[Any]:
        key = (connection.dialect.name, len(values))
        known = self._compiled.get(key)
        if known is None:
            known = self._compiled[key] = self._compile(connection, len(values))
        text, others = known
        parameters = (*values, *[given.get(name, own) for name, own in others])
        try:
            cursor = connection.connection.cursor()
            try:
                cursor.execute(text, parameters)
                return list(cursor.fetchall())
            finally:
                cursor.close()
        except connection.dialect.loaded_dbapi.Error as err:
            raise DBAPIError(text, None, err) from err

    def _compile(self, connection: Connection, count: int) -> tuple[str, tuple[tuple[str, object], ...]]:
        """The statement for so many values, and the parameters behind them with what the statement itself sets."""
        wanted = self._wanted.params(values=[0] * count) if count else self._wanted
        compiled = wanted.compile(connection, compile_kwargs={"render_postcompile": True})
        assert compiled.positiontup is not None, "the driver's parameters have places"
        return str(compiled), tuple((name, compiled.params.get(name)) for name in compiled.positiontup[count:])
