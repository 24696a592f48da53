"""A database as a source, on a PostgreSQL server that the tests start."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from connectors.base import Level, Upsert
from connectors.errors import FatalError, RetriableError
from connectors.testing.contract import CONNECTOR_CHECKS, GROUP_CHECKS, GroupsWorld, World
from tests.connectors.databases import Database, DatabaseGroups, DatabaseWorld
from tests.connectors.test_sql import readers, walk
from tests.support.needs import need
from tests.support.postgres import ADMIN, PASSWORD, Postgres, running_postgres

pytestmark = pytest.mark.live

READER = "remit_reader"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as started:
        yield started


@pytest.fixture
def database(server: Postgres, tmp_path: Path) -> Iterator[Database]:
    """A database of its own, read by an account that may do nothing else."""
    name = f"tickets{next(_numbers)}"
    with _engine(server, "postgres").connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text(f"CREATE DATABASE {name}"))
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    secret.chmod(0o600)
    engine = _engine(server, name)
    found = Database(engine, {"url": server.url(READER, name), "password_file": str(secret)}, tmp_path)
    found.do(
        f"DO $$ BEGIN CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'; EXCEPTION WHEN duplicate_object THEN END $$"
    )
    found.do(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}")
    yield found
    engine.dispose()


def _engine(server: Postgres, name: str) -> sa.Engine:
    url = sa.make_url(server.url(ADMIN, name)).set(drivername="postgresql+pg8000", password=PASSWORD)
    return sa.create_engine(url, poolclass=sa.NullPool)


@pytest.mark.parametrize("check", CONNECTOR_CHECKS, ids=lambda check: check.__name__)
def test_sql_on_postgresql_keeps_the_contract(check: Callable[[World], None], database: Database) -> None:
    """The SQL connector does what every connector must."""

    def unplug() -> None:
        with database.engine.connect() as connection:
            name = connection.execute(sa.text("SELECT current_database()")).scalar_one()
        url = database.engine.url.set(database="postgres")
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
            autocommit.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))

    with closing(DatabaseWorld(database, unplug)) as world:
        check(world)


@pytest.mark.parametrize("check", GROUP_CHECKS, ids=lambda check: check.__name__)
def test_groups_on_postgresql_keep_the_contract(check: Callable[[GroupsWorld], None], database: Database) -> None:
    """The SQL connector says who is in groups as every connector must."""
    with closing(DatabaseGroups(database)) as world:
        check(world)


def test_arrays_and_tables_say_who_may_read(database: Database) -> None:
    """Arrays of the database are lists, and NULL is nobody in them too."""
    database.project(1, opened=True)
    database.ticket("public")
    database.ticket("not for bob", blocked=["bob"])
    database.ticket("for bob", public=False, readers=["bob"])
    database.ticket("null in a list")
    database.do("UPDATE tickets SET blocked = ARRAY[NULL]::text[] WHERE id = 'null in a list'")
    database.ticket("null")
    database.do("UPDATE tickets SET blocked = NULL WHERE id = 'null'")

    assert readers(walk(database), ["ann", "bob"]) == {
        "public": {"ann", "bob"},
        "not for bob": {"ann"},
        "for bob": {"bob"},
        "null in a list": set(),
        "null": set(),
    }


def test_keys_of_every_kind_page_through_a_table(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, texts and UUIDs are keys; every row is sent once whatever the size of a page."""
    monkeypatch.setattr("connectors.sql.tables.PAGE", 3)
    monkeypatch.setattr("connectors.sql.connector.PAGE", 3)
    del database.options["scopes"]
    rules = [{"effect": "allow", "principals": ["static:people:members"]}]
    columns = {"key": "id", "text": "body", "version": "body", "title": "body", "modified_at": "at", "rules": rules}
    for kind, value in [("bigint", "n * 5000000000"), ("uuid", "gen_random_uuid()"), ("text", "'k' || n")]:
        database.do(f"CREATE TABLE {kind}s (id {kind} PRIMARY KEY, body text, at timestamptz DEFAULT now())")
        database.do(f"INSERT INTO {kind}s SELECT {value}, 'row ' || n FROM generate_series(1, 10) n")
        database.do(f"GRANT SELECT ON {kind}s TO {READER}")
        connector = database.connector(documents={"table": f"public.{kind}s", **columns})

        found = [change for change in connector.changes(None) if isinstance(change, Upsert)]

        assert sorted(document.name for document in found) == sorted(f"row {n}" for n in range(1, 11))
        assert [connector.read(one, 100).decode() for one in found] == [one.name for one in found]
        connector.close()


@pytest.mark.parametrize("by", ["password_file", "password_env"])
def test_a_wrong_password_is_refused_before_anything_is_sent(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The error names the option and tells neither password; with the right one the run goes on."""
    del database.options["password_file"]
    wrong = "wrong-canary"
    (tmp_path / "wrong").write_text(wrong)
    (tmp_path / "wrong").chmod(0o600)
    monkeypatch.setenv("REMIT_TEST_SECRET", wrong)
    value = {"password_file": str(tmp_path / "wrong"), "password_env": "REMIT_TEST_SECRET"}[by]
    connector = database.connector(**{by: value})

    with pytest.raises(FatalError) as caught:
        next(connector.changes(None))

    said = f"{caught.value.detail} {[finding.text for finding in connector.check()]}"
    assert caught.value.detail.startswith(f"`{by}`: the database refuses the login as `{READER}`")
    assert wrong not in said
    assert PASSWORD not in said
    connector.close()
    monkeypatch.setenv("REMIT_TEST_SECRET", PASSWORD)
    (tmp_path / "wrong").write_text(PASSWORD)
    (tmp_path / "wrong").chmod(0o600)
    assert walk(database, **{by: value})


def test_a_secret_that_is_not_there_is_named(database: Database) -> None:
    """A missing file or variable is an error with its option."""
    with pytest.raises(FatalError, match=r"`password_file`: .*none cannot be read"):
        walk(database, password_file="none")
    del database.options["password_file"]
    with pytest.raises(FatalError, match="`password_env`: there is no environment variable `REMIT_NONE`"):
        walk(database, password_env="REMIT_NONE")


def test_a_table_that_may_not_be_read_is_refused(database: Database) -> None:
    """What the account may not read is a person's to mend, and nothing is sent."""
    database.project(1, opened=True)
    database.do(f"REVOKE SELECT ON readers FROM {READER}")
    database.ticket("a")

    with pytest.raises(FatalError, match="may not read all that is declared: permission denied for table readers"):
        walk(database)


def test_the_account_cannot_write_through_the_connector(database: Database) -> None:
    """Every transaction is read-only, whatever the account may do."""
    database.do(f"GRANT ALL ON tickets TO {READER}")
    connector = database.connector()
    tables = connector._tables  # type: ignore[attr-defined]  # no public way leads to a statement of one's own

    with pytest.raises(RetriableError, match="read-only transaction"), tables.moment() as moment:
        moment.connection.execute(sa.text("DELETE FROM tickets"))
    connector.close()


def test_a_database_or_server_that_is_not_there_is_an_error(database: Database, server: Postgres) -> None:
    """An unknown database and a closed port are errors of the run, and findings of `check`."""
    missing = database.connector(url=server.url(READER, "none"))
    silent = database.connector(url=f"postgresql://{READER}@127.0.0.1:1/none")

    with pytest.raises(FatalError, match="there is no such database"):
        next(missing.changes(None))
    with pytest.raises(RetriableError):
        next(silent.changes(None))
    assert [finding.level for finding in silent.check()] == [Level.ERROR]


def test_a_server_without_tls_gets_no_password_where_tls_is_wanted(database: Database, tmp_path: Path) -> None:
    """With an authority to hold the certificate against, a server that offers none is refused: there is no way back."""
    authority = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
    need(authority.exists(), "this machine has no certificates of authorities: deploy/test-deps.sh installs them")

    with pytest.raises(RetriableError, match="SSL"):
        walk(database, ca=str(authority))


def test_an_error_tells_no_values(database: Database) -> None:
    """What stands in a row is in no error: the statement and its values stay out."""
    database.project(1, opened=True)
    database.ticket("secret-canary")
    connector = database.connector()
    (document,) = [change for change in connector.changes(None) if isinstance(change, Upsert)]
    database.do("ALTER TABLE tickets DROP COLUMN revision")

    with pytest.raises(RetriableError) as caught:
        connector.read(document, 100)

    assert "secret-canary" not in caught.value.detail
    connector.close()
