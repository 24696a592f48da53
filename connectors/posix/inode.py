"""Facts about one inode: its rules, and an identity that survives a rename and does not survive a deletion.

Everything is asked of an open descriptor, or of a name within one, so that no rename in between can mix two inodes.
SOURCE: statx(2), open_by_handle_at(2), acl(5).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from acl.model import Unknown
from connectors.errors import RetriableError

ACL_XATTR: Final = "system.posix_acl_access"

GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""The name leads nowhere, or to something else than it did: an entry that vanished."""

CLOSED: Final = frozenset({errno.EACCES, errno.EPERM})

LOST: Final = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ETIMEDOUT,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.ESHUTDOWN,
        errno.EUCLEAN,
        errno.EREMOTEIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    }
)
"""The file system, or this process, is in trouble: nothing may be concluded from what is not seen."""

_NO_ACL: Final = frozenset({errno.ENODATA, errno.ENOTSUP})
_ATTEMPTS: Final = 3

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH: Final = 0x1000
_AT_HANDLE_FID: Final = 0x200
_OVERLAY_HANDLES: Final = frozenset({0xF8, 0xFB})
_STATX_BTIME: Final = 0x800
_STATX_MNT_ID: Final = 0x1000
_HANDLE_BYTES: Final = 128


@dataclass(frozen=True, slots=True)
class Inode:
    """One inode as it was at one moment, with mode, owner and ACL from that same moment.

    acl: the extended attribute's bytes, None when there is none, Unknown when it could not be read.
    """

    status: os.stat_result
    acl: bytes | Unknown | None

    @property
    def place(self) -> tuple[int, int]:
        """Device and inode number: an identity among what exists at one moment, and no longer."""
        return self.status.st_dev, self.status.st_ino


@dataclass(frozen=True, slots=True)
class Origin:
    """What tells an inode from a later one with the same number, and the mount through which it was opened.

    birth: empty when neither the file system nor the kernel can say.
    mount: the kernel's number for the mount, None on kernels before 5.8.
    """

    birth: str
    mount: int | None


def lost(err: OSError, location: str) -> RetriableError:
    """Say that the file system failed at `location`, as the end of the run."""
    what = err.strerror or "unknown error"
    return RetriableError(f"`{location}`: {what}: the run stops, and nothing counts as deleted; try again")


def inode_of_descriptor(fd: int) -> Inode:
    """Read a folder or file that is open, with O_PATH too. Raises OSError."""
    # The path through /proc works for an O_PATH descriptor, where fgetxattr does not.
    return _steady(fd, None, f"/proc/self/fd/{fd}", follow=True)


def inode_of_name(folder: int, name: str) -> Inode:
    """Read what `name` is in the open folder, without following a symlink. Raises OSError.

    The ACL of anything but a regular file is left out.
    """
    return _steady(folder, name, f"/proc/self/fd/{folder}/{name}", follow=False)


def origin_of(fd: int) -> Origin:
    """Read an open inode's birth and mount. Raises OSError only for what `lost` is for."""
    birth, mount = _statx(fd)
    return Origin(birth or _handle(fd), mount)


def _steady(fd: int, name: str | None, acl_path: str, *, follow: bool) -> Inode:
    """Read mode and ACL of one moment: the status before and after the ACL must be the same."""
    before = _status(fd, name)
    for _ in range(_ATTEMPTS):
        if name is not None and not stat.S_ISREG(before.st_mode):
            return Inode(before, None)
        acl = _acl(acl_path, follow=follow)
        after = _status(fd, name)
        if _same(before, after):
            return Inode(after, acl)
        before = after
    return Inode(before, Unknown("its rules change while they are read"))


def _status(fd: int, name: str | None) -> os.stat_result:
    return os.fstat(fd) if name is None else os.stat(name, dir_fd=fd, follow_symlinks=False)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (
        one.st_ctime_ns == other.st_ctime_ns
        and one.st_ino == other.st_ino
        and one.st_dev == other.st_dev
        and one.st_mode == other.st_mode
        and one.st_uid == other.st_uid
        and one.st_gid == other.st_gid
    )


def _acl(path: str, *, follow: bool) -> bytes | Unknown | None:
    try:
        return os.getxattr(path, ACL_XATTR, follow_symlinks=follow)
    except OSError as err:
        if err.errno in _NO_ACL:
            return None
        if err.errno in LOST:
            raise
        # When the name is gone, the status that follows says so. When /proc is, nothing here is an absent ACL.
        return Unknown(f"its ACL cannot be read: {err.strerror}")


def _statx(fd: int) -> tuple[str, int | None]:
    """Birth time and mount number by statx(2), as far as kernel and file system know them."""
    call = getattr(_LIBC, "statx", None)
    buffer = ctypes.create_string_buffer(256)
    if call is None or call(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME | _STATX_MNT_ID, buffer) != 0:
        return "", None
    (mask,) = struct.unpack_from("=I", buffer, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, 80)
    (mount,) = struct.unpack_from("=Q", buffer, 144)
    # Some file systems answer with the beginning of time, which is nobody's birth.
    born = f"b{seconds}.{nanoseconds:09}" if mask & _STATX_BTIME and (seconds, nanoseconds) != (0, 0) else ""
    return born, mount if mask & _STATX_MNT_ID else None


def _handle(fd: int) -> str:
    """The file handle, which holds the inode's generation, as a short digest; empty where there is none."""
    call = getattr(_LIBC, "name_to_handle_at", None)
    if call is None:
        return ""
    # Since Linux 6.6 a handle that only identifies exists where one that can be opened does not. Only overlayfs's own
    # is worth something then, as it wraps that of the file system below; elsewhere its generation may always be 0.
    for flags, kinds in ((_AT_EMPTY_PATH, None), (_AT_EMPTY_PATH | _AT_HANDLE_FID, _OVERLAY_HANDLES)):
        buffer = ctypes.create_string_buffer(8 + _HANDLE_BYTES)
        struct.pack_into("=Ii", buffer, 0, _HANDLE_BYTES, 0)
        mount = ctypes.c_int()
        if call(fd, b"", buffer, ctypes.byref(mount), flags) == 0:
            size, kind = struct.unpack_from("=Ii", buffer, 0)
            if kinds is not None and kind not in kinds:
                continue
            return "h" + sha256(buffer.raw[4 : 8 + size]).hexdigest()[:32]
    return ""
