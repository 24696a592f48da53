"""What a proof does in a PostgreSQL database, judged by the connector that reads it: granted, taken away, put back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from acl.principal import Principal
from connectors.secret import FileSecret
from service.errors import StartError
from service.prove.grounds.base import Skipped, Who
from service.prove.grounds.sql import SqlGround, declared_of
from service.prove.grounds.sql_rows import Rows, engine_of
from service.settings import SourceSettings
from tests.connectors.databases import GROUPS, Database
from tests.connectors.test_sql import PEOPLE, readers, walk
from tests.support.postgres import ADMIN, PASSWORD, Postgres, running_postgres

pytestmark = pytest.mark.live

ALICE = Who(
    "alice", frozenset({Principal(PEOPLE, "alice"), Principal(PEOPLE, "members")}), (Principal(PEOPLE, "alice"),)
)
LIKE = "https://tickets.example/near"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as started:
        yield started


@pytest.fixture
def database(server: Postgres, tmp_path: Path) -> Iterator[Database]:
    """Tables with an account that reads and one that writes what is declared, and nothing else."""
    url = sa.make_url(server.url(ADMIN, "postgres")).set(drivername="postgresql+pg8000", password=PASSWORD)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    for name, text in {"password": PASSWORD, "url": server.url("prover:" + PASSWORD, "postgres")}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    options = {"url": server.url("reader", "postgres"), "password_file": str(tmp_path / "password"), "groups": GROUPS}
    found = Database(engine, options, tmp_path)
    for role, rights in {"reader": "SELECT", "prover": "SELECT, INSERT, UPDATE, DELETE"}.items():
        found.do(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        found.do(f"GRANT {rights} ON ALL TABLES IN SCHEMA public TO {role}")
    found.project(1, opened=True)
    found.ticket("near", blocked=["bob"], readers=["carol"])
    found.ticket("far", public=False)
    yield found
    engine.dispose()


def rows(database: Database) -> dict[str, list[Any]]:
    """Everything in the tables."""
    with database.engine.connect() as connection:
        tables = ("tickets", "projects", "readers", "teams", "team_people", "team_teams")
        return {name: sorted(map(repr, connection.execute(sa.text(f"SELECT * FROM {name}")))) for name in tables}


def test_every_way_gives_and_takes_what_the_connector_reads(database: Database, tmp_path: Path) -> None:
    """Lists are arrays, texts are bytes, keys are negative; no row that was there is touched, and none is left."""
    one = SourceSettings("tickets", "sql", timedelta(hours=24), database.options)
    settings: Any = SimpleNamespace(base=tmp_path)
    ground = SqlGround(declared_of(one), Rows(engine_of(settings, one, FileSecret(tmp_path / "url"))))
    before = rows(database)
    ways = ground.ways(LIKE, ALICE)

    assert [way.kind for way in ways] == ["deny", "allow", "allow", "scope", "scope", "move", "member", "delete"]
    for way in ways:
        if isinstance(way, Skipped):
            assert (way.kind, way.why) == (
                "member", "no rule that lets somebody in names groups of `source:tickets`",
            )  # fmt: skip
            continue
        canary = way.prepare()
        name = canary.location.rpartition("/")[2]
        assert "alice" in readers(walk(database), ["alice", "bob"])[name], way.name
        way.revoke(canary)
        assert "alice" not in readers(walk(database), ["alice", "bob"]).get(name, set()), way.name
        assert all(set(before[table]) <= set(now) for table, now in rows(database).items())
    like = ground.plant(LIKE)
    assert readers(walk(database), ["alice", "bob", "carol"])[like.location.rpartition("/")[2]] == {"alice", "carol"}

    assert ground.clear() == []
    assert rows(database) == before

    # An account that may not write is told so, without values, and leaves nothing.
    database.do("REVOKE INSERT ON tickets FROM prover")
    with pytest.raises(StartError, match="permission denied for table tickets"):
        ground.plant(LIKE)
    assert ground.clear() == []
