"""What happens while a tree changes under the walk's feet, cannot be seen, or goes away."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from acl.model import Unknown
from connectors.base import Change, Level, Upsert
from connectors.errors import FatalError, RetriableError, SkippableError
from tests.connectors.trees import Seen, filesystem, open_tree, unprivileged, walk

LIMIT = 1 << 20


def until(changes: Iterator[Change], location: str) -> list[Change]:
    """Take changes up to the first one from this location, included."""
    taken: list[Change] = []
    for change in changes:
        taken.append(change)
        if getattr(change, "location", None) == location:
            return taken
    raise AssertionError(f"{location} never came")


def tree(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)


# Unreadable folders. The neighbour beside each is seen as ever.


def test_folder_that_cannot_be_listed_is_withheld_not_emptied() -> None:
    """Its scope is sent as nobody's and incomplete, and it is reported; what lies beside it is complete."""
    with open_tree() as root, unprivileged():
        tree(root, "closed/inner/a.txt", "open/b.txt")
        before = walk(filesystem(root))
        (root / "closed").chmod(0o311)

        seen = walk(filesystem(root))

        closed = seen.scope("closed")
        assert isinstance(closed.clause, Unknown)
        assert not closed.complete
        assert closed.id == before.scope("closed").id
        assert seen.reasons() == [("closed", "unreadable folder")]
        assert list(seen.documents) == ["open/b.txt"]
        assert seen.scope("open").complete
        assert seen.complete is not None
        (root / "closed").chmod(0o700)


def test_folder_whose_entries_cannot_be_examined_is_withheld() -> None:
    """A folder that can be listed and not passed is nobody's, also when that shows at its first entry only."""
    with open_tree() as root, unprivileged():
        tree(root, "closed/a.txt", "open/b.txt")
        (root / "closed").chmod(0o644)

        seen = walk(filesystem(root))

        assert isinstance(seen.scope("closed").clause, Unknown)
        assert not seen.scope("closed").complete
        assert list(seen.documents) == ["open/b.txt"]
        (root / "closed").chmod(0o700)


def test_folder_that_becomes_readable_again_is_whole_again() -> None:
    """What was withheld comes back with its rules once it can be seen."""
    with open_tree() as root, unprivileged():
        tree(root, "closed/a.txt")
        (root / "closed").chmod(0)
        withheld = walk(filesystem(root))
        (root / "closed").chmod(0o755)

        seen = walk(filesystem(root))

        assert withheld.scope("closed").id == seen.scope("closed").id
        assert seen.scope("closed").complete
        assert not isinstance(seen.acl("closed/a.txt"), Unknown)


def test_root_that_cannot_be_listed_ends_the_run() -> None:
    """A root closed to the service is a matter for a person, not an empty source; `check` says so too."""
    with open_tree() as root, unprivileged():
        tree(root, "a.txt")
        root.chmod(0o311)

        with pytest.raises(FatalError, match="may not be read"):
            walk(filesystem(root))
        assert filesystem(root).check()[-1].level is Level.ERROR
        root.chmod(0o755)
        assert list(walk(filesystem(root)).documents) == ["a.txt"]


def test_file_that_cannot_be_opened_is_listed_and_skipped() -> None:
    """The rules of a file are known without reading it; its content is skipped as unreadable."""
    with open_tree() as root, unprivileged():
        tree(root, "closed.txt", "open.txt")
        (root / "closed.txt").chmod(0)
        connector = filesystem(root)
        seen = walk(connector)

        with pytest.raises(SkippableError) as caught:
            connector.read(seen.documents["closed.txt"], LIMIT)

        assert caught.value.reason == "unreadable"
        assert connector.read(seen.documents["open.txt"], LIMIT) == b"open.txt"


def test_check_names_unreadable_folders() -> None:
    """`check` warns about folders that this process cannot see."""
    with open_tree() as root, unprivileged():
        tree(root, "closed/a.txt", "open/b.txt")
        (root / "closed").chmod(0)

        warnings = [finding.text for finding in filesystem(root).check() if finding.level is Level.WARNING]

        assert "unreadable folder: `closed`" in warnings
        (root / "closed").chmod(0o700)


# Races.


def test_folder_swapped_for_a_symlink_leads_nowhere(tmp_path: Path) -> None:
    """A folder that becomes a link out of the tree between listing and opening is not followed."""
    root = tmp_path / "root"
    tree(tmp_path, "root/a.txt", "root/b/in.txt", "outside/secret.txt")
    changes = filesystem(root).changes(None)
    taken = until(changes, "a.txt")

    shutil.rmtree(root / "b")
    (root / "b").symlink_to(tmp_path / "outside")
    seen = Seen([*taken, *changes])

    assert list(seen.documents) == ["a.txt"]
    assert seen.complete is not None


def test_file_swapped_for_a_symlink_is_not_read(tmp_path: Path) -> None:
    """A document that becomes a link to something else is skipped."""
    root = tmp_path / "root"
    tree(tmp_path, "root/a.txt", "root/b.txt", "secret.txt")
    connector = filesystem(root)
    documents = walk(connector).documents

    (root / "a.txt").unlink()
    (root / "a.txt").symlink_to(tmp_path / "secret.txt")

    with pytest.raises(SkippableError) as caught:
        connector.read(documents["a.txt"], LIMIT)
    assert caught.value.reason == "changed"
    assert connector.read(documents["b.txt"], LIMIT) == b"root/b.txt"


def test_folder_swapped_before_reading_is_noticed(tmp_path: Path) -> None:
    """Another folder, or a link, in the place of a document's folder means that the document changed."""
    tree(tmp_path, "root/a/x.txt", "root/b/x.txt", "other/x.txt")
    root = tmp_path / "root"
    connector = filesystem(root)
    documents = walk(connector).documents

    (root / "a").rename(tmp_path / "away")
    (tmp_path / "other").rename(root / "a")
    with pytest.raises(SkippableError):
        connector.read(documents["a/x.txt"], LIMIT)
    (root / "a").rename(tmp_path / "other")
    (root / "a").symlink_to(tmp_path / "away")
    with pytest.raises(SkippableError):
        connector.read(documents["a/x.txt"], LIMIT)

    (root / "a").unlink()
    (tmp_path / "away").rename(root / "a")
    assert connector.read(documents["a/x.txt"], LIMIT) == b"root/a/x.txt"
    assert connector.read(documents["b/x.txt"], LIMIT) == b"root/b/x.txt"


def test_folder_moved_into_a_closed_one_before_reading_is_noticed(tmp_path: Path) -> None:
    """A document whose folder moved is not read under the rules of the old place."""
    tree(tmp_path, "open/inner/x.txt", "closed/y.txt")
    (tmp_path / "closed").chmod(0o700)
    connector = filesystem(tmp_path)
    documents = walk(connector).documents

    (tmp_path / "open" / "inner").rename(tmp_path / "closed" / "inner")

    with pytest.raises(SkippableError):
        connector.read(documents["open/inner/x.txt"], LIMIT)


@pytest.mark.parametrize("where", [".", "a", "a/inner"])
def test_rules_of_any_folder_around_are_looked_at_again(tmp_path: Path, where: str) -> None:
    """A folder on the way that was narrowed since the walk stops the reading, until the next walk."""
    tree(tmp_path, "a/inner/x.txt")
    for folder in (".", "a", "a/inner"):
        (tmp_path / folder).chmod(0o755)
    connector = filesystem(tmp_path)
    document = walk(connector).documents["a/inner/x.txt"]
    assert connector.read(document, LIMIT)

    (tmp_path / where).chmod(0o750)

    with pytest.raises(SkippableError) as caught:
        connector.read(document, LIMIT)
    assert caught.value.reason == "changed"
    assert connector.read(walk(connector).documents["a/inner/x.txt"], LIMIT)


def test_rules_of_folders_above_the_root_are_looked_at_again(tmp_path: Path) -> None:
    """With `enforce`, a folder above the root that was narrowed since the walk stops the reading; with `trust` not."""
    tree(tmp_path, "above/root/x.txt")
    (tmp_path / "above").chmod(0o755)
    connectors = {
        how: filesystem(tmp_path / "above" / "root", ancestors_above_root=how) for how in ("enforce", "trust")
    }
    documents = {how: walk(connector).documents["x.txt"] for how, connector in connectors.items()}

    (tmp_path / "above").chmod(0o700)

    with pytest.raises(SkippableError):
        connectors["enforce"].read(documents["enforce"], LIMIT)
    assert connectors["trust"].read(documents["trust"], LIMIT)


@pytest.mark.parametrize("meanwhile", ["narrow the file", "narrow the folder", "append", "replace", "move the folder"])
def test_rules_are_looked_at_after_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str) -> None:
    """What changes between opening and the last byte is noticed: the content is not returned."""
    tree(tmp_path, "a/x.txt", "b/x.txt")
    connector = filesystem(tmp_path)
    documents = walk(connector).documents
    file = tmp_path / "a" / "x.txt"

    def change(_: os.stat_result) -> None:
        match meanwhile:
            case "narrow the file":
                file.chmod(0o600)
            case "narrow the folder":
                (tmp_path / "a").chmod(0o700)
            case "append":
                with file.open("a") as opened:
                    opened.write("more")
            case "replace":
                file.with_name("new").write_text("a/x.txt")
                file.with_name("new").rename(file)
            case _:
                (tmp_path / "a").rename(tmp_path / "c")

    monkeypatch.setattr("connectors.posix.content.settle", change)
    with pytest.raises(SkippableError) as caught:
        connector.read(documents["a/x.txt"], LIMIT)
    monkeypatch.undo()

    assert caught.value.reason in ("changed", "vanished")
    assert connector.read(documents["b/x.txt"], LIMIT) == b"b/x.txt"


def test_folder_moved_ahead_of_the_walk_counts_at_its_later_place(tmp_path: Path) -> None:
    """A folder met twice was moved meanwhile: what is sent last is where it is now."""
    tree(tmp_path, "a/inner/x.txt", "b/y.txt")
    changes = filesystem(tmp_path).changes(None)
    taken = until(changes, "a/inner/x.txt")

    (tmp_path / "a" / "inner").rename(tmp_path / "b" / "inner")
    seen = Seen([*taken, *changes])

    assert seen.scope("b/inner").parent == seen.scope("b").id
    assert "b/inner/x.txt" in seen.documents
    assert seen.documents["b/inner/x.txt"].native_id == seen.documents["a/inner/x.txt"].native_id


def test_folder_that_moves_again_and_again_is_withheld(tmp_path: Path) -> None:
    """A folder that runs ahead of the walk is sent as nobody's in the end, and the walk ends."""
    tree(tmp_path, *(f"{number}/y.txt" for number in range(6)), "0/run/x.txt")
    here = tmp_path / "0" / "run"
    changes: list[Change] = []

    for change in filesystem(tmp_path).changes(None):
        changes.append(change)
        location = getattr(change, "location", "")
        number = location.partition("/")[0]
        if location.endswith("run/x.txt") and number != "5":
            here = here.rename(tmp_path / str(int(number) + 1) / "run")

    seen = Seen(changes)
    last = [scope for scope in seen.scopes.values() if scope.location.endswith("/run")][-1]
    assert isinstance(last.clause, Unknown)
    assert not last.complete
    assert seen.complete is not None


def test_deep_way_that_is_cut_off_is_withheld(tmp_path: Path) -> None:
    """When the way back to folders that were closed on the way down is gone, they are withheld, not half known."""
    depth = 100
    path = tmp_path
    for _ in range(depth):
        path = path / "d"
        tree(path, "x.txt", "z/x.txt")
    changes = filesystem(tmp_path).changes(None)
    taken = until(changes, str((path / "z").relative_to(tmp_path)))

    (tmp_path / "d").rename(tmp_path / "elsewhere")
    seen = Seen([*taken, *changes])

    assert (tmp_path / "elsewhere").exists()
    withheld = [scope for scope in seen.scopes.values() if not scope.complete]
    assert withheld
    assert all(isinstance(scope.clause, Unknown) for scope in withheld)
    assert seen.complete is not None


def test_what_vanishes_while_walking_is_no_error(tmp_path: Path) -> None:
    """Files and folders that are deleted ahead of the walk are not listed, and the walk is complete."""
    tree(tmp_path, "a.txt", "b/x.txt", "c/y.txt")
    changes = filesystem(tmp_path).changes(None)
    taken = until(changes, "a.txt")

    shutil.rmtree(tmp_path / "b")
    seen = Seen([*taken, *changes])

    assert sorted(seen.documents) == ["a.txt", "c/y.txt"]
    assert seen.skips == []
    assert seen.complete is not None


def test_document_of_an_earlier_walk_is_not_read(tmp_path: Path) -> None:
    """A connector that has not walked knows no rules to read under."""
    tree(tmp_path, "a.txt")
    document = walk(filesystem(tmp_path)).documents["a.txt"]

    with pytest.raises(SkippableError) as caught:
        filesystem(tmp_path).read(document, LIMIT)
    assert caught.value.reason == "changed"


# Trouble below: only the kernel's answer can be put in its place here.


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("call", ["scandir", "stat", "fstat", "getxattr", "open"])
def test_failing_file_system_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """An input/output error anywhere is the end of the run, and never an absent file or an absent ACL."""
    tree(tmp_path, "a.txt", "b/x.txt")
    changes = filesystem(tmp_path).changes(None)
    next(changes)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(RetriableError, match=r"nothing counts as deleted"):
        list(changes)
    monkeypatch.undo()

    assert len(walk(filesystem(tmp_path)).documents) == 2


def test_failing_file_system_ends_a_read_retriably(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input/output error while reading stops the run; it is not this document's fault."""
    tree(tmp_path, "a.txt")
    connector = filesystem(tmp_path)
    document = walk(connector).documents["a.txt"]

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "getxattr", fail)
    with pytest.raises(RetriableError):
        connector.read(document, LIMIT)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ERANGE, errno.ENOENT])
def test_acl_that_cannot_be_read_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Any answer but `there is none` and `there are none here` means that nobody knows who may read."""
    tree(tmp_path, "a.txt")

    def fail(*_: object, **__: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "getxattr", fail)
    seen = walk(filesystem(tmp_path))

    assert isinstance(seen.documents["a.txt"].own, Unknown)
    assert isinstance(seen.scope(".").clause, Unknown)

    for absent in (errno.ENODATA, errno.ENOTSUP):
        number = absent
        assert not isinstance(walk(filesystem(tmp_path)).documents["a.txt"].own, Unknown)


def test_inode_that_never_holds_still_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mode and ACL that cannot be caught in one moment are not combined."""
    tree(tmp_path, "a.txt")
    real = os.getxattr
    count = 0

    def restless(path: str, name: str, *, follow_symlinks: bool = True) -> bytes:
        nonlocal count
        count += 1
        (tmp_path / "a.txt").chmod(0o600 | count % 0o77)
        return real(path, name, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "getxattr", restless)

    own = walk(filesystem(tmp_path)).documents["a.txt"].own
    assert own == Unknown("its rules change while they are read")


# The root goes away.


def test_other_root_is_refused_by_the_cursor(tmp_path: Path) -> None:
    """Another folder at the root's path is not taken for the source with everything deleted; the former one is."""
    root = tmp_path / "root"
    tree(tmp_path, "root/a.txt")
    first = walk(filesystem(root))
    assert first.complete is not None
    root.rename(tmp_path / "away")
    root.mkdir()
    changes = filesystem(root).changes(first.complete.cursor)

    with pytest.raises(FatalError, match="another folder than at the last complete run"):
        next(changes)

    root.rmdir()
    (tmp_path / "away").rename(root)
    assert len(list(filesystem(root).changes(first.complete.cursor))) == len(first.changes)


def test_missing_root_is_retriable(tmp_path: Path) -> None:
    """A root that is not there may be mounted later."""
    with pytest.raises(RetriableError, match="is its file system mounted"):
        walk(filesystem(tmp_path / "root"))


@pytest.mark.parametrize("cursor", [{}, {"version": 2, "root": "x", "mounts": {}}, {"version": 1, "root": None}])
def test_foreign_cursor_is_refused(tmp_path: Path, cursor: dict[str, object]) -> None:
    """A cursor that this version did not write is not half understood."""
    with pytest.raises(FatalError, match="cursor"):
        list(filesystem(tmp_path).changes(cursor))


def test_version_and_rules_are_sent_again_after_chmod(tmp_path: Path) -> None:
    """A change of rules moves ctime, so the version changes too; content is compared by its hash later."""
    tree(tmp_path, "a.txt")
    before = walk(filesystem(tmp_path)).documents["a.txt"]

    (tmp_path / "a.txt").chmod(0o600)
    after = walk(filesystem(tmp_path)).documents["a.txt"]

    assert isinstance(after, Upsert)
    assert (after.native_id, after.own != before.own) == (before.native_id, True)
