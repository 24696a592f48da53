"""Groups that contain groups, asked for level by level: for directories that do not compute the closure themselves.

What counts as a group and how it names its members is the caller's business; `acl.closure` joins the levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from connectors.directories.base import DirectoryUnavailableError

_T = TypeVar("_T")

MAX_LEVELS: Final = 64
MAX_GROUPS: Final = 20_000
BATCH: Final = 100
"""How many members one question names: few enough for every server's limit on the size of a filter."""


def levels_above(
    start: Iterable[str], ask: Callable[[Sequence[str]], Iterable[tuple[str, _T]]], name: str
) -> dict[str, _T]:
    """Return every group that holds a member of `start`, directly or through other groups, by its key.

    ask: the groups that directly hold any of some members, as (key, group); a key is what `ask` takes as a member.
    A group is asked about once, so circles end. Raises DirectoryUnavailableError, which names the directory `name`,
    for more levels or groups than anybody has: what is beyond them would be missing.
    """
    found: dict[str, _T] = {}
    level = list(dict.fromkeys(start))
    for _ in range(MAX_LEVELS):
        if not level:
            return found
        above: list[str] = []
        for first in range(0, len(level), BATCH):
            for key, group in ask(level[first : first + BATCH]):
                if key not in found:
                    found[key] = group
                    above.append(key)
        if len(found) > MAX_GROUPS:
            break
        level = above
    raise DirectoryUnavailableError(f"directory `{name}` is incomplete: groups are nested too deeply or are too many")
