"""The second look at the end of a walk: folders that are not as they were sent are sent again, and not read by."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from acl.model import Unknown
from connectors.base import Change, ScanComplete, ScopeChange, Upsert
from connectors.errors import RetriableError, SkippableError
from connectors.filesystem import Filesystem
from tests.connectors.trees import Seen, descriptors, filesystem, open_tree, unprivileged

LIMIT = 1 << 20


def tree(root: Path, *files: str) -> None:
    """Write files that hold their own names."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)


def walked(connector: Filesystem, what: Callable[[], object]) -> Seen:
    """Walk, and do something when everything but the second look is done: after the last document."""
    changes: list[Change] = []
    last = [change.location for change in connector.changes(None) if isinstance(change, Upsert)][-1]
    for change in connector.changes(None):
        changes.append(change)
        if getattr(change, "location", "") == last:
            what()
    return Seen(changes)


def sent(seen: Seen, location: str) -> list[ScopeChange]:
    """How often a folder was sent, and as what."""
    return [change for change in seen.changes if isinstance(change, ScopeChange) and change.location == location]


@pytest.mark.parametrize("where", [".", "a", "a/inner"])
def test_folder_whose_rules_change_behind_the_walk_is_sent_again(tmp_path: Path, where: str) -> None:
    """The last word on it are the rules of the end; its neighbours are sent once; below it nothing is read."""
    tree(tmp_path, "a/inner/x.txt", "b/y.txt", "c/z.txt")
    for folder in (".", "a", "a/inner", "b"):
        (tmp_path / folder).chmod(0o755)
    connector = filesystem(tmp_path)

    seen = walked(connector, lambda: (tmp_path / where).chmod(0o700))

    twice = sent(seen, where)
    assert len(twice) == 2
    assert twice[0].clause != twice[1].clause
    assert len(sent(seen, "b")) == 1
    assert isinstance(seen.changes[-1], ScanComplete)
    with pytest.raises(SkippableError) as caught:
        connector.read(seen.documents["a/inner/x.txt"], LIMIT)
    assert caught.value.reason == "changed"
    if where != ".":
        assert connector.read(seen.documents["b/y.txt"], LIMIT) == b"b/y.txt"


def test_folder_above_the_root_counts_as_well(tmp_path: Path) -> None:
    """With `enforce`, what is above the root is looked at again like the rest."""
    tree(tmp_path, "above/root/x.txt")
    (tmp_path / "above").chmod(0o755)

    seen = walked(
        filesystem(tmp_path / "above" / "root", ancestors_above_root="enforce"),
        lambda: (tmp_path / "above").chmod(0o700),
    )

    assert len(sent(seen, str(tmp_path / "above"))) == 2


@pytest.mark.parametrize("how", ["moved away", "moved into another", "removed", "replaced", "a symlink"])
def test_folder_that_is_no_longer_at_its_place_is_withheld(tmp_path: Path, how: str) -> None:
    """Whether it is gone or lies in a closed folder now cannot be told: nobody's, and nothing in it counts as gone."""
    tree(tmp_path, "a/inner/x.txt", "b/y.txt", "c/z.txt")
    inner = tmp_path / "a" / "inner"

    def act() -> None:
        match how:
            case "moved away":
                inner.rename(tmp_path.with_name("elsewhere"))
            case "moved into another":
                inner.rename(tmp_path / "b" / "inner")
            case "removed":
                shutil.rmtree(inner)
            case "replaced":
                inner.rename(tmp_path / "b" / "other")
                tree(tmp_path, "a/inner/x.txt")
            case _:
                inner.rename(tmp_path / "b" / "inner")
                inner.symlink_to(tmp_path / "b" / "inner")

    seen = walked(filesystem(tmp_path), act)

    last = sent(seen, "a/inner")[-1]
    assert isinstance(last.clause, Unknown)
    assert not last.complete
    assert seen.reasons() == [("a/inner", "changed")]
    assert all(not isinstance(sent(seen, folder)[-1].clause, Unknown) for folder in (".", "a", "b"))


def test_root_that_moved_ends_the_run(tmp_path: Path) -> None:
    """Then nothing below it can be found again, and nothing counts as deleted."""
    tree(tmp_path, "root/x.txt")

    with pytest.raises(RetriableError):
        walked(filesystem(tmp_path / "root"), lambda: (tmp_path / "root").rename(tmp_path / "elsewhere"))


def test_folder_that_was_withheld_stays_so() -> None:
    """The second look does not make known what the first could not see; the neighbour is."""
    with open_tree() as root, unprivileged():
        tree(root, "a/x.txt", "b/y.txt")
        (root / "a").chmod(0o000)
        try:
            seen = Seen(filesystem(root).changes(None))
        finally:
            (root / "a").chmod(0o700)

    assert [isinstance(scope.clause, Unknown) for scope in sent(seen, "a")] == [True]
    assert [isinstance(scope.clause, Unknown) for scope in sent(seen, "b")] == [False]


def test_many_folders_need_few_descriptors(tmp_path: Path) -> None:
    """The second look holds two folders open, whatever the depth and width of the tree."""
    path = tmp_path
    for number in range(100):
        path = path / "d"
        tree(path, f"{number}.txt", "side/x.txt")
    before = descriptors()
    most = 0
    for change in filesystem(tmp_path).changes(None):
        if isinstance(change, ScopeChange):
            most = max(most, len(descriptors() - before))

    assert most < 80
    assert descriptors() <= before
