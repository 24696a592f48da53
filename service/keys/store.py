"""The key store: one wrapped key a source and a document, in a database of its own, apart from what they seal.

Source keys are opened once and stay in memory; document keys are opened when they are needed.
A document is beyond reading once its key is gone from here and from every backup of this file.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Column, Connection, ForeignKey, LargeBinary, MetaData, String, Table, delete, insert, select

from service.errors import StartError
from service.keys.envelope import KEY_BYTES, UnsealError, associated, seal, unseal
from service.keys.provider import KeyProvider
from service.stores.errors import storage_errors
from service.stores.sqlite import open_readers, open_writer

_metadata = MetaData()
_about = Table("about", _metadata, Column("name", String, primary_key=True), Column("value", String, nullable=False))
_sources = Table(
    "sources", _metadata, Column("name", String, primary_key=True), Column("wrapped", LargeBinary, nullable=False)
)
_documents = Table(
    "documents",
    _metadata,
    Column("source", String, ForeignKey("sources.name"), primary_key=True),
    Column("document", String, primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

_OPENED_KEYS: Final = 8192
"""How many document keys stay opened in memory."""

_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class DocumentKeyId:
    """Whose key: a document within a source."""

    source: str
    document: str


@dataclass(frozen=True, slots=True)
class _SourceKey:
    """What is derived from a source's key: one key a purpose."""

    wrapping: AESGCM
    sealing: AESGCM
    naming: bytes


class KeyStore:
    """The opened key store. Safe to use from several threads."""

    def __init__(self, path: Path, provider: KeyProvider, *, create: bool = True) -> None:
        """Open the store at `path` and every source key in it; write nothing unless it is new.

        create: False where sealed data exists already, so that its keys must exist too.
        Raises StartError when the store is missing or was made with another key-encryption key.
        """
        if not create and not path.exists():
            raise StartError(f"the key store `{path}` is missing, and nothing can be read without it: restore it")
        self._path = path
        self._provider = provider
        self._lock = threading.Lock()
        self._opened: OrderedDict[DocumentKeyId, AESGCM] = OrderedDict()
        self._shreds = 0
        self._writer = open_writer(path)
        self._readers = open_readers(path)
        try:
            self._id = self._check()
            self._source_keys = self._open_sources()
        except BaseException:
            self.close()
            raise

    @property
    def id(self) -> str:
        """Made with the store; the catalog remembers it, so that the two cannot be mixed up."""
        return self._id

    def close(self) -> None:
        """Forget every key and close the database."""
        with self._lock:
            self._opened.clear()
        self._readers.dispose()
        self._writer.dispose()

    def add_source(self, source: str) -> None:
        """Make the key of `source` unless it has one. Durable on return."""
        if source in self._source_keys:
            return
        key = os.urandom(KEY_BYTES)
        with self._write() as connection:
            wrapped = self._provider.wrap(key, associated("source key", source))
            connection.execute(insert(_sources).values(name=source, wrapped=wrapped))
        self._source_keys[source] = _derive(key)

    def name(self, source: str, *parts: str | int) -> bytes:
        """Return 16 bytes that stand for `parts` within `source`; nobody without the key can test a guess."""
        return hmac.digest(self._source_keys[source].naming, associated(*parts), hashlib.sha256)[:16]

    def terms_key(self) -> bytes:
        """Return the key that words in the index are hashed with. Made at the first call, durable on return.

        Without the key store, which backups of the rest do not hold, nobody can test a guess of a word.
        """
        with self._write() as connection:
            found = connection.scalar(select(_about.c.value).where(_about.c.name == "terms"))
            if found is None:
                key = os.urandom(KEY_BYTES)
                wrapped = self._provider.wrap(key, associated("terms key"))
                connection.execute(insert(_about).values(name="terms", value=wrapped.hex()))
                return key
        try:
            return self._provider.unwrap(bytes.fromhex(found), associated("terms key"))
        except (UnsealError, ValueError) as err:
            raise StartError(f"the key of the terms in `{self._path}` does not open: restore the key store") from err

    def source_cipher(self, source: str) -> AESGCM:
        """Return what seals the values of a source that belong to no document."""
        return self._source_keys[source].sealing

    def create(self, source: str, documents: Collection[str]) -> None:
        """Make a key for each of `documents`. Durable on return."""
        wrapping = self._source_keys[source].wrapping
        rows = []
        for document in documents:
            wrapped = seal(wrapping, os.urandom(KEY_BYTES), associated("document key", source, document))
            rows.append({"source": source, "document": document, "wrapped": wrapped})
        if rows:
            with self._write() as connection:
                connection.execute(insert(_documents), rows)

    def ciphers(self, source: str, documents: Collection[str]) -> Mapping[str, AESGCM]:
        """Open the keys of `documents`. Those that have none any more are left out. Raises UnsealError."""
        found: dict[str, AESGCM] = {}
        missing: list[str] = []
        with self._lock:
            for document in documents:
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
        with storage_errors(self._path), self._readers.begin() as connection:
            return frozenset(connection.scalars(select(_documents.c.document).where(_documents.c.source == source)))

    def shred(self, source: str, documents: Collection[str]) -> None:
        """Delete the keys of `documents`, from the database's files too. Durable on return."""
        wanted = list(documents)
        if not wanted:
            return
        try:
            with self._write() as connection:
                for start in range(0, len(wanted), _BATCH):
                    batch = wanted[start : start + _BATCH]
                    connection.execute(
                        delete(_documents).where(_documents.c.source == source, _documents.c.document.in_(batch))
                    )
        finally:
            with self._lock:
                self._shreds += 1
                for document in wanted:
                    self._opened.pop(DocumentKeyId(source, document), None)
        # Deleted pages are overwritten (secure_delete); the log that still holds older ones is emptied here.
        with storage_errors(self._path), self._writer.connect() as plain:
            driver = plain.connection.driver_connection
            assert driver is not None
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()

    def _load(self, source: str, documents: list[str]) -> dict[str, AESGCM]:
        wrapping = self._source_keys[source].wrapping
        found: dict[str, AESGCM] = {}
        shreds = self._shreds
        wanted = select(_documents.c.document, _documents.c.wrapped).where(
            _documents.c.source == source, _documents.c.document.in_(documents)
        )
        with storage_errors(self._path), self._readers.begin() as connection:
            for document, wrapped in connection.execute(wanted):
                found[document] = AESGCM(unseal(wrapping, wrapped, associated("document key", source, document)))
        with self._lock:
            if shreds != self._shreds:
                return found  # One of them may be gone by now: keep none.
            for document, cipher in found.items():
                self._opened[DocumentKeyId(source, document)] = cipher
            while len(self._opened) > _OPENED_KEYS:
                self._opened.popitem(last=False)
        return found

    def _check(self) -> str:
        """Return the store's id; make the tables when the store is new. Raises StartError for another key."""
        with self._write() as connection:
            if not connection.dialect.has_table(connection, _about.name):
                made = secrets.token_hex(16)
                _metadata.create_all(connection)
                values = {"id": made, "key_id": self._provider.key_id}
                connection.execute(insert(_about), [{"name": n, "value": v} for n, v in values.items()])
                return made
            rows = connection.execute(select(_about.c.name, _about.c.value))
            about: dict[str, str] = {row.name: row.value for row in rows}
        if about.get("key_id") != self._provider.key_id:
            raise StartError(
                f"`{self._path}` was made with key `{about.get('key_id')}`, and the configured key is "
                f"`{self._provider.key_id}`: restore the right key file"
            )
        return about["id"]

    def _open_sources(self) -> dict[str, _SourceKey]:
        with storage_errors(self._path), self._readers.begin() as connection:
            rows = connection.execute(select(_sources.c.name, _sources.c.wrapped)).all()
        try:
            return {
                name: _derive(self._provider.unwrap(wrapped, associated("source key", name))) for name, wrapped in rows
            }
        except UnsealError as err:
            raise StartError(f"a source's key in `{self._path}` does not open: restore the key store") from err

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with storage_errors(self._path), self._writer.begin() as connection:
            yield connection


def _derive(key: bytes) -> _SourceKey:
    def derived(purpose: bytes) -> bytes:
        return hmac.digest(key, b"remit source key: " + purpose, hashlib.sha256)

    return _SourceKey(AESGCM(derived(b"wrapping")), AESGCM(derived(b"sealing")), derived(b"naming"))
