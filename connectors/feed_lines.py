"""One line of a feed to a value: strict JSON, every member known, every complaint a sentence. Reads nothing itself.

docs/connectors/feed.md and feed.schema.json describe the lines. What is not understood about who may read is unknown,
so nobody reads; what is not understood otherwise makes the line broken.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Final, Literal, NoReturn

from acl.errors import InvalidValueError
from acl.model import NEVER, Clause, Effect, Rule, Unknown, clause_of
from acl.principal import Principal

VERSION: Final = 1

_MAX_ID: Final = 512
_MAX_TEXT: Final = 4096
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+-]{1,80}/[a-z0-9.+-]{1,120}")
# RFC 3339: what `fromisoformat` takes beyond it, such as week dates, two readers might read differently.
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_MEMBERS: Final = {
    "feed": {"kind", "version", "exported_at"},
    "scope": {"kind", "id", "parent", "location", "rules"},
    "document": {"kind", "id", "scope", "title", "location", "media_type", "modified_at", "rules", "text", "file"},
    "group": {"kind", "group", "name", "members"},
    "end": {"kind", "scopes", "documents", "groups"},
}
_RULE_MEMBERS: Final = {"effect", "principals", "expires_at"}
_OWN: Final = "source:"
_EFFECTS: Final = {"allow": Effect.ALLOW, "deny": Effect.DENY}


class LineError(Exception):
    """A line is broken. about: kind and id of what it is about, if that much is certain."""

    def __init__(self, complaint: str, about: tuple[str, str] | None = None) -> None:
        super().__init__(complaint)
        self.about = about


@dataclass(frozen=True, slots=True)
class HeaderLine:
    """The first line. exported_at: None in a version that is not read here."""

    version: int
    exported_at: datetime | None


@dataclass(frozen=True, slots=True)
class ScopeLine:
    """A container. parent: None when there is none around it."""

    id: str
    parent: str | None
    location: str
    clause: Clause | Unknown


@dataclass(frozen=True, slots=True)
class DocumentLine:
    """A document.

    own: `scope` when the line says that its scope alone decides.
    content: the text itself, or the way to a file below the feed's folder.
    """

    id: str
    scope: str | None
    own: Clause | Unknown | Literal["scope"]
    title: str
    location: str
    media_type: str
    modified_at: datetime
    content: str | PurePosixPath


@dataclass(frozen=True, slots=True)
class GroupLine:
    """A group that the system has itself."""

    group: Principal
    name: str
    members: frozenset[Principal] | Unknown


@dataclass(frozen=True, slots=True)
class EndLine:
    """The last line, with how many lines of each kind came before it."""

    scopes: int
    documents: int
    groups: int


Line = HeaderLine | ScopeLine | DocumentLine | GroupLine | EndLine


def parse(data: bytes) -> Line:
    """Return what a line says. Raises LineError."""
    members = _object(data)
    kind = members.get("kind")
    match kind:
        case "feed":
            version = _count(members, "version")
            if version != VERSION:
                # Nothing else is asked of it, so that another version is told from a broken line.
                return HeaderLine(version, None)
            _require_known(members, kind)
            return HeaderLine(version, _time(members.get("exported_at"), "exported_at"))
        case "end":
            _require_known(members, kind)
            groups = _count(members, "groups") if "groups" in members else 0
            return EndLine(_count(members, "scopes"), _count(members, "documents"), groups)
        case "group":
            group = _own_group(members)
            try:
                return _group(members, group)
            except LineError as err:
                raise LineError(str(err), (kind, group.token)) from err
        case "scope" | "document":
            line_id = _text(members, "id", _MAX_ID)
            if not line_id.isprintable():
                raise LineError("`id`: expected printable characters")
            try:
                return _scope(members, line_id) if kind == "scope" else _document(members, line_id)
            except LineError as err:
                raise LineError(str(err), (kind, line_id)) from err
        case _:
            raise LineError(f"`kind`: expected `feed`, `scope`, `document`, `group` or `end`, found {_shown(kind)}")


def _scope(members: dict[str, object], line_id: str) -> ScopeLine:
    _require_known(members, "scope")
    return ScopeLine(
        id=line_id,
        parent=_text(members, "parent", _MAX_ID) if "parent" in members else None,
        location=_label(members, "location"),
        clause=_rules(members),
    )


def _document(members: dict[str, object], line_id: str) -> DocumentLine:
    _require_known(members, "document")
    scope = _text(members, "scope", _MAX_ID) if "scope" in members else None
    own: Clause | Unknown | Literal["scope"]
    if members.get("rules") == "scope":
        own = "scope" if scope is not None else Unknown("its rules are those of its scope, and it has none")
    else:
        own = _rules(members)
    media_type = _text(members, "media_type", _MAX_TEXT)
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise LineError(f"`media_type`: expected one such as `text/plain`, found {_shown(media_type)}")
    return DocumentLine(
        id=line_id,
        scope=scope,
        own=own,
        title=_label(members, "title"),
        location=_label(members, "location"),
        media_type=media_type,
        modified_at=_time(members.get("modified_at"), "modified_at"),
        content=_content(members),
    )


def _own_group(members: dict[str, object]) -> Principal:
    token = _text(members, "group", _MAX_TEXT)
    try:
        group = Principal.parse(token)
    except InvalidValueError as err:
        raise LineError(f"`group`: {_cut(str(err))}") from err
    if not group.realm.startswith(_OWN):
        raise LineError(f"`group`: expected one of this source's own, `{_OWN}<its name>:…`, found {_shown(token)}")
    return group


def _group(members: dict[str, object], group: Principal) -> GroupLine:
    _require_known(members, "group")
    return GroupLine(group, _label(members, "name"), _principals_of(members.get("members")))


def _principals_of(found: object) -> frozenset[Principal] | Unknown:
    """Read members. One that is not understood makes all of them unknown: it could be anybody."""
    if not isinstance(found, list):
        return Unknown("`members` is missing" if found is None else "`members` is not a list")
    try:
        return frozenset(Principal.parse(token) if isinstance(token, str) else _no_token() for token in found)
    except InvalidValueError as err:
        return Unknown(f"`members`: {_cut(str(err))}")


def _no_token() -> NoReturn:
    raise InvalidValueError("a member is no text")


def _content(members: dict[str, object]) -> str | PurePosixPath:
    if ("text" in members) == ("file" in members):
        raise LineError("expected either `text` or `file`")
    if "text" in members:
        text = members["text"]
        if not isinstance(text, str) or not _is_unicode(text):
            raise LineError("`text`: expected text")
        return text
    path = _text(members, "file", _MAX_TEXT)
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise LineError(f"`file`: expected a path below the feed's folder, found {_shown(path)}")
    return PurePosixPath(*parts)


def _rules(members: dict[str, object]) -> Clause | Unknown:
    """Read rules. One that is not understood makes all of them unknown: it could be a deny."""
    found = members.get("rules")
    if not isinstance(found, list):
        return Unknown("`rules` is missing" if found is None else "`rules` is not a list")
    try:
        return clause_of([_rule(rule, number) for number, rule in enumerate(found)])
    except LineError as err:
        return Unknown(str(err))


def _rule(found: object, number: int) -> Rule:
    at = f"rules[{number}]"
    if not isinstance(found, dict):
        raise LineError(f"`{at}` is not an object")
    strange = sorted(set(found) - _RULE_MEMBERS)
    if strange:
        raise LineError(f"`{at}` is of an unknown kind: it has `{_cut(strange[0])}`")
    effect = found.get("effect")
    if not isinstance(effect, str) or effect not in _EFFECTS:
        raise LineError(f"`{at}.effect`: expected `allow` or `deny`, found {_shown(effect)}")
    tokens = found.get("principals")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise LineError(f"`{at}.principals`: expected a list of principals")
    expires_at = _time(found["expires_at"], f"{at}.expires_at") if "expires_at" in found else NEVER
    try:
        return Rule(_EFFECTS[effect], frozenset(Principal.parse(token) for token in tokens), expires_at)
    except InvalidValueError as err:
        raise LineError(f"`{at}`: {_cut(str(err))}") from err


def _object(data: bytes) -> dict[str, object]:
    """Read JSON that every reader takes for the same: no member twice, no NaN. Raises LineError."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except UnicodeDecodeError as err:
        raise LineError("not UTF-8") from err
    except RecursionError as err:
        raise LineError("nested too deeply") from err
    except ValueError as err:  # JSONDecodeError, or a number with more digits than Python reads
        raise LineError("not JSON") from err
    if not isinstance(value, dict):
        raise LineError("not a JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise LineError("a member stands twice in one object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise LineError(f"`{constant}` is no number of JSON")


def _require_known(members: dict[str, object], kind: str) -> None:
    strange = sorted(set(members) - _MEMBERS[kind])
    if strange:
        raise LineError(f"unknown member `{_cut(strange[0])}`")


def _text(members: dict[str, object], key: str, at_most: int) -> str:
    value = members.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= at_most or not _is_unicode(value):
        raise LineError(f"`{key}`: expected text of 1 to {at_most} characters, found {_shown(value)}")
    return value


def _label(members: dict[str, object], key: str) -> str:
    """Read a text for people; what does not print becomes a space."""
    text = "".join(one if one.isprintable() else " " for one in _text(members, key, _MAX_TEXT)).strip()
    if not text:
        raise LineError(f"`{key}`: expected printable text")
    return text


def _count(members: dict[str, object], key: str) -> int:
    value = members.get(key)
    if type(value) is not int or value < 0:
        raise LineError(f"`{key}`: expected a whole number, found {_shown(value)}")
    return value


def _time(value: object, key: str) -> datetime:
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            found = datetime.fromisoformat(value)
            # A time that UTC cannot express is none.
            found.timestamp()
        except (ValueError, OverflowError):
            pass
        else:
            return found
    raise LineError(f"`{key}`: expected a time such as `2026-01-31T08:00:00Z`, found {_shown(value)}")


def _is_unicode(text: str) -> bool:
    """False for a lone surrogate, which JSON can spell and nothing can store."""
    return not any(0xD800 <= ord(one) <= 0xDFFF for one in text) if not text.isascii() else True


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    return f"`{_cut(str(value))}`" if isinstance(value, str | int | float) else type(value).__name__


def _cut(text: str) -> str:
    clean = "".join(one if one.isprintable() else " " for one in text)
    return clean if len(clean) <= 80 else f"{clean[:77]}..."
