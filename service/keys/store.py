"""The key store: wrapped keys of sources and documents, in a database of its own, apart from what they seal.

Source keys are opened once and stay in memory; document keys are opened when they are needed.
A document is beyond reading once its key is gone from here and from every backup of this file.
What is done to many keys at once is left to `service.keys.custody`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from service.errors import RemitError, StartError
from service.files import lock_file
from service.keys.envelope import KEY_BYTES, UnsealError, associated, seal, unseal
from service.keys.provider import KeyProvider, ProviderError, Wrapped
from service.keys.tables import OWN, about, documents, metadata, source_keys
from service.stores.errors import storage_errors
from service.stores.sqlite import open_readers, open_writer, tuples

FORMAT: Final = "2"
"""The version of the store's tables that this code reads and writes."""

_OPENED_KEYS: Final = 8192
"""How many document keys stay opened in memory."""

_BATCH: Final = 500

_AHEAD: Final = 1024
"""So many uses of a source's own key are written down before they happen, so that most commits of a run, which seal
little with it, wait for the catalog's disk alone. What a process did not use counts as used: 2^32 is far.
"""


class KeyExhaustedError(RemitError):
    """A key was used as often as it may be. Nothing was sealed with it beyond that."""


@dataclass(frozen=True, slots=True)
class DocumentKeyId:
    """Whose key: a document within a source."""

    source: str
    document: str


@dataclass(frozen=True, slots=True)
class _SourceKey:
    """The opened keys of a source. Never changed, only replaced.

    sealing, naming: derived from its own secret, `naming` as an HMAC that has read its key and nothing else.
    wrapping: by generation; the highest wraps new keys.
    """

    sealing: AESGCM
    naming: hmac.HMAC
    wrapping: Mapping[int, AESGCM]

    @property
    def current(self) -> int:
        """The generation that wraps new keys."""
        return max(self.wrapping)


class KeyStore:
    """The opened key store. Safe to use from several threads."""

    def __init__(
        self,
        path: Path,
        provider: KeyProvider,
        *,
        create: bool = True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open the store at `path` and every source key in it; write nothing unless it is new.

        create: False where sealed data exists already, so that its keys must exist too; True where there is none, so
        that no keys may exist yet either.
        Raises StartError when the store is missing, is another's, or was made with another key-encryption key.
        """
        if not create and not path.exists():
            raise StartError(f"the key store `{path}` is missing, and nothing can be read without it: restore it")
        self.path = path
        self._provider = provider
        self._now = now
        self._lock = threading.Lock()
        self._opened: OrderedDict[DocumentKeyId, AESGCM] = OrderedDict()
        self._uses: Counter[tuple[str, str]] = Counter()
        # Of sources' own keys, written down and not used yet.
        self._ahead: Counter[str] = Counter()
        self._shreds = 0
        self._source_keys: dict[str, _SourceKey] = {}
        self._fd: int | None = _locked(path)
        self._writer = open_writer(path)
        self._readers = open_readers(path)
        try:
            self.id = self._check(create)
            self._open_source_keys()
        except BaseException:
            self.close()
            raise

    @property
    def provider(self) -> KeyProvider:
        """Where the key-encryption key is."""
        return self._provider

    def close(self) -> None:
        """Forget every key and close the database."""
        with self._lock:
            self._opened.clear()
        self._readers.dispose()
        self._writer.dispose()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def add_source(self, source: str) -> None:
        """Make the keys of `source` unless it has some. Durable on return. Raises ProviderError."""
        if source in self._source_keys:
            return
        made = {generation: os.urandom(KEY_BYTES) for generation in (OWN, OWN + 1)}
        wrapped = {generation: self.wrap_source_key(source, generation, key) for generation, key in made.items()}
        with self.write() as connection:
            for generation, one in wrapped.items():
                self.put_source_key(connection, source, generation, one)
        self._source_keys[source] = _source_key(made)

    def has_source(self, source: str) -> bool:
        """Whether this source has keys."""
        return source in self._source_keys

    def name(self, source: str, *parts: str | int) -> bytes:
        """Return 16 bytes that stand for `parts` within `source`; nobody without the key can test a guess."""
        made = self._source_keys[source].naming.copy()
        made.update(associated(*parts))
        return made.digest()[:16]

    def source_cipher(self, source: str) -> AESGCM:
        """Return what seals the values of a source that belong to no document. Raises UnsealError."""
        found = self._source_keys.get(source)
        if found is None:
            raise UnsealError(f"source `{source}` has no key any more")
        return found.sealing

    def create(self, source: str, made: Collection[str]) -> None:
        """Make a key for each of these documents. Durable on return. Raises KeyExhaustedError."""
        if not made:
            return
        with self.write() as connection:
            # Within the transaction, so that a generation that is being given up gets no new key.
            keys = self._source_keys[source]
            wrapping = keys.wrapping[keys.current]
            rows = [
                {
                    "source": source,
                    "document": document,
                    "generation": keys.current,
                    "wrapped": seal(wrapping, os.urandom(KEY_BYTES), document_place(source, document)),
                    "uses": 0,
                }
                for document in made
            ]
            connection.execute(insert(documents), rows)
            wrapped_with(connection, source, keys.current, len(rows))

    def ciphers(self, source: str, wanted: Collection[str]) -> Mapping[str, AESGCM]:
        """Open the keys of documents. Those that have none any more are left out. Raises UnsealError."""
        found: dict[str, AESGCM] = {}
        missing: list[str] = []
        with self._lock:
            for document in wanted:
                key_id = DocumentKeyId(source, document)
                cipher = self._opened.get(key_id)
                if cipher is None:
                    missing.append(document)
                else:
                    self._opened.move_to_end(key_id)
                    found[document] = cipher
        for start in range(0, len(missing), _BATCH):
            found.update(self._load(source, missing[start : start + _BATCH]))
        return found

    def cipher(self, document: DocumentKeyId) -> AESGCM:
        """Open one document's key. Raises UnsealError when it was shredded."""
        found = self.ciphers(document.source, [document.document]).get(document.document)
        if found is None:
            raise UnsealError(f"document `{document.document}` has no key any more")
        return found

    def documents(self, source: str) -> frozenset[str]:
        """Return every document of `source` that has a key."""
        with self.read() as connection:
            wanted = select(documents.c.document).where(documents.c.source == source)
            return frozenset(document for (document,) in tuples(connection, wanted))

    def count_use(self, source: str, document: str = "", times: int = 1) -> None:
        """Count sealings with a document's key, or with the source's own; durable with the next `save_uses`."""
        with self._lock:
            self._uses[source, document] += times

    def save_uses(self) -> None:
        """Make what was counted durable: before the commit of what was sealed. Raises KeyExhaustedError."""
        with self._lock:
            counted, self._uses = self._uses, Counter()
            shreds = self._shreds
            for source in [source for source, document in counted if not document]:
                if self._ahead[source] >= counted[source, ""]:
                    self._ahead[source] -= counted.pop((source, ""))
        own = {source: n + _AHEAD for (source, document), n in counted.items() if not document}
        of_documents = [{"s": source, "d": document, "n": n} for (source, document), n in counted.items() if document]
        if not counted:
            return
        try:
            with self.write() as connection:
                if own:
                    connection.execute(_COUNT_OWN, [{"s": source, "n": n} for source, n in own.items()])
                if of_documents:
                    connection.execute(_COUNT_DOCUMENT, of_documents)
        except BaseException:
            with self._lock:
                self._uses.update(counted)
            raise
        with self._lock:
            if shreds == self._shreds:  # else it may have been a key that is gone
                self._ahead.update(dict.fromkeys(own, _AHEAD))

    def shred(self, source: str, gone: Collection[str]) -> None:
        """Delete the keys of documents, from the database's files too. Durable on return."""
        wanted = list(gone)
        if not wanted:
            return
        try:
            with self.write() as connection:
                for start in range(0, len(wanted), _BATCH):
                    batch = wanted[start : start + _BATCH]
                    connection.execute(
                        delete(documents).where(documents.c.source == source, documents.c.document.in_(batch))
                    )
        finally:
            self._forget(source, wanted)
        self.empty_log()

    def shred_source(self, source: str) -> None:
        """Delete every key of a source, its own with them, from the database's files too. Durable on return."""
        gone = self.documents(source)
        try:
            with self.write() as connection:
                connection.execute(delete(documents).where(documents.c.source == source))
                connection.execute(delete(source_keys).where(source_keys.c.source == source))
            self._source_keys.pop(source, None)
        finally:
            self._forget(source, gone)
            with self._lock:
                # INVARIANT: after `_forget`, so that what is written down for the key that is gone comes to nothing.
                self._ahead.pop(source, None)
        self.empty_log()

    # For `service.keys.custody`.

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open the one write transaction. Raises KeyExhaustedError and StorageError."""
        with storage_errors(self.path):
            try:
                with self._writer.begin() as connection:
                    yield connection
            except IntegrityError as err:
                if "uses" in str(err.orig):
                    raise KeyExhaustedError("a key was used as often as it may be: run `remit keys rotate`") from err
                raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a snapshot."""
        with storage_errors(self.path), self._readers.begin() as connection:
            yield connection

    def wrap_source_key(self, source: str, generation: int, key: bytes) -> Wrapped:
        """Wrap a source's key by the current key-encryption key, and see that it opens. Raises ProviderError.

        Ask before a transaction is opened: the provider may be in a network, and others wait for the one writer.
        """
        place = source_place(source, generation)
        wrapped = self._provider.wrap(key, place)
        if not hmac.compare_digest(self._provider.unwrap(*wrapped, place), key):
            raise ProviderError(f"{self._provider.described} does not return what it wrapped")
        return wrapped

    def put_source_key(self, connection: Connection, source: str, generation: int, wrapped: Wrapped) -> None:
        """Write a new key of a source."""
        made = {"source": source, "generation": generation, "made_at": self._now(), "uses": 0}
        connection.execute(insert(source_keys).values({**made, **wrapped._asdict()}))

    def replace_source_key(self, connection: Connection, row: Row[Any], wrapped: Wrapped) -> bool:
        """Write another wrapping of the same key, unless the row was changed or shredded since it was read."""
        own = source_keys.c
        same = (own.source == row.source) & (own.generation == row.generation) & (own.wrapped == row.wrapped)
        return connection.execute(update(source_keys).where(same).values(wrapped._asdict())).rowcount == 1

    def unwrap_row(self, row: Row[Any]) -> bytes:
        """Open a row of `source_keys`. Raises ProviderError and UnsealError."""
        return self._provider.unwrap(row.kek, row.wrapped, source_place(row.source, row.generation))

    def wrapping(self, source: str) -> Mapping[int, AESGCM]:
        """The keys that wrap those of documents, by generation."""
        return self._source_keys[source].wrapping

    def adopt(self, source: str, generation: int, key: bytes) -> None:
        """Wrap new keys of documents with this one from now on. Its row is committed."""
        found = self._source_keys.get(source)
        if found is not None:
            wrapping = {**found.wrapping, generation: AESGCM(key)}
            self._source_keys[source] = _SourceKey(found.sealing, found.naming, wrapping)

    def abandon(self, source: str, before: int) -> None:
        """Forget the wrapping keys below a generation: no row is under them."""
        found = self._source_keys.get(source)
        if found is not None:
            wrapping = {generation: key for generation, key in found.wrapping.items() if generation >= before}
            self._source_keys[source] = _SourceKey(found.sealing, found.naming, wrapping)

    def empty_log(self) -> None:
        """Leave no older page in the files: deleted ones are overwritten (secure_delete), the log is emptied here."""
        with storage_errors(self.path), self._writer.connect() as plain:
            driver = plain.connection.driver_connection
            assert driver is not None
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()

    # Within.

    def _open_source_keys(self) -> None:
        with self.read() as connection:
            rows = connection.execute(select(source_keys)).all()
        opened: dict[str, dict[int, bytes]] = {}
        for row in rows:
            try:
                opened.setdefault(row.source, {})[row.generation] = self.unwrap_row(row)
            except ProviderError as err:
                raise StartError(f"`{self.path}` cannot be opened: {err}") from err
            except UnsealError as err:
                raise StartError(f"a source's key in `{self.path}` does not open: restore the key store") from err
        self._source_keys.update({source: _source_key(keys) for source, keys in opened.items()})

    def _forget(self, source: str, gone: Collection[str]) -> None:
        with self._lock:
            self._shreds += 1
            for document in gone:
                self._opened.pop(DocumentKeyId(source, document), None)

    def _load(self, source: str, wanted: list[str]) -> dict[str, AESGCM]:
        shreds = self._shreds
        asked = select(documents.c.document, documents.c.generation, documents.c.wrapped).where(
            documents.c.source == source, documents.c.document.in_(wanted)
        )
        for last in (False, True):
            with self.read() as connection:
                rows = connection.execute(asked).all()
            # Looked at after the rows: a generation is in memory before a row names it. One that was given up may be
            # gone from memory by now; then every row has moved on to another.
            keys = self._source_keys.get(source)
            if keys is None:
                return {}
            if last or all(row.generation in keys.wrapping for row in rows):
                break
        found: dict[str, AESGCM] = {}
        for document, generation, wrapped in rows:
            wrapping = keys.wrapping.get(generation) if keys is not None else None
            if wrapping is None:
                raise UnsealError(f"document `{document}` is under a key that is not there")
            found[document] = AESGCM(unseal(wrapping, wrapped, document_place(source, document)))
        with self._lock:
            if shreds != self._shreds:
                return found  # One of them may be gone by now: keep none.
            for document, cipher in found.items():
                self._opened[DocumentKeyId(source, document)] = cipher
            while len(self._opened) > _OPENED_KEYS:
                self._opened.popitem(last=False)
        return found

    def _check(self, create: bool) -> str:
        """Return the store's id; make the tables when the store is new. Raises StartError."""
        with self.write() as connection:
            new = not connection.dialect.has_table(connection, about.name)
            # What came later within the format is added; nothing that is there is changed.
            metadata.create_all(connection)
            if new:
                made = secrets.token_hex(16)
                values = {"id": made, "format": FORMAT}
                connection.execute(insert(about), [{"name": n, "value": v} for n, v in values.items()])
                return made
            rows = connection.execute(select(about.c.name, about.c.value))
            found: dict[str, str] = {row.name: row.value for row in rows}
            if found.get("format") != FORMAT:
                raise StartError(
                    f"the key store `{self.path}` has format {found.get('format', '1')}, and this version reads "
                    f"{FORMAT}: name a new data folder and a new key store, and sync again"
                )
            if create and connection.scalar(select(func.count()).select_from(documents)):
                raise StartError(
                    f"the key store `{self.path}` belongs to another data folder, which a sync into this new one "
                    "would make unreadable: name that data folder, or a new key store"
                )
        return found["id"]


def source_place(source: str, generation: int) -> bytes:
    """What a source's wrapped key is bound to."""
    return associated("source key", source, generation)


def wrapped_with(connection: Connection, source: str, generation: int, count: int) -> None:
    """Count keys that a source's key wraps; do it in the transaction that stores them."""
    keys = source_keys.c
    connection.execute(
        update(source_keys).where(keys.source == source, keys.generation == generation).values(uses=keys.uses + count)
    )


def document_place(source: str, document: str) -> bytes:
    """What a document's wrapped key is bound to."""
    return associated("document key", source, document)


def rewrap_one(old: AESGCM, new: AESGCM, source: str, document: str, wrapped: bytes) -> bytes:
    """Wrap a document's key with another key of its source. Raises UnsealError."""
    place = document_place(source, document)
    return seal(new, unseal(old, wrapped, place), place)


_COUNT_OWN: Final = (
    update(source_keys)
    .where(source_keys.c.source == bindparam("s"), source_keys.c.generation == OWN)
    .values(uses=source_keys.c.uses + bindparam("n"))
)
_COUNT_DOCUMENT: Final = (
    update(documents)
    .where(documents.c.source == bindparam("s"), documents.c.document == bindparam("d"))
    .values(uses=documents.c.uses + bindparam("n"))
)


def _source_key(keys: Mapping[int, bytes]) -> _SourceKey:
    def derived(purpose: bytes) -> bytes:
        return hmac.digest(keys[OWN], b"remit source key: " + purpose, hashlib.sha256)

    wrapping = {generation: AESGCM(key) for generation, key in keys.items() if generation != OWN}
    naming = hmac.new(derived(b"naming"), digestmod=hashlib.sha256)
    return _SourceKey(AESGCM(derived(b"sealing")), naming, wrapping)


def _locked(path: Path) -> int:
    """Take the store's lock: two services on one store would shred each other's keys. Raises StartError."""
    with storage_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return lock_file.acquire(path.with_name("lock"))
        except lock_file.HeldError as err:
            raise StartError(f"the key store `{path}` is already open by {err.holder}: stop it first") from None
