"""Folders as the walk sends them, the rules of an inode as clauses, and the way back to a folder by descriptors.

Responsible for ids: what a folder is called, so that nothing else, now or later, is called the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from acl.dialects import posix
from acl.model import Clause, ScopeId, Unknown
from connectors.posix.inode import Inode, Origin

LOOK: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens a folder to ask about it and to go through it; needs no right on the folder itself."""

LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens a folder to list it; needs its `r`."""

_MAX_CLAUSES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as it was sent.

    parent: None for the outermost one that counts.
    name: what the parent calls it; for the outermost one its absolute path.
    place: device and inode number.
    path: below the source's root, encoded; empty for the root and for what is above it.
    """

    id: ScopeId
    parent: ScopeId | None
    name: str
    place: tuple[int, int]
    mount: int | None
    clause: Clause | Unknown
    location: str
    path: str
    depth: int


class Devices:
    """Names for file systems that stay the same over reboots, where device numbers do not.

    The root's is `r`. Another one is called after the first folder met on it, which is the root of its mount; a second
    file system with the same name, such as a clone, gets its device number added.
    """

    def __init__(self, root: int) -> None:
        self._names: Final[dict[int, str]] = {root: "r"}
        self._taken: Final = {"r"}

    def name(self, device: int, first: str) -> str:
        """Return the name of `device`; `first` identifies the folder through which it is met."""
        found = self._names.get(device)
        if found is None:
            found = f"m{first}"
            if found in self._taken:
                found = f"{found}d{device}"
            self._names[device] = found
            self._taken.add(found)
        return found


def scope_id(devices: Devices, found: Inode, origin: Origin) -> ScopeId:
    """Return the id of a folder. `origin.birth` must be there: an inode number alone is used again."""
    device, number = found.place
    inode = f"{number}{origin.birth}"
    return ScopeId(f"folder:{devices.name(device, inode)}:{inode}")


class Clauses:
    """Rules of inodes as clauses of the access model; equal rules share one."""

    def __init__(self, id_domain: str) -> None:
        self._id_domain: Final = id_domain
        self._files: Final[dict[tuple[int, int, int, bytes | None], Clause | Unknown]] = {}
        self._folders: Final[dict[tuple[int, int, int, bytes | None], Clause | Unknown]] = {}
        self._unmapped: Final = _unmapped_ids()

    def file(self, found: Inode) -> Clause | Unknown:
        """Who may read the file, as far as the file itself decides."""
        return self._clause(found, self._files, folder=False)

    def folder(self, found: Inode) -> Clause | Unknown:
        """Who may search the folder, as far as the folder itself decides."""
        return self._clause(found, self._folders, folder=True)

    def _clause(
        self,
        found: Inode,
        known: dict[tuple[int, int, int, bytes | None], Clause | Unknown],
        *,
        folder: bool,
    ) -> Clause | Unknown:
        if isinstance(found.acl, Unknown):
            return found.acl
        status = found.status
        key = (status.st_mode, status.st_uid, status.st_gid, found.acl)
        clause = known.get(key)
        if clause is None:
            if status.st_uid in self._unmapped or status.st_gid in self._unmapped:
                return Unknown("its owner does not exist in this user namespace")
            translate = posix.directory_clause if folder else posix.file_clause
            clause = translate(*key, self._id_domain)
            if len(known) >= _MAX_CLAUSES:
                known.clear()
            known[key] = clause
        return clause


def chain(folder: Folder, sent: Mapping[ScopeId, Folder]) -> list[Folder]:
    """Return the folders on the way to `folder`, outermost first, as they were last sent."""
    found = [folder]
    while found[-1].parent is not None:
        found.append(sent[found[-1].parent])
    found.reverse()
    return found


def _unmapped_ids() -> frozenset[int]:
    """The numbers that stand for `no such id here` when this process sees ids through a user namespace."""
    unmapped: set[int] = set()
    for which in ("uid", "gid"):
        numbers = Path(f"/proc/self/{which}_map").read_text(encoding="ascii").split()
        if numbers != ["0", "0", "4294967295"]:
            overflow = Path(f"/proc/sys/kernel/overflow{which}").read_text(encoding="ascii")
            unmapped.add(int(overflow))
    return frozenset(unmapped)
