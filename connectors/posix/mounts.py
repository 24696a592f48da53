"""Which file system a folder is on, and whether this machine's kernel is the one that decides who reads there.

On a network share a server decides, by rules that the mount shows in part or not at all: CIFS invents mode bits, and
an NFS mount without ACL support shows a file's mask as if it were the owning group's bits.
SOURCE: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from connectors.errors import FatalError

LOCAL: Final = frozenset(
    {
        "bcachefs",
        "btrfs",
        "ceph",
        "erofs",
        "exfat",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "gfs2",
        "iso9660",
        "jfs",
        "nilfs2",
        "ocfs2",
        "overlay",
        "ramfs",
        "reiserfs",
        "rootfs",
        "squashfs",
        "tmpfs",
        "udf",
        "vfat",
        "xfs",
        "zfs",
    }
)
"""File systems whose mode bits and POSIX ACLs the local kernel enforces. On every other one it may be a server."""

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo: where it is, and the type of file system."""

    point: str
    kind: str


class Mounts:
    """The mounts of this process; looked up again when a mount is new."""

    def __init__(self, table: Path = Path("/proc/self/mountinfo")) -> None:
        self._table: Final = table
        self._by_number: dict[int, Mount] = {}
        self._by_device: dict[str, Mount] = {}

    def find(self, number: int | None, device: int) -> Mount | None:
        """Return the mount with this number, by device where the kernel has no numbers, None when neither is known.

        Raises FatalError without /proc.
        """
        found = self._known(number, device)
        if found is None:
            self._read()
            found = self._known(number, device)
        return found

    def _known(self, number: int | None, device: int) -> Mount | None:
        if number is not None:
            return self._by_number.get(number)
        return self._by_device.get(f"{os.major(device)}:{os.minor(device)}")

    def _read(self) -> None:
        try:
            text = self._table.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError as err:
            raise FatalError(f"{self._table}: {err.strerror}: the file system connector needs /proc") from err
        for line in filter(None, text.split("\n")):
            before, _, after = line.partition(" - ")
            fields = before.split(" ")
            found = Mount(_unescaped(fields[4]), after.split(" ")[0])
            self._by_number[int(fields[0])] = found
            self._by_device[fields[2]] = found


def _unescaped(point: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), point)
