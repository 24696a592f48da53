"""YAML read strictly, so that every complaint names the file, the line, the key, and what was expected and found.

It knows YAML and single values: no duplicate keys, no anchors, aliases or tags, no spelling that surprises.
What the keys mean is the reader's business (`connectors.directories.static_file`, `service.settings`).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

import yaml

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_DEPTH: Final = 20
_MAX_ENTRIES: Final = 10_000
_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
_FLAGS: Final = {"true": True, "false": False}
_SHARE: Final = re.compile(r"0(\.[0-9]{1,9})?|1(\.0{1,9})?")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_DURATION: Final = re.compile(r"([1-9][0-9]{0,8})(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_TAG: Final = "tag:yaml.org,2002:"


_LONGEST: Final = 600
"""Characters of a complaint."""


class YamlFileError(Exception):
    """The text is not what it must be: one sentence with file, line, key and what was expected."""

    def __init__(self, message: str) -> None:
        # It quotes what stands in the file, which may turn the line around or go on for ever on somebody's screen.
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message)
        super().__init__(shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…")


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a file with the place where it stands. Every reading method raises YamlFileError.

    file: as messages call it. key: the dotted path to it, such as `users[3].uid`; empty for the whole file.
    """

    file: str
    key: str
    node: yaml.Node

    @property
    def line(self) -> int:
        """The line on which the value starts, from 1."""
        return int(self.node.start_mark.line) + 1

    def fail(self, complaint: str) -> NoReturn:
        """Raise YamlFileError naming this place."""
        raise YamlFileError(f"{self.file}:{self.line}: {self.key + ': ' if self.key else ''}{complaint}")

    def expected(self, what: str) -> NoReturn:
        """Raise YamlFileError: expected `what`, found this."""
        self.fail(f"expected {what}, found {self._found()}")

    def mapping(self, known: Collection[str] | None = None) -> dict[str, Field]:
        """Read a mapping, no key twice. With `known`, another key is refused with a suggestion."""
        if not isinstance(self.node, yaml.MappingNode):
            self.expected("a mapping")
        found: dict[str, Field] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in self.node.value:
            at = Field(self.file, self.key, key_node)
            if not isinstance(key_node, yaml.ScalarNode) or at._kind() != "str":
                at.fail(f"expected a key, found {at._found()}")
            name = str(key_node.value)
            at = Field(self.file, f"{self.key}.{name}" if self.key else name, key_node)
            if name in found:
                at.fail(f"stands here a second time, first in line {lines[name]}")
            if known is not None and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                at.fail(f"unknown key, did you mean `{near[0]}`?" if near else f"unknown key, known: {_listed(known)}")
            found[name] = Field(self.file, at.key, value_node)
            lines[name] = at.line
        return found

    def need(self, entries: Mapping[str, Field], name: str, what: str) -> Field:
        """Return the entry `name` of this mapping, or say what was expected there."""
        if name not in entries:
            self.fail(f"`{name}` is missing, expected {what}")
        return entries[name]

    def items(self, at_most: int = _MAX_ENTRIES) -> list[Field]:
        """Read a list of at most `at_most` values."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.expected("a list")
        if len(self.node.value) > at_most:
            self.fail(f"expected at most {at_most} entries, found {len(self.node.value)}")
        return [Field(self.file, f"{self.key}[{number}]", node) for number, node in enumerate(self.node.value)]

    def text(self, what: str = "text", pattern: re.Pattern[str] | None = None) -> str:
        """Read text that is not empty, and matches `pattern` in full where one is given."""
        node = self.node
        if not isinstance(node, yaml.ScalarNode) or self._kind() != "str" or not node.value.strip():
            self.expected(what)
        if "\0" in node.value or (pattern is not None and not pattern.fullmatch(node.value)):
            self.expected(what)
        return str(node.value)

    def label(self, at_most: int = 200) -> str:
        """Read text of 1 to `at_most` characters, all printable, none a space at an end."""
        node = self.node
        if isinstance(node, yaml.ScalarNode) and self._kind() != "str" and node.value:
            # YAML takes `no`, `1e3` and `2024-01-01` for something else than text.
            self.fail(f'expected text: put it in quotes, as in "{node.value}"')
        value = self.text()
        if len(value) > at_most or value != value.strip() or not value.isprintable():
            self.fail(f"expected 1 to {at_most} printable characters without spaces around them")
        return value

    def name(self, what: str = "a name of lower-case letters, digits, `-`, `_` and `.`") -> str:
        """Read a name that may stand in a path, a realm or a key."""
        return self.text(what, _NAME)

    def choice(self, choices: Collection[str]) -> str:
        """Read one of some words."""
        what = " or ".join(f"`{c}`" for c in choices)
        found = self.text(what)
        if found not in choices:
            self.expected(what)
        return found

    def flag(self) -> bool:
        """Read `true` or `false`, and none of YAML's other spellings."""
        if self._kind() != "bool" or self.node.value not in _FLAGS:
            self.expected("`true` or `false`")
        return _FLAGS[self.node.value]

    def whole(self, least: int, most: int) -> int:
        """Read a whole number in plain decimal: YAML's octal, hexadecimal, 1_000 and 1:30 are refused."""
        what = f"a whole number from {least} to {most}" if least != most else f"`{least}`"
        if self._kind() != "int" or not _NUMBER.fullmatch(self.node.value):
            self.expected(what)
        value = int(self.node.value)
        if not least <= value <= most:
            self.expected(what)
        return value

    def share(self) -> float:
        """Read a share: a plain decimal number from 0 to 1."""
        what = "a share from `0` to `1`, such as `0.5`"
        if self._kind() not in ("int", "float") or not _SHARE.fullmatch(self.node.value):
            self.expected(what)
        return float(self.node.value)

    def duration(self) -> timedelta:
        """Read a duration: a whole number above 0 and one of `s`, `m`, `h`, `d`."""
        what = "a duration such as `90s`, `15m`, `24h` or `7d`"
        match = _DURATION.fullmatch(self.text(what))
        if match is None:
            self.expected(what)
        try:
            return timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            self.expected(what)

    def path(self, base: Path) -> Path:
        """Read a path, relative to `base`. Nothing is looked up."""
        return base / Path(self.text("a path")).expanduser()

    def plain(self) -> object:
        """Read anything as None, bool, int, float, str, list and dict; for options that another part reads."""
        match self.node:
            case yaml.MappingNode():
                return {name: field.plain() for name, field in self.mapping().items()}
            case yaml.SequenceNode():
                return [field.plain() for field in self.items()]
            case _:
                return self._scalar()

    def _scalar(self) -> object:
        value = str(self.node.value)
        match self._kind():
            case "str":
                return value
            case "null":
                return None
            case "bool" if value in _FLAGS:
                return _FLAGS[value]
            case "int" if _NUMBER.fullmatch(value):
                return int(value)
            case kind:
                if kind != "float":
                    self.expected("a plain value, with text such as `no` in quotes")
                return self._finite(value)

    def _finite(self, value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            self.expected("a finite number")
        if not math.isfinite(number):
            self.expected("a finite number")
        return number

    def _found(self) -> str:
        match self.node:
            case yaml.MappingNode():
                return "a mapping"
            case yaml.SequenceNode():
                return "a list"
            case yaml.ScalarNode(value=value) if self._kind() == "null" or not value:
                return "nothing"
            case yaml.ScalarNode(value=value):
                return f"`{value if len(value) <= 80 else value[:77] + '...'}`"
            case _:
                return "something else"

    def _kind(self) -> str:
        return str(self.node.tag).removeprefix(_TAG)


def read(path: Path, max_bytes: int = 1024 * 1024) -> Field:
    """Read one file, which messages call by its whole path. Raises YamlFileError; OSError is the caller's to word."""
    with path.open("rb") as file:
        return parse(file.read(max_bytes + 1), str(path), max_bytes)


def parse(data: bytes, file: str, max_bytes: int) -> Field:
    """Return the one document in `data`. Raises YamlFileError; `file` is what messages call it."""
    if len(data) > max_bytes:
        raise YamlFileError(f"{file}: expected at most {max_bytes} bytes of YAML")
    try:
        text = data.decode()
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise YamlFileError(f"{file}:{line}: expected UTF-8, found the byte 0x{data[err.start]:02x}") from err
    try:
        _refuse_cleverness(text, file)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise YamlFileError(f"{file}:{line}: not YAML: {err.problem or err.context}") from err
    except yaml.reader.ReaderError as err:
        line = text.encode().count(b"\n", 0, err.position) + 1
        raise YamlFileError(f"{file}:{line}: not YAML: {err.reason}") from err
    except yaml.YAMLError as err:
        raise YamlFileError(f"{file}:1: not YAML") from err
    if node is None:
        raise YamlFileError(f"{file}:1: expected a mapping, found nothing")
    return Field(file, "", node)


def _refuse_cleverness(text: str, file: str) -> None:
    """Raise for nesting beyond anything that people write, and for aliases and tags, which say a lot with little."""
    # Events come one by one, where building a tree recurses: deep nesting would end the process there, not the parsing.
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        at = f"{file}:{event.start_mark.line + 1 if event.start_mark is not None else 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise YamlFileError(f"{at}: anchors and aliases are not read here, write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise YamlFileError(f"{at}: the tag `{tag}` is not read here, write the plain value")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise YamlFileError(f"{at}: nested more than {_MAX_DEPTH} levels deep")


def _listed(keys: Collection[str]) -> str:
    return ", ".join(f"`{key}`" for key in sorted(keys))
