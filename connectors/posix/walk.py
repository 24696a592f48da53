"""One walk over a tree: every folder with its rules, then what is in it, as a stream of changes.

Responsible for never leaving the tree (each name is opened within its folder's descriptor, symlinks never), for never
taking "cannot be seen" for "is gone", and for remembering what it sent. Reading content is `connectors.filesystem`.

What keeps a race from widening access:
1. A folder is sent with rules read from the descriptor through which it is then listed.
2. Mode and ACL of an inode come from one moment (`inode._steady`).
3. A folder met twice was moved meanwhile, and its later place counts; met through another mount, its first place does.
4. What moves under the walk's feet is sent as unknown, and its content counts as not seen.
5. At the end every folder is looked at again (`again`): what is not as it was sent is sent again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Final

from acl.model import MAX_DEPTH, ScopeId, Unknown
from connectors.base import ScopeChange, Skip, Upsert
from connectors.errors import FatalError, RetriableError
from connectors.media_types import UNKNOWN, media_type
from connectors.posix.folder import LIST, LOOK, Clauses, Devices, Folder, scope_id
from connectors.posix.inode import (
    CLOSED,
    GONE,
    Inode,
    Origin,
    inode_of_descriptor,
    inode_of_name,
    lost,
    origin_of,
)
from connectors.posix.mounts import LOCAL, Mounts
from connectors.posix.names import display, encode, join
from connectors.posix.trail import MovedError, Trail

Item = ScopeChange | Upsert | Skip

_MAX_VISITS: Final = 2
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a walk is told. enforce: folders above the root count. trust_foreign: see `mounts`."""

    id_domain: str
    enforce: bool
    trust_foreign: bool


class Walk:
    """One pass over the tree.

    sent: every folder as it was last sent, by id.
    withheld: those of them that were sent as unknown because they could not be walked.
    twice: folders that were sent again with other rules or at another place, so that no read can rely on them.
    root: the root's id, once it was met.
    nested: for each mount point below the root, its path below the root, encoded.
    """

    def __init__(self, root: Path, rules: Rules) -> None:
        self.sent: Final[dict[ScopeId, Folder]] = {}
        self.withheld: Final[set[ScopeId]] = set()
        self.twice: Final[set[ScopeId]] = set()
        self.root: ScopeId | None = None
        self.nested: Final[dict[str, str]] = {}
        self.clauses: Final = Clauses(rules.id_domain)
        self.devices = Devices(0)
        self._path: Final = root
        self._rules: Final = rules
        self._mounts: Final = Mounts()
        self._visits: Final[dict[tuple[int, int], tuple[int | None, int]]] = {}

    def run(self) -> Iterator[Item]:
        """Yield everything from the outermost folder down. Raises RetriableError or FatalError."""
        trail = Trail()
        try:
            yield from self._approach(trail)
            while trail:
                name = trail.next_name()
                if name is None:
                    trail.pop()
                    continue
                try:
                    descriptor = trail.descriptor()
                except MovedError:
                    yield from self.withhold(trail.folder, "changed", "it was moved while it was walked")
                    trail.pop()
                    continue
                yield from self._visit(trail, descriptor, name)
        finally:
            trail.close()

    # The way to the root.

    def _approach(self, trail: Trail) -> Iterator[Item]:
        """Send the folders above the root if they count, then the root, and go into it."""
        real = self._real_path()
        steps = ["/", *real.parts[1:]] if self._rules.enforce else [str(real)]
        looks: list[tuple[Inode, Origin]] = []
        here = -1
        try:
            for number, step in enumerate(steps):
                inner = self._open_above(step, here, LIST if number == len(steps) - 1 else LOOK)
                if here >= 0:
                    os.close(here)
                here = inner
                looks.append((inode_of_descriptor(here), origin_of(here)))
            folders = self._above(steps, looks)
            for folder in folders:
                yield self.scope(folder)
            descriptor, here = here, -1
            yield from self._enter(trail, descriptor, folders[-1])
        except OSError as err:
            raise lost(err, str(real)) from err
        finally:
            if here >= 0:
                os.close(here)

    def _above(self, steps: list[str], looks: list[tuple[Inode, Origin]]) -> list[Folder]:
        """The folders down to the root, which is the last. Refuses a root whose readers somebody else decides."""
        self.devices = Devices(looks[-1][0].place[0])
        folders: list[Folder] = []
        for number, (step, (found, origin)) in enumerate(zip(steps, looks, strict=True)):
            location = "." if number == len(steps) - 1 else "/" + "/".join(steps[1 : number + 1])
            parent = folders[-1] if folders else None
            folders.append(self._folder(step, found, origin, parent, display(location), ""))
        foreign = self._foreign(folders[-1])
        if foreign:
            raise FatalError(f"`{self._path}` {foreign}")
        self.root = folders[-1].id
        return folders

    def _real_path(self) -> Path:
        try:
            real = self._path.resolve(strict=True)
        except RuntimeError as err:  # a circle of symlinks, before Python 3.13
            raise FatalError(f"`{self._path}`: its symbolic links lead in a circle") from err
        except OSError as err:
            if err.errno in GONE:
                raise RetriableError(f"`{self._path}` is not there: is its file system mounted?") from err
            raise FatalError(f"`{self._path}`: {err.strerror}") from err
        if not real.is_dir():
            raise FatalError(f"`{self._path}` is not a folder")
        return real

    def _open_above(self, step: str, above: int, flags: int) -> int:
        try:
            return os.open(step, flags, dir_fd=above if above >= 0 else None)
        except OSError as err:
            if err.errno in GONE:
                raise RetriableError(f"`{self._path}` was moved while it was opened: try again") from err
            if err.errno in CLOSED:
                raise FatalError(f"`{self._path}` may not be read by this process: {err.strerror}") from err
            raise lost(err, str(self._path)) from err

    # Below the root.

    def _visit(self, trail: Trail, outer: int, name: str) -> Iterator[Item]:
        """Send the folder `name`, and go into it."""
        parent = trail.folder
        location = join(parent.location, display(name))
        try:
            descriptor, listable = _open(outer, name)
        except OSError as err:
            if err.errno in GONE:
                return
            if err.errno in CLOSED:
                yield from self.withhold(parent, "unreadable folder", "its entries cannot be examined")
                return
            raise lost(err, location) from err
        try:
            found, origin = inode_of_descriptor(descriptor), origin_of(descriptor)
            if not origin.birth:
                why = "neither a birth time nor a file handle tells it from a later folder with the same number"
                yield Skip(None, location, "no identity", why)
                return
            path = f"{parent.path}/{encode(name)}" if parent.path else encode(name)
            folder = self._folder(name, found, origin, parent, location, path)
            refusal = self._refusal(folder, parent)
            if refusal is not None:
                yield from refusal
                return
            if not listable:
                yield from self.withhold(folder, "unreadable folder", "the folder cannot be listed")
                return
            yield self.scope(folder)
            descriptor, going = -1, descriptor
            yield from self._enter(trail, going, folder)
        except OSError as err:
            raise lost(err, location) from err
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _refusal(self, folder: Folder, parent: Folder) -> Iterator[Item] | None:
        """Return what to send in place of going into the folder, None to go on. Notes mounts and visits."""
        if self._crosses(folder, parent):
            self.nested[folder.id] = folder.path
            foreign = self._foreign(folder)
            if foreign:
                return self.withhold(folder, "foreign permissions", foreign)
        if folder.depth > MAX_DEPTH:
            return self.withhold(folder, "too deep", f"it lies deeper than {MAX_DEPTH} folders")
        mount, visits = self._visits.get(folder.place, (folder.mount, 0))
        if visits and (mount != folder.mount or self._is_around(folder, parent)):
            return iter((Skip(None, folder.location, "mounted twice", "the same folder was met at another place"),))
        self._visits[folder.place] = (mount, visits + 1)
        if visits >= _MAX_VISITS:
            return self.withhold(folder, "changed", "it is moved again and again while it is walked")
        return None

    def _enter(self, trail: Trail, descriptor: int, folder: Folder) -> Iterator[Item]:
        """List the folder, and leave its subfolders to the trail, which owns the descriptor from here."""
        self._visits.setdefault(folder.place, (folder.mount, 1))
        trail.push(folder, descriptor)
        waiting = yield from self._list(descriptor, folder)
        trail.wait(waiting)

    def _list(self, descriptor: int, folder: Folder) -> Generator[Item, None, list[str]]:
        """Yield the folder's files, and return the names of its subfolders."""
        waiting: list[str] = []
        left_out: dict[str, tuple[int, str]] = {}
        with os.scandir(descriptor) as entries:
            for entry in entries:
                name = entry.name
                try:
                    found = inode_of_name(descriptor, name)
                except OSError as err:
                    if err.errno in GONE:
                        continue
                    if err.errno in CLOSED:
                        yield from self.withhold(folder, "unreadable folder", "its entries cannot be examined")
                        return []
                    raise lost(err, join(folder.location, display(name))) from err
                kind = stat.S_IFMT(found.status.st_mode)
                if kind == stat.S_IFREG:
                    yield self._document(folder, name, found)
                elif kind == stat.S_IFDIR:
                    waiting.append(name)
                else:
                    reason = "symlink" if kind == stat.S_IFLNK else "special file"
                    count, first = left_out.get(reason, (0, name))
                    left_out[reason] = count + 1, min(first, name)
        for reason, (count, first) in left_out.items():
            what = "symbolic links are not followed" if reason == "symlink" else "pipes, sockets and devices"
            yield Skip(None, folder.location, reason, f"{what}: {count}, such as `{display(first)}`")
        return waiting

    def withhold(self, folder: Folder, reason: str, detail: str) -> Iterator[Item]:
        """Send the folder as nobody's, with everything in it not seen."""
        self._remember(folder)
        self.withheld.add(folder.id)
        yield ScopeChange(folder.id, folder.parent, Unknown(detail), folder.location, complete=False)
        yield Skip(None, folder.location, reason, detail)

    # Values.

    def _remember(self, folder: Folder) -> None:
        before = self.sent.get(folder.id)
        if before is not None and (before.parent, before.clause) != (folder.parent, folder.clause):
            # First, so that who reads by the new one learns of it.
            self.twice.add(folder.id)
        self.sent[folder.id] = folder

    def scope(self, folder: Folder) -> ScopeChange:
        """Say that a folder stands so."""
        self._remember(folder)
        self.withheld.discard(folder.id)
        return ScopeChange(folder.id, folder.parent, folder.clause, folder.location)

    def _folder(
        self, name: str, found: Inode, origin: Origin, parent: Folder | None, location: str, path: str
    ) -> Folder:
        if not origin.birth:
            raise FatalError(
                f"`{self._path}`: `{location}` is on a file system without birth times and file handles, "
                "so that a folder cannot be told from a later one with the same number: it cannot be a source"
            )
        return Folder(
            id=scope_id(self.devices, found, origin),
            parent=parent.id if parent is not None else None,
            name=name,
            place=found.place,
            mount=origin.mount,
            clause=self.clauses.folder(found),
            location=location,
            path=path,
            depth=parent.depth + 1 if parent is not None else 1,
        )

    def _document(self, folder: Folder, name: str, found: Inode) -> Upsert:
        shown = display(name)
        return Upsert(
            native_id=f"{folder.id}/{encode(name)}",
            scope=folder.id,
            own=self.clauses.file(found),
            version=version_of(found.status),
            name=shown,
            location=join(folder.location, shown),
            media_type=media_type(shown) or UNKNOWN,
            size_bytes=found.status.st_size,
            modified_at=_moment(found.status.st_mtime),
        )

    def _crosses(self, folder: Folder, parent: Folder) -> bool:
        if folder.mount is None or parent.mount is None:
            return folder.place[0] != parent.place[0]
        return folder.mount != parent.mount

    def _is_around(self, folder: Folder, inner: Folder) -> bool:
        """True when `folder` is one of the folders on the way to `inner`: a circle of mounts."""
        here: Folder | None = inner
        while here is not None:
            if here.place == folder.place:
                return True
            here = self.sent[here.parent] if here.parent is not None else None
        return False

    def _foreign(self, folder: Folder) -> str:
        """Why the local kernel may not be the one that decides who reads in the folder, or nothing."""
        if self._rules.trust_foreign:
            return ""
        mount = self._mounts.find(folder.mount, folder.place[0])
        if mount is not None and mount.kind in LOCAL:
            return ""
        kind = f"on `{mount.kind}`" if mount is not None else "on an unknown file system"
        return f"is {kind}, where a server may decide who reads: see `foreign_permissions`"


def version_of(status: os.stat_result) -> str:
    """Return a digest that changes whenever the content may have changed; also when only the rules did."""
    text = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def _open(outer: int, name: str) -> tuple[int, bool]:
    """Open a folder to list it, or at least to look at it: the descriptor, and which of the two."""
    try:
        return os.open(name, LIST, dir_fd=outer), True
    except OSError as err:
        if err.errno not in CLOSED:
            raise
    return os.open(name, LOOK, dir_fd=outer), False


def _moment(timestamp: float) -> datetime:
    """A file's time, which may be any number, as a moment that can be written down."""
    try:
        return datetime.fromtimestamp(timestamp, UTC)
    except (ValueError, OverflowError, OSError):
        return _EPOCH
