"""The section `keys` of the settings: who holds the key-encryption key, and what it takes to destroy keys."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from connectors.secret import EnvSecret, FileSecret, Secret
from connectors.yaml_file import Field

_ADDRESS: Final = re.compile(r"https://[A-Za-z0-9.\[\]:-]+")
_PART: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_ENTRIES: Final = {
    "file": ("path",),
    "pkcs11": ("library", "token", "label", "pin", "pin_file", "pin_env"),
    "vault": ("address", "ca", "mount", "key", "namespace", "token", "token_file", "token_env", "approle"),
}
_OWN: Final = ("provider", "previous", "audit", "store", "shred_approvals", "shred_within")
_LONGEST: Final = timedelta(days=30)
_WITHIN: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class FileProvider:
    """A file that only its owner can read."""

    path: Path


@dataclass(frozen=True, slots=True)
class Pkcs11Provider:
    """A token behind a PKCS#11 library. token: its label. label: that of the key on it."""

    library: Path
    token: str
    label: str
    pin: Secret


@dataclass(frozen=True, slots=True)
class AppRole:
    """How to get a token from Vault. mount: of the method of authentication."""

    role_id: str
    secret_id: Secret
    mount: str


@dataclass(frozen=True, slots=True)
class VaultProvider:
    """The engine `transit` of Vault. ca: the authority that its certificate must come from, and no other."""

    address: str
    ca: Path
    mount: str
    key: str
    namespace: str | None
    login: Secret | AppRole


Provider = FileProvider | Pkcs11Provider | VaultProvider


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Where the key-encryption key and the key of the audit log are.

    previous: who held the key before: what is still under it can be read, and `remit keys rotate` moves it over.
    store: the folder of the wrapped keys, which stands apart from the data that they open.
    shred_approvals: how many persons a shredding takes. shred_within: how long the second one has.
    """

    provider: Provider
    previous: Provider | None
    audit: Path
    store: Path
    shred_approvals: int = 2
    shred_within: timedelta = _WITHIN


def read(item: Field, base: Path, data: Path) -> KeySettings:
    """Read the section. Raises YamlFileError with the line."""
    kind = item.need(item.mapping(), "provider", "`file`, `pkcs11` or `vault`").choice(_ENTRIES)
    entries = item.mapping([*_OWN, *_ENTRIES[kind]])
    provider = _provider(item, entries, kind, base)
    previous = None
    if "previous" in entries:
        before = entries["previous"]
        other = before.need(before.mapping(), "provider", "`file`, `pkcs11` or `vault`").choice(_ENTRIES)
        previous = _provider(before, before.mapping(["provider", *_ENTRIES[other]]), other, base)
        if previous == provider:
            before.fail("is where the key is now, expected where it was before")
    folder = provider.path.parent if isinstance(provider, FileProvider) else base / "keys"
    audit = entries["audit"].path(base) if "audit" in entries else folder / "audit.key"
    if any(isinstance(one, FileProvider) and one.path == audit for one in (provider, previous)):
        (entries.get("audit") or item).fail("expected another file than `path`: the audit log has a key of its own")
    store = entries["store"].path(base) if "store" in entries else base / "keystore"
    if _within(store, data) or _within(data, store):
        (entries.get("store") or item).fail(
            f"`{store}` and the data folder lie in each other, expected folders that are backed up apart"
        )
    approvals = entries["shred_approvals"].whole(1, 2) if "shred_approvals" in entries else 2
    within = entries["shred_within"].duration() if "shred_within" in entries else _WITHIN
    if within > _LONGEST:
        entries["shred_within"].expected("at most `30d`")
    return KeySettings(provider, previous, audit, store, approvals, within)


def _provider(item: Field, entries: dict[str, Field], kind: str, base: Path) -> Provider:
    match kind:
        case "file":
            return FileProvider(item.need(entries, "path", "the path of the key-encryption key").path(base))
        case "pkcs11":
            return Pkcs11Provider(
                library=item.need(entries, "library", "the path of the token's PKCS#11 library").path(base),
                token=item.need(entries, "token", "the label of the token").label(32),
                label=entries["label"].label() if "label" in entries else "remit",
                pin=_secret(item, entries, "pin", base),
            )
        case _:
            return _vault(item, entries, base)


def _vault(item: Field, entries: dict[str, Field], base: Path) -> VaultProvider:
    def part(name: str, default: str) -> str:
        return entries[name].text("a name in Vault such as `transit`", _PART) if name in entries else default

    address = item.need(entries, "address", "the address of Vault").text("an address `https://host:port`", _ADDRESS)
    login: Secret | AppRole
    if "approle" in entries:
        role = entries["approle"]
        if "token_file" in entries or "token_env" in entries:
            role.fail("expected either `approle` or a token, found both")
        of = role.mapping(["role_id", "secret_id", "secret_id_file", "secret_id_env", "mount"])
        mount = of["mount"].text("a name in Vault such as `approle`", _PART) if "mount" in of else "approle"
        login = AppRole(
            role.need(of, "role_id", "the id of the role").text(), _secret(role, of, "secret_id", base), mount
        )
    else:
        login = _secret(item, entries, "token", base)
    return VaultProvider(
        address=address,
        ca=item.need(entries, "ca", "a file with the authority of Vault's certificate").path(base),
        mount=part("mount", "transit"),
        key=part("key", "remit"),
        namespace=entries["namespace"].text("a namespace of Vault", _PART) if "namespace" in entries else None,
        login=login,
    )


def _secret(item: Field, entries: dict[str, Field], name: str, base: Path) -> Secret:
    if name in entries:
        entries[name].fail(f"a secret does not stand in the settings: name its file by `{name}_file`, or `{name}_env`")
    given = [key for key in (f"{name}_file", f"{name}_env") if key in entries]
    if len(given) != 1:
        item.fail(f"expected either `{name}_file` or `{name}_env`, which say where it is, found {len(given)} of them")
    found = entries[given[0]]
    return FileSecret(found.path(base)) if given[0].endswith("_file") else EnvSecret(found.label())


def _within(path: Path, folder: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder))
