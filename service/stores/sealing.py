"""What is sealed in the catalog, under which key, and bound to which place.

A document's title, location, quarantine reason, passages and vectors are under its own key; what belongs to no document
(labels of containers, cursors, reports of runs) is under its source's key.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from service.keys.envelope import UnsealError, associated, seal, unseal, within
from service.keys.store import DocumentKeyId, KeyStore
from service.stores.records import Sealed, StoredChunk, StoredDocument, Text

_VECTOR: Final = np.dtype("<f2")


class DocumentSeal:
    """Seals and opens the fields of one document. Each sealing is counted on its key."""

    def __init__(self, keys: KeyStore, cipher: AESGCM, source: str, document_id: str) -> None:
        self._keys = keys
        self._cipher = cipher
        self._counted = (source, document_id)
        self._place = associated(source, document_id)

    def seal_field(self, field: str, version: int, text: str) -> Sealed:
        """Seal `title`, `location` or `quarantine`."""
        return self._seal(_encode(text), field, version)

    def open_field(self, field: str, version: int, sealed: bytes) -> str:
        """Open what `seal_field` made. Raises UnsealError."""
        return unseal(self._cipher, sealed, within(self._place, field, version)).decode()

    def title(self, document: StoredDocument) -> str:
        """Open the document's title. Raises UnsealError."""
        return self.open_field("title", document.version, document.title)

    def location(self, document: StoredDocument) -> str:
        """Open where the document stands in its source. Raises UnsealError."""
        return self.open_field("location", 0, document.location)

    def text(self, chunk: StoredChunk) -> Text:
        """Open a passage of the document. Raises UnsealError."""
        return self.open_body(chunk.version, chunk.position, chunk.body)

    def seal_body(self, version: int, position: int, text: str, headings: Iterable[str]) -> Sealed:
        """Seal a passage with its headings and the hash of its text."""
        encoded = _encode(text)
        named = [_encode(heading).decode() for heading in headings]
        head = json.dumps(named, ensure_ascii=False).encode() if named else b"[]"
        plain = len(head).to_bytes(4, "big") + head + sha256(encoded).digest() + encoded
        return self._seal(plain, "passage", version, position)

    def open_body(self, version: int, position: int, sealed: bytes) -> Text:
        """Open what `seal_body` made, and check the text against its hash. Raises UnsealError."""
        plain = unseal(self._cipher, sealed, within(self._place, "passage", version, position))
        start = 4 + int.from_bytes(plain[:4], "big")
        digest, encoded = plain[start : start + 32], plain[start + 32 :]
        if sha256(encoded).digest() != digest:
            raise UnsealError("a passage does not have the hash that was stored with it")
        return Text(encoded.decode(), tuple(json.loads(plain[4:start])), digest)

    def seal_vector(self, version: int, position: int, vector: NDArray[np.floating[Any]]) -> Sealed:
        """Seal a vector, shape (dimension,), as float16."""
        return self._seal(vector.astype(_VECTOR).tobytes(), "vector", version, position)

    def open_vector(self, version: int, position: int, sealed: bytes) -> NDArray[np.float32]:
        """Open what `seal_vector` made: float32, unit length again. Raises UnsealError."""
        vector = self.open_half(version, position, sealed).astype(np.float32)
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)

    def open_half(self, version: int, position: int, sealed: bytes) -> NDArray[np.float16]:
        """Open what `seal_vector` made, exactly as it was stored. Raises UnsealError."""
        plain = unseal(self._cipher, sealed, within(self._place, "vector", version, position))
        return np.frombuffer(plain, dtype=_VECTOR)

    def _seal(self, plain: bytes, *place: str | int) -> Sealed:
        self._keys.count_use(*self._counted)
        return Sealed(seal(self._cipher, plain, within(self._place, *place)))


class Sealing:
    """Opens what readers give out, and finds the keys. Safe to use from several threads."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    def title(self, document: StoredDocument) -> str:
        """Open a document's title. Raises UnsealError, as all of these do."""
        return self.of(document).title(document)

    def location(self, document: StoredDocument) -> str:
        """Open where a document stands in its source."""
        return self.of(document).location(document)

    def quarantine(self, document: StoredDocument) -> str:
        """Open why nobody reads a document; empty when its rules are understood."""
        if document.quarantine is None:
            return ""
        return self.of(document).open_field("quarantine", 0, document.quarantine)

    def text(self, chunk: StoredChunk) -> Text:
        """Open a passage and check its hash."""
        return self.of(chunk).text(chunk)

    def of(self, stored: StoredDocument | StoredChunk) -> DocumentSeal:
        """Return the seal of one document, or of the one that a passage is of, to open several things with."""
        cipher = self._keys.cipher(DocumentKeyId(stored.source, stored.document_id))
        return DocumentSeal(self._keys, cipher, stored.source, stored.document_id)

    def documents(self, source: str, document_ids: Collection[str]) -> Mapping[str, DocumentSeal]:
        """Return the seal of each document; those that have no key any more are left out."""
        found = self._keys.ciphers(source, document_ids)
        return {
            document_id: DocumentSeal(self._keys, cipher, source, document_id) for document_id, cipher in found.items()
        }

    def seal_of_source(self, source: str, field: str, ref: str, text: str) -> Sealed:
        """Seal what belongs to no document: a label, a cursor, a report. `ref`: whose it is."""
        cipher = self._keys.source_cipher(source)
        self._keys.count_use(source)
        return Sealed(seal(cipher, _encode(text), associated(source, field, ref)))

    def open_of_source(self, source: str, field: str, ref: str, sealed: bytes) -> str:
        """Open what `seal_of_source` made."""
        return unseal(self._keys.source_cipher(source), sealed, associated(source, field, ref)).decode()


def _encode(text: str) -> bytes:
    """Encode for people: what is not UTF-8, such as a lone surrogate from a file's name, is shown as an escape."""
    return text.encode("utf-8", "backslashreplace")
