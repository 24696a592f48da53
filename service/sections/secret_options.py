"""Secrets of sources and directories that open with the service's keys: handed to connectors as something to read.

Options `…_sealed` name a file that `remit keys seal-secret` made, `…_vault` a field in Vault's KV engine. What a
connector reads it keeps as long as a connection needs it; nothing of it is stored.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from connectors.secret import Secret, SecretError
from service.keys.moving import Moving
from service.keys.opening import open_provider
from service.keys.provider import KeyProvider, ProviderError
from service.keys.sealed import SealedSecret, read_blob
from service.settings import DirectorySettings, Settings, SettingsError, SourceSettings

_OPTION: Final = re.compile(r"(password|secret|key|token|pin)_(sealed|vault)")
_FIELD: Final = re.compile(r"([A-Za-z0-9_-]+)/([A-Za-z0-9_./-]+)#([A-Za-z0-9_.-]+)")
_KEPT_S: Final = 60.0


@dataclass(slots=True)
class KvSecret:
    """A field in Vault's KV engine, version 2, read again when a minute has passed."""

    mount: str
    path: str
    name: str
    provider: Callable[[], KeyProvider] = field(repr=False, compare=False)
    _kept: tuple[float, str] | None = field(default=None, repr=False, compare=False)

    def read(self) -> str:
        """See `connectors.secret.Secret`."""
        if self._kept is None or time.monotonic() - self._kept[0] > _KEPT_S:
            from service.keys.vault import VaultKey

            provider = self.provider()
            if isinstance(provider, Moving):
                provider = provider.current
            if not isinstance(provider, VaultKey):
                raise SecretError("secrets in Vault are read where `keys.provider` is `vault`")
            try:
                self._kept = time.monotonic(), provider.read_kv(self.mount, self.path, self.name)
            except ProviderError as err:
                raise SecretError(str(err)) from err
        return self._kept[1]


def bound(settings: Settings, provider: Callable[[], KeyProvider] | None = None) -> Settings:
    """Return the settings with a `Secret` in the place of each option that names one of these.

    provider: opened when the first secret is read, and by default then, as the settings say. Raises SettingsError.
    """
    opened, mistakes = provider or _Once(settings), list[str]()
    sources = [replace(one, options=_bound(one, settings.base, opened, mistakes)) for one in settings.sources]
    directories = [replace(one, options=_bound(one, settings.base, opened, mistakes)) for one in settings.directories]
    if mistakes:
        raise SettingsError(*mistakes)
    return replace(settings, sources=tuple(sources), directories=tuple(directories))


def sealed(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Return every sealed secret that bound settings name, with its place in them."""
    named: tuple[SourceSettings | DirectorySettings, ...] = (*settings.sources, *settings.directories)
    for one in named:
        for key, value in one.options.items():
            if isinstance(value, SealedSecret):
                yield one.place(key), value.path


def versions_in_use(settings: Settings) -> frozenset[str]:
    """The versions of the key-encryption key that sealed secrets are under. Raises ProviderError."""
    try:
        return frozenset(read_blob(path).kek for _, path in sealed(settings))
    except SecretError as err:
        raise ProviderError(f"which key a secret is sealed with cannot be found out: {err}") from err


class _Once:
    """Opens the provider at the first call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: KeyProvider | None = None

    def __call__(self) -> KeyProvider:
        with self._lock:
            if self._opened is None:
                self._opened = open_provider(self._settings.keys)
            return self._opened


def _bound(
    one: SourceSettings | DirectorySettings, base: Path, provider: Callable[[], KeyProvider], mistakes: list[str]
) -> dict[str, object]:
    found = dict(one.options)
    for key, value in one.options.items():
        try:
            found[key] = _secret(key, value, one.place(key), base, provider)
        except SettingsError as err:
            mistakes += err.mistakes
    return found


def _secret(key: str, value: object, place: str, base: Path, provider: Callable[[], KeyProvider]) -> object:
    found = _OPTION.fullmatch(key)
    if found is None or isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value:
        raise SettingsError(f"{place}: expected text that says where the secret is")
    if found[2] == "sealed":
        return SealedSecret(base / Path(value).expanduser(), provider)
    parts = _FIELD.fullmatch(value)
    if parts is None or ".." in parts[2].split("/"):
        # Without the text: somebody may have written the secret itself.
        raise SettingsError(f"{place}: expected a field in Vault such as `secret/remit/share#password`")
    return KvSecret(parts[1], parts[2], parts[3], provider)
