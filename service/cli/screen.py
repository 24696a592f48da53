"""What commands print: tables and colour for people, one JSON document for machines, errors in one sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path

from rich.console import Console
from rich.markup import escape

# A pipe has no width: lines stay whole for it, and tables get room.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def plain(value: object) -> object:
    """Turn a value of the client into what JSON knows: times as RFC 3339, durations in seconds, bytes as hex."""
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case Path():
            return str(value)
        case Mapping():
            return {str(key): plain(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(one) for one in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value


def print_json(value: object) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def complain(message: str) -> None:
    """Print one sentence about what went wrong to standard error."""
    err.print(f"[bold red]remit:[/] {escape(message)}")


def ago(age: timedelta | None) -> str:
    """An age for people: `12 s`, `3 min`, `5 h`, `2 d`, or `never`."""
    if age is None:
        return "never"
    seconds = int(age.total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def since(moment: datetime | None) -> str:
    """How long ago a moment was, for people."""
    return "never" if moment is None else f"{ago(datetime.now(moment.tzinfo) - moment)} ago"
