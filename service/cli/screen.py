"""What commands print: tables and colour for people, one JSON document for machines, errors in one sentence.

Names, passages and queries are other people's words: what a terminal would act on in them is shown and never sent.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text

# Control characters of seven and eight bits but for tab and line feed, and those that turn the direction of a line.
_ACTED_ON: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class _Screen(Console):
    """A console that sends no control character but its own."""

    def render_str(self, text: str, **how: Any) -> Text:
        """See `Console`: strings come by here, before a table is given its widths."""
        return super().render_str(_ACTED_ON.sub("\ufffd", text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console`: everything that is printed comes by here, whatever it is made of."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else _ACTED_ON.sub("\ufffd", segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


# Of a process that was started without one, standard output is None.
_is_terminal = sys.stdout is not None and sys.stdout.isatty()
# A pipe has no width: lines stay whole for it, and tables get room. Without emoji: `static:school:…` is a token.
out = _Screen(highlight=False, emoji=False, soft_wrap=True, width=None if _is_terminal else 160)
err = _Screen(stderr=True, highlight=False, emoji=False, soft_wrap=True)


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
    text = json.dumps(plain(value), ensure_ascii=False)
    out.file.write(_ACTED_ON.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
    out.file.flush()


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
