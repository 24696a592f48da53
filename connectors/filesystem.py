"""A folder tree on this machine, with the rules by which its kernel decides: mode bits and POSIX ACLs.

docs/connectors/filesystem.md says what is guaranteed and what is not. The walk itself is `connectors.posix.walk`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from acl.principal import realm
from connectors.base import Change, Cursor, Finding, ScanComplete, Upsert
from connectors.errors import FatalError, RetriableError, SkippableError
from connectors.notices import Watch
from connectors.posix import survey
from connectors.posix.again import look_again
from connectors.posix.content import read_file, too_large
from connectors.posix.folder import LOOK, Folder, chain, scope_id
from connectors.posix.inode import CLOSED, GONE, LOST, Inode, inode_of_descriptor, inode_of_name, lost, origin_of
from connectors.posix.names import decode, encode
from connectors.posix.walk import Rules, Walk, version_of
from connectors.posix.watch import TreeWatch


class Filesystem:
    """Reads one folder tree. Needs no root; as root it sees every file and still sends every rule.

    Ids hold device, inode and birth, never a path. A hard link is a document of its own at each place.
    `read` answers for what the last `changes` of the same object sent; one thread may walk while another reads.
    There are no checkpoints: a walk starts at the root again, and what is unchanged costs little.
    """

    def __init__(
        self,
        root: Path,
        *,
        id_domain: str,
        ancestors_above_root: Literal["enforce", "trust"],
        gone_mounts: Sequence[str] = (),
        foreign_permissions: Literal["refuse", "trust"] = "refuse",
    ) -> None:
        """Nothing is opened yet. Raises InvalidValueError for an `id_domain` that is no realm's.

        root: an absolute path; symlinks in it are followed once, at the start of each walk.
        id_domain: whose uid and gid numbers these are.
        ancestors_above_root: whether the folders above the root count (`enforce`), or only the root and below.
        gone_mounts: mount points below the root, as paths relative to it, that were removed on purpose.
        foreign_permissions: `trust` accepts mode bits and ACLs also where a server may decide otherwise.
        """
        realm("posix", id_domain)
        self._root: Final = root
        self._rules: Final = Rules(id_domain, ancestors_above_root == "enforce", foreign_permissions == "trust")
        self._gone: Final = frozenset(_encoded(path) for path in gone_mounts)
        self._walk = Walk(root, self._rules)

    def check(self) -> list[Finding]:
        """Say what this process can read below the root, and what decides there."""
        return survey.check(self._root, self._rules)

    def changes(self, cursor: Cursor | None) -> Iterator[Change]:
        """Walk the whole tree. The cursor holds the identity of the root and of every mount below it."""
        walk = self._walk = Walk(self._root, self._rules)
        root, mounts = _remembered(cursor)
        checked = False
        for item in walk.run():
            if not checked and walk.root is not None:
                self._require_same_root(root, walk.root)
                self._require_mounts(mounts)
                checked = True
            yield item
        for number, path in mounts.items():
            if number not in walk.nested and path not in self._gone:
                raise self._unmounted(path)
        yield from look_again(walk)
        yield ScanComplete({"version": 1, "root": walk.root, "mounts": dict(walk.nested)})

    def watch(self) -> Watch:
        """Watch every folder below the root, and those above it. See `connectors.notices.Watchable`."""
        return TreeWatch(self._root)

    def read(self, document: Upsert, limit_bytes: int) -> bytes:
        """Return the content of `document.version`, if everything is as it was sent, before and after reading."""
        if document.size_bytes > limit_bytes:
            raise too_large(document.location, limit_bytes)
        name = decode(document.native_id.rpartition("/")[2])
        try:
            folder = self._open_folder(document)
            try:
                self._compare(folder, name, document)
                content = read_file(folder, name, document.version, document.location, limit_bytes)
            finally:
                os.close(folder)
            # The rules again, after the content: text is never newer than the rules it goes with.
            folder = self._open_folder(document)
            try:
                self._compare(folder, name, document)
            finally:
                os.close(folder)
        except OSError as err:
            raise _unread(err, document) from err
        return content

    def close(self) -> None:
        """Hold nothing, so release nothing: descriptors live only as long as a walk or a read."""

    def _open_folder(self, document: Upsert) -> int:
        """Open the document's folder from the outermost one down, each as it was sent. Raises SkippableError."""
        walk = self._walk
        folder = walk.sent.get(document.scope) if document.scope is not None else None
        if folder is None:
            raise _changed(document, "its folder was not met by the last walk")
        here: int | None = None
        try:
            steps = chain(folder, walk.sent)
            for step in steps:
                inner = os.open(step.name, LOOK, dir_fd=here)
                if here is not None:
                    os.close(here)
                here = inner
                self._compare_folder(here, step, document)
            # Asked last: what was sent meanwhile may not be in force yet.
            if any(step.id in walk.twice for step in steps):
                raise _changed(document, "a folder around it changed while it was walked")
        except BaseException:
            if here is not None:
                os.close(here)
            raise
        assert here is not None
        return here

    def _compare_folder(self, descriptor: int, sent: Folder, document: Upsert) -> None:
        walk = self._walk
        found = inode_of_descriptor(descriptor)
        if scope_id(walk.devices, found, origin_of(descriptor)) != sent.id:
            raise _changed(document, f"`{sent.location}` is another folder now")
        if walk.clauses.folder(found) != sent.clause:
            raise _changed(document, f"the rules of `{sent.location}` changed")

    def _compare(self, folder: int, name: str, document: Upsert) -> Inode:
        found = inode_of_name(folder, name)
        if version_of(found.status) != document.version or not stat.S_ISREG(found.status.st_mode):
            raise _changed(document, "it was written to, replaced, or got other rules")
        if self._walk.clauses.file(found) != document.own:
            raise _changed(document, "its own rules changed")
        return found

    def _require_same_root(self, remembered: str | None, found: str) -> None:
        if remembered is not None and remembered != found:
            raise FatalError(
                f"`{self._root}` is another folder than at the last complete run: nothing counts as deleted; "
                "mount the former one again, or give the source a new name"
            )

    def _require_mounts(self, mounts: dict[str, str]) -> None:
        """Fail before the walk when a mount point is still there as a folder, and nothing is mounted on it."""
        for path in mounts.values():
            place = self._root.joinpath(*(decode(part) for part in path.split("/")))
            if path not in self._gone and _is_bare(place):
                raise self._unmounted(path)

    def _unmounted(self, path: str) -> RetriableError:
        shown = "/".join(decode(part) for part in path.split("/"))
        return RetriableError(
            f"`{self._root}`: what was mounted on `{shown}` is not there: nothing counts as deleted; mount it again, "
            f"or list `{shown}` under `gone_mounts` when it is gone on purpose"
        )


def _is_bare(place: Path) -> bool:
    """True when there is a folder, and nothing is mounted on it; the end of the walk tells what this cannot."""
    try:
        inner = os.open(place, LOOK)
    except OSError as err:
        if err.errno in LOST:
            raise lost(err, str(place)) from err
        return False
    try:
        outer = os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=inner)
        try:
            one, other = origin_of(inner).mount, origin_of(outer).mount
            if one is not None and other is not None:
                return one == other
            return os.fstat(inner).st_dev == os.fstat(outer).st_dev
        finally:
            os.close(outer)
    except OSError as err:
        raise lost(err, str(place)) from err
    finally:
        os.close(inner)


def _remembered(cursor: Cursor | None) -> tuple[str | None, dict[str, str]]:
    """The root's identity and the mounts of the last complete run. Raises FatalError for a cursor of another kind."""
    if cursor is None:
        return None, {}
    root, mounts = cursor.get("root"), cursor.get("mounts")
    if cursor.get("version") != 1 or not isinstance(root, str) or not isinstance(mounts, dict):
        raise FatalError("the cursor was not written by this version of the file system connector")
    return root, {str(number): str(path) for number, path in mounts.items()}


def _encoded(path: str) -> str:
    return "/".join(encode(part) for part in PurePosixPath(path).parts)


def _changed(document: Upsert, why: str) -> SkippableError:
    return SkippableError("changed", f"`{document.location}`: {why}")


def _unread(err: OSError, document: Upsert) -> SkippableError | RetriableError:
    if err.errno in LOST:
        return lost(err, document.location)
    if err.errno in GONE:
        return SkippableError("vanished", f"`{document.location}` is gone, or something else took its place")
    if err.errno in CLOSED:
        return SkippableError("unreadable", f"`{document.location}` may not be read by this process")
    return SkippableError("unreadable", f"`{document.location}`: {err.strerror}")
