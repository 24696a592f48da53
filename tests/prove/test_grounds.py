"""What a proof may write and what it never touches: exports, rows, directory files, and putting back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from acl.principal import Principal, Realm
from connectors.secret import FileSecret
from connectors.yaml_file import parse
from service.demo import people
from service.errors import StartError
from service.prove.grounds.base import Skipped, Who
from service.prove.grounds.feed import FeedGround
from service.prove.grounds.sql import SqlGround, declared_of
from service.prove.grounds.sql_rows import Rows, engine_of
from service.prove.hands import Hands, hands_of
from service.prove.memberships.static import StaticMembership
from service.prove.putting_back import putting_back
from service.prove.report import Result
from service.settings import SourceSettings
from tests.prove.office import SOURCES, write_database, write_feed

PEOPLE = Realm("static:people")
ALICE = Who(
    "alice",
    frozenset(Principal(PEOPLE, one) for one in ("user-u-1001", "group-sales", "members")),
    (Principal(PEOPLE, "user-u-1001"),),
)
LIKE = "Sales/Sales report 1"
DESK = "Sales desk/Sales ticket 1"


def source(name: str, **changes: object) -> SourceSettings:
    """A source of the office, with some options changed."""
    listed: Any = parse(SOURCES.encode(), "remit.yaml", 10_000).plain()
    (found,) = (one for one in listed["sources"] if one["name"] == name)
    options = {key: value for key, value in found.items() if key not in ("name", "kind", "max_permissions_age")}
    return SourceSettings(name, found["kind"], timedelta(hours=24), options | changes)


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    """An export."""
    (tmp_path / "export").mkdir()
    path = tmp_path / "export/feed.jsonl"
    write_feed(path)
    return path


def documents(path: Path) -> set[str]:
    """The locations that an export names."""
    return {one["location"] for one in map(json.loads, path.read_text().splitlines()) if one["kind"] == "document"}


def test_an_export_that_came_meanwhile_is_never_undone(feed: Path, tmp_path: Path) -> None:
    """The exporter's new file is what canaries are put into from then on, and what stays at the end."""
    ground = FeedGround(source("wiki"), tmp_path)
    first = ground.plant(LIKE)
    assert first.location in documents(feed)
    write_feed(feed, more="Sales report new")
    second = ground.plant(LIKE)
    assert {"Sales/Sales report new", second.location} <= documents(feed)
    write_feed(feed, more="Sales report newest")
    exported = feed.read_bytes()

    assert ground.clear() == []

    assert feed.read_bytes() == exported
    assert [path.name for path in feed.parent.iterdir()] == [feed.name]


def test_a_feed_goes_back_as_the_same_file(feed: Path, tmp_path: Path) -> None:
    """Bytes, number, mode and times are what they were, and a second clearing is none."""
    before, data = feed.stat(), feed.read_bytes()
    ground = FeedGround(source("wiki"), tmp_path)
    ground.plant(LIKE)
    assert feed.stat().st_mode == before.st_mode

    assert ground.clear() == ground.clear() == []

    after = feed.stat()
    assert feed.read_bytes() == data
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)


def test_a_feed_that_a_killed_proof_left_is_told_and_one_without_its_end_is_refused(feed: Path, tmp_path: Path) -> None:
    """The kept file names itself; nothing is written over it."""
    FeedGround(source("wiki"), tmp_path).plant(LIKE)
    left = feed.read_bytes()
    with pytest.raises(StartError, match="a proof was killed, and this is the feed as it was before it"):
        FeedGround(source("wiki"), tmp_path).plant(LIKE)
    assert feed.read_bytes() == left

    (kept,) = (path for path in feed.parent.iterdir() if path != feed)
    kept.replace(feed)
    whole = feed.read_bytes()
    feed.write_bytes(whole[: whole.rindex(b'{"kind": "end"')])
    ground = FeedGround(source("wiki"), tmp_path)
    with pytest.raises(StartError, match="has no end marker"):
        ground.plant(LIKE)
    assert ground.clear() == []
    assert [path.name for path in feed.parent.iterdir()] == [feed.name]
    with pytest.raises(StartError, match="no line about `Sales/none`"):
        ground.plant("Sales/none")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[SqlGround]:
    """A database with a ground."""
    write_database(tmp_path / "tickets.db")
    (tmp_path / "url").write_text("sqlite:///tickets.db")
    (tmp_path / "url").chmod(0o600)
    made = SqlGround(*parts(tmp_path))
    yield made
    assert made.clear() == []


def parts(base: Path, **changes: object) -> tuple[Any, Rows]:
    """What a ground of the tickets is made of."""
    one = source("tickets", **changes)
    settings: Any = SimpleNamespace(base=base)
    return declared_of(one), Rows(engine_of(settings, one, FileSecret(base / "url")))


def rows(base: Path) -> set[str]:
    """Everything in the database."""
    with closing(sqlite3.connect(base / "tickets.db")) as database:
        return set(database.iterdump())


def test_rows_that_were_there_stay_what_they_are_at_every_step(ground: SqlGround, tmp_path: Path) -> None:
    """Whatever is granted and taken away: each row of before is there, and at the end no other."""
    before = rows(tmp_path)
    ways = ground.ways(DESK, ALICE)
    assert not any(isinstance(way, Skipped) for way in ways)
    for way in ways:
        assert not isinstance(way, Skipped)
        canary = way.prepare()
        assert before < rows(tmp_path)
        way.revoke(canary)
        assert before <= rows(tmp_path)

    assert ground.clear() == []
    assert rows(tmp_path) == before


def test_what_lets_the_person_in_whatever_a_rule_says_is_told(tmp_path: Path, ground: SqlGround) -> None:
    """A rule that always lets her in: nothing else can be taken away, and no way claims to have tried it."""
    options: Any = source("tickets").options
    always = {"effect": "allow", "principals": ["static:people:members"]}
    rules = [*options["documents"]["rules"], always]
    other = SqlGround(*parts(tmp_path, documents=options["documents"] | {"rules": rules}))

    ways = other.ways(DESK, ALICE)

    skipped = {way.kind: way.why for way in ways if isinstance(way, Skipped)}
    assert skipped == {"allow": "`documents.rules[6]` lets alice in whatever it says"}
    assert sum(way.kind == "deny" and not isinstance(way, Skipped) for way in ways) == 2
    # A row that cannot be copied is a sentence, without its values.
    with sqlite3.connect(tmp_path / "tickets.db") as database:
        database.execute("CREATE UNIQUE INDEX one_colour ON tickets (subject, colour)")
        database.execute("CREATE TRIGGER no BEFORE INSERT ON readers BEGIN SELECT RAISE(ABORT, 'not today'); END")
    with pytest.raises(StartError, match="the database cannot be written as it takes: not today"):
        ground.plant(DESK)


@pytest.mark.parametrize(
    ("url", "mode", "sentence"),
    [
        ("sqlite:///other.db", 0o600, "leads to another database than the source's"),
        ("postgresql://me:canary-Pa55word@db/tickets", 0o600, "leads to another database"),
        ("canary-Pa55word", 0o600, "holds no URL"),
        ("mysql://me:canary-Pa55word@db/tickets", 0o600, "expected `sqlite` or `postgresql`"),
        ("sqlite:///tickets.db", 0o644, "is open to everybody"),
    ],
)
def test_only_the_database_of_the_settings_is_written(tmp_path: Path, url: str, mode: int, sentence: str) -> None:
    """Any other URL is one sentence without what it holds."""
    (tmp_path / "url").write_text(url)
    (tmp_path / "url").chmod(mode)

    with pytest.raises(StartError, match=sentence) as caught:
        parts(tmp_path)
    assert "Pa55word" not in str(caught.value)


def test_the_account_that_reads_is_not_the_one_that_writes(tmp_path: Path) -> None:
    """The name in the settings is refused; another one at another host, such as a primary's, is not."""
    (tmp_path / "url").write_text("postgresql://reader:canary-Pa55word@localhost/tickets")
    (tmp_path / "url").chmod(0o600)
    with pytest.raises(StartError, match="`reader` is the account that the source is read by"):
        parts(tmp_path, url="postgresql://reader@localhost/tickets")
    (tmp_path / "url").write_text("postgresql://prover:canary-Pa55word@127.0.0.1/tickets")
    assert parts(tmp_path, url="postgresql://reader@localhost/tickets")


def test_a_directory_file_that_somebody_else_wrote_is_theirs(tmp_path: Path) -> None:
    """It is never replaced by what was there before; ours goes back byte for byte."""
    path = tmp_path / "people.yaml"
    people.write(path)
    before = path.read_bytes()
    membership = StaticMembership("people", path, ALICE)
    assert membership.has_person()
    assert not StaticMembership("people", path, Who("alice", frozenset(), ())).has_person()
    group, number = sorted(membership.join(), key=lambda one: one.realm, reverse=True)
    assert (group.realm, number.realm) == ("static:people", "posix:corp")
    membership.leave()
    assert path.read_bytes() == before

    membership.join()
    people.write(path, people.without("bob", "fin-emea"))
    theirs = path.read_bytes()
    assert membership.clear() == []
    assert path.read_bytes() == theirs


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("", None, "a=b", "", "", ""), "where may it write?"),
        (("", None, "", "", "ou=x", ""), "who changes the directory?"),
        (("", None, "", "corp", "", ""), "who changes the directory?"),
        (("", None, "cn=a,dc=b=file", "", "ou=x", "cn=x"), "not both"),
        (("alice", None, "", "", "", ""), "`--share-login`: expected `NAME=FILE`"),
        (("", None, "alice=", "", "ou=x", ""), "`--directory-login`: expected `NAME=FILE`"),
    ],
)
def test_who_may_write_and_where_is_said_in_full_or_refused(
    given: tuple[str, Path | None, str, str, str, str], sentence: str
) -> None:
    """Each mistake is one sentence; a DN is read up to its last sign."""
    with pytest.raises(StartError, match=sentence):
        hands_of(*given, ())
    found = hands_of("", None, "cn=a,dc=b=file", "", "ou=x", "", ["move"])
    assert found.directory is not None
    assert (found.directory.name, found.directory.password) == ("cn=a,dc=b", FileSecret(Path("file")))
    assert Hands() == hands_of("", None, "", "", "", "", ())


class Stuck:
    """Something that cannot be put back."""

    def clear(self) -> list[str]:
        """See `Clearable`."""
        return ["the row of a canary"]


def test_what_could_not_be_put_back_is_told_and_no_pass() -> None:
    """By a check, and on standard error also when the proof itself failed; what failed first is what is raised."""
    told: list[str] = []
    there: Any = SimpleNamespace(say=told.append, sync=lambda source: None)
    with putting_back(there, [Stuck()], ["wiki"]) as checks:
        assert checks == []
    assert [(check.result, check.detail) for check in checks] == [(Result.NOT_RUN, "the row of a canary")]

    def fail(source: str) -> None:
        raise StartError("the run did not succeed")

    there.sync = fail
    for error in (StartError("first"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, putting_back(there, [Stuck()], ["wiki"]):
            raise error
        assert caught.value is error
    assert told == ["left behind: the row of a canary"] * 3
