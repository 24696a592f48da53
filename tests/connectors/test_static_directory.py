"""The static directory: who holds what, and which files are no directory at all."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.errors import InvalidValueError
from connectors.directories.base import DirectoryUnavailableError, UnknownSubjectError
from connectors.directories.static import StaticDirectory
from connectors.directories.static_file import read_people
from connectors.yaml_file import YamlFileError
from tests.connectors.trees import open_tree, unprivileged

PEOPLE = """\
version: 1
id_domain: corp
users:
  - {id: u-1001, name: alice, display_name: Alice Ahlgren, uid: 20001, gid: 20101, groups: [sales, fin-emea]}
  - {id: u-1002, name: bob, uid: 20002, gid: 20999, enabled: false}
  - {id: u-1003, name: carol, groups: [fin-emea]}
groups:
  - {id: sales, gid: 20101}
  - {id: fin-emea, gid: 20110, member_of: [finance]}
  - {id: finance, gid: 20102, member_of: [all]}
  - {id: all, member_of: [fin-emea]}
"""


def directory(folder: Path, text: str = PEOPLE) -> StaticDirectory:
    path = folder / "people.yaml"
    path.write_text(text)
    return StaticDirectory("people", path)


def tokens(found: StaticDirectory, value: str, attribute: str = "id") -> set[str]:
    return {principal.token for principal in found.resolve(attribute, value).principals}


def test_user_holds_the_closure_of_its_groups_and_their_numbers(tmp_path: Path) -> None:
    """Nested groups count, in circles too; numbers come from the user, its primary gid and every group with one."""
    found = directory(tmp_path).resolve("id", "u-1001")

    assert {principal.token for principal in found.principals} == {
        "static:people:user-u-1001",
        "static:people:members",
        "static:people:group-sales",
        "static:people:group-fin-emea",
        "static:people:group-finance",
        "static:people:group-all",
        "posix:corp:uid-20001",
        "posix:corp:other",
        "posix:corp:gid-20101",
        "posix:corp:gid-20110",
        "posix:corp:gid-20102",
    }
    assert found.complete == {"static:people", "posix:corp"}
    assert found.display_name == "Alice Ahlgren"


def test_every_principal_says_how_it_is_held(tmp_path: Path) -> None:
    """The path goes from the account over each group, by names."""
    found = directory(tmp_path).resolve("id", "u-1001")

    paths = {principal.token: path for principal, path in found.paths.items()}
    assert paths["static:people:user-u-1001"] == ("alice",)
    assert paths["posix:corp:gid-20101"] == ("alice", "sales")
    assert paths["posix:corp:gid-20102"] == ("alice", "fin-emea", "finance")


def test_user_without_a_uid_has_no_part_in_posix_rules(tmp_path: Path) -> None:
    """Without a uid there is no posix principal, not even `other`, and the realm is not complete."""
    found = directory(tmp_path).resolve("id", "u-1003")

    assert {principal.realm for principal in found.principals} == {"static:people"}
    assert found.complete == {"static:people"}


def test_primary_gid_is_held_but_joins_no_group(tmp_path: Path) -> None:
    """A gid on the account is that gid, not membership in the group that happens to have it."""
    text = PEOPLE.replace("groups: [sales, fin-emea]", "groups: []").replace("gid: 20101, g", "gid: 20110, g")

    held = tokens(directory(tmp_path, text), "u-1001")

    assert "posix:corp:gid-20110" in held
    assert not held & {"static:people:group-fin-emea", "posix:corp:gid-20102"}


def test_uid_is_an_attribute_too(tmp_path: Path) -> None:
    """A uid finds the same account as its id, in its one decimal form only."""
    found = directory(tmp_path)

    assert tokens(found, "20001", "uid") == tokens(found, "u-1001")
    for other in ("020001", " 20001", "2_0001", "20001.0", "+20001", "20002", "None"):
        with pytest.raises(UnknownSubjectError):
            found.resolve("uid", other)


def test_account_id_by_name_is_for_enabled_accounts(tmp_path: Path) -> None:
    """`remit token alice` finds alice's id, and no disabled account's."""
    found = directory(tmp_path)

    assert found.account_id("alice") == "u-1001"
    with pytest.raises(UnknownSubjectError):
        found.account_id("bob")


def test_change_of_the_same_length_is_seen(tmp_path: Path) -> None:
    """An edit that keeps size and modification time is still an edit."""
    found = directory(tmp_path)
    path = tmp_path / "people.yaml"
    before = path.stat()
    assert "static:people:group-sales" in tokens(found, "u-1001")

    path.write_text(PEOPLE.replace("groups: [sales, fin-emea]", "groups: [fin-emea]       "))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert path.stat().st_size == before.st_size
    assert "static:people:group-sales" not in tokens(found, "u-1001")


def test_file_put_in_place_is_seen(tmp_path: Path) -> None:
    """A file that replaces another by a rename is read."""
    found = directory(tmp_path)
    tokens(found, "u-1001")
    other = tmp_path / "new"
    other.write_text(PEOPLE.replace("u-1001", "u-2001"))

    other.rename(tmp_path / "people.yaml")

    assert tokens(found, "u-2001")
    with pytest.raises(UnknownSubjectError):
        found.resolve("id", "u-1001")


def test_settled_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has not changed for a while costs one `stat` a question."""
    found = directory(tmp_path)
    # The clock goes on, and the file does not change.
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 5_000_000_000)
    tokens(found, "u-1001")

    def no_open(*_: object, **__: object) -> int:
        raise AssertionError("the file was opened again")

    monkeypatch.setattr(os, "open", no_open)

    assert tokens(found, "u-1001")


@pytest.mark.parametrize("cut", range(0, len(PEOPLE), 7))
def test_half_written_file_never_adds_anything(tmp_path: Path, cut: int) -> None:
    """A prefix of the file is no directory, or it knows nobody with more than the whole one gives."""
    whole = tokens(directory(tmp_path), "u-1001")
    found = directory(tmp_path, PEOPLE[:cut])

    try:
        held = tokens(found, "u-1001")
    except (DirectoryUnavailableError, UnknownSubjectError):
        return
    assert held <= whole


def test_directory_recovers(tmp_path: Path) -> None:
    """A mended file answers again."""
    found = directory(tmp_path, "version: 1\nusers: [")
    with pytest.raises(DirectoryUnavailableError):
        found.resolve("id", "u-1001")

    (tmp_path / "people.yaml").write_text(PEOPLE)

    assert tokens(found, "u-1001")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 2", "people.yaml:1: version: expected `1`, found `2`"),
        ("uid: 20001", "uid: alice", r"people.yaml:4: users\[0\].uid: expected a whole number"),
        ("uid: 20001", "uid: 0x4e21", r"people.yaml:4: users\[0\].uid: expected a whole number"),
        ("uid: 20001", "uid: 020001", r"people.yaml:4: users\[0\].uid: expected a whole number"),
        ("uid: 20001", "uid: 4294967295", r"people.yaml:4: users\[0\].uid: expected .* found `4294967295`"),
        ("uid: 20001", "uid: -1", r"people.yaml:4: users\[0\].uid: expected a whole number"),
        ("enabled: false", "enabled: no", r"people.yaml:5: users\[1\].enabled: expected `true` or `false`, found `no`"),
        ("enabled: false", 'enabled: "false"', r"people.yaml:5: users\[1\].enabled: expected `true` or `false`"),
        ("enabled: false", "enabld: false", r"people.yaml:5: users\[1\].enabld: unknown key, did you mean `enabled`\?"),
        ("name: bob", "name: no", r'users\[1\].name: expected text: put it in quotes, as in "no"'),
        ("name: bob", "name: alice", r"people.yaml:5: users\[1\].name: `alice` is already on line 4"),
        ("name: bob", "name: ALICE", "`alice` is already on line 4, which looks the same as `ALICE`"),
        ("id: u-1002", "id: u-1001", r"people.yaml:5: users\[1\].id: `u-1001` is already on line 4"),
        ("uid: 20002", "uid: 20001", r"people.yaml:5: users\[1\].uid: `20001` is already on line 4"),
        ("id: finance, gid: 20102", "id: finance, gid: 20101", r"people.yaml:10: groups\[2\].gid: `20101` is already"),
        ("id: sales", "id: finance", "`finance` is already on line 8"),
        ("name: carol, groups: [fin-emea]", "name: carol, groups: [nobody]", r"groups\[0\]: there is no group `no"),
        ("member_of: [finance]", "member_of: [financ]", r"people.yaml:9: groups\[1\].member_of\[0\]: there is no"),
        ("member_of: [finance]", "member_of: [finance, finance]", "`finance` is already on line 9"),
        ("member_of: [finance]", "member_of: finance", r"people.yaml:9: groups\[1\].member_of: expected a list"),
        ("name: carol,", "name: carol, uid: 20003,", r"people.yaml:6: users\[2\]: `uid` and `gid` belong together"),
        ("id: u-1003, name", "name", r"people.yaml:6: users\[2\]: `id` is missing, expected an id"),
        (
            "id: u-1003, name",
            "id: u-1003, id: u-1003, name",
            r"people.yaml:6: users\[2\].id: stands here a second time, first in line 6",
        ),
        ("id: u-1003", 'id: "u-1003 "', r"users\[2\].id: expected 1 to 200 printable characters"),
        ("id: u-1003", 'id: "u\\u202e3"', r"users\[2\].id: expected 1 to 200 printable characters"),
        ("id: u-1003", "id: ''", r"users\[2\].id: expected"),
        ("id_domain: corp\n", "", r"people.yaml:3: users\[0\].(uid|gid): the file needs an `id_domain`"),
        ("id_domain: corp", "id_domain: 'co rp'", "people.yaml:2: id_domain: expected letters"),
        ("groups:\n", "# a comment\ngroups:\n", None),
        ("groups:\n", "groups: &all\n", "people.yaml:7: anchors and aliases"),
        ("name: carol, groups: [fin-emea]", "name: carol, groups: *x", "people.yaml:6: anchors and aliases"),
        (
            "version: 1",
            "version: !!python/object:os.system 1",
            "people.yaml:1: the tag `tag:yaml.org,2002:python/object:os.system`",
        ),
        ("users:", "users: !odd", "people.yaml:3: the tag `!odd` is not read here"),
        ("version: 1\n", "version: 1\n---\nversion: 1\n", "people.yaml:2: not YAML"),
        ("version: 1\n", "\tversion: 1\n", "people.yaml:1: not YAML"),
    ],
)
def test_wrong_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    """What is wrong is named with file, line and field, and nobody is resolved; the unedited neighbour is fine."""
    assert tokens(directory(tmp_path), "u-1001")
    assert old in PEOPLE
    found = directory(tmp_path, PEOPLE.replace(old, new, 1))

    if message is None:
        assert tokens(found, "u-1001")
        return
    with pytest.raises(DirectoryUnavailableError, match=message):
        found.resolve("id", "u-1001")


def test_alias_is_refused(tmp_path: Path) -> None:
    """A list written once and used twice is refused: what a person reads on a line is what counts."""
    text = PEOPLE.replace("groups: [sales, fin-emea]", "groups: &g [sales]").replace("groups: [fin-emea]", "groups: *g")

    with pytest.raises(DirectoryUnavailableError, match="anchors and aliases"):
        directory(tmp_path, text).resolve("id", "u-1001")


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{" * 5000, "- a", "null", "&a [*a]", "version: 1\nusers: \xff"])
def test_hostile_text_is_no_directory(tmp_path: Path, text: str) -> None:
    """Nesting bombs, circles, other encodings and other shapes end in one sentence."""
    path = tmp_path / "people.yaml"
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(DirectoryUnavailableError, match=r"people\.yaml:\d+: "):
        StaticDirectory("people", path).resolve("id", "u-1001")


@given(st.text(max_size=60))
def test_any_text_gives_an_answer_or_a_directory_error(text: str) -> None:
    """No text makes the reader raise anything but its own error."""
    with suppress(YamlFileError):
        people = read_people(text.encode("utf-8", "surrogatepass"), "people.yaml")
        assert people.groups or not any(user.groups for user in people.users.values())


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "writable", "too large"])
def test_what_is_no_proper_file_is_no_directory(tmp_path: Path, kind: str) -> None:
    """Missing, of another kind, writable by everybody, too large: unavailable, and at once."""
    found = directory(tmp_path)
    path = tmp_path / "people.yaml"
    assert tokens(found, "u-1001")
    match kind:
        case "missing":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "writable":
            path.chmod(0o666)
        case "too large":
            with path.open("ab") as file:
                file.truncate(1 << 30)
        case _:
            raise AssertionError(kind)

    with pytest.raises(DirectoryUnavailableError, match="people"):
        found.resolve("id", "u-1001")


def test_file_that_may_not_be_read_is_no_directory() -> None:
    """A file closed to the service is unavailable, also right after it could be read."""
    with open_tree() as root, unprivileged():
        found = directory(root)
        assert tokens(found, "u-1001")

        (root / "people.yaml").chmod(0)

        with pytest.raises(DirectoryUnavailableError, match="Permission denied"):
            found.resolve("id", "u-1001")


def test_name_that_is_no_realm_is_refused(tmp_path: Path) -> None:
    """The directory's name is part of every principal, so it must be one that a token can hold."""
    with pytest.raises(InvalidValueError):
        StaticDirectory("my people", tmp_path / "people.yaml")


def test_an_account_is_found_by_an_address_that_it_alone_has(tmp_path: Path) -> None:
    """Whoever wrote the file says whether it is verified; one that two have, one of them disabled, finds nobody."""
    path = tmp_path / "people.yaml"
    path.write_text(
        "version: 1\nusers:\n"
        "  - {id: a, name: ann, mail: Ann@Corp.example, mail_verified: true}\n"
        "  - {id: b, name: bob, mail: bob@corp.example}\n"
        "  - {id: c, name: cid, mail: bob@corp.example, enabled: false}\n"
        "  - {id: d, name: dan, mail: dan@corp.example}\n"
    )
    directory = StaticDirectory("people", path)

    assert directory.resolve("mail", "ann@corp.example").facts == {
        "id": "a",
        "mail": "ann@corp.example",
        "mail_verified": "yes",
    }
    assert "mail_verified" not in directory.resolve("mail", "dan@corp.example").facts
    for nobody in ("bob@corp.example", "eve@corp.example", "Ann@Corp.example", ""):
        with pytest.raises(UnknownSubjectError):
            directory.resolve("mail", nobody)
    path.write_text("version: 1\nusers:\n  - {id: a, name: ann, mail: ann}\n")
    with pytest.raises(DirectoryUnavailableError, match=r"3: users\[0\]\.mail: expected a mail address"):
        directory.resolve("id", "a")
