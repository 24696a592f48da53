"""A database as a source, on SQLite: what rows and tables say about readers, and NULL is nobody."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from acl.decide import Allowed, decide
from acl.model import Caller, Clause, Unknown
from acl.principal import Principal, realm
from connectors.base import (
    Change,
    Checkpoint,
    Level,
    Membership,
    MembershipsEnd,
    Resumable,
    ScanComplete,
    ScopeChange,
    Skip,
    Upsert,
)
from connectors.errors import FatalError, RetriableError, SkippableError
from connectors.registry import OptionError, build
from connectors.sql import tables
from connectors.testing.contract import CONNECTOR_CHECKS, GROUP_CHECKS, GroupsWorld, World
from tests.connectors.databases import ANYBODY, DOCUMENTS, GROUPS, SCOPES, Database, DatabaseGroups, DatabaseWorld
from tests.connectors.sent import acl_of

PEOPLE = realm("static", "people")
NOW = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/tickets.db")
    yield Database(engine, {"url": "sqlite:///tickets.db"}, tmp_path)
    engine.dispose()


def readers(changes: list[Change], people: list[str]) -> dict[str, set[str]]:
    """Return who of some people may read each document, by what a walk sent and `decide` alone."""
    scopes = {change.id: change for change in changes if isinstance(change, ScopeChange)}
    found: dict[str, set[str]] = {}
    for change in changes:
        if isinstance(change, Upsert):
            acl = acl_of(change, scopes)
            found[change.name] = {
                person
                for person in people
                if not isinstance(acl, Unknown) and isinstance(decide(acl, caller(person), NOW), Allowed)
            }
    return found


def caller(person: str) -> Caller:
    principals = frozenset({Principal(PEOPLE, person), Principal(PEOPLE, "members")})
    return Caller(person, principals, frozenset({PEOPLE}), NOW, NOW + timedelta(hours=1))


def walk(database: Database, **changes: object) -> list[Change]:
    connector = database.connector(**changes)
    try:
        return list(connector.changes(None))
    finally:
        connector.close()


@pytest.mark.parametrize("check", CONNECTOR_CHECKS, ids=lambda check: check.__name__)
def test_sql_on_sqlite_keeps_the_contract(check: Callable[[World], None], database: Database, tmp_path: Path) -> None:
    """The SQL connector does what every connector must."""
    with closing(DatabaseWorld(database, lambda: (tmp_path / "tickets.db").unlink())) as world:
        check(world)


def test_rows_say_who_may_read(database: Database) -> None:
    """A deny before an allow, readers of another table, a flag for everybody, and every project around the row."""
    database.project(1, opened=True)
    database.project(2, parent=1, reader="ann")
    database.project(3, parent=2, opened=True)
    database.ticket("public")
    database.ticket("not for bob", blocked=["bob"])
    database.ticket("for bob", public=False, readers=["bob"])
    database.ticket("bob is blocked", public=False, readers=["bob", "ann"], blocked=["bob"])
    database.ticket("inner", project=3)
    database.ticket("nobodys", public=False)

    assert readers(walk(database), ["ann", "bob"]) == {
        "public": {"ann", "bob"},
        "not for bob": {"ann"},
        "for bob": {"bob"},
        "bob is blocked": {"ann"},
        "inner": {"ann"},
        "nobodys": set(),
    }


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tickets SET public = NULL WHERE id = 'a'",
        "UPDATE tickets SET blocked = NULL WHERE id = 'a'",
        "UPDATE tickets SET blocked = '' WHERE id = 'a'",
        "UPDATE tickets SET blocked = 'bob' WHERE id = 'a'",
        "UPDATE tickets SET blocked = '{\"bob\": 1}' WHERE id = 'a'",
        "UPDATE tickets SET blocked = '[\"bob \"]' WHERE id = 'a'",
        "UPDATE tickets SET blocked = '[\"\"]' WHERE id = 'a'",
        "UPDATE tickets SET blocked = '[true]' WHERE id = 'a'",
        "UPDATE tickets SET blocked = '[1.5]' WHERE id = 'a'",
        "UPDATE tickets SET public = 2 WHERE id = 'a'",
        "UPDATE tickets SET public = 'yes' WHERE id = 'a'",
        "INSERT INTO readers VALUES ('a', NULL)",
        "UPDATE tickets SET project = NULL WHERE id = 'a'",
        "UPDATE tickets SET project = 99 WHERE id = 'a'",
        "UPDATE projects SET reader = NULL, open = NULL WHERE id = 2",
        "UPDATE projects SET open = 'yes' WHERE id = 2",
        "UPDATE projects SET parent = 99 WHERE id = 2",
        "UPDATE projects SET parent = 2 WHERE id = 2",
        "DELETE FROM projects WHERE id = 2",
    ],
)
def test_null_and_nonsense_are_nobody(database: Database, change: str) -> None:
    """NULL, and a value that is no flag, no list or no id, lets nobody in; the row beside it is as it was."""
    database.project(1, opened=True)
    database.project(2, opened=True)
    database.ticket("a", project=2)
    database.ticket("b")
    assert readers(walk(database), ["ann"]) == {"a": {"ann"}, "b": {"ann"}}

    database.do(change.replace(":", r"\:"))

    assert readers(walk(database), ["ann"]) == {"a": set(), "b": {"ann"}}


def test_random_rows_decide_as_they_say(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """For random rows and people the decision equals plain reading of the rows; pages of three change nothing."""
    monkeypatch.setattr(tables, "PAGE", 3)
    monkeypatch.setattr("connectors.sql.connector.PAGE", 3)
    seed = random.Random(7)
    people = ["ann", "bob", "eve"]
    projects: dict[int, tuple[int | None, str | None, bool]] = {}
    for key in range(1, 8):
        parent = seed.choice([None, *projects]) if projects else None
        projects[key] = (parent, seed.choice([None, "ann", "bob"]), seed.random() < 0.7)
        database.project(key, parent=parent, reader=projects[key][1], opened=projects[key][2])
    expected: dict[str, set[str]] = {}
    for number in range(60):
        blocked, allowed = ([p for p in people if seed.random() < 0.3] for _ in range(2))
        public, project = seed.random() < 0.5, seed.choice(list(projects))
        database.ticket(f"t{number}", blocked=blocked, readers=allowed, public=public, project=project)
        may = {p for p in people if p not in blocked and (p in allowed or public)}
        here: int | None = project
        while here is not None:
            parent, reader, opened = projects[here]
            may = {p for p in may if opened or p == reader}
            here = parent
        expected[f"t{number}"] = may

    assert readers(walk(database), people) == expected
    assert any(expected.values())


def test_a_deny_in_another_table_counts_however_keys_are_compared(database: Database) -> None:
    """Whether two keys are equal is for the database to say: a deny is not lost by case."""
    database.project(1, opened=True)
    database.do("CREATE TABLE pages (id text COLLATE NOCASE PRIMARY KEY, body text)")
    database.do("CREATE TABLE barred (page text COLLATE NOCASE, person text)")
    database.do("INSERT INTO pages VALUES ('A', 'a'), ('B', 'b')")
    database.do("INSERT INTO barred VALUES ('a', 'bob')")
    rules = [
        {"effect": "deny", "realm": "static:people", "table": "barred", "key": "page", "column": "person"},
        {"effect": "allow", "principals": [ANYBODY]},
    ]
    columns = {"key": "id", "text": "body", "version": "body", "title": "id"}
    documents = {"table": "pages", **columns, "modified_at": "revision", "rules": rules}
    database.do("ALTER TABLE pages ADD revision integer DEFAULT 0")
    del database.options["scopes"]

    found = readers(walk(database, documents=documents), ["ann", "bob"])

    assert found == {"A": {"ann"}, "B": {"ann", "bob"}}


def test_a_broken_row_is_named_and_its_neighbour_sent(database: Database) -> None:
    """A row without a version or a time is skipped by its id, so that an earlier state of it is withheld."""
    database.project(1, opened=True)
    for key in ("a", "b", "c"):
        database.ticket(key)
    database.do("UPDATE tickets SET revision = NULL WHERE id = 'a'")
    database.do("UPDATE tickets SET updated = 'yesterday' WHERE id = 'b'")

    changes = walk(database)

    skips = {change.native_id: change.reason for change in changes if isinstance(change, Skip)}
    assert skips == {"text:a": "broken row", "text:b": "broken row"}
    assert [change.native_id for change in changes if isinstance(change, Upsert)] == ["text:c"]


def test_a_text_that_is_none_is_skipped(database: Database) -> None:
    """A NULL where the text should be is no empty document."""
    database.project(1, opened=True)
    database.ticket("a")
    database.do("UPDATE tickets SET body = NULL")
    connector = database.connector()
    (document,) = [change for change in connector.changes(None) if isinstance(change, Upsert)]

    with pytest.raises(SkippableError, match="its text is NULL"):
        connector.read(document, 100)
    connector.close()


@pytest.mark.parametrize(
    ("group", "changes", "key"),
    [
        ("documents", {"table": "tikets"}, "documents.table"),
        ("documents", {"key": "idd"}, "documents.key"),
        ("documents", {"key": "project"}, "documents.key"),
        ("documents", {"text": "bdoy"}, "documents.text"),
        ("documents", {"location": "uri"}, "documents.location"),
        ("scopes", {"table": "projcts"}, "scopes.table"),
        ("scopes", {"parent": "above"}, "scopes.parent"),
        ("documents", {"rules": [{"effect": "allow", "realm": "x", "column": "who"}]}, "documents.rules[0].column"),
        (
            "documents",
            {"rules": [{"effect": "allow", "principals": [ANYBODY], "when": "w"}]},
            "documents.rules[0].when",
        ),
        (
            "documents",
            {"rules": [{"effect": "deny", "realm": "x", "table": "t", "key": "k", "column": "c"}]},
            "documents.rules[0].table",
        ),
        (
            "documents",
            {"rules": [{"effect": "deny", "realm": "x", "table": "readers", "key": "k", "column": "c"}]},
            "documents.rules[0].key",
        ),
    ],
    ids=str,
)
def test_what_is_declared_and_not_there_is_refused_before_anything_is_sent(
    database: Database, group: str, changes: dict[str, object], key: str
) -> None:
    """An unknown table or column, and a key that is none, end the run at its start, named by the option."""
    database.project(1, opened=True)
    database.ticket("a")
    database.ticket("b")
    declared = {"documents": DOCUMENTS, "scopes": SCOPES}[group]
    connector = database.connector(**{group: {**declared, **changes}})

    with pytest.raises(FatalError) as caught:
        next(connector.changes(None))

    assert caught.value.detail.startswith(f"`{key}`: ")
    assert [finding.level for finding in connector.check()] == [Level.ERROR]
    connector.close()
    assert isinstance(walk(database)[-1], ScanComplete)


def test_a_key_that_is_null_somewhere_is_refused(database: Database) -> None:
    """SQLite lets a primary key be NULL: no row is passed over in silence."""
    database.project(1, opened=True)
    database.do("INSERT INTO tickets (id, subject) VALUES (NULL, 'x')")

    with pytest.raises(FatalError, match=r"`documents\.key`: column `id` of `tickets` is NULL somewhere"):
        walk(database)


def test_a_missing_file_is_an_outage_and_is_not_made(tmp_path: Path) -> None:
    """A database that is not there is an error of the run, and the connector does not create one."""
    options = {"url": "sqlite:///none.db", "audience": [ANYBODY], "documents": DOCUMENTS, "scopes": SCOPES}

    with pytest.raises(RetriableError):
        next(build("sql", options, tmp_path).changes(None))

    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("url", "sqlite://", "`url`: expected a file"),
        ("url", "mysql://a@b/c", "expected `sqlite` or `postgresql`, found `mysql`"),
        ("url", "tickets.db", "`url`: expected one such as"),
        ("url", "postgresql://a:canary@b/c", "`url`: holds a password"),
        ("url", "postgresql://a@b/c?sslmode=disable", "no parameters"),
        ("url", "postgresql://a@b", "expected a host and a database"),
        ("documents", None, "`documents`: expected a mapping"),
        ("documents", {**DOCUMENTS, "kye": "x"}, "`documents.kye`: unknown key"),
        ("documents", {k: v for k, v in DOCUMENTS.items() if k != "key"}, "`documents.key`: missing"),
        ("documents", {**DOCUMENTS, "text": ""}, "`documents.text`: expected text"),
        ("documents", {**DOCUMENTS, "media_type": "text"}, "`documents.media_type`: expected"),
        ("documents", {k: v for k, v in DOCUMENTS.items() if k != "scope"}, "`documents.scope`: is missing"),
        ("documents", {**DOCUMENTS, "rules": []}, "`documents.rules`: expected a list of mappings"),
        ("documents", {**DOCUMENTS, "rules": ["x"]}, "`documents.rules[0]`: expected a mapping"),
        ("documents", {**DOCUMENTS, "rules": [{"effect": "may"}]}, "`documents.rules[0].effect`: expected `allow`"),
        ("documents", {**DOCUMENTS, "rules": [{"effect": "deny"}]}, "`documents.rules[0].realm`: missing"),
        (
            "documents",
            {**DOCUMENTS, "rules": [{"effect": "deny", "realm": "X Y", "column": "c"}]},
            "`documents.rules[0].realm`: `X Y` is not a realm",
        ),
        (
            "documents",
            {**DOCUMENTS, "rules": [{"effect": "deny", "realm": "x", "column": "c", "holds": "csv"}]},
            "`documents.rules[0].holds`: expected `one` or `list`",
        ),
        (
            "documents",
            {**DOCUMENTS, "rules": [{"effect": "deny", "principals": ["all"]}]},
            "`documents.rules[0].principals`: `all` is not a principal",
        ),
        ("scopes", {**SCOPES, "text": "x"}, "`scopes.text`: unknown key"),
        ("groups", {**GROUPS, "members": []}, "`groups.members`: expected a list"),
        ("groups", {**GROUPS, "realm": "ad"}, "`groups.realm`: unknown key"),
        ("groups", {**GROUPS, "members": [{"effect": "deny"}]}, "`groups.members[0].realm`: missing"),
        ("audience", [], "`audience`: expected a list"),
        ("password_env", "X", "`password_env`: there is `password_file` too"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(tmp_path: Path, option: str, value: object, message: str) -> None:
    """Each wrong option is an error with its key, and none tells a password."""
    options: dict[str, object] = {"url": "sqlite:///x.db", "password_file": "secret", "audience": [ANYBODY]}
    options |= {"documents": DOCUMENTS, "scopes": SCOPES}
    build("sql", options, tmp_path, "tickets")

    with pytest.raises(OptionError) as caught:
        build("sql", options | {option: value}, tmp_path, "tickets")

    assert caught.value.option == option
    assert message in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("postgresql://a@127.0.0.1/c", True),
        ("postgresql://a@[::1]/c", True),
        ("postgresql://a@localhost/c", True),
        ("postgresql://a@/c?unix_sock=/run/s", True),
        ("postgresql://a@10.0.0.1/c", False),
        ("postgresql://a@127.0.0.1.example/c", False),
        ("postgresql://a@localhost.example/c", False),
    ],
)
def test_only_loopback_goes_without_tls(url: str, local: bool) -> None:
    """A certificate is asked for whenever something leaves this machine."""
    assert tables._is_local(sa.make_url(url)) is local


def test_a_missing_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the driver the options are refused, and the error says what to install."""
    options = {"url": "postgresql://a@b/c", "audience": [ANYBODY], "documents": DOCUMENTS, "scopes": SCOPES}
    build("sql", options, tmp_path)
    monkeypatch.setitem(sys.modules, "pg8000", None)

    with pytest.raises(OptionError, match=r"install remit-server\[postgresql\]"):
        build("sql", options, tmp_path)


def test_the_documented_options_are_right(tmp_path: Path) -> None:
    """The example of the documentation is built."""
    page = (Path(__file__).parents[2] / "docs/connectors/sql.md").read_text()
    options = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])["sources"][0]
    build(options.pop("kind"), options, tmp_path, options.pop("name"))


def test_a_clause_is_sent_for_the_audience(database: Database) -> None:
    """Every row lies in the audience, whatever the rows say."""
    database.project(1, opened=True)
    database.ticket("a")

    changes = walk(database, audience=["static:people:ann"])

    assert readers(changes, ["ann", "bob"]) == {"a": {"ann"}}
    first = next(change for change in changes if isinstance(change, ScopeChange))
    assert isinstance(first.clause, Clause)
    assert first.parent is None


# --- groups ---


@pytest.mark.parametrize("check", GROUP_CHECKS, ids=lambda check: check.__name__)
def test_groups_on_sqlite_keep_the_contract(check: Callable[[GroupsWorld], None], database: Database) -> None:
    """The SQL connector says who is in groups as every connector must."""
    with closing(DatabaseGroups(database)) as world:
        check(world)


def memberships(changes: list[Change]) -> dict[str, set[str] | None]:
    """The members of each group as tokens; None: unknown."""
    return {
        change.group.token: None if isinstance(change.members, Unknown) else {one.token for one in change.members}
        for change in changes
        if isinstance(change, Membership)
    }


def end(changes: list[Change]) -> str:
    """Why groups could not all be read, by their one end."""
    (found,) = [change.unread for change in changes if isinstance(change, MembershipsEnd)]
    return found


def test_members_stand_in_tables_and_columns(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """People of a table, teams within teams, a column of the row, over several pages."""
    monkeypatch.setattr(tables, "PAGE", 2)
    database.team(1, "sales", "ann", "bob", lead="eve")
    database.team(2, "all", teams=[1], lead="eve")
    database.team(3, "empty")

    changes = walk(database, groups=GROUPS)

    assert memberships(changes) == {
        "source:tickets:team-1": {"static:people:ann", "static:people:bob", "static:people:eve"},
        "source:tickets:team-2": {"source:tickets:team-1", "static:people:eve"},
        "source:tickets:team-3": {"static:people:lead"},
    }
    assert end(changes) == ""
    assert memberships(walk(database)) == {}
    assert end(walk(database)) == "", "without `groups` the source has none"


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO team_people VALUES (1, NULL)",
        "INSERT INTO team_people VALUES (1, 'ann ')",
        "INSERT INTO team_people VALUES (1, '')",
        "UPDATE teams SET lead = NULL WHERE id = 1",
    ],
)
def test_a_member_that_is_null_or_none_makes_the_group_unknown(database: Database, change: str) -> None:
    """It could be anybody; the group beside it is as it was."""
    database.team(1, "sales", "ann")
    database.team(2, "legal", "bob")
    database.do(change)

    changes = walk(database, groups=GROUPS)

    assert memberships(changes) == {
        "source:tickets:team-1": None,
        "source:tickets:team-2": {"static:people:bob", "static:people:lead"},
    }
    assert end(changes) == ""


def test_a_row_that_names_no_group_hides_all(database: Database) -> None:
    """Nor do two rows that name the same one: which of them has the members nobody can tell."""
    database.do("DROP TABLE teams")
    database.do("CREATE TABLE teams (id PRIMARY KEY, name text, lead text)")
    database.do("INSERT INTO teams VALUES ('1', 'one', 'ann')")
    assert end(walk(database, groups=GROUPS)) == ""

    database.do("INSERT INTO teams VALUES (1, 'one', 'bob')")
    assert "are the group `team-1`" in end(walk(database, groups=GROUPS))
    database.do("DELETE FROM teams WHERE id = '1'")
    database.do("INSERT INTO teams VALUES (1.5, 'one', 'bob')")
    assert "is no group" in end(walk(database, groups=GROUPS))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({**GROUPS, "table": "x"}, "`groups.table`: the database has no table `x`"),
        ({**GROUPS, "title": "x"}, "`groups.title`: table `teams` has no column `x`"),
        ({**GROUPS, "members": [{"realm": "ad", "column": "x"}]}, "`groups.members[0].column`"),
        ({**GROUPS, "key": "name"}, "`groups.key`: column `name` of `teams` is NULL somewhere"),
    ],
)
def test_groups_that_are_not_there_are_refused(database: Database, groups: object, message: str) -> None:
    """Before anything is sent, with the option's name."""
    database.team(1, "sales")
    database.team(2, "sales")
    with pytest.raises(FatalError) as caught:
        walk(database, groups=groups)
    assert message in str(caught.value)


def test_a_walk_goes_on_behind_the_last_key(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers come again, rows up to the key do not, and what came behind it meanwhile does."""
    monkeypatch.setattr(tables, "PAGE", 2)
    monkeypatch.setattr("connectors.sql.connector.PAGE", 2)
    database.project(1)
    for name in "abcde":
        database.ticket(name)
    connector = database.connector()
    assert isinstance(connector, Resumable)
    checkpoints = [change.cursor for change in connector.changes(None) if isinstance(change, Checkpoint)]
    database.ticket("f")

    assert connector.resumes(checkpoints[0])
    changes = list(connector.changes(checkpoints[0]))
    assert [change.name for change in changes if isinstance(change, Upsert)] == ["c", "d", "e", "f"]
    assert sum(isinstance(change, ScopeChange) for change in changes) == 2
    assert not connector.resumes({"version": 1}), "the cursor of a complete walk is no checkpoint"
