"""What `remit.yaml` says, as values: read once at start, checked in full, every error with its line.

Whether files exist and keys work is found out by the parts that open them; the options of a source belong to its
connector and are handed on as they stand.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from acl.errors import InvalidValueError
from acl.principal import Principal, realm
from connectors import yaml_file
from connectors.base import of_source
from connectors.yaml_file import Field, YamlFileError
from service import limits
from service.errors import StartError
from service.identity import directories, roles
from service.identity.directories import DirectorySettings, Link
from service.index import qdrant_settings
from service.index.planner import MAX_BITS, Tuning
from service.index.qdrant_settings import QdrantSettings
from service.limits import CallLimits
from service.sections import audit as audit_settings
from service.sections import issuers, listeners, observing, service_accounts
from service.sections import keys as key_settings
from service.sections.audit import AuditSettings
from service.sections.issuers import IssuerSettings
from service.sections.keys import KeySettings
from service.sections.listeners import Address, Listen, Tls
from service.sections.mistakes import Mistakes, MistakesError
from service.sections.observing import ObserveSettings
from service.sections.service_accounts import ServiceAccount
from service.sync.schedules import Schedule

__all__ = [
    "Address",
    "AuditSettings",
    "BackupSettings",
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

_MAX_BYTES: Final = 1024 * 1024

_AGES: Final = ("max_permissions_age", "max_memberships_age", "max_content_age")
_SHARES: Final = ("max_widening", "max_joining", "max_purge")
_OF_A_SOURCE: Final = frozenset({"name", "kind", *_AGES, *_SHARES, "every", "permissions_every", "watch", "canaries"})
"""What the service reads of a source; the rest is its connector's."""

_APART: Final = "expected another group: who audits changes nothing, and who changes something does not audit it"

_KEYS: Final = (
    *("version", "data", "listen", "keys", "issuers", "service_accounts", "directories", "links", "roles"),
    *("embedding", "reranking", "index", "limits", "sources", "audit", "backup", "observe"),
)


class SettingsError(StartError):
    """The settings cannot be used: for each mistake a sentence with file, line, key and what was expected.

    Exit code 2.
    """

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """The model. kind: `hash` stands for tests and benchmarks without a model. path: None is the bundled model."""

    kind: Literal["model", "hash"]
    path: Path | None


@dataclass(frozen=True, slots=True)
class RerankingSettings:
    """A cross-encoder. path: its folder. top: how many passages it orders, at least as many as are asked for."""

    path: Path
    top: int


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """One source. options: what its connector reads, as plain values.

    max_permissions_age, max_content_age: past them, since the latest complete run that read rules, or texts too, the
    source's documents are withheld. schedule: None when only people start runs.
    max_memberships_age: past it nobody knows who is in the groups that the source has itself.
    max_widening, max_joining, max_purge: which share of its documents a run may open wider by rules, or by members of
    the source's own groups, or remove, without being approved.
    canaries: patterns of the locations of documents that nobody may ever be given.
    """

    name: str
    kind: str
    max_permissions_age: timedelta
    options: Mapping[str, object]
    max_memberships_age: timedelta = timedelta(hours=24)
    schedule: Schedule | None = None
    max_content_age: timedelta = timedelta(days=30)
    max_widening: float = 0.2
    max_joining: float = 0.2
    max_purge: float = 0.2
    canaries: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def place(self, option: str = "") -> str:
        """Where an option stands, as `remit.yaml:31: sources[0].root`, for an error about it."""
        return self.places.get(option) or self.places.get("", self.name)


@dataclass(frozen=True, slots=True)
class Limits:
    """max_document_bytes: a larger document is skipped with the reason `too large`. calls: what one caller may have."""

    max_document_bytes: int
    calls: CallLimits = field(default_factory=CallLimits)


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """The folders below which backups are written and nowhere else: of the content, and of the keys."""

    folder: Path
    keys_folder: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """All of `remit.yaml`. base: the folder of the file, to which its paths are relative.

    roles: for each role the principals that hold it; a role that is not there is nobody's.
    sha256: of the bytes of the file, as hex.
    qdrant: where the index of vectors stands, None for the embedded one.
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
    reranking: RerankingSettings | None
    index: Tuning
    qdrant: QdrantSettings | None
    limits: Limits
    sources: tuple[SourceSettings, ...]
    audit: AuditSettings
    backup: BackupSettings
    observe: ObserveSettings = field(default_factory=ObserveSettings)
    sha256: str = field(default="", compare=False)


def load(path: Path) -> Settings:
    """Read and check `remit.yaml`. Raises SettingsError: file, line, key, and what was expected."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                raise SettingsError(
                    f"{path} can be written by everybody, who could then read everything: `chmod o-w` it"
                )
            data = file.read(_MAX_BYTES + 1)
        settings = _read(yaml_file.parse(data, str(path), _MAX_BYTES), path)
        return replace(settings, sha256=hashlib.sha256(data).hexdigest())
    except MistakesError as err:
        raise SettingsError(*err.found) from err
    except YamlFileError as err:
        raise SettingsError(str(err)) from err
    except FileNotFoundError as err:
        raise SettingsError(f"{path} does not exist: `remit init` writes one") from err
    except IsADirectoryError as err:
        raise SettingsError(f"{path} is a folder, expected a file such as `{path / 'remit.yaml'}`") from err
    except OSError as err:
        raise SettingsError(f"{path} cannot be read: {err.strerror}") from err


def _read(root: Field, path: Path) -> Settings:
    entries = root.mapping(_KEYS)  # a key that nobody knows is one that is missing elsewhere: nothing else is looked at
    mistakes = Mistakes()
    mistakes.of(lambda: root.need(entries, "version", "`1`").whole(1, 1), 1)
    base = path.absolute().parent
    data = mistakes.of(lambda: root.need(entries, "data", "a path").path(base), base / "data")
    listed = mistakes.of(lambda: directories.read(root.need(entries, "directories", "a list of directories")), ())
    sources = _sources(entries["sources"], mistakes) if "sources" in entries else ()
    listen = mistakes.of(
        lambda: listeners.read(root.need(entries, "listen", "`callers` and `administrators`"), base), None
    )
    keys = mistakes.of(
        lambda: key_settings.read(root.need(entries, "keys", "`provider` and where it is"), base, data), None
    )
    embedding = mistakes.of(lambda: _embedding(entries.get("embedding"), base), EmbeddingSettings("hash", None))
    reranking = mistakes.of(lambda: _reranking(entries["reranking"], base) if "reranking" in entries else None, None)
    index = mistakes.of(lambda: _index(entries.get("index")), Tuning())
    qdrant = mistakes.of(
        lambda: (
            qdrant_settings.read(entries["index"].mapping(), entries["index"], base) if "index" in entries else None
        ),
        None,
    )
    limits = mistakes.of(lambda: _limits(entries.get("limits")), Limits(0))
    audit = mistakes.of(
        lambda: audit_settings.read(entries["audit"], base) if "audit" in entries else AuditSettings(), AuditSettings()
    )
    observe = mistakes.of(
        lambda: observing.read(entries["observe"]) if "observe" in entries else ObserveSettings(), ObserveSettings()
    )
    backup = mistakes.of(lambda: _backup(entries.get("backup"), base), BackupSettings(base, base))
    if listen is not None and listen.services is None and "service_accounts" in entries:
        mistakes.of(
            lambda: entries["service_accounts"].fail("have no listener to call, expected `listen.services`"), None
        )
    if not listed:
        mistakes.settle()  # what comes now rests on the directories
    names = [one.name for one in sources]
    attributes = {one.name: directories.ATTRIBUTES[one.kind] for one in listed}
    issued = mistakes.of(
        lambda: issuers.read(root.need(entries, "issuers", "a list of issuers"), base, attributes, names), ()
    )
    accounts = mistakes.of(
        lambda: (
            service_accounts.read(entries["service_accounts"], attributes, lambda one: _bound(one, listed))
            if "service_accounts" in entries
            else ()
        ),
        (),
    )
    links = mistakes.of(lambda: directories.read_links(entries["links"], listed) if "links" in entries else (), ())
    nobody: Mapping[str, frozenset[Principal]] = {}
    bound = mistakes.of(lambda: _roles(entries["roles"], listed, names) if "roles" in entries else nobody, nobody)
    mistakes.settle()
    assert listen is not None
    assert keys is not None
    return Settings(
        file=path.absolute(),
        base=base,
        data=data,
        listen=listen,
        keys=keys,
        issuers=issued,
        service_accounts=accounts,
        directories=listed,
        links=links,
        roles=bound,
        embedding=embedding,
        reranking=reranking,
        index=index,
        qdrant=qdrant,
        limits=limits,
        sources=sources,
        audit=audit,
        backup=backup,
        observe=observe,
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
                place.fail(f"`{principal.token}` has the role `{other}` too, {_APART}")
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
    if of_source(found.realm):
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


def _reranking(item: Field, base: Path) -> RerankingSettings:
    entries = item.mapping(["path", "top"])
    path = item.need(entries, "path", "the folder of a cross-encoder").path(base)
    return RerankingSettings(path, entries["top"].whole(2, 200) if "top" in entries else 30)


def _index(item: Field | None) -> Tuning:
    names = [one.name for one in fields(Tuning)]
    entries = item.mapping([*names, *qdrant_settings.KEYS]) if item is not None else {}
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
        if name in names
    }
    return Tuning(**values)


def _limits(item: Field | None) -> Limits:
    entries = item.mapping(["max_document_mb", *limits.KEYS]) if item is not None else {}
    megabytes = entries["max_document_mb"].whole(1, 2048) if "max_document_mb" in entries else 64
    return Limits(megabytes * 1024 * 1024, limits.read(entries))


def _backup(item: Field | None, base: Path) -> BackupSettings:
    entries = item.mapping(["folder", "keys_folder"]) if item is not None else {}
    folder = _plain(entries["folder"].path(base)) if "folder" in entries else base / "backups"
    return BackupSettings(folder, _plain(entries["keys_folder"].path(base)) if "keys_folder" in entries else folder)


def _plain(path: Path) -> Path:
    """A path without `..`, which another one can be compared with as it is written."""
    return Path(os.path.normpath(path))


def _sources(item: Field, mistakes: Mistakes) -> tuple[SourceSettings, ...]:
    found: dict[str, SourceSettings] = {}
    for one in mistakes.of(lambda: item.items(), ()):
        source = mistakes.of(partial(_source, one), None) or mistakes.of(partial(_name_alone, one), None)
        if source is not None and source.name in found:
            mistakes.of(partial(one.mapping()["name"].fail, f"`{source.name}` is listed twice"), None)
        elif source is not None:
            found[source.name] = source
    return tuple(found.values())


def _source(one: Field) -> SourceSettings:
    entries = one.mapping()
    name = one.need(entries, "name", "a name").name()
    kind = one.need(entries, "kind", "a connector such as `filesystem`").name("a connector's kind")
    given = {key: entries[key].duration() for key in _AGES if key in entries}
    age = given.get("max_permissions_age", timedelta(hours=24))
    ages = {"max_permissions_age": age, "max_memberships_age": age, "max_content_age": timedelta(days=30), **given}
    shares = {key: entries[key].share() for key in _SHARES if key in entries}
    options = {key: value for key, value in entries.items() if key not in _OF_A_SOURCE}
    return SourceSettings(
        name=name,
        kind=kind,
        **ages,
        max_widening=shares.get("max_widening", 0.2),
        max_joining=shares.get("max_joining", shares.get("max_widening", 0.2)),
        max_purge=shares.get("max_purge", 0.2),
        options={key: value.plain() for key, value in options.items()},
        schedule=_schedule(entries, ages.items()),
        canaries=tuple(i.text("a pattern of locations") for i in entries["canaries"].items())
        if "canaries" in entries
        else (),
        places={key: f"{i.file}:{i.line}: {i.key}" for key, i in [("", one), *entries.items()]},
    )


def _name_alone(one: Field) -> SourceSettings:
    """A source with a mistake in it, so that what names it elsewhere is no second mistake."""
    return SourceSettings(one.need(one.mapping(), "name", "a name").name(), "", timedelta(0), {})


def _schedule(entries: Mapping[str, Field], ages: Iterable[tuple[str, timedelta]]) -> Schedule | None:
    if "every" not in entries:
        for key in ("watch", "permissions_every"):
            if key in entries:
                entries[key].fail("is beside a schedule, expected `every` too")
        return None
    every = entries["every"].duration()
    rules = entries["permissions_every"].duration() if "permissions_every" in entries else None
    if rules is not None and rules >= every:
        entries["permissions_every"].fail("expected less than `every`, which verifies permissions too")
    for key, age in ages:
        shorter = "permissions_every" if rules is not None and key != "max_content_age" else "every"
        if (every if shorter == "every" or rules is None else rules) >= age:
            entries[shorter].fail(f"expected less than `{key}`, or documents are withheld between two runs")
    return Schedule(every, entries["watch"].flag() if "watch" in entries else True, rules)
