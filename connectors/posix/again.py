"""The second look of a walk: is every folder still where it was, under the rules that were sent?

What was the same at both looks was the same for every file that was met in between, unless it changed and changed back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from connectors.errors import RetriableError
from connectors.posix.folder import LOOK, Folder, chain, scope_id
from connectors.posix.inode import CLOSED, GONE, inode_of_descriptor, lost, origin_of
from connectors.posix.walk import Item, Walk


def look_again(walk: Walk) -> Iterator[Item]:
    """Send folders again that are not as they were sent, those that are not at their place as unknown.

    Raises RetriableError when the root or a folder above it is not where it was.
    """
    inside: dict[Folder | None, list[Folder]] = {}
    for folder in walk.sent.values():
        if folder.id not in walk.withheld:
            inside.setdefault(walk.sent[folder.parent] if folder.parent is not None else None, []).append(folder)
    for parent, folders in inside.items():
        outer = _open(walk, parent) if parent is not None else None
        if parent is not None and outer is None:
            continue  # It was itself not at its place, so nobody passes through it.
        try:
            for folder in folders:
                yield from _look(walk, outer, folder)
        finally:
            if outer is not None:
                os.close(outer)


def _look(walk: Walk, outer: int | None, folder: Folder) -> Iterator[Item]:
    here = None
    try:
        here = os.open(folder.name, LOOK, dir_fd=outer)
        found, origin = inode_of_descriptor(here), origin_of(here)
    except OSError as err:
        if err.errno not in GONE | CLOSED:
            raise lost(err, folder.location) from err
        found = None
    finally:
        if here is not None:
            os.close(here)
    if found is None or scope_id(walk.devices, found, origin) != folder.id:
        if not folder.path:
            raise RetriableError(f"`{folder.location}` was moved while it was walked: try again")
        walk.twice.add(folder.id)
        yield from walk.withhold(folder, "changed", "it was moved or removed while its source was walked")
        return
    clause = walk.clauses.folder(found)
    if clause != folder.clause:
        yield walk.scope(replace(folder, clause=clause))


def _open(walk: Walk, folder: Folder) -> int | None:
    """Open a folder by its names from the outermost one down; None when they no longer lead to it."""
    here: int | None = None
    try:
        for step in chain(folder, walk.sent):
            inner = os.open(step.name, LOOK, dir_fd=here)
            if here is not None:
                os.close(here)
            here = inner
        assert here is not None
        if scope_id(walk.devices, inode_of_descriptor(here), origin_of(here)) == folder.id:
            here, found = None, here
            return found
    except OSError as err:
        if err.errno not in GONE | CLOSED:
            raise lost(err, folder.location) from err
    finally:
        if here is not None:
            os.close(here)
    return None
