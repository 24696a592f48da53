"""The declared tables of a database, read page by page: the only place that knows SQLAlchemy.

Every question is read-only, has a time limit, and runs in a transaction that sees one moment: a row, the rows of other
tables that say who may read it, and its text belong together. Errors never hold values of rows.
Source: SQLAlchemy 2.0, "SQLite: Serializable isolation / Savepoints / Transactional DDL" for its transactions.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.pool import ConnectionPoolEntry

from connectors.errors import ConnectorError, FatalError, RetriableError
from connectors.registry import OptionError
from connectors.secret import OptionSecret, SecretError
from connectors.sql.declared import Declared, Documents, Fixed, Groups, InColumn, InTable, RuleSource, Scopes

PAGE: Final = 500
_CONNECT_S: Final = 10
_STATEMENT_S: Final = 60
# SOURCE: PostgreSQL, appendix A: invalid authorization, no such database, insufficient privilege.
_REFUSED: Final = frozenset({"28000", "28P01"})
_NO_DATABASE: Final = "3D000"
_NO_RIGHT: Final = "42501"


@dataclass(frozen=True, slots=True)
class Access:
    """Where the database is and how to log in. The password is read when it is needed, and kept nowhere.

    ca: the authorities that a server's certificate is held against, None: those of the system.
    """

    url: sa.URL
    password: OptionSecret | None
    ca: Path | None

    @property
    def where(self) -> str:
        """Which database it is, whoever logs in."""
        return self.url.set(username=None, password=None).render_as_string()


def access(url: str, base: Path, password: OptionSecret | None, ca: Path | None) -> Access:
    """Read the option `url` and what belongs to it. Raises OptionError."""
    try:
        found = sa.make_url(url)
    except sa.exc.ArgumentError as err:
        # Without the text: it may hold a password.
        raise OptionError("url", "`url`: expected one such as `postgresql://reader@db.example/tickets`") from err
    if found.password is not None:
        raise OptionError("url", "`url`: holds a password: name its file by `password_file`, or `password_env`")
    match found.drivername:
        case "sqlite":
            if not found.database or found.query or found.host:
                raise OptionError("url", "`url`: expected a file, such as `sqlite:///tickets.db`")
            path = (base / found.database).absolute()
            found = sa.URL.create("sqlite", database=f"file:{_quoted(path)}", query={"mode": "ro", "uri": "true"})
        case "postgresql":
            if not found.database or set(found.query) - {"unix_sock"}:
                raise OptionError("url", "`url`: expected a host and a database, and no parameters but `unix_sock`")
            try:
                import pg8000  # noqa: F401 - whether it is there
            except ImportError as err:
                why = "PostgreSQL needs the package pg8000: install remit-server[postgresql]"
                raise OptionError("url", f"`url`: {why}") from err
            found = found.set(drivername="postgresql+pg8000")
        case _:
            raise OptionError("url", f"`url`: expected `sqlite` or `postgresql`, found `{found.drivername}`")
    return Access(found, password, ca)


@dataclass(frozen=True, slots=True)
class Found:
    """One row. joined: for each rule of another table, by its number, the ids found there. size_bytes: of its text."""

    key: object
    row: Mapping[str, object]
    joined: Mapping[int, Sequence[object]]
    size_bytes: int = 0


class Tables:
    """The declared tables. Safe to use from several threads."""

    def __init__(self, access: Access, declared: Declared) -> None:
        """Connect to nothing yet."""
        self._access: Final = access
        self._documents: Final = declared.documents
        self._scopes: Final = declared.scopes
        self._groups: Final = declared.groups
        self._engine: sa.Engine | None = None

    def verify(self) -> None:
        """Look whether everything declared is there and keys are keys. Raises FatalError or RetriableError."""
        with self.moment() as moment:
            inspector = sa.inspect(moment.connection)
            for at, table in (("documents", self._documents), ("scopes", self._scopes), ("groups", self._groups)):
                if table is not None:
                    _verify(inspector, at, table)
                    moment.require_key(at, table)

    @contextmanager
    def moment(self) -> Iterator[Moment]:
        """See one state of the database. Raises FatalError or RetriableError, for whatever is asked within it too."""
        try:
            if self._engine is None:
                self._engine = _engine(self._access)
            with self._engine.connect() as connection, connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.text(f"SET LOCAL statement_timeout = {_STATEMENT_S * 1000}"))
                yield Moment(connection, self._documents, self._scopes, self._groups)
        except sa.exc.SQLAlchemyError as err:
            raise _failed(err, self._access) from err
        except OSError as err:
            raise RetriableError(f"`url`: {self._access.url.render_as_string()}: {err.strerror or err}") from err

    def close(self) -> None:
        """Close all connections."""
        if self._engine is not None:
            self._engine.dispose()


class Moment:
    """One state of the database."""

    def __init__(
        self, connection: sa.Connection, documents: Documents, scopes: Scopes | None, groups: Groups | None
    ) -> None:
        self.connection: Final = connection
        self._documents: Final = documents
        self._scopes: Final = scopes
        self._groups: Final = groups

    def documents(self, after: object | None) -> list[Found]:
        """Return the next page of documents in the order of their keys; after: the last key of the page before."""
        table = self._documents
        columns = [table.version, table.title, table.modified_at, table.location, table.scope]
        return self._page(table, columns, after, size_of=table.text)

    def document(self, key: object) -> Found | None:
        """Return one document, None when it is gone."""
        table = self._documents
        found = self._rows(table, [table.version, table.scope], _column(table.key) == key, 1, size_of=table.text)
        return found[0] if found else None

    def text(self, key: object) -> object:
        """Return the value of a document's text."""
        table = self._documents
        return self.connection.execute(
            sa.select(_column(table.text)).select_from(_table(table.table)).where(_column(table.key) == key)
        ).scalar_one()

    def scopes(self) -> Iterator[Found]:
        """Yield all containers."""
        if self._scopes is not None:
            yield from self._all(self._scopes, [self._scopes.title, self._scopes.parent])

    def groups(self) -> Iterator[Found]:
        """Yield all groups that the system has itself."""
        if self._groups is not None:
            yield from self._all(self._groups, [self._groups.title])

    def _all(self, table: Scopes | Groups, columns: Sequence[str | None]) -> Iterator[Found]:
        after: object | None = None
        while True:
            page = self._page(table, columns, after)
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].key

    def scope(self, key: object) -> Found | None:
        """Return one container, None when there is none."""
        assert self._scopes is not None
        found = self._rows(self._scopes, [self._scopes.title, self._scopes.parent], _column(self._scopes.key) == key, 1)
        return found[0] if found else None

    def require_key(self, at: str, table: Documents | Scopes | Groups) -> None:
        """Raise FatalError unless the key column is one: no NULL, and no value twice."""
        key = _column(table.key)
        twice = sa.select(key).select_from(_table(table.table)).group_by(key).having(sa.func.count() > 1).limit(1)
        none = sa.select(sa.literal(1)).select_from(_table(table.table)).where(key.is_(None)).limit(1)
        if self.connection.execute(twice).first() is not None or self.connection.execute(none).first() is not None:
            raise FatalError(f"`{at}.key`: column `{table.key}` of `{table.table}` is NULL somewhere, or not unique")

    def _page(
        self, table: Documents | Scopes | Groups, columns: Sequence[str | None], after: object | None, size_of: str = ""
    ) -> list[Found]:
        condition = _column(table.key) > after if after is not None else sa.true()
        return self._rows(table, columns, condition, PAGE, size_of)

    def _rows(
        self,
        table: Documents | Scopes | Groups,
        columns: Sequence[str | None],
        condition: sa.ColumnElement[bool],
        limit: int,
        size_of: str = "",
    ) -> list[Found]:
        wanted = dict.fromkeys([table.key, *(name for name in columns if name is not None), *_own(table.rules)])
        size = self._size(size_of) if size_of else sa.literal(0)
        rows = self.connection.execute(
            sa.select(*(_column(name) for name in wanted), size.label("size of text"))
            .select_from(_table(table.table))
            .where(condition)
            .order_by(_column(table.key))
            .limit(limit)
        ).all()
        found = [dict(zip(wanted, row, strict=False)) for row in rows]
        keys = [row[table.key] for row in found]
        joined = {
            number: self._joined(table, rule, keys)
            for number, rule in enumerate(table.rules)
            if isinstance(rule, InTable)
        }
        return [
            Found(key, row, {number: ids.get(key, ()) for number, ids in joined.items()}, int(values[-1] or 0))
            for key, row, values in zip(keys, found, rows, strict=True)
        ]

    def _joined(
        self, table: Documents | Scopes | Groups, rule: InTable, keys: Sequence[object]
    ) -> dict[object, list[object]]:
        """Return the ids that another table holds for each of some rows, by the keys that the rows themselves have.

        Whether two keys are equal is for the database to say: it may not care about case, or about blanks at the end.
        """
        found: dict[object, list[object]] = {}
        if keys:
            mine, other = (
                _table(table.table, table.key).alias("mine"),
                _table(rule.table, rule.key, rule.column).alias("other"),
            )
            key = mine.c[table.key]
            question = (
                sa.select(key, other.c[rule.column])
                .select_from(mine.join(other, key == other.c[rule.key]))
                .where(key.in_(keys))
            )
            for one, value in self.connection.execute(question):
                found.setdefault(one, []).append(value)
        return found

    def _size(self, column: str) -> sa.ColumnElement[Any]:
        if self.connection.dialect.name == "postgresql":
            return sa.func.octet_length(_column(column))
        return sa.func.length(sa.cast(_column(column), sa.LargeBinary))


def _own(rules: Sequence[RuleSource]) -> Iterator[str]:
    """The columns of a row that its rules are made of."""
    for rule in rules:
        match rule:
            case Fixed(when=str() as column) | InColumn(column=column):
                yield column
            case _:
                pass


def _verify(inspector: Inspector, at: str, table: Documents | Scopes | Groups) -> None:
    columns = _columns(inspector, f"{at}.table", table.table)
    for key in ("key", "text", "version", "title", "modified_at", "location", "scope", "parent"):
        name = getattr(table, key, None)
        if name is not None:
            _require(columns, f"{at}.{key}", table.table, name)
    for number, rule in enumerate(table.rules):
        where = f"{at}.{'members' if isinstance(table, Groups) else 'rules'}[{number}]"
        match rule:
            case Fixed():
                if rule.when is not None:
                    _require(columns, f"{where}.when", table.table, rule.when)
            case InColumn():
                _require(columns, f"{where}.column", table.table, rule.column)
            case InTable():
                other = _columns(inspector, f"{where}.table", rule.table)
                _require(other, f"{where}.key", rule.table, rule.key)
                _require(other, f"{where}.column", rule.table, rule.column)


def _columns(inspector: Inspector, at: str, name: str) -> frozenset[str]:
    schema, _, table = name.rpartition(".")
    if not inspector.has_table(table, schema=schema or None):
        raise FatalError(f"`{at}`: the database has no table `{name}` that this account may see")
    return frozenset(column["name"] for column in inspector.get_columns(table, schema=schema or None))


def _require(columns: frozenset[str], at: str, table: str, name: str) -> None:
    if name not in columns:
        raise FatalError(f"`{at}`: table `{table}` has no column `{name}`")


def _column(name: str) -> sa.ColumnClause[Any]:
    return sa.column(name)


def _table(name: str, *columns: str) -> sa.TableClause:
    schema, _, table = name.rpartition(".")
    return sa.table(table, *(_column(one) for one in dict.fromkeys(columns)), schema=schema or None)


def _engine(access: Access) -> sa.Engine:
    """Raises FatalError when the password or the authorities cannot be read."""
    if access.url.get_backend_name() == "sqlite":
        engine = sa.create_engine(access.url, hide_parameters=True, connect_args={"timeout": _CONNECT_S})
        # The driver's own transactions begin at the first write: here one moment is a transaction that only reads.
        sa.event.listen(engine, "connect", _manual)
        sa.event.listen(engine, "begin", _begin)
        return engine
    return sa.create_engine(
        access.url.set(password=_password(access)),
        hide_parameters=True,
        connect_args=server_arguments(access),
        execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    )


def server_arguments(access: Access) -> dict[str, Any]:
    """How a server is connected to: a time limit, and TLS that verifies where anything leaves this machine.

    Raises FatalError when the authorities cannot be read.
    """
    arguments: dict[str, Any] = {"timeout": _CONNECT_S + _STATEMENT_S}
    if access.ca is not None or not _is_local(access.url):
        try:
            arguments["ssl_context"] = ssl.create_default_context(cafile=access.ca)
        except OSError as err:
            raise FatalError(f"`ca`: {access.ca} cannot be read, or holds no certificate in PEM") from err
    return arguments


def _manual(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _password(access: Access) -> str | None:
    try:
        return None if access.password is None else access.password.read()
    except SecretError as err:
        raise FatalError(str(err)) from err


def _is_local(url: sa.URL) -> bool:
    """Whether nothing leaves this machine."""
    if "unix_sock" in url.query or url.host in (None, "localhost"):
        return True
    try:
        return ipaddress.ip_address(url.host or "").is_loopback
    except ValueError:
        return False


def _failed(err: sa.exc.SQLAlchemyError, access: Access) -> ConnectorError:
    """Say what the database said, without the statement and its values."""
    name = f"`url`: {access.url.render_as_string()}"
    if not isinstance(err, sa.exc.DBAPIError) or err.orig is None:
        return RetriableError(f"{name}: {type(err).__name__}")
    said = err.orig.args[0] if err.orig.args else ""
    code, text = ("", str(said)) if not isinstance(said, dict) else (str(said.get("C")), str(said.get("M")))
    if code in _REFUSED:
        key = "url" if access.password is None else access.password.option
        return FatalError(f"`{key}`: the database refuses the login as `{access.url.username or ''}`")
    if code == _NO_DATABASE:
        return FatalError(f"{name}: there is no such database")
    if code == _NO_RIGHT:
        return FatalError(f"`url`: `{access.url.username or ''}` may not read all that is declared: {text}")
    return RetriableError(f"{name}: {text.splitlines()[0] if text else type(err.orig).__name__}")


def _quoted(path: Path) -> str:
    return path.as_uri().removeprefix("file://")
