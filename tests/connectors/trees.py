"""Trees on disk with real rules, and what a connector makes of them. For the tests of the file system connector."""

from __future__ import annotations

import codecs
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from acl.model import Acl, ScopeId, Unknown
from acl.scopes import ScopeRow, ScopeTree
from connectors.base import Change, Connector, ScanComplete, ScopeChange, Skip, Upsert
from connectors.filesystem import Filesystem
from tests.acl.posix_acls import Entry, packed
from tests.support.needs import need

UNPRIVILEGED = 20999


def acl_bytes(entries: Sequence[Entry]) -> bytes:
    """The value of `system.posix_acl_access`, in the order that the kernel wants."""
    return packed(sorted(entries, key=lambda entry: (entry[0], entry[2])))


def set_acl(path: Path, entries: Sequence[Entry]) -> None:
    """Set a real ACL, which the owner may do without root; skip where the file system refuses."""
    try:
        os.setxattr(path, "system.posix_acl_access", acl_bytes(entries))
    except OSError as err:
        if err.errno == errno.EINVAL:
            need(False, "this user namespace does not map ids 20001 and up: run outside of a rootless container")
        if err.errno != errno.ENOTSUP:
            raise
        need(False, f"the file system of {path} has no POSIX ACLs: set TMPDIR to one that has")


def filesystem(root: Path, **options: object) -> Filesystem:
    """A connector for tests: in domain `corp`, only the root and below."""
    settings: dict[str, object] = {"id_domain": "corp", "ancestors_above_root": "trust"}
    # The trees of tests stand wherever TMPDIR points, which may be any file system.
    settings["foreign_permissions"] = "trust"
    return Filesystem(root, **(settings | options))  # type: ignore[arg-type]  # the options of a test


@contextmanager
def open_tree() -> Iterator[Path]:
    """A temporary folder that other users can pass through, and that the unprivileged user owns."""
    with tempfile.TemporaryDirectory(prefix="remit-test-") as name:
        root = Path(name)
        if os.geteuid() == 0:
            os.chown(root, UNPRIVILEGED, UNPRIVILEGED)
        root.chmod(0o755)
        yield root


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run without the right to read everything, also when the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    # Python imports a codec when it is first asked for, remembers for good that it found none, and may lie where only
    # root can read.
    codecs.lookup("ascii")
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(UNPRIVILEGED)
    os.seteuid(UNPRIVILEGED)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def descriptors() -> set[tuple[str, str]]:
    """What this process holds open: number and target.

    Compare by difference: what earlier tests left to the garbage collector may be closed at any moment.
    """
    found: set[tuple[str, str]] = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, str(Path("/proc/self/fd", number).readlink())))
        except OSError as err:
            if err.errno == errno.ENAMETOOLONG:
                found.add((number, "a long path"))
            elif err.errno != errno.ENOENT:  # the listing's own
                raise
    return found


class Seen:
    """A walk, sorted by what came. Later changes of one scope replace earlier ones."""

    def __init__(self, changes: Iterator[Change] | Sequence[Change]) -> None:
        self.changes = list(changes)
        self.scopes: dict[ScopeId, ScopeChange] = {}
        self.documents: dict[str, Upsert] = {}
        self.skips: list[Skip] = []
        self.complete: ScanComplete | None = None
        for change in self.changes:
            match change:
                case ScopeChange():
                    self.scopes[change.id] = change
                case Upsert():
                    self.documents[change.location] = change
                case Skip():
                    self.skips.append(change)
                case ScanComplete():
                    self.complete = change
                case _:
                    raise AssertionError(f"the file system sends no {change}")

    def scope(self, location: str) -> ScopeChange:
        """The container that was last sent from this location."""
        found = [scope for scope in self.scopes.values() if scope.location == location]
        assert len(found) == 1, f"{location}: {found}"
        return found[0]

    def acl(self, location: str) -> Acl | Unknown:
        """The ACL that the catalog would make of it."""
        rows = [ScopeRow(s.id, s.parent, s.clause, s.location) for s in self.scopes.values()]
        document = self.documents[location]
        return ScopeTree(rows).acl(document.scope, document.own)

    def reasons(self) -> list[tuple[str, str]]:
        """What was skipped: location and reason."""
        return sorted((skip.location, skip.reason) for skip in self.skips)


def walk(connector: Connector) -> Seen:
    """Walk without a cursor."""
    return Seen(connector.changes(None))
