"""The open folders between the root and where the walk is: few descriptors, however deep it is.

A folder that was closed on the way down is opened again by name from one that is still open, and it is an error when
that leads to another folder than before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from connectors.posix.folder import LIST, Folder
from connectors.posix.inode import GONE, lost, origin_of

_MAX_OPEN: Final = 64


class MovedError(Exception):
    """A folder that the walk came through is no longer where it was."""


@dataclass(slots=True)
class _Step:
    folder: Folder
    descriptor: int | None
    waiting: list[str]


class Trail:
    """A stack of folders with the names of their subfolders that are still to be visited."""

    def __init__(self) -> None:
        self._steps: Final[list[_Step]] = []

    def __bool__(self) -> bool:
        return bool(self._steps)

    @property
    def folder(self) -> Folder:
        """The innermost folder."""
        return self._steps[-1].folder

    def push(self, folder: Folder, descriptor: int) -> None:
        """Go into a folder, and own its descriptor."""
        self._steps.append(_Step(folder, descriptor, []))
        # The outermost stays open on top of these.
        self._shut(len(self._steps) - _MAX_OPEN)

    def wait(self, names: Iterable[str]) -> None:
        """Say which subfolders of the innermost folder are to be visited, in the order of their names' bytes."""
        self._steps[-1].waiting = sorted(names, key=os.fsencode, reverse=True)

    def pop(self) -> None:
        """Leave the innermost folder."""
        step = self._steps.pop()
        if step.descriptor is not None:
            os.close(step.descriptor)

    def next_name(self) -> str | None:
        """Take the next subfolder's name, None when there is none left."""
        waiting = self._steps[-1].waiting
        return waiting.pop() if waiting else None

    def descriptor(self) -> int:
        """Return the innermost folder's descriptor, which the trail keeps. Raises MovedError, RetriableError."""
        last = len(self._steps) - 1
        first = last
        while self._steps[first].descriptor is None:
            first -= 1  # INVARIANT: the outermost folder stays open.
        for number in range(first, last):
            step = self._steps[number + 1]
            step.descriptor = _open(self._steps[number], step)
            self._shut(number + 2 - _MAX_OPEN)
        found = self._steps[last].descriptor
        assert found is not None
        return found

    def close(self) -> None:
        """Close everything."""
        while self._steps:
            self.pop()

    def _shut(self, number: int) -> None:
        """Close the step with this number, unless it is the outermost or not there."""
        if number > 0:
            step = self._steps[number]
            if step.descriptor is not None:
                os.close(step.descriptor)
                step.descriptor = None


def _open(outer: _Step, inner: _Step) -> int:
    try:
        descriptor = os.open(inner.folder.name, LIST, dir_fd=outer.descriptor)
    except OSError as err:
        if err.errno in GONE or isinstance(err, PermissionError):
            raise MovedError from err
        raise lost(err, inner.folder.location) from err
    status = os.fstat(descriptor)
    # The number alone is not enough: it may have been used again since the folder was closed.
    identity = f"{status.st_ino}{origin_of(descriptor).birth}"
    if status.st_dev != inner.folder.place[0] or identity != inner.folder.id.rpartition(":")[2]:
        os.close(descriptor)
        raise MovedError
    return descriptor
