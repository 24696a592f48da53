"""A folder tree under watch: every change that a run would see is noticed, and what is missed is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors.errors import RetriableError
from connectors.filesystem import Filesystem
from connectors.notices import Noticed, Watchable
from connectors.posix import inotify, watch
from connectors.posix.watch import TreeWatch
from connectors.smb.connector import Smb
from tests.support.needs import need

SOON_S = 20.0
"""The kernel tells at once; a loaded machine may take its time to hand it over."""


@pytest.fixture
def tree() -> Iterator[Path]:
    """`top/root` with a folder, a file in it, and a folder in that.

    Not in `tmp_path`: every start of pytest sets the mode of a folder above it, which is a change to notice.
    """
    with tempfile.TemporaryDirectory(prefix="remit-watch-") as folder:
        root = Path(folder) / "top/root"
        (root / "folder/inner").mkdir(parents=True)
        (root / "folder/file.txt").write_text("text")
        yield root


@pytest.fixture
def watched(tree: Path) -> Iterator[TreeWatch]:
    found = TreeWatch(tree)
    yield found
    found.close()


def quiet(found: TreeWatch) -> bool:
    """Whether nothing was noticed."""
    return found.wait(0.05) is None


def test_silence_is_no_notice_and_looking_is_none_either(watched: TreeWatch, tree: Path) -> None:
    """Reading and listing everything, as a run does, brings no other run forward."""
    (tree / "folder/file.txt").read_text()
    list((tree / "folder").iterdir())

    assert quiet(watched)


def chmod_file(root: Path) -> None:
    (root / "folder/file.txt").chmod(0o600)


def chmod_folder(root: Path) -> None:
    (root / "folder").chmod(0o700)


def chmod_root(root: Path) -> None:
    root.chmod(0o700)


def chmod_above(root: Path) -> None:
    root.parent.chmod(0o700)


def write(root: Path) -> None:
    (root / "folder/file.txt").write_text("other text")


def new_file(root: Path) -> None:
    (root / "folder/inner/new.txt").touch()


def new_folder(root: Path) -> None:
    (root / "folder/inner/new").mkdir()


def remove(root: Path) -> None:
    (root / "folder/file.txt").unlink()


def rename(root: Path) -> None:
    (root / "folder/file.txt").rename(root / "folder/other.txt")


def move_in(root: Path) -> None:
    (root.parent / "outside.txt").write_text("text")
    (root.parent / "outside.txt").rename(root / "outside.txt")


def move_out(root: Path) -> None:
    (root / "folder").rename(root.parent / "outside")


def set_xattr(root: Path) -> None:
    os.setxattr(root / "folder/file.txt", "user.remit", b"1")


def link(root: Path) -> None:
    (root / "folder/second.txt").hardlink_to(root / "folder/file.txt")


CHANGES = [
    chmod_file,
    chmod_folder,
    chmod_root,
    chmod_above,
    write,
    new_file,
    new_folder,
    remove,
    rename,
    move_in,
    move_out,
    set_xattr,
    link,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_is_noticed_once(watched: TreeWatch, tree: Path, change: Callable[[Path], None]) -> None:
    """Rules, content, names and places, at every depth; after it there is silence again."""
    change(tree)

    assert watched.wait(SOON_S) == Noticed()
    while watched.wait(0.2) is not None:
        pass
    assert quiet(watched)


@pytest.mark.oracle
def test_an_acl_that_is_set_is_noticed(watched: TreeWatch, tree: Path) -> None:
    """As `setfacl` does it."""
    need(shutil.which("setfacl") is not None, "setfacl is not installed: deploy/test-deps.sh installs acl")

    subprocess.run(["setfacl", "-m", "u:20001:r", str(tree / "folder/file.txt")], check=True)

    assert watched.wait(SOON_S) == Noticed()


def drain(found: TreeWatch) -> None:
    """Read until there is silence."""
    while found.wait(0.2) is not None:
        pass


def test_what_is_in_a_new_folder_is_watched_too(watched: TreeWatch, tree: Path) -> None:
    """Also in one that was made with all that is in it, and one that was moved in from elsewhere."""
    (tree / "a/b/c").mkdir(parents=True)
    (tree.parent / "elsewhere/deep").mkdir(parents=True)
    (tree.parent / "elsewhere").rename(tree / "folder/here")
    drain(watched)

    for folder in ("a/b/c", "folder/here/deep"):
        (tree / folder / "new.txt").touch()
        assert watched.wait(SOON_S) == Noticed(), folder
        drain(watched)


def test_a_renamed_folder_stays_watched_and_one_that_left_is_not(watched: TreeWatch, tree: Path) -> None:
    """New folders in it, too, whose place is only right by its new name."""
    before = watched.folders
    (tree / "folder").rename(tree / "other")
    drain(watched)
    (tree / "other/inner/new").mkdir()
    drain(watched)
    (tree / "other/inner/new/file.txt").touch()
    assert watched.wait(SOON_S) == Noticed()
    drain(watched)
    assert watched.folders == before + 1

    (tree / "other").rename(tree.parent / "gone")
    drain(watched)
    (tree.parent / "gone/inner/x.txt").touch()

    assert quiet(watched)
    assert watched.folders == 1


def test_a_tree_whose_folders_move_all_the_time_is_not_gone_through_all_the_time(
    watched: TreeWatch, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rests; each move is noticed all the same, and after the rest all is watched, with a notice for the time."""
    armed: list[int] = []
    real = watched._arm_all

    def arm_all() -> None:
        armed.append(1)
        real()

    monkeypatch.setattr(watched, "_arm_all", arm_all)
    monkeypatch.setattr(watched, "_not_before_s", time.monotonic() + 3600)
    for number in range(5):
        (tree / "folder").rename(tree / f"other{number}")
        assert watched.wait(SOON_S) == Noticed()
        (tree / f"other{number}").rename(tree / "folder")
        assert watched.wait(SOON_S) == Noticed()
    assert armed == []

    monkeypatch.setattr(watched, "_not_before_s", 0.0)

    assert watched.wait(0.1) == Noticed()
    assert len(armed) == 1
    drain(watched)
    chmod_file(tree)
    assert watched.wait(SOON_S) == Noticed()


def test_links_are_not_followed(tree: Path) -> None:
    """What lies outside is another's; a root that is a link is followed, as the walk does."""
    beside = tree.parent.parent
    (beside / "outside").mkdir()
    (tree / "link").symlink_to(beside / "outside")
    (beside / "way").symlink_to(tree)
    found = TreeWatch(beside / "way")
    try:
        (beside / "outside/file.txt").touch()
        assert quiet(found)
        chmod_file(tree)
        assert found.wait(SOON_S) == Noticed()
    finally:
        found.close()


def test_a_full_queue_says_that_notices_are_missing(
    watched: TreeWatch, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was dropped: the run that follows reads everything, and new folders are watched all the same."""
    (tree / "made/meanwhile").mkdir(parents=True)
    real = watched._queue.read
    monkeypatch.setattr(watched._queue, "read", lambda: [*real(), inotify.Event(-1, inotify.OVERFLOW, b"")][-1:])

    noticed = watched.wait(SOON_S)

    assert noticed is not None
    assert "its queue was full" in noticed.missed
    monkeypatch.setattr(watched._queue, "read", real)
    drain(watched)
    (tree / "made/meanwhile/file.txt").touch()
    assert watched.wait(SOON_S) == Noticed()


def test_more_folders_than_watches_are_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, with the setting; what is watched is noticed all the same."""
    real, left = inotify.Inotify.add, [2]

    def add(self: inotify.Inotify, folder: int, mask: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(self, folder, mask)

    monkeypatch.setattr(inotify.Inotify, "add", add)
    found = TreeWatch(tree)
    try:
        noticed = found.wait(SOON_S)
        assert noticed is not None
        assert "fs.inotify.max_user_watches" in noticed.missed
        chmod_folder(tree)
        assert found.wait(SOON_S) == Noticed()
    finally:
        found.close()


def test_a_root_that_is_gone_ends_the_watch(watched: TreeWatch, tree: Path) -> None:
    """Whoever watches begins again when it is back; a root that is not there cannot be watched."""
    shutil.rmtree(tree)

    with pytest.raises(RetriableError, match="not there to be watched"):
        all(watched.wait(1.0) for _ in range(20))
    with pytest.raises(RetriableError):
        TreeWatch(tree)
    tree.mkdir()
    TreeWatch(tree).close()


def test_without_a_queue_it_says_which_limit_it_is(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's limit of queues for one user."""

    def refuse() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(watch, "Inotify", refuse)

    with pytest.raises(RetriableError, match="max_user_instances"):
        TreeWatch(tree)


def test_nothing_stays_open(tree: Path) -> None:
    """Not a descriptor more after a watch than before, whatever happened in it."""
    before = len(os.listdir("/proc/self/fd"))

    found = TreeWatch(tree)
    move_out(tree)
    drain(found)
    found.close()
    found.close()

    assert len(os.listdir("/proc/self/fd")) == before


def test_the_connectors_of_the_house_that_can_be_watched() -> None:
    """Those that say so are asked; the others are read by schedule."""
    assert issubclass(Filesystem, Watchable)
    assert issubclass(Smb, Watchable)
