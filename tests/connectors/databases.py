"""A database of tickets in projects, for tests: made and changed by its owner, read by the connector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from connectors.base import Connector
from connectors.registry import build

ANYBODY: Final = "static:people:members"
DOCUMENTS: Final[Mapping[str, object]] = {
    "table": "tickets",
    "key": "id",
    "text": "body",
    "version": "revision",
    "title": "subject",
    "modified_at": "updated",
    "location": "url",
    "scope": "project",
    "rules": [
        {"effect": "deny", "realm": "static:people", "column": "blocked", "holds": "list"},
        {"effect": "allow", "realm": "static:people", "table": "readers", "key": "ticket", "column": "reader"},
        {"effect": "allow", "principals": [ANYBODY], "when": "public"},
    ],
}
PEOPLE_OF_TEAMS: Final = {"realm": "static:people", "table": "team_people", "key": "team", "column": "person"}
GROUPS: Final[Mapping[str, object]] = {
    "table": "teams",
    "key": "id",
    "title": "name",
    "prefix": "team-",
    "members": [
        PEOPLE_OF_TEAMS,
        {"realm": "source:tickets", "prefix": "team-", "table": "team_teams", "key": "team", "column": "inner_team"},
        {"realm": "static:people", "column": "lead"},
    ],
}
SCOPES: Final[Mapping[str, object]] = {
    "table": "projects",
    "key": "id",
    "title": "name",
    "parent": "parent",
    "rules": [
        {"effect": "allow", "realm": "static:people", "column": "reader"},
        {"effect": "allow", "principals": [ANYBODY], "when": "open"},
    ],
}


class Database:
    """The tables. engine: its owner's."""

    def __init__(self, engine: sa.Engine, options: Mapping[str, object], base: Path) -> None:
        """options: how the connector reaches it."""
        self.engine = engine
        self.options: dict[str, object] = {"audience": [ANYBODY], "documents": DOCUMENTS, "scopes": SCOPES, **options}
        self._base = base
        self._revisions = 0
        lists, blob = ("text[]", "bytea") if engine.dialect.name == "postgresql" else ("text", "blob")
        self.do("CREATE TABLE projects (id integer PRIMARY KEY, name text, parent integer, reader text, open boolean)")
        self.do(
            f"CREATE TABLE tickets (id text PRIMARY KEY, subject text, body {blob}, url text, revision integer, "
            f"updated timestamp, project integer, blocked {lists}, public boolean)"
        )
        self.do("CREATE TABLE readers (ticket text, reader text)")
        self.do("CREATE TABLE teams (id integer PRIMARY KEY, name text, lead text)")
        self.do("CREATE TABLE team_people (team integer, person text)")
        self.do("CREATE TABLE team_teams (team integer, inner_team integer)")

    def connector(self, **changes: object) -> Connector:
        """A new connector, with some options changed."""
        return build("sql", self.options | changes, self._base, "tickets")

    def do(self, statement: str, **values: object) -> None:
        """Run a statement as the owner, and commit it."""
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    def project(self, key: int, *, parent: int | None = None, reader: str | None = None, opened: object = None) -> None:
        """Make a project."""
        self.do(
            "INSERT INTO projects VALUES (:key, :name, :parent, :reader, :opened)",
            key=key,
            name=f"project {key}",
            parent=parent,
            reader=reader,
            opened=opened,
        )

    def team(self, key: int, name: str, *people: str, lead: str | None = "lead", teams: Sequence[int] = ()) -> None:
        """Make a team, or give it other members."""
        for table, column in (("teams", "id"), ("team_people", "team"), ("team_teams", "team")):
            self.do(f"DELETE FROM {table} WHERE {column} = :key", key=key)
        self.do("INSERT INTO teams VALUES (:key, :name, :lead)", key=key, name=name, lead=lead)
        for person in people:
            self.do("INSERT INTO team_people VALUES (:key, :person)", key=key, person=person)
        for inner in teams:
            self.do("INSERT INTO team_teams VALUES (:key, :inner)", key=key, inner=inner)

    def ticket(
        self,
        key: str,
        *,
        body: bytes = b"text",
        project: int | None = 1,
        blocked: list[str] | None = None,
        public: object = True,
        readers: list[str] | None = None,
    ) -> None:
        """Make a ticket. blocked: nobody, unless `block_null` is called."""
        self._revisions += 1
        names: object = blocked or []
        if self.engine.dialect.name == "sqlite":
            names = json.dumps(names)
        self.do(
            "INSERT INTO tickets VALUES (:key, :key, :body, :url, :revision, '2026-01-31 08:00:00', :project, "
            + (":blocked, :public)" if self.engine.dialect.name == "sqlite" else "CAST(:blocked AS text[]), :public)"),
            key=key,
            body=body,
            url=f"https://tickets.example/{key}",
            revision=self._revisions,
            project=project,
            blocked=names,
            public=public,
        )
        for reader in readers or []:
            self.do("INSERT INTO readers VALUES (:ticket, :reader)", ticket=key, reader=reader)


class DatabaseWorld:
    """The contract's handles on a database."""

    def __init__(self, database: Database, unplug: object) -> None:
        self._database = database
        self._unplug = unplug
        self._connectors: list[Connector] = []
        database.project(1, opened=True)

    def connector(self) -> Connector:
        self._connectors.append(self._database.connector())
        return self._connectors[-1]

    def close(self) -> None:
        """Close every connector."""
        for connector in self._connectors:
            connector.close()

    def write(self, name: str, content: bytes) -> None:
        self.remove(name)
        self._database.ticket(name, body=content)

    def remove(self, name: str) -> None:
        self._database.do("DELETE FROM tickets WHERE id = :name", name=name)

    def narrow(self, name: str) -> None:
        self._database.do("UPDATE tickets SET public = NULL WHERE id = :name", name=name)

    def narrow_container(self) -> None:
        self._database.do("UPDATE projects SET open = NULL")

    def unplug(self) -> None:
        assert callable(self._unplug)
        self._unplug()


class DatabaseGroups:
    """The contract's handles on the teams of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[str, int] = {}
        self._connectors: list[Connector] = []

    def connector(self) -> Connector:
        self._connectors.append(self._database.connector(groups=_WITHOUT_LEAD))
        return self._connectors[-1]

    def close(self) -> None:
        """Close every connector."""
        for connector in self._connectors:
            connector.close()

    def fill(self, name: str, number: int) -> None:
        key = self._keys.setdefault(name, len(self._keys) + 1)
        self._database.team(key, name, *(f"p{one}" for one in range(number)))

    def drop(self, name: str) -> None:
        self._database.do("DELETE FROM teams WHERE id = :key", key=self._keys[name])

    def hide(self, name: str) -> None:
        self._database.do("UPDATE team_people SET person = NULL WHERE team = :key", key=self._keys[name])


_WITHOUT_LEAD: Final = {**GROUPS, "members": [PEOPLE_OF_TEAMS]}
