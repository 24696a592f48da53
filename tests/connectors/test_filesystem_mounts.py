"""Mounts below and at the root: they come, go and lead in circles. Each test has a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

from connectors.posix.mounts import Mounts
from tests.support.needs import need

_PRELUDE = """
import json, os, subprocess, sys
from pathlib import Path
from connectors.errors import FatalError, RetriableError
from tests.connectors.trees import Seen, filesystem, walk

def mount(*what):
    subprocess.run(["mount", *map(str, what)], check=True)

def fails(kind, connector, cursor):
    try:
        changes = list(connector.changes(cursor))
    except kind as err:
        return err.detail
    raise AssertionError(f"no {kind.__name__} but {changes}")

base = Path(sys.argv[1])
root = base / "root"
root.mkdir()
(root / "a.txt").write_text("a")
"""


@cache
def _unshares() -> bool:
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def run(folder: Path, body: str) -> None:
    """Run `body` where mounting is allowed and nobody else sees it."""
    need(_unshares(), "mounting needs user namespaces: `sysctl kernel.unprivileged_userns_clone=1`, and util-linux")
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c"]
    script = _PRELUDE + textwrap.dedent(body)
    done = subprocess.run([*command, script, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_vanished_mount_below_the_root_is_no_deletion(tmp_path: Path) -> None:
    """An unmounted folder ends the run with its name, before and after the folder itself is gone; mounted, it goes on.

    Listed under `gone_mounts`, it is let go.
    """
    run(
        tmp_path,
        """
        point = root / "projects" / "new\\nline"
        point.mkdir(parents=True)
        source = base / "disk"
        source.mkdir()
        (source / "b.txt").write_text("b")
        mount("--bind", source, point)
        first = walk(filesystem(root))
        assert len(first.documents) == 2, first.documents
        cursor = json.loads(json.dumps(first.complete.cursor))
        assert len(cursor["mounts"]) == 1, cursor
        assert list(filesystem(root).changes(cursor)) == first.changes

        subprocess.run(["umount", point], check=True)
        connector = filesystem(root)
        assert "projects/new" in fails(RetriableError, connector, cursor)

        # With its folder gone too, the walk itself finds that it is missing.
        point.rmdir()
        assert "gone_mounts" in fails(RetriableError, filesystem(root), cursor)
        point.mkdir()

        gone = filesystem(root, gone_mounts=["projects/new\\nline"])
        assert list(Seen(gone.changes(cursor)).documents) == ["a.txt"]

        mount("--bind", source, point)
        assert list(filesystem(root).changes(cursor)) == first.changes
        """,
    )


def test_other_file_system_on_a_mount_point_is_no_deletion(tmp_path: Path) -> None:
    """Another, empty file system where one was mounted is not that one with everything deleted."""
    run(
        tmp_path,
        """
        point = root / "projects"
        point.mkdir()
        mount("-t", "tmpfs", "one", point)
        (point / "b.txt").write_text("b")
        cursor = walk(filesystem(root)).complete.cursor

        mount("-t", "tmpfs", "two", point)
        assert "projects" in fails(RetriableError, filesystem(root), cursor)

        subprocess.run(["umount", point], check=True)
        assert len(Seen(filesystem(root).changes(cursor)).documents) == 2
        """,
    )


def test_mount_that_moved_with_its_folder_is_there(tmp_path: Path) -> None:
    """A mount point whose folder was renamed is found at its new place."""
    run(
        tmp_path,
        """
        (root / "projects" / "disk").mkdir(parents=True)
        mount("-t", "tmpfs", "one", root / "projects" / "disk")
        (root / "projects" / "disk" / "b.txt").write_text("b")
        cursor = walk(filesystem(root)).complete.cursor

        (root / "projects").rename(root / "renamed")
        assert "renamed/disk/b.txt" in Seen(filesystem(root).changes(cursor)).documents
        """,
    )


def test_mount_below_a_folder_that_was_closed_is_told_by_the_walk(tmp_path: Path) -> None:
    """A mount point that cannot be looked at any more ends the run with its name, not with a traceback."""
    run(
        tmp_path,
        """
        (root / "closed" / "disk").mkdir(parents=True)
        mount("-t", "tmpfs", "one", root / "closed" / "disk")
        cursor = walk(filesystem(root)).complete.cursor
        (root / "closed").rename(root / ("x" * 255))
        for name in ("closed", "loop"):
            (root / name).symlink_to(name)
        subprocess.run(["umount", root / ("x" * 255) / "disk"], check=True)

        assert "closed/disk" in fails(RetriableError, filesystem(root), cursor)
        """,
    )


def test_vanished_mount_at_the_root_is_no_deletion(tmp_path: Path) -> None:
    """The empty folder under an unmounted root is another folder than the root."""
    run(
        tmp_path,
        """
        mount("-t", "tmpfs", "one", root)
        (root / "b.txt").write_text("b")
        first = walk(filesystem(root))
        assert list(first.documents) == ["b.txt"]
        subprocess.run(["umount", root], check=True)

        assert "another folder" in fails(FatalError, filesystem(root), first.complete.cursor)
        """,
    )


def test_circle_of_mounts_ends(tmp_path: Path) -> None:
    """A folder mounted inside itself is reported once and not gone into."""
    run(
        tmp_path,
        """
        (root / "inner").mkdir()
        (root / "inner" / "b.txt").write_text("b")
        (root / "inner" / "again").mkdir()
        mount("--rbind", root, root / "inner" / "again")

        seen = walk(filesystem(root))
        assert sorted(seen.documents) == ["a.txt", "inner/b.txt"]
        assert seen.reasons() == [("inner/again", "mounted twice")]
        assert seen.scope("inner").parent == seen.scope(".").id
        """,
    )


def test_folder_mounted_at_two_places_counts_at_the_first(tmp_path: Path) -> None:
    """A second mount of a folder neither moves it nor opens it: its rules are those of the first way."""
    run(
        tmp_path,
        """
        (root / "closed" / "inner").mkdir(parents=True)
        (root / "closed" / "inner" / "b.txt").write_text("b")
        (root / "closed").chmod(0o700)
        (root / "open").mkdir()
        mount("--bind", root / "closed" / "inner", root / "open")

        seen = walk(filesystem(root))
        assert sorted(seen.documents) == ["a.txt", "closed/inner/b.txt"]
        assert seen.scope("closed/inner").parent == seen.scope("closed").id
        assert seen.reasons() == [("open", "mounted twice")]
        """,
    )


def test_ids_survive_another_device_number(tmp_path: Path) -> None:
    """Ids do not hold device numbers: mounts in another order give the same ones."""
    run(
        tmp_path,
        """
        disk = base / "disk"
        (disk / "folder").mkdir(parents=True)
        (disk / "folder" / "b.txt").write_text("b")
        (root / "one").mkdir()
        mount("--bind", disk, root / "one")
        before = walk(filesystem(root))
        subprocess.run(["umount", root / "one"], check=True)
        device = os.stat(disk).st_dev
        mount("-t", "tmpfs", "other", base / "root" / "one")
        subprocess.run(["umount", root / "one"], check=True)
        mount("--bind", disk, root / "one")

        after = walk(filesystem(root))
        assert after.documents == before.documents
        assert not any(str(device) in document.native_id.split(":")[1] for document in after.documents.values())
        """,
    )


def test_nested_mount_of_a_foreign_kind_is_withheld(tmp_path: Path) -> None:
    """A nested file system where somebody else may decide is nobody's and reported; beside it all is well."""
    run(
        tmp_path,
        """
        (root / "system").mkdir()
        mount("-t", "tmpfs", "mine", root)
        (root / "system").mkdir()
        (root / "a.txt").write_text("a")
        mount("--rbind", "/sys", root / "system")

        seen = walk(filesystem(root, foreign_permissions="refuse"))
        assert list(seen.documents) == ["a.txt"]
        reasons = seen.reasons()
        assert reasons in ([("system", "no identity")], [("system", "foreign permissions")]), reasons
        assert seen.complete is not None
        """,
    )


def test_owner_outside_of_the_user_namespace_is_unknown(tmp_path: Path) -> None:
    """Where this process sees ids through a namespace, an owner that it cannot name owns nothing for anybody."""
    run(
        tmp_path,
        """
        from acl.model import Unknown
        enforced = walk(filesystem(root, ancestors_above_root="enforce"))
        assert not isinstance(enforced.scope(".").clause, Unknown)
        root_owner = os.stat("/").st_uid
        assert isinstance(enforced.scope("/").clause, Unknown) == (root_owner != os.geteuid())
        """,
    )


def test_mount_table_is_read_with_its_escapes(tmp_path: Path) -> None:
    """Spaces in mount points and optional fields do not shift the columns; an unknown number is None."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n"
        "30 27 0:25 / /mnt/my\\040share rw - cifs //server/share rw,vers=3.0\n"
    )
    mounts = Mounts(table)

    found = mounts.find(30, 0)
    assert found is not None
    assert (found.point, found.kind) == ("/mnt/my share", "cifs")
    by_device = mounts.find(None, 254 << 8)
    assert by_device is not None
    assert by_device.kind == "ext4"
    assert mounts.find(31, 254 << 8) is None
