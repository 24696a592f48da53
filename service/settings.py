"""What `remit.yaml` says, as values: read once at start, checked in full, every error with its line.

Whether files exist and keys work is found out by the parts that open them; the options of a source belong to its
connector and are handed on as they stand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

from acl.errors import InvalidValueError
from acl.principal import Principal, realm
from connectors import yaml_file
from connectors.yaml_file import Field, YamlFileError
from service import audit_settings, directories, issuers, key_settings, listeners, roles, service_accounts
from service.audit_settings import AuditSettings
from service.directories import DirectorySettings, Link
from service.errors import StartError
from service.index.planner import MAX_BITS, Tuning
from service.issuers import IssuerSettings
from service.key_settings import KeySettings
from service.listeners import Address, Listen, Tls
from service.schedules import Schedule
from service.service_accounts import ServiceAccount

__all__ = [
    "Address",
    "AuditSettings",
    "DirectorySettings",
    "EmbeddingSettings",
    "IssuerSettings",
    "KeySettings",
    "Limits",
    "Listen",
    "Settings",
    "SettingsError",
    "SourceSettings",
    "Tls",
    "load",
]

_AGES: Final = ("max_permissions_age", "max_memberships_age")
_OF_A_SOURCE: Final = frozenset({"name", "kind", *_AGES, "every", "watch", "canaries"})
"""What the service reads of a source; the rest is its connector's."""

_APART: Final = "expected another group: who audits changes nothing, and who changes something does not audit it"

_KEYS: Final = (
    *("version", "data", "listen", "keys", "issuers", "service_accounts", "directories", "links", "roles"),
    *("embedding", "index", "limits", "sources", "audit"),
)


class SettingsError(StartError):
    """The settings cannot be used: one sentence with file, line, key and what was expected. Exit code 2."""


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """The model. kind: `hash` stands for tests and benchmarks without a model. path: None is the bundled model."""

    kind: Literal["model", "hash"]
    path: Path | None


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """One source. options: what its connector reads, as plain values.

    max_permissions_age: past it the source's documents are withheld. schedule: None when only people start runs.
    max_memberships_age: past it nobody knows who is in the groups that the source has itself.
    canaries: patterns of the locations of documents that nobody may ever be given.
    """

    name: str
    kind: str
    max_permissions_age: timedelta
    options: Mapping[str, object]
    max_memberships_age: timedelta = timedelta(hours=24)
    schedule: Schedule | None = None
    canaries: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def place(self, option: str = "") -> str:
        """Where an option stands, as `remit.yaml:31: sources[0].root`, for an error about it."""
        return self.places.get(option) or self.places.get("", self.name)


@dataclass(frozen=True, slots=True)
class Limits:
    """max_document_bytes: a larger document is skipped with the reason `too large`."""

    max_document_bytes: int


@dataclass(frozen=True, slots=True)
class Settings:
    """All of `remit.yaml`. base: the folder of the file, to which its paths are relative.

    roles: for each role the principals that hold it; a role that is not there is nobody's.
    """

    file: Path
    base: Path
    data: Path
    listen: Listen
    keys: KeySettings
    issuers: tuple[IssuerSettings, ...]
    service_accounts: tuple[ServiceAccount, ...]
    directories: tuple[DirectorySettings, ...]
    links: tuple[Link, ...]
    roles: Mapping[str, frozenset[Principal]]
    embedding: EmbeddingSettings
    index: Tuning
    limits: Limits
    sources: tuple[SourceSettings, ...]
    audit: AuditSettings


def load(path: Path) -> Settings:
    """Read and check `remit.yaml`. Raises SettingsError: file, line, key, and what was expected."""
    try:
        return _read(yaml_file.read(path), path)
    except YamlFileError as err:
        raise SettingsError(str(err)) from err
    except FileNotFoundError as err:
        raise SettingsError(f"{path} does not exist: `remit init` writes one") from err
    except IsADirectoryError as err:
        raise SettingsError(f"{path} is a folder, expected a file such as `{path / 'remit.yaml'}`") from err
    except OSError as err:
        raise SettingsError(f"{path} cannot be read: {err.strerror}") from err


def _read(root: Field, path: Path) -> Settings:
    top = root.mapping(_KEYS)
    root.need(top, "version", "`1`").whole(1, 1)
    base = path.absolute().parent
    data = root.need(top, "data", "a path").path(base)
    listed = directories.read(root.need(top, "directories", "a list of directories"))
    sources = _sources(top["sources"]) if "sources" in top else ()
    names = [one.name for one in sources]
    attributes = {one.name: directories.ATTRIBUTES[one.kind] for one in listed}
    listen = listeners.read(root.need(top, "listen", "`callers` and `administrators`"), base)
    if "service_accounts" in top and listen.services is None:
        top["service_accounts"].fail("have no listener to call, expected `listen.services`")
    return Settings(
        file=path.absolute(),
        base=base,
        data=data,
        listen=listen,
        keys=key_settings.read(root.need(top, "keys", "`provider` and where it is"), base, data),
        issuers=issuers.read(root.need(top, "issuers", "a list of issuers"), base, attributes, names),
        service_accounts=service_accounts.read(top["service_accounts"], attributes, lambda one: _bound(one, listed))
        if "service_accounts" in top
        else (),
        directories=listed,
        links=directories.read_links(top["links"], listed) if "links" in top else (),
        roles=_roles(top["roles"], listed, names) if "roles" in top else {},
        embedding=_embedding(top.get("embedding"), base),
        index=_index(top.get("index")),
        limits=_limits(top.get("limits")),
        sources=sources,
        audit=audit_settings.read(top["audit"], base) if "audit" in top else AuditSettings(),
    )


def _roles(
    item: Field, listed: tuple[DirectorySettings, ...], sources: Collection[str]
) -> dict[str, frozenset[Principal]]:
    places: dict[Principal, str] = {}
    found: dict[str, frozenset[Principal]] = {}
    for role, bindings in _bindings(item, sources):
        held = {_bound(one, listed): one for one in bindings.items()}
        for principal, place in held.items():
            other = places.setdefault(principal, role)
            if roles.separated(role, other):
                place.fail(
                    f"`{principal.token}` has the role `{other}` too, expected another group: who audits {_APART}"
                )
        found[role] = frozenset(held)
    return found


def _bindings(item: Field, sources: Collection[str]) -> Iterator[tuple[str, Field]]:
    for role, entry in item.mapping(roles.NAMES).items():
        if role != roles.SOURCE_OWNER:
            yield role, entry
            continue
        for source, owners in entry.mapping().items():
            if source not in sources:
                owners.fail(f"there is no source `{source}`, expected one of the sources below")
            yield roles.owner_of(source), owners


def _bound(item: Field, listed: tuple[DirectorySettings, ...]) -> Principal:
    what = "`group:<id>` of the static directory, or a principal's token such as `static:people:group-operators`"
    text = item.text(what)
    try:
        if text.startswith("group:"):
            if len(listed) != 1:
                item.fail(
                    f"`{text}` could mean a group of several directories, {what.partition(', or ')[2]} is expected"
                )
            if listed[0].kind != "static":
                item.expected("a principal's token such as `ad:S-1-5-21-…-1104`")
            found = Principal(realm("static", listed[0].name), "group-" + text.removeprefix("group:"))
            if found.id == "group-":
                item.expected(what)
        else:
            found = Principal.parse(text)
    except InvalidValueError:
        item.expected(what)
    if found.realm.startswith("source:"):
        item.fail(f"expected a group of a directory, found `{text}`: a source does not say who administers")
    # A class is everybody with an account: that is no role.
    if found.is_class:
        item.fail(f"expected a group or a user, found the class `{text}`, which is everybody")
    return found


def _embedding(item: Field | None, base: Path) -> EmbeddingSettings:
    if item is None:
        return EmbeddingSettings("model", None)
    entries = item.mapping(["kind", "path"])
    if item.need(entries, "kind", "`model` or `hash`").choice(["model", "hash"]) == "hash":
        if "path" in entries:
            entries["path"].fail("a hash embedding has no model, expected no path")
        return EmbeddingSettings("hash", None)
    return EmbeddingSettings("model", entries["path"].path(base) if "path" in entries else None)


def _index(item: Field | None) -> Tuning:
    names = [one.name for one in fields(Tuning)]
    entries = item.mapping(names) if item is not None else {}
    ranges = {
        "bits": (1, MAX_BITS),
        "candidates": (10, 10_000),
        "oversampling": (1, 100),
        "exact_below": (0, 100_000),
        "threads": (0, 256),
    }
    values: dict[str, Any] = {
        name: value.flag() if name == "approximate" else value.whole(*ranges[name]) if name in ranges else value.share()
        for name, value in entries.items()
    }
    return Tuning(**values)


def _limits(item: Field | None) -> Limits:
    entries = item.mapping(["max_document_mb"]) if item is not None else {}
    return Limits((entries["max_document_mb"].whole(1, 2048) if "max_document_mb" in entries else 64) * 1024 * 1024)


def _sources(item: Field) -> tuple[SourceSettings, ...]:
    found: dict[str, SourceSettings] = {}
    for one in item.items():
        entries = one.mapping()
        name = one.need(entries, "name", "a name").name()
        if name in found:
            entries["name"].fail(f"`{name}` is listed twice")
        kind = one.need(entries, "kind", "a connector such as `filesystem`").name("a connector's kind")
        ages = {key: entries[key].duration() for key in _AGES if key in entries}
        permissions_age = ages.get("max_permissions_age", timedelta(hours=24))
        options = {key: value for key, value in entries.items() if key not in _OF_A_SOURCE}
        found[name] = SourceSettings(
            name=name,
            kind=kind,
            max_permissions_age=permissions_age,
            max_memberships_age=ages.get("max_memberships_age", permissions_age),
            options={key: value.plain() for key, value in options.items()},
            schedule=_schedule(entries, permissions_age),
            canaries=tuple(i.text("a pattern of locations") for i in entries["canaries"].items())
            if "canaries" in entries
            else (),
            places={key: f"{i.file}:{i.line}: {i.key}" for key, i in [("", one), *entries.items()]},
        )
    return tuple(found.values())


def _schedule(entries: Mapping[str, Field], age: timedelta) -> Schedule | None:
    if "every" not in entries:
        if "watch" in entries:
            entries["watch"].fail("changes are read early beside a schedule, expected `every` too")
        return None
    every = entries["every"].duration()
    if every >= age:
        entries["every"].fail("expected less than `max_permissions_age`, or documents are withheld between two runs")
    return Schedule(every, entries["watch"].flag() if "watch" in entries else True)
