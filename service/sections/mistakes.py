"""Every mistake of a settings file in one reading, where that can be: what rests on a mistake is not looked at."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

from connectors.yaml_file import YamlFileError

T = TypeVar("T")
U = TypeVar("U")

_LINE: Final = re.compile(r":([0-9]+): ")


class MistakesError(Exception):
    """Mistakes were found: a sentence for each, in the order of the file."""

    def __init__(self, found: tuple[str, ...]) -> None:
        super().__init__("\n".join(found))
        self.found = found


class Mistakes:
    """Reads on after a mistake; `settle` says them all.

    INVARIANT: nothing that was read is used before `settle` has returned.
    """

    def __init__(self) -> None:
        self._found: list[str] = []

    def of(self, read: Callable[[], T], otherwise: U) -> T | U:
        """Return what `read` returns, or `otherwise` when it makes a mistake."""
        try:
            return read()
        except YamlFileError as err:
            self._found.append(str(err))
            return otherwise

    def settle(self) -> None:
        """Raise MistakesError when there was a mistake."""
        if self._found:
            raise MistakesError(tuple(sorted(dict.fromkeys(self._found), key=_line)))


def _line(mistake: str) -> int:
    found = _LINE.search(mistake)
    return 0 if found is None else int(found[1])
