"""The file system connector: what a tree becomes, and that nothing leads out of it."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl.decide import Allowed, decide
from acl.errors import InvalidValueError
from acl.model import Caller, Unknown
from acl.principal import Principal
from connectors.base import Level, ScanComplete, ScopeChange, Upsert
from connectors.errors import FatalError, SkippableError
from connectors.filesystem import Filesystem
from connectors.posix.names import decode, display, encode, join
from tests.acl import posix_acls
from tests.connectors import trees
from tests.connectors.trees import Seen, descriptors, filesystem, walk

LIMIT = 1 << 20
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def reads(seen: Seen, location: str, *tokens: str) -> bool:
    """Whether a caller with these principals of domain `corp` may read the document."""
    held = frozenset(Principal.parse(f"posix:corp:{token}") for token in (*tokens, "other"))
    caller = Caller("test", held, frozenset(p.realm for p in held), NOON, NOON.replace(hour=13))
    return isinstance(decide(seen.acl(location), caller, NOON), Allowed)


def test_tree_becomes_scopes_and_documents(tmp_path: Path) -> None:
    """Folders are scopes within each other, files are documents with their facts."""
    (tmp_path / "finance" / "2026").mkdir(parents=True)
    file = tmp_path / "finance" / "2026" / "Q3 report.md"
    file.write_text("# Q3")
    os.utime(file, (1_700_000_000, 1_700_000_000))

    seen = walk(filesystem(tmp_path))

    assert [(s.location, s.complete) for s in seen.scopes.values()] == [
        (".", True),
        ("finance", True),
        ("finance/2026", True),
    ]
    assert seen.scope("finance/2026").parent == seen.scope("finance").id
    assert seen.scope("finance").parent == seen.scope(".").id
    assert seen.scope(".").parent is None
    document = seen.documents["finance/2026/Q3 report.md"]
    assert document.scope == seen.scope("finance/2026").id
    assert (document.name, document.media_type, document.size_bytes) == ("Q3 report.md", "text/markdown", 4)
    assert document.modified_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert str(tmp_path) not in document.native_id


def test_a_document_has_the_media_type_that_it_is_read_as(tmp_path: Path) -> None:
    """Source code and settings are text to the reader; a photo is none of what is read."""
    for name in ("main.py", "settings.json", "README", "photo.jpg"):
        (tmp_path / name).write_text("x")

    found = walk(filesystem(tmp_path)).documents

    assert {name: document.media_type for name, document in found.items()} == {
        "main.py": "text/plain",
        "settings.json": "text/plain",
        "README": "text/plain",
        "photo.jpg": "application/octet-stream",
    }


def test_mode_and_real_acl_decide(tmp_path: Path) -> None:
    """A named user and a named group of a real ACL read, within the mask; others do not."""
    uid, gid = os.geteuid(), os.getegid()
    (tmp_path / "plain.txt").write_text("x")
    (tmp_path / "plain.txt").chmod(0o640)
    shared = tmp_path / "shared.txt"
    shared.write_text("x")
    trees.set_acl(
        shared,
        [
            (posix_acls.OWNER, 6, posix_acls.NO_ID),
            (posix_acls.USER, 4, 20001),
            (posix_acls.USER, 0, 20002),
            (posix_acls.GROUP, 0, posix_acls.NO_ID),
            (posix_acls.NAMED_GROUP, 4, 20101),
            (posix_acls.MASK, 4, posix_acls.NO_ID),
            (posix_acls.OTHER, 0, posix_acls.NO_ID),
        ],
    )
    tmp_path.chmod(0o755)

    seen = walk(filesystem(tmp_path))

    assert reads(seen, "plain.txt", f"uid-{uid}")
    assert reads(seen, "plain.txt", "uid-20001", f"gid-{gid}")
    assert not reads(seen, "plain.txt", "uid-20001", "gid-20101")
    assert reads(seen, "shared.txt", "uid-20001")
    assert reads(seen, "shared.txt", "uid-20003", "gid-20101")
    assert not reads(seen, "shared.txt", "uid-20002", "gid-20101")
    assert not reads(seen, "shared.txt", "uid-20003", f"gid-{gid}")


def test_named_user_within_an_empty_mask_reads_as_other(tmp_path: Path) -> None:
    """The kernel does not look at an ACL whose mask is empty: who is listed as `---` reads through other."""
    file = tmp_path / "mask.txt"
    file.write_text("x")
    entries = [
        (posix_acls.OWNER, 6, posix_acls.NO_ID),
        (posix_acls.USER, 0, 20001),
        (posix_acls.GROUP, 0, posix_acls.NO_ID),
        (posix_acls.MASK, 0, posix_acls.NO_ID),
        (posix_acls.OTHER, 4, posix_acls.NO_ID),
    ]
    trees.set_acl(file, entries)
    tmp_path.chmod(0o755)

    assert reads(walk(filesystem(tmp_path)), "mask.txt", "uid-20001")

    entries[3] = (posix_acls.MASK, 1, posix_acls.NO_ID)
    trees.set_acl(file, entries)
    assert not reads(walk(filesystem(tmp_path)), "mask.txt", "uid-20001")


def test_every_folder_on_the_way_counts(tmp_path: Path) -> None:
    """One folder without the search bit shuts everything below it, and only that."""
    for name in ("closed", "open"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "a.txt").write_text("x")
    (tmp_path / "closed").chmod(0o744)
    tmp_path.chmod(0o755)

    seen = walk(filesystem(tmp_path))

    assert reads(seen, "open/inner/a.txt", "uid-20001")
    assert not reads(seen, "closed/inner/a.txt", "uid-20001")


def test_folders_above_the_root_count_when_enforced(tmp_path: Path) -> None:
    """`enforce` sends every folder from / down, so that a closed one above the root shuts all; `trust` does not."""
    root = tmp_path / "closed" / "root"
    root.mkdir(parents=True)
    (root / "a.txt").write_text("x")
    (tmp_path / "closed").chmod(0o700)
    root.chmod(0o755)

    enforced = walk(filesystem(root, ancestors_above_root="enforce"))
    trusted = walk(filesystem(root, ancestors_above_root="trust"))

    locations = [scope.location for scope in enforced.scopes.values()]
    assert locations == ["/", *(str(parent) for parent in reversed(root.resolve().parents[:-1])), "."]
    assert enforced.scope("/").parent is None
    assert [scope.location for scope in trusted.scopes.values()] == ["."]
    assert not reads(enforced, "a.txt", "uid-20001")
    assert reads(trusted, "a.txt", "uid-20001")
    assert enforced.documents["a.txt"].native_id == trusted.documents["a.txt"].native_id


def test_root_itself_counts_in_both_ways(tmp_path: Path) -> None:
    """A root without the search bit is shut, whatever counts above it."""
    (tmp_path / "a.txt").write_text("x")
    tmp_path.chmod(0o700)

    assert not reads(walk(filesystem(tmp_path)), "a.txt", "uid-20001")
    assert reads(walk(filesystem(tmp_path)), "a.txt", f"uid-{os.geteuid()}")


ODD_NAMES = [
    b"new\nline.txt",
    b"\xff\xfe\x80.txt",
    "ü".encode("latin-1"),
    "ü".encode(),
    b"%41",
    b"A",
    b"back\\slash",
    b" ",
    b"~",
    b"-rf",
    b"\x01\x7f",
    "\u202egpj.exe".encode(),
    b"x" * 255,
    b"\xff" * 255,
    b"a:b?c*d|e<f>g\"h'i",
    b"...",
]


def test_odd_names_are_documents_of_their_own(tmp_path: Path) -> None:
    """Every name the kernel allows is listed once, can be read, and harms nobody who prints it."""
    for name in ODD_NAMES:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    connector = filesystem(tmp_path)

    documents = [change for change in connector.changes(None) if isinstance(change, Upsert)]

    assert {connector.read(document, LIMIT) for document in documents} == set(ODD_NAMES)
    assert len({document.native_id for document in documents}) == len(ODD_NAMES)
    for document in documents:
        assert document.native_id.isascii()
        assert document.native_id.isprintable()
        assert document.name.isprintable()
        assert document.location.isprintable()


@given(st.binary(min_size=1, max_size=255))
def test_name_encoding_is_exact(raw: bytes) -> None:
    """A name comes back byte by byte, from ASCII without a slash."""
    name = os.fsdecode(raw)

    assert decode(encode(name)) == name
    assert "/" not in encode(name)
    assert encode(name).isascii()
    assert display(name).isprintable()


@given(st.binary(min_size=1, max_size=8), st.binary(min_size=1, max_size=8))
def test_two_names_are_never_one(one: bytes, other: bytes) -> None:
    """Different names stay different, in the id and for people."""
    if one != other:
        assert encode(os.fsdecode(one)) != encode(os.fsdecode(other))
        assert display(os.fsdecode(one)) != display(os.fsdecode(other))


def test_very_long_location_is_cut() -> None:
    """A location has at most 4,096 characters, whatever the depth."""
    location = "."
    for _ in range(100):
        location = join(location, "x" * 255)

    assert len(location) <= 4096
    assert location.startswith("xxx")


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    """Links to files and folders, inside and outside and in circles, are reported and lead nowhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_text("a")
    (root / "to-file").symlink_to(outside / "secret.txt")
    (root / "to-folder").symlink_to(outside)
    (root / "to-self").symlink_to(".")
    (root / "dangling").symlink_to("nowhere")

    seen = walk(filesystem(root))

    assert list(seen.documents) == ["a.txt"]
    assert list(seen.scopes.values()) == [seen.scope(".")]
    assert seen.reasons() == [(".", "symlink")]
    assert "4, such as `dangling`" in seen.skips[0].detail


def test_root_may_be_a_symlink(tmp_path: Path) -> None:
    """The configured path is resolved once: its folders count where they really are."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("a")
    (tmp_path / "link").symlink_to("real")

    direct = walk(filesystem(tmp_path / "real", ancestors_above_root="enforce"))
    linked = walk(filesystem(tmp_path / "link", ancestors_above_root="enforce"))

    assert linked.changes == direct.changes


def test_special_files_are_reported_and_never_opened(tmp_path: Path) -> None:
    """Pipes and sockets are counted by folder; the walk does not hang on them."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.txt").write_text("a")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))

        seen = walk(filesystem(tmp_path))

    assert list(seen.documents) == ["a.txt"]
    assert seen.reasons() == [(".", "special file")]
    assert "2, such as `pipe`" in seen.skips[0].detail


def test_hard_link_is_a_document_at_each_place(tmp_path: Path) -> None:
    """One inode in two folders is two documents, each with the rules of its own way."""
    for name, mode in (("open", 0o755), ("closed", 0o700)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    (tmp_path / "open" / "a.txt").write_text("a")
    os.link(tmp_path / "open" / "a.txt", tmp_path / "closed" / "a.txt")
    (tmp_path / "open" / "a.txt").chmod(0o644)
    tmp_path.chmod(0o755)

    seen = walk(filesystem(tmp_path))

    assert reads(seen, "open/a.txt", "uid-20001")
    assert not reads(seen, "closed/a.txt", "uid-20001")


def test_rename_of_a_folder_keeps_ids(tmp_path: Path) -> None:
    """A renamed and moved folder is the same scope with another parent, its files the same documents."""
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "inner" / "x.txt").write_text("x")
    before = walk(filesystem(tmp_path))

    (tmp_path / "a" / "inner").rename(tmp_path / "b" / "moved")
    after = walk(filesystem(tmp_path))

    assert after.scope("b/moved").id == before.scope("a/inner").id
    assert after.scope("b/moved").parent == before.scope("b").id
    assert after.documents["b/moved/x.txt"].native_id == before.documents["a/inner/x.txt"].native_id
    assert after.documents["b/moved/x.txt"].version == before.documents["a/inner/x.txt"].version


def test_new_folder_at_an_old_path_is_another_scope(tmp_path: Path) -> None:
    """A folder that was deleted and made again, which often gets the same inode number, has another id."""
    seen: set[str] = set()
    for _ in range(20):
        folder = tmp_path / "again"
        folder.mkdir()
        seen.add(walk(filesystem(tmp_path)).scope("again").id)
        folder.rmdir()

    assert len(seen) == 20


def test_deep_tree_is_walked_and_read_with_few_descriptors(tmp_path: Path) -> None:
    """A path of more than 4,096 bytes is no obstacle, and depth costs no descriptors beyond a bound."""
    depth, name = 240, "f" * 20
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        for child in (name, "z"):
            os.mkdir(child, dir_fd=here)
            fd = os.open(f"{child}/x.txt", os.O_CREAT | os.O_WRONLY, dir_fd=here)
            os.write(fd, b"x")
            os.close(fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    connector = filesystem(tmp_path)
    before = descriptors()
    most = 0
    documents: list[Upsert] = []

    for change in connector.changes(None):
        most = max(most, len(descriptors() - before))
        if isinstance(change, Upsert):
            documents.append(change)

    assert len(documents) == 2 * depth
    assert max(len(document.location) for document in documents) > 4096 - 255
    assert most < 80
    assert connector.read(documents[depth - 1], LIMIT) == b"x"


def test_folders_deeper_than_the_model_are_reported(tmp_path: Path) -> None:
    """Beyond the depth that the access model carries, a folder is nobody's and reported; the run ends well."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)

    seen = walk(filesystem(tmp_path))

    assert [reason for _, reason in seen.reasons()] == ["too deep"]
    assert isinstance(list(seen.scopes.values())[-1].clause, Unknown)
    assert seen.complete is not None


def test_wide_folder_is_streamed(tmp_path: Path) -> None:
    """The first documents of a wide folder come before the last are looked at."""
    for number in range(500):
        (tmp_path / f"{number}.txt").touch()
    changes = filesystem(tmp_path).changes(None)
    next(changes)
    first = next(changes)
    assert isinstance(first, Upsert)

    for number in range(500):
        if f"{number}.txt" != first.name:
            (tmp_path / f"{number}.txt").unlink()

    assert sum(isinstance(change, Upsert) for change in changes) < 499


def test_sparse_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    """A terabyte of nothing is listed with its size and skipped by its size."""
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "a.txt").write_text("a")
    connector = filesystem(tmp_path)
    seen = walk(connector)

    assert seen.documents["huge.bin"].size_bytes == 1 << 40
    with pytest.raises(SkippableError, match=r"huge\.bin") as caught:
        connector.read(seen.documents["huge.bin"], LIMIT)
    assert caught.value.reason == "too large"
    assert connector.read(seen.documents["a.txt"], LIMIT) == b"a"


@pytest.mark.parametrize("moment", [-(2**40), 2**40, 253402300800])
def test_absurd_times_are_carried(tmp_path: Path, moment: int) -> None:
    """A modification time beyond the calendar does not stop the walk."""
    (tmp_path / "a.txt").write_text("a")
    try:
        os.utime(tmp_path / "a.txt", (moment, moment))
    except OverflowError:
        pytest.skip("the file system cannot hold this time")

    assert walk(filesystem(tmp_path)).documents["a.txt"].modified_at.tzinfo is not None


def test_proc_is_no_source() -> None:
    """A file system that cannot tell its folders from later ones is refused with a sentence."""
    with pytest.raises(FatalError, match="birth times and file handles"):
        walk(filesystem(Path("/proc/sys/kernel")))


def test_check_says_who_reads_and_what(tmp_path: Path) -> None:
    """`check` names the user, the support for ACLs, what is left out and the cost; nothing is an error here."""
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "link").symlink_to("a.txt")

    findings = filesystem(tmp_path).check()

    text = "\n".join(finding.text for finding in findings)
    assert f"uid {os.geteuid()}" in text
    assert "POSIX ACLs" in text
    assert "symlink: `.`" in text
    assert "1 folders hold 1 files" in text
    assert all(finding.level is not Level.ERROR for finding in findings)


@pytest.mark.parametrize("kind", ["missing", "file", "link in a circle"])
def test_check_reports_a_root_that_cannot_be(tmp_path: Path, kind: str) -> None:
    """A root that is missing, or no folder, is a finding with its path, not a traceback."""
    root = tmp_path / "root"
    match kind:
        case "file":
            root.touch()
        case "link in a circle":
            root.symlink_to(root)
        case _:
            pass

    findings = filesystem(root).check()

    assert findings[-1].level is Level.ERROR
    assert str(root) in findings[-1].text


def test_foreign_file_system_is_refused_unless_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a server may decide, mode bits are believed only when the settings say so."""
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr("connectors.posix.walk.LOCAL", frozenset({"other"}))

    with pytest.raises(FatalError, match="foreign_permissions"):
        walk(filesystem(tmp_path, foreign_permissions="refuse"))
    findings = filesystem(tmp_path, foreign_permissions="refuse").check()
    assert findings[-1].level is Level.ERROR

    assert list(walk(filesystem(tmp_path, foreign_permissions="trust")).documents) == ["a.txt"]
    levels = [finding.level for finding in filesystem(tmp_path, foreign_permissions="trust").check()]
    assert Level.WARNING in levels


def test_file_system_without_births_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without birth time and handle a folder cannot be told from a later one with its number: no source."""
    monkeypatch.setattr("connectors.posix.inode._statx", lambda _: ("", None))
    assert walk(filesystem(tmp_path)).scope(".").id.startswith("folder:r:")

    monkeypatch.setattr("connectors.posix.inode._handle", lambda _: "")
    with pytest.raises(FatalError, match="birth times and file handles"):
        walk(filesystem(tmp_path))


def test_id_domain_must_be_a_realm(tmp_path: Path) -> None:
    """A domain that could not stand in a principal is refused at once."""
    with pytest.raises(InvalidValueError):
        Filesystem(tmp_path, id_domain="co rp", ancestors_above_root="enforce")


def test_nothing_stays_open(tmp_path: Path) -> None:
    """A walk that is abandoned, and reads that fail, leave no descriptor behind."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text("x")
    connector = filesystem(tmp_path)
    before = descriptors()

    documents = walk(connector).documents
    (tmp_path / "a" / "x.txt").unlink()
    (tmp_path / "b").chmod(0o700)
    for document in documents.values():
        with pytest.raises(SkippableError):
            connector.read(document, LIMIT)
    changes = connector.changes(None)
    assert [isinstance(next(changes), ScopeChange) for _ in range(2)] == [True, True]
    changes.close()  # type: ignore[attr-defined]  # a generator in fact

    assert descriptors() <= before


def test_last_change_carries_the_root(tmp_path: Path) -> None:
    """The cursor names the root's identity, and no path above it."""
    seen = walk(filesystem(tmp_path))

    assert isinstance(seen.changes[-1], ScanComplete)
    assert seen.changes[-1].cursor == {"version": 1, "root": seen.scope(".").id, "mounts": {}}
