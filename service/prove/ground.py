"""The ground of a proof at a file system source: where canaries are planted, and how rights are taken away there.

It acts with the rights of whoever runs it, through the file system alone. A canary has the rights of a neighbour, so it
opens to nobody whom its folder would not have let in already; whatever is left behind when a proof is killed is a small
text that says what it is.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from service import facl
from service.errors import StartError
from service.settings import Settings, SourceSettings

PREFIX: Final = "remit-canary-"
_LETTERS: Final = "bcdfghjklmnpqrstvwxz"
_VOWELS: Final = "aeiou"


@dataclass(frozen=True, slots=True)
class Canary:
    """A planted document. word: stands nowhere else. text: all of it."""

    location: str
    word: str
    text: str


def word() -> str:
    """A word that nobody wrote before and that is spelled in letters alone."""
    return "".join(secrets.choice(_LETTERS) + secrets.choice(_VOWELS) for _ in range(9))


def root_of(settings: Settings, source: str) -> tuple[SourceSettings, Path]:
    """A file system source and its root on this machine. Raises StartError."""
    found = next((one for one in settings.sources if one.name == source), None)
    if found is None:
        raise StartError(f"the settings have no source `{source}`")
    if found.kind != "filesystem":
        raise StartError(
            f"the source `{source}` is of the kind `{found.kind}`: canaries are planted in `filesystem` sources only"
        )
    root = settings.base / str(found.options["root"])
    if not root.is_dir():
        raise StartError(f"{root} is not here: run `remit prove` on the machine that has the files")
    return found, root


@dataclass
class Ground:
    """A root with what was planted in it; `clear` takes everything away."""

    root: Path
    planted: list[Path] = field(default_factory=list)

    def plant(self, folder: str, like: str) -> Canary:
        """A canary in `folder` with the owner and rights of the file `like`. Raises StartError."""
        canary = word()
        text = (
            f"The word of this canary is {canary}. It was planted by `remit prove` to see who can read it, "
            "it holds nothing, and it may be deleted at any time."
        )
        path = self.root / folder / f"{PREFIX}{canary}.txt"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            self.planted.append(path)
            with os.fdopen(handle, "w") as file:
                file.write(f"{text}\n")
            copy_rights(self.root / like, path)
        except OSError as err:
            raise StartError(f"no canary can be planted in {path.parent}: {err.strerror}") from err
        return Canary(path.relative_to(self.root).as_posix(), canary, text)

    def folder(self, beside: str, like: str | None) -> str:
        """A new folder in `beside` with the rights of the folder `like`, or closed to everybody but its owner."""
        path = self.root / beside / f"{PREFIX}{word()}"
        try:
            path.mkdir(mode=0o700)
            self.planted.append(path)
            if like is not None:
                copy_rights(self.root / like, path)
        except OSError as err:
            raise StartError(f"no folder can be made in {path.parent}: {err.strerror}") from err
        return path.relative_to(self.root).as_posix()

    def moved(self, canary: Canary, folder: str) -> None:
        """Move a canary."""
        target = self.root / folder / Path(canary.location).name
        (self.root / canary.location).rename(target)
        self.planted.append(target)

    def clear(self) -> None:
        """Take everything away that was planted."""
        for path in reversed(self.planted):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self.planted.clear()


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
