"""The shape of a static directory's file: text in, users and groups out, or the line where it is wrong.

Everything is checked here, and strictly: a directory that is half right is not a directory.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from acl.errors import InvalidValueError
from acl.principal import Realm, realm
from connectors.directories.mail import address_of
from connectors.yaml_file import Field, parse

_T = TypeVar("_T")
_D = TypeVar("_D")

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_ENTRIES: Final = 200_000
_MAX_GROUPS_OF_ONE: Final = 10_000
_MAX_NUMBER: Final = 2**32 - 2
"""The highest uid and gid: 2**32 - 1 means `no id` to the kernel."""


@dataclass(frozen=True, slots=True)
class User:
    """An account. uid and gid are both numbers or both None: without them it has no part in POSIX rules.

    mail_verified: whether whoever wrote the file vouches for the address.
    """

    id: str
    name: str
    display_name: str
    uid: int | None
    gid: int | None
    groups: tuple[str, ...]
    enabled: bool
    mail: str | None = None
    mail_verified: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A group; `member_of` are the groups that it is a member of itself."""

    id: str
    gid: int | None
    member_of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class People:
    """The content of a file. posix: the realm of uid and gid numbers, None when the file names no id domain."""

    posix: Realm | None
    users: Mapping[str, User]
    groups: Mapping[str, Group]


def read_people(data: bytes, file: str) -> People:
    """Read the file's text. Raises YamlFileError with file, line and field."""
    root = parse(data, file, MAX_BYTES)
    top = root.mapping(("version", "id_domain", "users", "groups"))
    root.need(top, "version", "`1`").whole(1, 1)
    posix = _posix_realm(top["id_domain"]) if "id_domain" in top else None
    groups = [_group(field) for field in top["groups"].items(MAX_ENTRIES)] if "groups" in top else []
    users = [_user(field) for field in root.need(top, "users", "a list of users").items(MAX_ENTRIES)]

    _unique((field["id"], group.id) for field, group in groups)
    _unique((field["gid"], group.gid) for field, group in groups if group.gid is not None)
    _unique((field["id"], user.id) for field, user in users)
    _unique((field["name"], user.name) for field, user in users)
    _unique((field["uid"], user.uid) for field, user in users if user.uid is not None)
    known = {group.id for _, group in groups}
    for field, group in groups:
        _known(field.get("member_of"), group.member_of, known)
    for field, user in users:
        _known(field.get("groups"), user.groups, known)
    if posix is None:
        for field in (field for field, _ in (*users, *groups)):
            for key in field.keys() & {"uid", "gid"}:
                field[key].fail("the file needs an `id_domain` that says whose numbers these are")
    return People(posix, {user.id: user for _, user in users}, {group.id: group for _, group in groups})


def _posix_realm(field: Field) -> Realm:
    try:
        return realm("posix", field.label())
    except InvalidValueError:
        field.expected("letters, digits, `.`, `_` and `-`")


def _user(field: Field) -> tuple[dict[str, Field], User]:
    found = field.mapping(("id", "name", "display_name", "uid", "gid", "groups", "enabled", "mail", "mail_verified"))
    if ("uid" in found) != ("gid" in found):
        field.fail("`uid` and `gid` belong together: give both or neither")
    name = field.need(found, "name", "what the user is called").label()
    return found, User(
        id=field.need(found, "id", "an id that never changes").label(),
        name=name,
        display_name=_optional(found, "display_name", Field.label, name),
        uid=_optional(found, "uid", _number, None),
        gid=_optional(found, "gid", _number, None),
        groups=_optional(found, "groups", _names, ()),
        enabled=_optional(found, "enabled", Field.flag, True),
        mail=_optional(found, "mail", _address, None),
        mail_verified=_optional(found, "mail_verified", Field.flag, False),
    )


def _group(field: Field) -> tuple[dict[str, Field], Group]:
    found = field.mapping(("id", "gid", "member_of"))
    return found, Group(
        id=field.need(found, "id", "an id that never changes").label(),
        gid=_optional(found, "gid", _number, None),
        member_of=_optional(found, "member_of", _names, ()),
    )


def _optional(found: Mapping[str, Field], key: str, read: Callable[[Field], _T], default: _D) -> _T | _D:
    return read(found[key]) if key in found else default


def _number(field: Field) -> int:
    return field.whole(0, _MAX_NUMBER)


def _address(field: Field) -> str:
    found = address_of(field.text())
    if found is None:
        field.expected("a mail address such as `alice@corp.example`")
    return found


def _names(field: Field) -> tuple[str, ...]:
    return tuple(item.label() for item in field.items(_MAX_GROUPS_OF_ONE))


def _unique(values: Iterable[tuple[Field, str | int]]) -> None:
    seen: dict[str | int, tuple[Field, str | int]] = {}
    for field, value in values:
        key = _fold(value) if isinstance(value, str) else value
        if key in seen:
            first, other = seen[key]
            alike = "" if other == value else f", which looks the same as `{value}`"
            field.fail(f"`{other}` is already on line {first.line}{alike}")
        seen[key] = (field, value)


def _fold(text: str) -> str:
    """What two names have in common that a person would take for the same: for finding duplicates only."""
    return unicodedata.normalize("NFKC", text).casefold()


def _known(field: Field | None, names: tuple[str, ...], known: set[str]) -> None:
    if field is None:
        return
    for item, name in zip(field.items(_MAX_GROUPS_OF_ONE), names, strict=True):
        if name not in known:
            item.fail(f"there is no group `{name}`")
    _unique(zip(field.items(_MAX_GROUPS_OF_ONE), names, strict=True))
