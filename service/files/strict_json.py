"""JSON that every reader takes for the same: UTF-8, no member twice, no NaN and no infinity (RFC 8259, RFC 7493)."""

from __future__ import annotations

import json
from typing import NoReturn


def parse(data: bytes) -> object:
    """Return the value. Raises ValueError, also for what is nested too deeply."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError as err:
        raise ValueError("nested too deeply") from err


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"`{constant}` is no number of JSON")
