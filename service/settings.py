"""What `remit.yaml` says, as values: read once at start, checked in full, every error with its line.

Whether files exist and keys work is found out by the parts that open them; the options of a source belong to its
connector and are handed on as they stand.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from acl.errors import InvalidValueError
from acl.principal import Principal, realm
from connectors import yaml_file
from connectors.yaml_file import Field, YamlFileError
from service.errors import StartError

__all__ = [
    "Address",
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

ROLES: Final = ("operator", "auditor")

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_NAME_IS: Final = "a name of lower-case letters, digits, `-`, `_` and `.`"
_ADDRESS: Final = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})")

_ATTRIBUTES: Final = ("id", "uid")

# What a person or an administrator may change, or hand to somebody else: never an identity.
# SOURCE: OpenID Connect Core 5.7: only `sub` with `iss` is stable, and the others must not identify.
_MUTABLE: Final = frozenset(
    {"email", "mail", "name", "nickname", "phone_number", "preferred_username", "samaccountname", "unique_name", "upn"}
    | {"username", "userprincipalname", "display_name", "groups", "roles", "iss", "aud", "exp", "iat", "nbf", "jti"}
)


class SettingsError(StartError):
    """The settings cannot be used: one sentence with file, line, key and what was expected. Exit code 2."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. port: 0 lets the system choose one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """True for a loopback address; a host name is none, whatever it resolves to."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a certificate chain and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Listen:
    """The two listeners. tls: None only where both are on loopback and plaintext was asked for."""

    callers: Address
    administrators: Address
    tls: Tls | None


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Where the key-encryption key and the key of the audit log are.

    store: the folder of the wrapped keys, which stands apart from the data that they open.
    """

    provider: Literal["file"]
    path: Path
    audit: Path
    store: Path


@dataclass(frozen=True, slots=True)
class IssuerSettings:
    """Whose tokens are accepted, and how one names an account.

    claim: the immutable claim that equals `attribute` of an account in `directory`.
    """

    issuer: str
    audience: str
    jwks: Path
    claim: str
    directory: str
    attribute: str
    max_token_lifetime: timedelta


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """Where people and groups come from."""

    name: str
    kind: Literal["static"]
    path: Path


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """The model. kind: `hash` stands for tests and benchmarks without a model. path: None is the bundled model."""

    kind: Literal["model", "hash"]
    path: Path | None


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """One source. options: what its connector reads, as plain values.

    max_permissions_age: past it the source's documents are withheld.
    """

    name: str
    kind: str
    max_permissions_age: timedelta
    options: Mapping[str, object]
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
    directories: tuple[DirectorySettings, ...]
    roles: Mapping[str, frozenset[Principal]]
    embedding: EmbeddingSettings
    limits: Limits
    sources: tuple[SourceSettings, ...]


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
    known = ["version", "data", "listen", "keys", "issuers", "directories", "roles", "embedding", "limits", "sources"]
    top = root.mapping(known)
    root.need(top, "version", "`1`").whole(1, 1)
    base = path.absolute().parent
    data = root.need(top, "data", "a path").path(base)
    directories = _directories(root.need(top, "directories", "a list of directories"), base)
    return Settings(
        file=path.absolute(),
        base=base,
        data=data,
        listen=_listen(root.need(top, "listen", "`callers` and `administrators`"), base),
        keys=_keys(root.need(top, "keys", "`provider` and `path`"), base, data),
        issuers=_issuers(root.need(top, "issuers", "a list of issuers"), base, directories),
        directories=directories,
        roles=_roles(top["roles"], directories) if "roles" in top else {},
        embedding=_embedding(top.get("embedding"), base),
        limits=_limits(top.get("limits")),
        sources=_sources(top["sources"]) if "sources" in top else (),
    )


def _listen(item: Field, base: Path) -> Listen:
    entries = item.mapping(["callers", "administrators", "insecure_loopback", "tls"])
    places = {name: item.need(entries, name, "host:port") for name in ("callers", "administrators")}
    callers, administrators = (_address(place) for place in places.values())
    if callers == administrators and callers.port != 0:
        places["administrators"].fail(f"expected another address than that of the callers, found `{administrators}`")
    insecure = "insecure_loopback" in entries and entries["insecure_loopback"].flag()
    if "tls" in entries:
        if insecure:
            entries["insecure_loopback"].fail("stands beside `tls`, expected only one of them")
        pair = entries["tls"].mapping(["certificate", "key"])
        certificate, key = (entries["tls"].need(pair, name, "a path").path(base) for name in ("certificate", "key"))
        return Listen(callers, administrators, Tls(certificate, key))
    if not insecure:
        item.fail(
            "`tls` is missing, expected `tls: {certificate: …, key: …}`, or `insecure_loopback: true` on loopback"
        )
    for place, address in zip(places.values(), (callers, administrators), strict=True):
        if not address.is_loopback:
            place.fail(f"expected a loopback address such as `127.0.0.1:7420` without TLS, found `{address}`")
    return Listen(callers, administrators, None)


def _address(item: Field) -> Address:
    found = _ADDRESS.fullmatch(item.text("host:port"))
    if found is None or int(found["port"]) > 65535:
        item.expected("host:port")
    if found["six"] is not None:
        try:
            ipaddress.IPv6Address(found["six"])
        except ValueError:
            item.expected("host:port")
    return Address(found["six"] or found["host"], int(found["port"]))


def _keys(item: Field, base: Path, data: Path) -> KeySettings:
    entries = item.mapping(["provider", "path", "audit", "store"])
    item.need(entries, "provider", "`file`").choice(["file"])
    path = item.need(entries, "path", "the path of the key-encryption key").path(base)
    audit = entries["audit"].path(base) if "audit" in entries else path.parent / "audit.key"
    if audit == path:
        entries["audit"].fail("expected another file than `path`: the audit log has a key of its own")
    store = entries["store"].path(base) if "store" in entries else base / "keystore"
    if _within(store, data) or _within(data, store):
        (entries.get("store") or item).fail(
            f"`{store}` and the data folder lie in each other, expected folders that are backed up apart"
        )
    return KeySettings("file", path, audit, store)


def _within(path: Path, folder: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder))


def _issuers(item: Field, base: Path, directories: Iterable[DirectorySettings]) -> tuple[IssuerSettings, ...]:
    names = [d.name for d in directories]
    found: dict[str, IssuerSettings] = {}
    required = ["issuer", "audience", "jwks", "claim", "directory", "attribute"]
    for one in item.items():
        entries = one.mapping([*required, "max_token_lifetime"])
        values = {name: one.need(entries, name, f"the {name} of the tokens' issuer") for name in required}
        issuer = values["issuer"].text("an https URL", re.compile(r"https://[^\s]+"))
        if issuer in found:
            values["issuer"].fail(f"`{issuer}` is listed twice")
        if values["claim"].text("a claim's name").lower() in _MUTABLE:
            values["claim"].expected("an immutable claim such as `sub` or `oid`, because a mutable one is no identity")
        if values["attribute"].text() not in _ATTRIBUTES:
            values["attribute"].expected(
                f"one of {', '.join(f'`{a}`' for a in _ATTRIBUTES)}, which a static directory has"
            )
        if values["directory"].text("a directory's name") not in names:
            values["directory"].expected(
                f"one of the directories {', '.join(f'`{n}`' for n in names) or '(none listed)'}"
            )
        lifetime = entries["max_token_lifetime"].duration() if "max_token_lifetime" in entries else timedelta(hours=24)
        found[issuer] = IssuerSettings(
            issuer=issuer,
            audience=values["audience"].text("the audience that names this service"),
            jwks=values["jwks"].path(base),
            claim=values["claim"].text(),
            directory=values["directory"].text(),
            attribute=values["attribute"].text(),
            max_token_lifetime=lifetime,
        )
    if not found:
        item.fail("expected at least one issuer, found none")
    return tuple(found.values())


def _directories(item: Field, base: Path) -> tuple[DirectorySettings, ...]:
    found: dict[str, DirectorySettings] = {}
    for one in item.items():
        entries = one.mapping(["name", "kind", "path"])
        name = one.need(entries, "name", _NAME_IS).text(_NAME_IS, _NAME)
        if name in found:
            entries["name"].fail(f"`{name}` is listed twice")
        one.need(entries, "kind", "`static`").choice(["static"])
        found[name] = DirectorySettings(name, "static", one.need(entries, "path", "a path").path(base))
    if not found:
        item.fail("expected at least one directory, found none")
    return tuple(found.values())


def _roles(item: Field, directories: tuple[DirectorySettings, ...]) -> dict[str, frozenset[Principal]]:
    return {
        role: frozenset(_bound(one, directories) for one in entry.items())
        for role, entry in item.mapping(ROLES).items()
    }


def _bound(item: Field, directories: tuple[DirectorySettings, ...]) -> Principal:
    what = "`group:<id>` of the static directory, or a principal's token such as `static:people:group-operators`"
    text = item.text(what)
    try:
        if text.startswith("group:"):
            if len(directories) != 1:
                item.fail(
                    f"`{text}` could mean a group of several directories, {what.partition(', or ')[2]} is expected"
                )
            found = Principal(realm("static", directories[0].name), "group-" + text.removeprefix("group:"))
            if found.id == "group-":
                item.expected(what)
        else:
            found = Principal.parse(text)
    except InvalidValueError:
        item.expected(what)
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


def _limits(item: Field | None) -> Limits:
    entries = item.mapping(["max_document_mb"]) if item is not None else {}
    return Limits((entries["max_document_mb"].whole(1, 2048) if "max_document_mb" in entries else 64) * 1024 * 1024)


def _sources(item: Field) -> tuple[SourceSettings, ...]:
    found: dict[str, SourceSettings] = {}
    for one in item.items():
        entries = one.mapping()
        name = one.need(entries, "name", _NAME_IS).text(_NAME_IS, _NAME)
        if name in found:
            entries["name"].fail(f"`{name}` is listed twice")
        kind = one.need(entries, "kind", "a connector such as `filesystem`").text("a connector's kind", _NAME)
        age = entries.get("max_permissions_age")
        options = {key: value for key, value in entries.items() if key not in {"name", "kind", "max_permissions_age"}}
        found[name] = SourceSettings(
            name=name,
            kind=kind,
            max_permissions_age=age.duration() if age is not None else timedelta(hours=24),
            options={key: value.plain() for key, value in options.items()},
            places={key: f"{i.file}:{i.line}: {i.key}" for key, i in [("", one), *entries.items()]},
        )
    return tuple(found.values())
