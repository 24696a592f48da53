"""Lays the company's files out on disk with real POSIX access control lists.

The owner of a file may set entries for any numeric id, so this needs no root and changes nothing but its own folder.
Permissions are never simulated: a file system that refuses the lists, or forgets them, ends the demo with its name.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Final

from service.demo.people import (
    ENGINEERING,
    ERIN,
    FIN_EMEA,
    FINANCE,
    FRANK,
    HR,
    LEGAL,
    MANAGEMENT,
    SALES,
    STAFF,
)
from service.files import facl
from service.files.facl import Entry

_REMOVAL_S: Final = 5.0
IDS: Final = range(20001, 21000)
"""Every uid and gid of the demo lies in here."""

MEMORY: Final = Path("/dev/shm")
"""Tried when the usual place for temporary files has no access control lists."""


class LayoutError(Exception):
    """The files cannot be laid out; the message is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Who may open a folder, who may only pass through it, and who may read the files directly in it: gids."""

    opens: tuple[int, ...]
    reads: tuple[int, ...]
    passes: tuple[int, ...] = ()

    @property
    def entries(self) -> list[Entry]:
        """The named entries of the folder itself."""
        return [
            *(facl.group(gid, "r-x") for gid in self.opens),
            *(facl.group(gid, "--x") for gid in self.passes),
        ]


FOLDERS: Final[Mapping[str, Folder]] = {
    ".": Folder((STAFF,), ()),
    "Company-wide": Folder((STAFF,), (STAFF,)),
    "Sales": Folder((SALES, MANAGEMENT), (SALES, MANAGEMENT)),
    "Sales/Helios": Folder((SALES, MANAGEMENT), (SALES, MANAGEMENT)),
    # Bob is in fin-emea alone; he comes through the folder because fin-emea as a whole is in finance.
    "Finance": Folder((FINANCE, MANAGEMENT), (FINANCE, MANAGEMENT)),
    # Narrower than the folder around it: of finance only fin-emea gets in, though the files name finance.
    "Finance/EMEA": Folder((FIN_EMEA, MANAGEMENT), (FINANCE, MANAGEMENT)),
    # Everybody may pass through, which opens one subfolder again; the names and files here stay with HR.
    "HR": Folder((HR, MANAGEMENT), (HR, MANAGEMENT), passes=(STAFF,)),
    "HR/For everyone": Folder((STAFF,), (STAFF,)),
    "Engineering": Folder((ENGINEERING, MANAGEMENT), (ENGINEERING, MANAGEMENT)),
    "Engineering/Borealis": Folder((ENGINEERING, MANAGEMENT), (ENGINEERING, MANAGEMENT)),
    "Engineering/Reviews": Folder((ENGINEERING, MANAGEMENT), (ENGINEERING, MANAGEMENT)),
    "Legal": Folder((LEGAL, MANAGEMENT), (LEGAL, MANAGEMENT)),
    "Legal/Drafts": Folder((LEGAL,), (LEGAL,)),
}

FILES: Final[Mapping[str, list[Entry]]] = {
    # A private file: one named person, and not even the rest of the department.
    "Legal/Drafts/settlement-position-brennan.txt": [facl.user(FRANK, "r--")],
    # A named person shut out of what her group may read.
    "Engineering/Reviews/technical-lead-assessment.docx": [
        facl.user(ERIN, "---"),
        facl.group(ENGINEERING, "r--"),
        facl.group(MANAGEMENT, "r--"),
    ],
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the demo lies. base: for configuration and data, closed to others. company: the documents."""

    base: Path
    company: Path

    def remove(self) -> None:
        """Delete everything that was laid out."""
        # A child of a server that was stopped early may still write for a moment: what it leaves is deleted again.
        until = time.monotonic() + _REMOVAL_S
        for folder in {self.base, self.company}:
            shutil.rmtree(folder, ignore_errors=True)
            while folder.exists() and time.monotonic() < until:
                time.sleep(0.05)
                shutil.rmtree(folder, ignore_errors=True)


def documents() -> Iterator[tuple[PurePosixPath, bytes]]:
    """Every document that ships with Remit, with its place in the company, sorted."""
    with resources.as_file(resources.files("service.demo") / "company") as root:
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            yield PurePosixPath(path.relative_to(root).as_posix()), path.read_bytes()


def lay_out() -> Layout:
    """Make a folder of its own and put the company into it. Raises LayoutError, and leaves nothing behind then."""
    if os.geteuid() in IDS or os.getegid() in IDS:
        raise LayoutError(
            "you run with an id from 20001 to 20999, which the people of the demo have: run it as another user"
        )
    layout = Layout(*_places())
    try:
        _write(layout.company)
    except BaseException as err:
        layout.remove()
        if isinstance(err, OSError):
            raise LayoutError(f"the files cannot be laid out in {layout.company}: {err.strerror}") from err
        raise
    return layout


def _places() -> tuple[Path, Path]:
    """The folder for everything, and the one for the documents where access control lists work."""
    try:
        base = Path(tempfile.mkdtemp(prefix="remit-demo-"))
    except OSError as err:
        raise LayoutError(f"no folder can be made in {tempfile.gettempdir()}: {err.strerror}") from err
    refused = []
    for parent in (base, MEMORY):
        try:
            company = base / "company" if parent is base else Path(tempfile.mkdtemp(prefix="remit-demo-", dir=parent))
            company.mkdir(exist_ok=True)
        except OSError as err:
            refused.append(f"{parent}: {err.strerror}")
            continue
        reason = _refuses(company)
        if reason is None:
            return base, company
        shutil.rmtree(company, ignore_errors=True)
        refused.append(f"{_mount(parent)}: {reason}")
    shutil.rmtree(base, ignore_errors=True)
    raise LayoutError(
        "no file system here keeps POSIX access control lists, and Remit does not pretend to have them ("
        + "; ".join(refused)
        + "): name another folder with TMPDIR"
    )


def _refuses(folder: Path) -> str | None:
    """Set one list and read it back; say why it does not work, None when it does."""
    probe = folder / ".probe"
    wanted = [facl.user(ERIN, "---"), facl.group(STAFF, "r--")]
    try:
        probe.write_bytes(b"")
        facl.allow_only(probe, wanted)
        kept = facl.read(probe)
        probe.unlink()
    except OSError as err:
        if err.errno == errno.EINVAL:
            return "the ids 20001 to 20999 do not exist in this user namespace"
        if err.errno in {errno.ENOTSUP, errno.ENODATA}:
            return "it has no access control lists"
        return err.strerror or "it refuses access control lists"
    return None if all(entry in kept for entry in wanted) else "it took a list and did not keep it"


def _mount(path: Path) -> str:
    """The mount that `path` lies on, as `/tmp (vfat)`."""
    best = ("/", "unknown")
    with Path("/proc/self/mounts").open(encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            _device, place, kind = line.split(" ")[:3]
            if path.is_relative_to(place) and len(place) >= len(best[0]):
                best = (place, kind)
    return f"{best[0]} ({best[1]})"


def _write(company: Path) -> None:
    """Write folders and files, each closed to others from the start and then opened to whom it is for."""
    facl.allow_only(company, FOLDERS["."].entries)
    for name, folder in FOLDERS.items():
        if name != ".":
            (company / name).mkdir(mode=0o700)
            facl.allow_only(company / name, folder.entries)
    for place, data in documents():
        target = company / place
        target.touch(mode=0o600, exist_ok=False)
        target.write_bytes(data)
        facl.allow_only(target, FILES.get(str(place)) or _readers(FOLDERS[str(place.parent)]))


def _readers(folder: Folder) -> list[Entry]:
    return [facl.group(gid, "r--") for gid in folder.reads]
