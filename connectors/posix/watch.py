"""A folder tree under watch: whatever changes in it, its rules first of all, is noticed. What changed is not said.

1. Every folder has a watch of its own, by its open descriptor, so that no rename leads a watch astray.
2. A folder that is new is watched, with all that is in it, before its notice is returned: what happened in it before
   that is met by the run that follows the notice. After folders were moved the tree is gone through again, at once or
   as soon as it has rested, and then there is another notice.
3. Where notices may be missing (the queue was full, there are no more watches, the root was replaced) it says so: the
   run that follows reads everything, as every run does.
Changes that another machine makes on a network file system are not noticed: the schedule meets them.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Final

from connectors.errors import RetriableError
from connectors.notices import Noticed
from connectors.posix import inotify
from connectors.posix.inotify import Inotify

_CHANGES: Final = (
    inotify.ATTRIB
    | inotify.CLOSE_WRITE
    | inotify.MOVED_FROM
    | inotify.MOVED_TO
    | inotify.CREATE
    | inotify.DELETE
    | inotify.DELETE_SELF
    | inotify.MOVE_SELF
)
_OPTIONS: Final = inotify.ONLYDIR | inotify.EXCL_UNLINK
_ABOVE: Final = inotify.ATTRIB | inotify.MOVE_SELF | inotify.DELETE_SELF
_REST: Final = 4
_LIMIT: Final = Path("/proc/sys/fs/inotify/max_user_watches")


class TreeWatch:
    """See `connectors.notices.Watch`. Holds one descriptor, and a kilobyte of the kernel's memory for each folder."""

    def __init__(self, root: Path) -> None:
        """Raises RetriableError when the kernel has no more queues, or the root is not there."""
        self._root: Final = os.fsencode(root)
        self._folders: dict[int, bytes] = {}
        self._above: set[int] = set()
        self._missed = ""
        self._moved = False
        self._not_before_s = 0.0
        try:
            self._queue = Inotify()
        except OSError as err:
            raise RetriableError(f"`{root}` cannot be watched: {err.strerror} (fs.inotify.max_user_instances)") from err
        try:
            self._arm_all()
        except BaseException:
            self._queue.close()
            raise

    def wait(self, timeout_s: float) -> Noticed | None:
        """See `connectors.notices.Watch`."""
        try:
            noticed = self._read() if self._missed or self._queue.wait(timeout_s) else False
            if self._moved and time.monotonic() >= self._not_before_s:
                self._arm_all()
                noticed = True  # what happened in what was not watched yet
        except OSError as err:
            raise self._ended(err) from err
        missed, self._missed = self._missed, ""
        return Noticed(missed) if noticed or missed else None

    def close(self) -> None:
        """See `connectors.notices.Watch`."""
        self._queue.close()

    @property
    def folders(self) -> int:
        """How many folders are watched."""
        return len(self._folders)

    def _read(self) -> bool:
        """Read what is there; return whether something changed. New folders are watched before this returns."""
        noticed = False
        new: list[bytes] = []
        for event in self._queue.read():
            if event.mask & inotify.OVERFLOW:
                self._missed = "the kernel dropped notices, its queue was full (fs.inotify.max_queued_events)"
                self._moved = True
            elif event.mask & inotify.IGNORED:
                self._folders.pop(event.watch, None)
            else:
                noticed = True
                folder = self._folders.get(event.watch)
                if event.watch in self._above or event.mask & (inotify.MOVE_SELF | inotify.UNMOUNT):
                    self._moved = True
                if event.mask & inotify.ISDIR and event.mask & (inotify.MOVED_FROM | inotify.MOVED_TO):
                    self._moved = True  # its path, and that of all in it, is another now
                elif event.mask & inotify.ISDIR and event.mask & inotify.CREATE and folder is not None:
                    new.append(folder + b"/" + event.name)
        for path in new:
            self._arm(path, self._folders)
        if not self._folders and not self._missed:
            raise self._gone()
        return noticed

    def _arm_all(self) -> None:
        """Watch all that is there now, and nothing else; what is watched already stays so.

        A tree whose folders are moved all the time is gone through a fifth of the time at most.
        """
        began_s = time.monotonic()
        self._moved = False
        found: dict[int, bytes] = {}
        above: set[int] = set()
        root = os.path.realpath(self._root)
        self._arm(root, found)
        if not found and not self._missed:
            raise self._gone()
        for path in _parents(root):
            self._add(path, above)
        for watch in self._folders.keys() - found.keys() - above:
            try:
                self._queue.remove(watch)
            except OSError as err:
                if err.errno != errno.EINVAL:  # it is gone with its folder
                    raise
        self._folders, self._above = found, above
        ended_s = time.monotonic()
        self._not_before_s = ended_s + _REST * (ended_s - began_s)

    def _arm(self, top: bytes, found: dict[int, bytes]) -> None:
        stack = [top]
        while stack:
            path = stack.pop()
            try:
                folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue  # gone, or closed to this account: the run says so, and the folder around it is watched
            try:
                # Before it is listed, so that a folder which is made meanwhile is in the list or has a notice.
                if not self._watch(folder, path, found):
                    return
                with os.scandir(folder) as entries:
                    stack += [path + b"/" + os.fsencode(one.name) for one in entries if _is_folder(one)]
            finally:
                os.close(folder)

    def _watch(self, folder: int, path: bytes, found: dict[int, bytes]) -> bool:
        """Watch a folder; False when there are no more watches."""
        try:
            found[self._queue.add(folder, _CHANGES | _OPTIONS)] = path
        except OSError as err:
            if err.errno == errno.ENOSPC:
                limit = _LIMIT.read_text().strip() if _LIMIT.exists() else "its limit"
                self._missed = f"there are more folders than watches ({limit}, fs.inotify.max_user_watches)"
                return False
            if err.errno != errno.ENOENT:
                raise
        return True

    def _add(self, path: bytes, found: set[int]) -> None:
        """Watch a folder above the root, where that is possible."""
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            found.add(self._queue.add(folder, _ABOVE | inotify.ONLYDIR))
        except OSError as err:
            if err.errno not in (errno.ENOSPC, errno.EACCES):
                raise
        finally:
            os.close(folder)

    def _gone(self) -> RetriableError:
        return RetriableError(f"`{os.fsdecode(self._root)}` is not there to be watched")

    def _ended(self, err: OSError) -> RetriableError:
        return RetriableError(f"`{os.fsdecode(self._root)}` is not watched any more: {err.strerror}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")[1:-1]
    return [b"/" + b"/".join(parts[:count]) for count in range(len(parts) + 1)] if path != b"/" else []
