"""The people of the demo's company, and the directory file that lists them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import yaml

ID_DOMAIN: Final = "corp"

STAFF: Final = 20100
SALES: Final = 20101
FINANCE: Final = 20102
HR: Final = 20103
ENGINEERING: Final = 20104
LEGAL: Final = 20105
MANAGEMENT: Final = 20106
FIN_EMEA: Final = 20110

ERIN: Final = 20005
FRANK: Final = 20006

_HEADER: Final = """\
# The people of Nordlicht Instruments. Remit reads this file again whenever it changes:
# whoever loses a group here has lost it on the next question.
"""


@dataclass(frozen=True, slots=True)
class Person:
    """An account. groups: by their ids, direct ones only."""

    id: str
    name: str
    display_name: str
    uid: int
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A group; gid: None when it means nothing on disk. member_of: the groups it is a member of as a whole."""

    id: str
    gid: int | None
    member_of: tuple[str, ...] = ()


PEOPLE: Final = (
    Person("u-1001", "alice", "Alice Ahlgren", 20001, ("sales", "staff")),
    Person("u-1002", "bob", "Bob Brandt", 20002, ("fin-emea", "staff")),
    Person("u-1003", "carol", "Carol Castell", 20003, ("hr", "staff")),
    Person("u-1004", "dave", "Dave Dietrich", 20004, ("engineering", "staff")),
    Person("u-1005", "erin", "Erin Ekström", ERIN, ("engineering", "staff")),
    Person("u-1006", "frank", "Frank Fournier", FRANK, ("legal", "staff")),
    Person("u-1007", "grace", "Grace Graf", 20007, ("management", "sales", "finance", "staff")),
    Person("u-1008", "heidi", "Heidi Holm", 20008, ("finance", "staff")),
    Person("u-1009", "ivan", "Ivan Ilic", 20009, ("sales", "staff")),
    Person("u-1010", "judith", "Judith Jansen", 20010, ("auditors", "legal", "staff")),
    Person("u-1011", "oskar", "Oskar Olsen", 20011, ("operators", "staff")),
)

GROUPS: Final = (
    Group("staff", STAFF),
    Group("sales", SALES),
    Group("finance", FINANCE),
    Group("fin-emea", FIN_EMEA, ("finance",)),
    Group("hr", HR),
    Group("engineering", ENGINEERING),
    Group("legal", LEGAL),
    Group("management", MANAGEMENT),
    Group("operators", None),
    Group("auditors", None),
)


def group_names() -> dict[int, str]:
    """The name of each gid, for the reader of a list."""
    return {g.gid: g.id for g in GROUPS if g.gid is not None}


def without(person: str, group: str) -> tuple[Person, ...]:
    """Everybody, with `person` out of `group`."""
    return tuple(replace(p, groups=tuple(g for g in p.groups if g != group)) if p.name == person else p for p in PEOPLE)


def write(path: Path, people: tuple[Person, ...] = PEOPLE) -> None:
    """Write the directory file, in one step, so that nobody reads half of it."""
    users: list[dict[str, object]] = [
        {
            "id": p.id,
            "name": p.name,
            "display_name": p.display_name,
            "uid": p.uid,
            "gid": STAFF,
            "groups": list(p.groups),
            "enabled": True,
        }
        for p in people
    ]
    groups: list[dict[str, object]] = [
        {"id": g.id}
        | ({} if g.gid is None else {"gid": g.gid})
        | ({"member_of": list(g.member_of)} if g.member_of else {})
        for g in GROUPS
    ]
    document = [
        _HEADER + f"version: 1\nid_domain: {ID_DOMAIN}\nusers:",
        *(_line(user) for user in users),
        "groups:",
        *(_line(group) for group in groups),
    ]
    fresh = path.with_name(path.name + ".new")
    fresh.write_text("\n".join(document) + "\n", "utf-8")
    fresh.replace(path)


def _line(item: dict[str, object]) -> str:
    return (
        "  - " + yaml.safe_dump(item, allow_unicode=True, sort_keys=False, width=1000, default_flow_style=True).strip()
    )
