"""What calls about keys, backups and shredding return: plain frozen values, as in `values`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class KeyStoreBackup:
    """A copy of the key store: what was shredded since can be opened with it until it has expired."""

    backup_id: str
    made_at: datetime
    folder: str


@dataclass(frozen=True, slots=True)
class BackupMade:
    """A backup that was made."""

    backup_id: str
    made_at: datetime
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SourceKeys:
    """How the keys of one source stand.

    documents: keys of documents. behind: those under an older wrapping key.
    wraps, seals, most_seals: uses of the newest wrapping key, of the source's own, and of the document's with the most.
    """

    source: str
    documents: int
    behind: int
    generations: int
    made_at: datetime
    wraps: int
    seals: int
    most_seals: int


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """How all keys stand. older_source_keys: left behind by a rotation that was broken off.

    shred_approvals: how many persons a shredding takes.
    """

    key_encryption_key: str
    provider: str
    older_source_keys: int
    sources: tuple[SourceKeys, ...]
    backups: tuple[KeyStoreBackup, ...]
    index_rebuild_pending: bool
    shred_approvals: int


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation that was done. retired: ids of keys that only backups of the key store need."""

    key_encryption_key: str
    retired: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShredRequest:
    """A shredding that somebody else may approve: of a document, or where its id is empty of a whole source."""

    request_id: str
    document_id: str
    source: str
    requested_by: str
    requested_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ShredCertificate:
    """What a shredding did. backups and index_rebuild_pending: what must still happen until nothing can be read."""

    response_id: str
    source: str
    document_id: str
    documents: int
    shredded_at: datetime
    backups: tuple[KeyStoreBackup, ...]
    index_rebuild_pending: bool
    same_content: int
    requested_by: str
    approved_by: str
