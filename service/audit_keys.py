"""Where the keys of the audit log's bodies are: in the key store, as if the log were a source and each class and day a
document of it.

So they are under the same key-encryption key, turn with it, and stand apart from copies of the data folder; and a key
that was destroyed is destroyed as a shredded document's is.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.audit import USES, AuditKey, Bodies, Opener, Period
from service.keys import KeyProvider, KeyStore
from service.keys.reading import read_keys
from service.stores.catalog import KEYS

SOURCE: Final = "audit log"
"""As the key store calls it. No source has this name: theirs have no blank."""


class StoredKeys:
    """See `service.audit.BodyKeys`."""

    def __init__(self, keys: KeyStore) -> None:
        """Use the keys of a store, which gets the log's when it has none."""
        self._keys = keys
        self._lock = threading.Lock()
        keys.add_source(SOURCE)

    def sealing(self, name: str) -> AESGCM:
        """See `BodyKeys`."""
        with self._lock:
            found = self._keys.ciphers(SOURCE, [name]).get(name)
            if found is None:
                self._keys.create(SOURCE, [name])
                found = self._keys.ciphers(SOURCE, [name])[name]
            self._keys.count_use(SOURCE, name, USES)
            self._keys.save_uses()
            return found

    def opening(self, name: str) -> AESGCM | None:
        """See `BodyKeys`."""
        return self._keys.ciphers(SOURCE, [name]).get(name)

    def names(self) -> frozenset[str]:
        """See `BodyKeys`."""
        return self._keys.documents(SOURCE)

    def destroy(self, names: Collection[str]) -> None:
        """See `BodyKeys`."""
        self._keys.shred(SOURCE, names)


def bodies(keys: KeyStore, key: AuditKey) -> Bodies:
    """What seals and opens the bodies of the log whose secret `key` is."""
    return Bodies(StoredKeys(keys), key.index_key)


def opener(store: Path, provider: KeyProvider, key: AuditKey) -> Opener:
    """What opens them with a key store that a service may have open. Raises StartError."""
    return Opener(_Read(store / KEYS, provider), key.index_key)


class _Read:
    """Keys that were read beside a service; those of this day, which it may have made since, are looked for again."""

    def __init__(self, store: Path, provider: KeyProvider) -> None:
        self._store, self._provider = store, provider
        self._read()

    def _read(self) -> None:
        self._day = datetime.now(UTC).date()
        self._found = read_keys(self._store, self._provider, SOURCE)

    def opening(self, name: str) -> AESGCM | None:
        """See `OpeningKeys`."""
        if name not in self._found and Period.named(name).day >= self._day:
            self._read()
        return self._found.get(name)
