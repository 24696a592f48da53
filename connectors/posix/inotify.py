"""The kernel's inotify as it is: watches on folders, and events. Nothing of what they mean.

By ctypes: what there is on the package index is without types, and runs a program to find libc.
Source: inotify(7), include/uapi/linux/inotify.h.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
UNMOUNT: Final = 0x2000
OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
ONLYDIR: Final = 0x1000000
EXCL_UNLINK: Final = 0x4000000
ISDIR: Final = 0x40000000

_EVENT: Final = struct.Struct("iIII")
_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Event:
    """One event. watch: the number of the folder's watch, -1 for one of the queue. name: of what is in the folder."""

    watch: int
    mask: int
    name: bytes


class Inotify:
    """One queue of events. Raises OSError."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._called(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def add(self, folder: int, mask: int) -> int:
        """Watch a folder that is open as `folder`; return the watch's number, which the same folder keeps."""
        path = f"/proc/self/fd/{folder}".encode()
        return self._called(self._libc.inotify_add_watch(self._fd, path, ctypes.c_uint32(mask)))

    def remove(self, watch: int) -> None:
        """Watch a folder no more."""
        self._called(self._libc.inotify_rm_watch(self._fd, watch))

    def wait(self, timeout_s: float) -> bool:
        """Return whether there is something to read, at the latest after the timeout."""
        return bool(self._poll.poll(timeout_s * 1000))

    def read(self) -> Iterator[Event]:
        """Yield what is there now."""
        while True:
            try:
                data = os.read(self._fd, _BYTES)
            except BlockingIOError:
                return
            place = 0
            while place < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, place)
                place += _EVENT.size
                yield Event(watch, mask, data[place : place + length].rstrip(b"\0"))
                place += length

    def close(self) -> None:
        """Let go of everything."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _called(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
