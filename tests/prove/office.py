"""A deployment over an export and a database of one office: who is in Sales reads Sales, who is in Finance, Finance."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from service.demo import people
from service.demo.stage import _CONFIGURATION, _free_addresses
from service.sections import initial
from tests.prove.stage import Deployment, served

SOURCES: Final = """\
sources:
  - name: wiki
    kind: feed
    path: ./export/feed.jsonl
    audience: ["static:people:members"]
    max_permissions_age: 24h
  - name: tickets
    kind: sql
    url: sqlite:///tickets.db
    audience: ["static:people:members"]
    max_permissions_age: 24h
    documents:
      table: tickets
      key: id
      text: body
      version: revision
      title: subject
      modified_at: updated
      location: place
      scope: project
      rules:
        - {effect: deny, realm: "static:people", prefix: "user-", table: blocked, key: ticket, column: person}
        - {effect: deny, realm: "static:people", column: barred, holds: list}
        - {effect: allow, realm: "static:people", table: readers, key: ticket, column: reader}
        - {effect: allow, realm: "source:tickets", prefix: team-, column: team}
        - {effect: allow, realm: "static:people", column: readers, holds: list}
        - {effect: allow, principals: ["static:people:members"], when: public}
    scopes:
      table: projects
      key: id
      title: name
      rules:
        - {effect: allow, realm: "static:people", table: members, key: project, column: member}
        - {effect: allow, principals: ["static:people:members"], when: open}
    groups:
      table: teams
      key: id
      title: name
      prefix: team-
      members:
        - {realm: "static:people", column: lead}
        - {realm: "static:people", prefix: "user-", table: team_people, key: team, column: person}
"""
TABLES: Final = """\
CREATE TABLE projects (id integer PRIMARY KEY, name text NOT NULL, open boolean);
CREATE TABLE members (project integer, member text, PRIMARY KEY (project, member));
CREATE TABLE tickets (id integer PRIMARY KEY, subject text, body text NOT NULL, place text, revision integer NOT NULL,
  updated timestamp NOT NULL, project integer NOT NULL REFERENCES projects, team integer, barred text NOT NULL,
  readers text, public boolean, colour text NOT NULL);
CREATE TABLE readers (number integer PRIMARY KEY, ticket integer, reader text, since text NOT NULL);
CREATE TABLE blocked (ticket integer, person text);
CREATE TABLE teams (id integer PRIMARY KEY, name text, lead text);
CREATE TABLE team_people (team integer, person text);
"""


@dataclass
class Office(Deployment):
    """Over a feed and a database."""

    @property
    def feed(self) -> Path:
        """The export."""
        return self.base / "export/feed.jsonl"

    @property
    def rows(self) -> list[str]:
        """Everything in the database."""
        with closing(sqlite3.connect(self.base / "tickets.db")) as database:
            return list(database.iterdump())


def write_feed(path: Path, *, more: str = "") -> None:
    """Export it anew. more: one more document of Sales."""
    lines: list[dict[str, object]] = [
        {"kind": "feed", "version": 1, "exported_at": datetime.now(UTC).isoformat(timespec="seconds")}
    ]
    for area in ("Sales", "Finance"):
        rule = {"effect": "allow", "principals": [f"static:people:group-{area.lower()}"]}
        lines.append({"kind": "scope", "id": area, "location": area, "rules": [rule]})
    names = [(area, f"{area} report {n}") for area in ("Sales", "Finance") for n in range(8)]
    for area, name in [*names, *([("Sales", more)] if more else [])]:
        lines.append(
            {
                "kind": "document",
                "id": name,
                "scope": area,
                "title": name,
                "location": f"{area}/{name}",
                "media_type": "text/plain",
                "modified_at": "2026-01-31T08:00:00Z",
                "rules": "scope",
                "text": f"{name}: what {area} wrote about it.",
            }
        )
    lines.append({"kind": "end", "scopes": 2, "documents": len(lines) - 3})
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    fresh.chmod(0o640)
    fresh.replace(path)


def write_database(path: Path) -> None:
    """Make and fill the tables."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(TABLES)
        for project, area in enumerate(("Sales", "Finance"), 1):
            database.execute("INSERT INTO projects VALUES (?, ?, 0)", (project, area))
            database.execute("INSERT INTO members VALUES (?, ?)", (project, f"group-{area.lower()}"))
            database.execute("INSERT INTO teams VALUES (?, ?, 'user-u-1007')", (project, area))
            for number in range(8):
                key, name = project * 100 + number, f"{area} ticket {number}"
                database.execute(
                    "INSERT INTO tickets VALUES (?, ?, ?, ?, 1, '2026-01-31 08:00:00', ?, NULL, '[]', '[]', 0, 'red')",
                    (key, name, f"{name}: what {area} was asked.", f"{area} desk/{name}", project),
                )
                reader = (key, f"group-{area.lower()}", "2026-01-31T08:00:00Z")
                database.execute("INSERT INTO readers (ticket, reader, since) VALUES (?, ?, ?)", reader)


@contextmanager
def office(mode: str) -> Iterator[Office]:
    """A server over both, synced once, with the defect of that name."""
    base = Path(tempfile.mkdtemp(prefix="remit-office-"))
    try:
        initial.write(base)
        callers, administrators = _free_addresses()
        text = _CONFIGURATION.format(callers=callers, administrators=administrators, source="", root="", id_domain="")
        text = text.replace("{kind: model}", "{kind: hash}").partition("sources:\n")[0]
        (base / "remit.yaml").write_text(text + SOURCES)
        people.write(base / "people.yaml")
        (base / "export").mkdir()
        write_feed(base / "export/feed.jsonl")
        write_database(base / "tickets.db")
        writer = base / "writer.url"
        writer.write_text("sqlite:///tickets.db\n")
        writer.chmod(0o600)
        made = Office(base)
        with served(made, mode, "wiki"):
            done = made.remit("source", "sync", "tickets", "--as", "oskar")
            assert done.returncode == 0, done.stderr
            yield made
    finally:
        shutil.rmtree(base, ignore_errors=True)
