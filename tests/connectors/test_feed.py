"""The feed: any system by an export, and nothing wider than the export and the administrator both say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from acl.model import NOBODY, Clause, Effect, Rule, ScopeId, Unknown
from acl.principal import Principal
from connectors import feed_file
from connectors.base import Change, Checkpoint, Connector, Level, Membership, MembershipsEnd, ScopeChange, Skip, Upsert
from connectors.errors import FatalError, RetriableError, SkippableError
from connectors.feed import AUDIENCE, Feed
from connectors.registry import OptionError, build
from connectors.testing.contract import CONNECTOR_CHECKS, GROUP_CHECKS, GroupsWorld, World, reads_what_was_written
from tests.connectors.feeds import (
    EXPORTED,
    HEADER,
    REALM,
    STAFF,
    document,
    feed,
    group,
    only,
    scope,
    whole,
    write,
    write_lines,
)


class FeedWorld:
    """A feed that is exported anew at each change, with texts beside it or in its lines."""

    def __init__(self, folder: Path, *, files: bool) -> None:
        self._path = folder / "feed.jsonl"
        self._files = files
        self._scope = scope("space")
        self._documents: dict[str, dict[str, object]] = {}
        self._export()

    def connector(self) -> Connector:
        return feed(self._path)

    def write(self, name: str, content: bytes) -> None:
        if self._files:
            file = self._path.parent / "files" / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            more: dict[str, object] = {"file": f"files/{name}"}
        else:
            more = {"text": content.decode("latin-1")}
        self._documents[name] = document(name, scope="space", **more)
        self._export()

    def remove(self, name: str) -> None:
        del self._documents[name]
        self._export()

    def narrow(self, name: str) -> None:
        self._documents[name]["rules"] = []
        self._export()

    def narrow_container(self) -> None:
        self._scope = scope("space", only("alice"))
        self._export()

    def unplug(self) -> None:
        self._path.unlink()

    def _export(self) -> None:
        write(self._path, self._scope, *self._documents.values())


@pytest.mark.parametrize("check", CONNECTOR_CHECKS, ids=lambda check: check.__name__)
def test_feed_of_files_keeps_the_contract(check: Callable[[World], None], tmp_path: Path) -> None:
    """With files beside it, the feed does what every connector must."""
    check(FeedWorld(tmp_path, files=True))


# Any bytes are no text.
@pytest.mark.parametrize(
    "check",
    [check for check in CONNECTOR_CHECKS if check is not reads_what_was_written],
    ids=lambda check: check.__name__,
)
def test_feed_of_texts_keeps_the_contract(check: Callable[[World], None], tmp_path: Path) -> None:
    """With texts in its lines, the feed does what every connector must, but for bytes that are no text."""
    check(FeedWorld(tmp_path, files=False))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feed.jsonl"


def walk(path: Path) -> list[Change]:
    return list(feed(path).changes(None))


def documents(changes: list[Change]) -> dict[str, Upsert]:
    return {change.native_id: change for change in changes if isinstance(change, Upsert)}


def scopes(changes: list[Change]) -> dict[ScopeId, ScopeChange]:
    return {change.id: change for change in changes if isinstance(change, ScopeChange)}


def test_rules_scopes_and_texts_are_sent_as_the_feed_says(path: Path) -> None:
    """Ordered rules with expiry, the tree of scopes below the audience, and the text in UTF-8."""
    rules = [
        {"effect": "deny", "principals": ["static:people:mallory"], "expires_at": "2027-01-01T01:00:00+01:00"},
        {"effect": "allow", "principals": ["static:people:members", "ad:S-1-5-21-1-2-3-1104"]},
    ]
    write(path, scope("space"), scope("page", parent="space"), document("a", rules, scope="page", text="größer"))

    connector = feed(path)
    changes = list(connector.changes(None))

    sent, found = documents(changes)["a"], scopes(changes)
    assert isinstance(sent.own, Clause)
    assert [rule.effect for rule in sent.own.rules] == [Effect.DENY, Effect.ALLOW]
    assert sent.own.rules[0].expires_at.isoformat() == "2027-01-01T00:00:00+00:00"
    assert {principal.token for principal in sent.own.rules[1].principals} == set(rules[1]["principals"])
    assert (found[AUDIENCE].parent, found[AUDIENCE].clause) == (None, STAFF)
    assert found[ScopeId("scope:space")].parent == AUDIENCE
    assert found[ScopeId("scope:page")].parent == ScopeId("scope:space")
    assert all(one.complete for one in found.values())
    assert connector.read(sent, 100) == "größer".encode()


def test_a_document_may_leave_the_decision_to_its_scope(path: Path) -> None:
    """`rules: scope` lets the audience through, so that the scope decides; without a scope it is unknown."""
    write(path, scope("space", only("alice")), document("a", "scope", scope="space"), document("b", "scope"))

    found = documents(walk(path))

    assert (found["a"].scope, found["a"].own) == (ScopeId("scope:space"), STAFF)
    assert isinstance(found["b"].own, Unknown)


@pytest.mark.parametrize(
    "rules",
    [
        None,
        "everybody",
        {"effect": "allow"},
        [{"effect": "permit", "principals": ["static:people:members"]}],
        [{"effect": ["allow"], "principals": ["static:people:members"]}],
        [{"effect": "allow", "principals": ["static:people:members"], "if": "weekday"}],
        [{"effect": "allow", "principals": []}],
        [{"effect": "allow", "principals": ["members"]}],
        [{"effect": "allow", "principals": ["static:people:members", 5]}],
        [{"effect": "allow", "principals": ["static:people:members"], "expires_at": "tomorrow"}],
        [{"effect": "allow", "principals": ["static:people:members"], "expires_at": None}],
        [{"effect": "allow", "principals": ["static:people:members"]}, "deny mallory"],
    ],
    ids=str,
)
def test_rules_that_are_not_understood_are_nobodys(path: Path, rules: object) -> None:
    """One rule that is not understood makes all of a document's or scope's unknown; the neighbours are as they were."""
    write(path, scope("x", rules), document("a", rules), document("b"))

    changes = walk(path)

    assert isinstance(scopes(changes)[ScopeId("scope:x")].clause, Unknown)
    found = documents(changes)
    assert isinstance(found["a"].own, Unknown)
    assert found["a"].own.reason.startswith("line 3: ")
    assert found["b"].own == STAFF


def test_no_rules_let_nobody_in(path: Path) -> None:
    """An empty list is a clause, and nobody's."""
    write(path, document("a", []), document("b"))

    found = documents(walk(path))

    assert (found["a"].own, found["b"].own) == (NOBODY, STAFF)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"kind": "document", "kind": "document"}', "a member stands twice"),
        (b'{"kind": NaN}', "`NaN` is no number of JSON"),
        (b'{"kind": "team"}', "`kind`: expected"),
        (b'{"kind": "group"}', "`group`: expected"),
        (b'{"kind": "document"}', "`id`: expected text"),
        (b'{"kind": "document", "id": "\\ud800"}', "`id`: expected text"),
        (b'{"kind": "document", "id": "a\\nb"}', "`id`: expected printable"),
        (b'{"kind": "feed", "version": 1, "exported_at": "2026-02-01T08:00:00Z"}', "a second header"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_broken_line_is_named_and_forbids_the_sweep(path: Path, broken: bytes, complaint: str) -> None:
    """The line's number and fault are reported, no container counts as listed in full, the neighbours are sent."""
    write(path, scope("space"), document("a", scope="space"), broken, document("b"))

    changes = walk(path)

    (skip,) = [change for change in changes if isinstance(change, Skip)]
    assert (skip.native_id, skip.location, skip.reason) == (None, "line 4", "broken line")
    assert complaint in skip.detail
    assert set(documents(changes)) == {"a", "b"}
    assert not any(change.complete for change in scopes(changes).values())
    assert Level.WARNING in [finding.level for finding in feed(path).check()]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"title": ""}, "`title`: expected text"),
        ({"title": "\u0000"}, "`title`: expected printable"),
        ({"location": None}, "`location`: expected text"),
        ({"media_type": "text"}, "`media_type`: expected one such as"),
        ({"modified_at": "2026-W05-6"}, "`modified_at`: expected a time"),
        ({"modified_at": "2026-13-01T00:00:00Z"}, "`modified_at`: expected a time"),
        ({"modified_at": "2026-01-01T00:00:00"}, "`modified_at`: expected a time"),
        ({"text": 5}, "`text`: expected text"),
        ({"file": "a.txt"}, "expected either `text` or `file`"),
        ({"scope": ""}, "`scope`: expected text"),
        ({"tags": []}, "unknown member `tags`"),
    ],
    ids=str,
)
def test_a_broken_document_is_withheld_by_its_id(path: Path, change: dict[str, object], complaint: str) -> None:
    """A document whose line is broken beyond its id is skipped as itself, so that an earlier one is withheld."""
    write(path, document("a", text="") | change, document("b"))

    changes = walk(path)

    (skip,) = [change for change in changes if isinstance(change, Skip)]
    assert skip.native_id == "a"
    assert complaint in skip.detail
    assert set(documents(changes)) == {"b"}


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "../secret.txt", "a/../../secret.txt", "a//b", "./a.txt", "", "a\u0000b", "a/."]
)
def test_a_path_out_of_the_folder_breaks_the_line(path: Path, file: str) -> None:
    """A reference that does not stay below the feed's folder is never opened; one that does is read."""
    (path.parent / "in.txt").write_text("inside")
    write(path, document("a", file=file), document("b", file="in.txt"))

    connector = feed(path)
    found = documents(list(connector.changes(None)))

    assert set(found) == {"b"}
    assert connector.read(found["b"], 100) == b"inside"


def test_symlinks_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    """A symlink, wherever in the path, leads nowhere; what is no file is skipped with its document."""
    folder, outside = tmp_path / "export", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "way").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    path = folder / "feed.jsonl"
    files = ["link.txt", "way/secret.txt", "pipe", "missing.txt"]
    write(path, *[document(str(number), file=file) for number, file in enumerate(files)])

    changes = walk(path)

    assert documents(changes) == {}
    assert {change.native_id for change in changes if isinstance(change, Skip)} == {"0", "1", "2", "3"}
    assert all(change.complete for change in scopes(changes).values())


def test_a_file_replaced_by_a_symlink_is_not_read(tmp_path: Path) -> None:
    """What was a file when it was walked and is a symlink when it is read is not followed."""
    folder = tmp_path / "export"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "a.txt").write_text("public")
    path = folder / "feed.jsonl"
    write(path, document("a", file="a.txt"))
    connector = feed(path)
    sent = documents(list(connector.changes(None)))["a"]
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")

    with pytest.raises(SkippableError):
        connector.read(sent, 100)


@pytest.mark.parametrize(
    "lines",
    [
        [HEADER, document("a")],
        [HEADER, document("a"), {"kind": "end", "scopes": 0, "documents": 2}],
        [HEADER, document("a"), {"kind": "end", "scopes": 1, "documents": 0}],
        [*whole(document("a")), document("b")],
        [*whole(document("a")), b'{"kind": "docu'],
    ],
    ids=["no end", "too few", "another kind", "after the end", "rest of a longer one"],
)
def test_a_feed_that_is_not_whole_counts_for_nothing(path: Path, lines: list[Mapping[str, object] | bytes]) -> None:
    """Without its right end marker nothing of a feed is sent, and the error says so; the whole one is."""
    write_lines(path, lines)

    changes = feed(path).changes(None)

    with pytest.raises(RetriableError, match=r"whole|after the end marker"):
        next(changes)
    write(path, document("a"))
    assert set(documents(walk(path))) == {"a"}


@pytest.mark.parametrize("lines", [[], [document("a")], [b"title;text"], [{"kind": "feed"}]], ids=str)
def test_what_is_no_feed_is_refused_before_anything_is_sent(
    path: Path, lines: list[Mapping[str, object] | bytes]
) -> None:
    """A file without a header ends the run before its first change."""
    write_lines(path, lines)

    with pytest.raises((FatalError, RetriableError), match=r"feed\.jsonl"):
        next(feed(path).changes(None))


def test_an_unknown_version_closes_what_was_open(path: Path) -> None:
    """A version that is not read withholds everything at once, deletes nothing, and ends the run."""
    write_lines(path, [{"kind": "feed", "version": 2, "new": True}, *whole(document("a"))[1:]])

    changes = feed(path).changes(None)

    groups = next(changes)
    assert isinstance(groups, MembershipsEnd)
    assert "version 2" in groups.unread
    first = next(changes)
    assert isinstance(first, ScopeChange)
    assert (first.id, first.complete) == (AUDIENCE, False)
    assert isinstance(first.clause, Unknown)
    with pytest.raises(FatalError, match="version 2"):
        next(changes)


@pytest.mark.parametrize("second", [document("a", only("bob")), document("a", tags=[])], ids=["another", "broken"])
def test_a_document_that_stands_twice_is_withheld(path: Path, second: Mapping[str, object]) -> None:
    """Two lines about one document contradict each other: neither counts, whichever comes first."""
    for lines in ([document("a"), second], [second, document("a")], [document("a"), second, document("a")]):
        write(path, *lines, document("b"))

        changes = walk(path)

        assert set(documents(changes)) == {"b"}
        assert {change.native_id for change in changes if isinstance(change, Skip)} == {"a"}


def test_a_scope_that_stands_twice_is_nobodys(path: Path) -> None:
    """Two lines about one scope make it unknown."""
    write(path, scope("x"), scope("x", only("bob")), scope("y"), document("a", scope="x"))

    found = scopes(walk(path))

    assert isinstance(found[ScopeId("scope:x")].clause, Unknown)
    assert found[ScopeId("scope:y")].clause == STAFF


def test_scopes_that_are_not_declared_are_unknown(path: Path) -> None:
    """A document in an undeclared scope, and a scope in one declared later, or in itself, are nobody's."""
    write(
        path,
        scope("inner", parent="later"),
        scope("self", parent="self"),
        scope("later"),
        document("a", scope="nowhere"),
        document("b", scope="later"),
    )

    changes = walk(path)

    found = scopes(changes)
    assert isinstance(found[ScopeId("scope:inner")].clause, Unknown)
    assert isinstance(found[ScopeId("scope:self")].clause, Unknown)
    assert isinstance(documents(changes)["a"].own, Unknown)
    assert documents(changes)["b"].own == STAFF


def test_a_feed_exported_anew_during_the_walk_is_looked_at_again(path: Path) -> None:
    """A scope that vanished meanwhile is sent again as unknown, and nothing below it is read."""
    write(path, scope("space"), document("a", scope="space"))
    connector = feed(path)
    changes = connector.changes(None)
    sent = next(change for change in changes if isinstance(change, Upsert))
    write(path, document("a", scope="space"))

    again = [change for change in changes if isinstance(change, ScopeChange)]

    assert [(change.id, change.complete) for change in again] == [(ScopeId("scope:space"), False)]
    assert isinstance(again[0].clause, Unknown)
    with pytest.raises(SkippableError):
        connector.read(sent, 100)


def test_an_export_that_leaves_a_document_as_it_is_does_not_disturb_its_read(path: Path) -> None:
    """A feed may be exported anew while its texts are read: a document that is the same is returned."""
    write(path, scope("space"), document("a", scope="space"), document("b", scope="space"))
    connector = feed(path)
    found = documents(list(connector.changes(None)))
    write(path, scope("space"), document("c"), document("b", scope="space"))

    assert connector.read(found["b"], 100) == b"text of b"
    with pytest.raises(SkippableError) as caught:
        connector.read(found["a"], 100)
    assert caught.value.reason == "vanished"


def test_a_line_that_is_too_long_is_broken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line over the limit is left out by its number, and the lines after it are read."""
    monkeypatch.setattr(feed_file, "MAX_LINE_BYTES", 300)
    write(path, document("a", text="x" * 1000), document("b"))

    changes = walk(path)

    assert [change.location for change in changes if isinstance(change, Skip)] == ["line 2"]
    assert set(documents(changes)) == {"b"}


def test_a_feed_that_everybody_may_write_is_reported(path: Path) -> None:
    """`check` warns when any account of this machine could give itself access by the feed."""
    write(path, document("a"))
    path.chmod(0o644)
    assert [finding.level for finding in feed(path).check()] == [Level.INFO]

    path.chmod(0o646)

    assert Level.WARNING in [finding.level for finding in feed(path).check()]


@pytest.mark.parametrize(("age", "complaint"), [(timedelta(hours=3), "max_age"), (timedelta(hours=-1), "to come")])
def test_an_export_that_is_too_old_is_not_believed(path: Path, age: timedelta, complaint: str) -> None:
    """An export older than `max_age`, or of the future, ends the run and removes nothing; a fresh one is read."""
    write(path, document("a"))

    with pytest.raises(RetriableError, match=complaint):
        next(Feed(path, STAFF, timedelta(hours=2), lambda: EXPORTED + age).changes(None))

    assert set(documents(walk(path))) == {"a"}


@pytest.fixture
def options(path: Path) -> dict[str, object]:
    write(path, document("a"))
    return {"path": path.name, "audience": ["static:people:members"], "max_age": "9999d"}


def test_a_feed_is_built_from_its_options(path: Path, options: dict[str, object]) -> None:
    """The path is relative to the settings file; the audience is a list of principals."""
    found = build("feed", options, path.parent)

    (_, audience, sent, _) = found.changes(None)
    assert isinstance(audience, ScopeChange)
    assert audience.clause == Clause((Rule(Effect.ALLOW, frozenset({Principal(REALM, "members")})),))
    assert isinstance(sent, Upsert)


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"audience": []}, "audience"),
        ({"audience": "static:people:members"}, "audience"),
        ({"audience": ["members"]}, "audience"),
        ({"audience": None}, "audience"),
        ({"max_age": "1 day"}, "max_age"),
        ({"path": ""}, "path"),
        ({"paht": "x"}, "paht"),
    ],
    ids=str,
)
def test_a_wrong_option_of_a_feed_is_named(
    path: Path, options: dict[str, object], change: dict[str, object], option: str
) -> None:
    """Each wrong option is an error with its key."""
    with pytest.raises(OptionError) as caught:
        build("feed", options | change, path.parent)

    assert caught.value.option == option


# --- groups ---


class FeedGroups:
    """A feed with groups, exported anew at each change."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "feed.jsonl"
        self._groups: dict[str, dict[str, object]] = {}

    def connector(self) -> Connector:
        return feed(self._path)

    def fill(self, name: str, number: int) -> None:
        self._groups[name] = group(name, *(f"ad:S-1-5-21-1-2-3-{1000 + one}" for one in range(number)))
        self._export()

    def drop(self, name: str) -> None:
        del self._groups[name]
        self._export()

    def hide(self, name: str) -> None:
        del self._groups[name]["members"]
        self._export()

    def _export(self) -> None:
        write(self._path, *self._groups.values())


@pytest.mark.parametrize("check", GROUP_CHECKS, ids=lambda check: check.__name__)
def test_groups_of_a_feed_keep_the_contract(check: Callable[[GroupsWorld], None], tmp_path: Path) -> None:
    """A feed says who is in its groups as every connector must."""
    check(FeedGroups(tmp_path))


def memberships(changes: list[Change]) -> dict[str, frozenset[str] | str]:
    """The members of each group as tokens, or why they are unknown."""
    return {
        change.group.token: change.members.reason
        if isinstance(change.members, Unknown)
        else frozenset(member.token for member in change.members)
        for change in changes
        if isinstance(change, Membership)
    }


def end(changes: list[Change]) -> MembershipsEnd:
    """The one end of the groups."""
    (found,) = [change for change in changes if isinstance(change, MembershipsEnd)]
    return found


def test_groups_are_sent_before_everything_else(path: Path) -> None:
    """With people and groups of directories and of the feed itself; a feed without groups says that it has none."""
    write(path, document("a"), group("team", "static:people:u-1", "source:wiki:board"), group("board"))
    changes = walk(path)

    assert memberships(changes) == {
        "source:wiki:team": {"static:people:u-1", "source:wiki:board"},
        "source:wiki:board": frozenset(),
    }
    assert changes.index(end(changes)) == 2
    assert end(changes) == MembershipsEnd()
    write(path, document("a"))
    assert (memberships(walk(path)), end(walk(path))) == ({}, MembershipsEnd())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"members": ["static:people:u-1", "alice"]}, "`members`"),
        ({"members": ["static:people:u-1", 5]}, "`members`"),
        ({"members": "all"}, "`members` is not a list"),
        ({"members": None}, "`members` is missing"),
        ({"strange": 1}, "unknown member `strange`"),
        ({"name": ""}, "`name`"),
    ],
)
def test_a_group_that_is_not_understood_is_unknown(path: Path, change: dict[str, object], complaint: str) -> None:
    """One member that is none makes all of them unknown; its neighbours stand, and no group is hidden."""
    write(path, group("team", "static:people:u-1") | change, group("board", "static:people:u-2"))
    changes = walk(path)

    found = memberships(changes)
    assert complaint in str(found["source:wiki:team"])
    assert found["source:wiki:board"] == frozenset({"static:people:u-2"})
    assert end(changes) == MembershipsEnd()


def test_a_group_that_stands_twice_is_unknown(path: Path) -> None:
    """Which of the two is right nobody can tell."""
    write(path, group("team", "static:people:u-1"), group("team", "static:people:u-1"), group("board"))

    found = memberships(walk(path))
    assert "second line" in str(found["source:wiki:team"])
    assert found["source:wiki:board"] == frozenset()


@pytest.mark.parametrize(
    "line", [b"{", group("x") | {"group": "ad:S-1-5-21-1-2-3-512"}, group("x") | {"group": "source:wiki"}]
)
def test_a_broken_line_that_may_hide_a_group_hides_all(path: Path, line: bytes | dict[str, object]) -> None:
    """Nobody knows which groups there are; a document's broken line, the neighbour, hides none."""
    write(path, line, group("team", "static:people:u-1"))
    assert end(walk(path)).unread == "line 2 is broken"

    write(path, document("a") | {"media_type": "x"}, group("team", "static:people:u-1"))
    assert end(walk(path)) == MembershipsEnd()


def test_groups_are_counted_at_the_end(path: Path) -> None:
    """A group that was lost on the way makes the feed one that is not whole."""
    lines = whole(group("team", "static:people:u-1"), group("board"))
    write_lines(path, [*lines[:2], lines[3]])
    with pytest.raises(RetriableError, match="2 groups"):
        walk(path)


def test_a_walk_goes_on_at_a_checkpoint_of_the_same_export(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups and scopes come again, documents before the checkpoint do not; of another export nothing is left out."""
    monkeypatch.setattr("connectors.feed._CHECKPOINT_EVERY", 2)
    lines = [scope("space"), *(document(name, scope="space") for name in "abcde")]
    write(path, *lines)
    cursor = next(change.cursor for change in feed(path).changes(None) if isinstance(change, Checkpoint))
    connector = feed(path)

    assert connector.resumes(cursor)
    changes = list(connector.changes(cursor))
    assert list(documents(changes)) == ["c", "d", "e"]
    assert set(scopes(changes)) == {AUDIENCE, ScopeId("scope:space")}
    assert [connector.read(one, 100) for one in documents(changes).values()]

    write(path, *lines, document("f"))
    again = feed(path)
    assert not again.resumes(cursor)
    assert list(documents(list(again.changes(cursor)))) == list("abcdef")
    assert not again.resumes({"version": 1}), "the cursor of a complete walk is no checkpoint"
