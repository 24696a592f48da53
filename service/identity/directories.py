"""The directories of `remit.yaml`: their settings and links, and how one is opened at start.

The options of a directory belong to its kind and are handed on as they stand.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from connectors import registry
from connectors.directories.base import (
    ATTRIBUTES,
    FACTS,
    LINKED,
    BindRefusedError,
    Directory,
    DirectoryUnavailableError,
    Watched,
)
from connectors.directories.mail import MAIL, is_domain
from connectors.yaml_file import Field
from service.errors import StartError

__all__ = ["ATTRIBUTES", "DirectorySettings", "Link", "build", "open_directory", "read", "read_links"]

log = structlog.get_logger()

_COMMON: Final = ("name", "kind", "keep_for", "max_directory_age", "poll_every")
_MOST: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """Where people and groups come from. options: what its kind reads, as plain values.

    keep_for: how long an answer is used without asking again; 0 for a directory that is not asked over a network.
    max_age: how old an answer may be used while the directory cannot be reached: the bound on noticing a change then.
    poll_every: how often the directory is asked what changed.
    """

    name: str
    kind: str
    options: Mapping[str, object]
    keep_for: timedelta = timedelta(0)
    max_age: timedelta = timedelta(seconds=60)
    poll_every: timedelta = timedelta(seconds=2)
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def place(self, option: str = "") -> str:
        """Where an option stands, as `remit.yaml:31: directories[0].ca`, for an error about it."""
        return self.places.get(option) or self.places.get("", self.name)


@dataclass(frozen=True, slots=True)
class Link:
    """The same person in two directories: `fact` of the account in `source` is `attribute` of one in `target`.

    domains, managed_by: for links by mail: whose addresses count, and which of the two directories gives them out.
    """

    source: str
    fact: str
    target: str
    attribute: str
    domains: frozenset[str] = frozenset()
    managed_by: str = ""


def read(item: Field) -> tuple[DirectorySettings, ...]:
    """Read the list. Raises YamlFileError."""
    found: dict[str, DirectorySettings] = {}
    for one in item.items():
        settings = _directory(one)
        if settings.name in found:
            one.mapping()["name"].fail(f"`{settings.name}` is listed twice")
        found[settings.name] = settings
    if not found:
        item.fail("expected at least one directory, found none")
    return tuple(found.values())


def _directory(one: Field) -> DirectorySettings:
    entries = one.mapping()
    name = one.need(entries, "name", "a name").name()
    kind = one.need(entries, "kind", "a kind of directory such as `static`").choice(tuple(ATTRIBUTES))
    # Entra ID counts what it is asked, and shows changes late.
    keep_for, poll_every = (30, 15) if kind == "entra" else (15, 2)
    times = {"keep_for": timedelta(seconds=keep_for), "max_directory_age": timedelta(seconds=60)}
    times["poll_every"] = timedelta(seconds=poll_every)
    for key in times:
        if key in entries:
            if kind == "static":
                entries[key].fail("a static directory is read again at every question, expected no such key")
            times[key] = entries[key].duration()
            if times[key] > _MOST:
                entries[key].expected("at most `1h`")
    for shorter, longer in (("poll_every", "keep_for"), ("keep_for", "max_directory_age")):
        if times[shorter] > times[longer]:
            wrong = entries.get(shorter) or entries[longer]
            wrong.fail(f"`{shorter}` is longer than `{longer}`, expected the reverse")
    return DirectorySettings(
        name=name,
        kind=kind,
        options={key: value.plain() for key, value in entries.items() if key not in _COMMON},
        keep_for=timedelta(0) if kind == "static" else times["keep_for"],
        max_age=times["max_directory_age"],
        poll_every=times["poll_every"],
        places={key: f"{i.file}:{i.line}: {i.key}" for key, i in [("", one), *entries.items()]},
    )


def read_links(item: Field, directories: Collection[DirectorySettings]) -> tuple[Link, ...]:
    """Read `links`. Raises YamlFileError: unknown directories, and facts that can change or be given away."""
    kinds = {one.name: one.kind for one in directories}
    found: list[Link] = []
    for one in item.items():
        entries = one.mapping(["from", "fact", "to", "equals", "domains", "managed_by"])
        ends = {key: one.need(entries, key, "a directory's name").text("a directory's name") for key in ("from", "to")}
        for key, name in ends.items():
            if name not in kinds:
                entries[key].expected(f"one of the directories {_listed(kinds)}")
        if ends["from"] == ends["to"]:
            entries["to"].fail(f"leads from `{ends['from']}` to itself, expected another directory")
        fact = one.need(entries, "fact", "an immutable fact").choice(FACTS[kinds[ends["from"]]])
        equals = one.need(entries, "equals", "an attribute").choice(LINKED[kinds[ends["to"]]])
        link = Link(ends["from"], fact, ends["to"], equals)
        found.append(_by_mail(one, entries, link) if MAIL in (fact, equals) else _immutable(entries, link))
    return tuple(found)


def _immutable(entries: Mapping[str, Field], link: Link) -> Link:
    for key in ("domains", "managed_by"):
        if key in entries:
            entries[key].fail(f"expected no such key: the link is by `{link.fact}`, not by `mail`")
    return link


def _by_mail(one: Field, entries: Mapping[str, Field], link: Link) -> Link:
    for key in ("fact", "equals"):
        if entries[key].text() != MAIL:
            entries[key].fail(f"expected `{MAIL}`, as the other end of the link has it")
    domains = [
        item.text("a mail domain") for item in one.need(entries, "domains", "the mail domains that count").items()
    ]
    for item, domain in zip(entries["domains"].items(), domains, strict=True):
        if not is_domain(domain):
            item.expected("a mail domain in lower case such as `corp.example`")
    if not domains:
        entries["domains"].fail("expected at least one mail domain, found none")
    managed_by = one.need(entries, "managed_by", "the directory that gives out the addresses").text()
    if managed_by not in (link.source, link.target):
        entries["managed_by"].expected(f"`{link.source}` or `{link.target}`")
    return replace(link, domains=frozenset(domains), managed_by=managed_by)


def build(settings: DirectorySettings, base: Path) -> Directory:
    """Return the directory, connected to nothing. Raises StartError, which names key and line."""
    try:
        return registry.build_directory(settings.name, settings.kind, settings.options, base)
    except registry.OptionError as err:
        raise StartError(f"{settings.place(err.option)}: {err}") from err


def open_directory(settings: DirectorySettings, base: Path) -> Directory:
    """Return the directory, connected where it is asked over a network.

    One that cannot be reached now is opened all the same, and what names it is withheld until it can be. Raises
    StartError for what does not heal by waiting: a wrong option, a name or password that the directory refuses.
    """
    directory = build(settings, base)
    if isinstance(directory, Watched):
        try:
            directory.check()
        except BindRefusedError as err:
            directory.close()
            raise StartError(f"{settings.place('bind')}: {err.detail}") from err
        except DirectoryUnavailableError as err:
            log.warning("directory_unavailable", directory=settings.name, detail=err.detail)
    return directory


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
