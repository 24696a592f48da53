"""File names as text: exact for ids, harmless for people. A name is any bytes but `/` and NUL."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]+")
_MAX_LOCATION: Final = 4096


def encode(name: str) -> str:
    """Return `name` (with surrogates for bytes that are not UTF-8) as ASCII that `decode` reads back exactly."""
    return name if _PLAIN.fullmatch(name) else quote(os.fsencode(name), safe="")


def decode(text: str) -> str:
    """Return the name that `encode` was given."""
    return os.fsdecode(unquote_to_bytes(text))


def display(name: str) -> str:
    """Return `name` for people: what does not print, and what is not UTF-8, as a backslash escape."""
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(_shown(character) for character in name)


def join(folder: str, name: str) -> str:
    """Return the location of `name` in `folder`, both for people; the middle of a very long one is left out."""
    whole = f"{folder.rstrip('/')}/{name}" if folder != "." else name
    if len(whole) <= _MAX_LOCATION:
        return whole
    return f"{whole[: _MAX_LOCATION // 4]}…{whole[-_MAX_LOCATION // 2 :]}"


def _shown(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
