"""The ground of a `filesystem` source: files on this machine, with the rights of whoever runs it.

It acts through the file system alone. Whatever is left behind when a proof is killed is a small text that says what it
is.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from acl.principal import Principal, Realm
from service.errors import StartError
from service.files import facl
from service.prove.grounds.base import PREFIX, Canary, Skipped, Way, Who, text_of, word
from service.settings import Settings, SourceSettings

_NOBODYS_GROUP: Final = 1
"""A group of the system that no directory gives to people."""


def root_of(settings: Settings, source: str) -> tuple[SourceSettings, Path]:
    """A file system source and its root on this machine. Raises StartError."""
    found = next((one for one in settings.sources if one.name == source and one.kind == "filesystem"), None)
    if found is None:
        raise StartError(f"the settings have no source `{source}` of the kind `filesystem`")
    root = settings.base / str(found.options["root"])
    if not root.is_dir():
        raise StartError(f"{root} is not here: run `remit prove` on the machine that has the files")
    return found, root


class FileGround:
    """A root with what was planted in it. See `service.prove.grounds.base.Ground`."""

    def __init__(self, root: Path, id_domain: str) -> None:
        """Nothing is written yet."""
        self._root: Final = root
        self._realm: Final = Realm(f"posix:{id_domain}")
        self._planted: list[Path] = []

    @property
    def writes(self) -> str:
        """See `Ground`."""
        return f"files and folders called `{PREFIX}…` beside documents below {self._root}"

    def names(self, realm: Realm) -> bool:
        """See `Ground`."""
        return realm == self._realm

    def plant(self, like: str) -> Canary:
        """See `Ground`: with the owner and rights of the file `like`."""
        return self._plant(like.rpartition("/")[0], like)

    def plant_for(self, like: str, group: Collection[Principal]) -> Canary:
        """See `Ground`."""
        gids = [int(one.id.removeprefix("gid-")) for one in group if self.names(one.realm)]
        made = self.plant(like)
        facl.allow_only(self._path(made), [facl.group(gid, "r--") for gid in gids])
        return made

    def ways(self, like: str, who: Who) -> Sequence[Way | Skipped]:
        """See `Ground`."""
        folder = like.rpartition("/")[0]
        closed: list[str] = []

        def plant() -> Canary:
            return self.plant(like)

        def beside_closed() -> Canary:
            if not closed:
                closed.append(self._folder(folder, None))
            return self.plant(like)

        def in_folder() -> Canary:
            return self._plant(self._folder(folder, folder), like)

        return [
            Way("chmod", "the mode closes the file", plant, lambda c: self._path(c).chmod(0o600)),
            Way("setfacl", "the file's list loses its entries", plant, lambda c: facl.allow_only(self._path(c), [])),
            self._by_group_of_file(like, who),
            Way("move", "the file goes into a closed folder", beside_closed, lambda c: self._move(c, closed[0])),
            Way("delete", "the file is gone", plant, lambda c: self._path(c).unlink()),
            Way("folder", "the folder around it is closed", in_folder, lambda c: self._path(c).parent.chmod(0o700)),
        ]

    def clear(self) -> list[str]:
        """See `Clearable`."""
        left: list[str] = []
        for path in reversed(self._planted):
            try:
                if path.is_dir() and not path.is_symlink():
                    # Not a tree: what somebody else put there meanwhile is theirs.
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
            except OSError as err:
                left.append(f"{path}: {err.strerror}; it holds nothing, and may be deleted")
        self._planted.clear()
        return left

    def _by_group_of_file(self, like: str, who: Who) -> Way | Skipped:
        """By the owning group, where the person holds one by number."""
        kind, what = "chgrp", "the file gets another group"
        held = sorted(one.id for one in who.held if one.realm == self._realm and one.id.startswith("gid-"))
        if not held:
            return Skipped(kind, what, f"{who.name} has no group by number in `{self._realm}`")

        def plant() -> Canary:
            made = self.plant(like)
            _bare(self._path(made), 0o640)
            os.chown(self._path(made), -1, int(held[0].removeprefix("gid-")))
            return made

        return Way(kind, what, plant, lambda c: os.chown(self._path(c), -1, _NOBODYS_GROUP))

    def _plant(self, folder: str, like: str) -> Canary:
        canary = word()
        path = self._root / folder / f"{PREFIX}{canary}.txt"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            self._planted.append(path)
            with os.fdopen(handle, "w") as file:
                file.write(f"{text_of(canary)}\n")
            copy_rights(self._root / like, path)
        except OSError as err:
            raise StartError(f"no canary can be planted in {path.parent}: {err.strerror}") from err
        return Canary(path.relative_to(self._root).as_posix(), canary, text_of(canary))

    def _folder(self, beside: str, like: str | None) -> str:
        """A new folder in `beside` with the rights of the folder `like`, or closed to everybody but its owner."""
        path = self._root / beside / f"{PREFIX}{word()}"
        try:
            path.mkdir(mode=0o700)
            self._planted.append(path)
            if like is not None:
                copy_rights(self._root / like, path)
        except OSError as err:
            raise StartError(f"no folder can be made in {path.parent}: {err.strerror}") from err
        return path.relative_to(self._root).as_posix()

    def _move(self, canary: Canary, folder: str) -> None:
        target = self._root / folder / Path(canary.location).name
        self._path(canary).rename(target)
        self._planted.append(target)

    def _path(self, canary: Canary) -> Path:
        return self._root / canary.location


def copy_rights(source: Path, target: Path) -> None:
    """Give `target` the owner, group, mode and list of `source`. Raises OSError.

    The owner first, since a change of it may clear bits; then the mode, then the list, which says more than the mode.
    """
    status = source.stat()
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(target, status.st_uid, status.st_gid)
    try:
        entries = os.getxattr(source, facl.XATTR)
    except OSError:
        target.chmod(status.st_mode & 0o777)
    else:
        os.setxattr(target, facl.XATTR, entries)


def _bare(path: Path, mode: int) -> None:
    """A mode without a list."""
    with suppress(OSError):
        os.removexattr(path, facl.XATTR)
    path.chmod(mode)
