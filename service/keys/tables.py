"""The key store's tables: wrapped keys, what wraps each of them, and how often each was used.

Nothing else stands here: no name of a document, no text, and no key that opens without the key-encryption key.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

from service.stores.moment import Moment

OWN: Final = 0
"""The generation of a source's own secret, from which come the keys that seal and name what belongs to no document."""

MAX_USES: Final = 2**32
"""How often one key may seal under random nonces. SOURCE: NIST SP 800-38D, section 8.3."""

metadata = MetaData()

about = Table("about", metadata, Column("name", String, primary_key=True), Column("value", String, nullable=False))

source_keys = Table(
    "source_keys",
    metadata,
    Column("source", String, primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("kek", String, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("made_at", Moment, nullable=False),
    Column("uses", BigInteger, CheckConstraint(f"uses <= {MAX_USES}"), nullable=False, default=0),
)
"""generation: OWN, or from 1 on one that wraps keys of documents; the highest wraps new ones. kek: the id of the
key-encryption key that wraps this one.
"""

documents = Table(
    "documents",
    metadata,
    Column("source", String, primary_key=True),
    Column("document", String, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("uses", BigInteger, CheckConstraint(f"uses <= {MAX_USES}"), nullable=False, default=0),
    ForeignKeyConstraint(["source", "generation"], ["source_keys.source", "source_keys.generation"]),
    sqlite_with_rowid=False,
)
# What is left to re-wrap is found without reading every key.
Index("documents_generation", documents.c.source, documents.c.generation)

backups = Table(
    "backups",
    metadata,
    Column("backup_id", String, primary_key=True),
    Column("made_at", Moment, nullable=False),
    Column("folder", String, nullable=False),
)
"""Copies of this store that were made: until they have expired, what was shredded since can be opened with them."""

shred_requests = Table(
    "shred_requests",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("source", String, nullable=False),
    Column("document", String, nullable=False),
    Column("requested_by", String, nullable=False),
    Column("accounts", String, nullable=False),
    Column("requested_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("proof", LargeBinary, nullable=False),
)
"""What one key administrator asked to be shredded, until another one approves it. document: empty for all of a source.
proof: by the source's own key, over all the rest.
"""
