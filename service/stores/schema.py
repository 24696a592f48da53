"""The catalog's tables. Text, titles, places and labels stand in them sealed; native ids as keyed hashes.

In the clear stand names and kinds of sources, media types, times, sizes of texts, principals' tokens in clauses, and
constant words such as `encrypted`.

Numbers that are never used again come from `counters`, which a transaction reads when it begins and writes when it
commits; there is one writer.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from service.stores.moment import Moment

metadata = MetaData()

about = Table("about", metadata, Column("name", String, primary_key=True), Column("value", String, nullable=False))
"""incarnation, key store, model, dimension."""

counters = Table(
    "counters",
    metadata,
    Column("only", Integer, CheckConstraint("only = 1"), primary_key=True),
    Column("change", Integer, nullable=False),
    Column("feed", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("row", Integer, nullable=False),
    Column("acl_id", Integer, nullable=False),
)
"""The last numbers that were given out."""

sources = Table(
    "sources",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("fence", Integer, nullable=False, default=0),
    Column("cursor", LargeBinary),
)

passes = Table(
    "passes",
    metadata,
    Column("source", Integer, ForeignKey("sources.id"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("verified_at", Moment, nullable=False),
    Column("took_ms", Integer, nullable=False),
)
"""The clock of each pass over a source: when its latest complete run began, and how long it took."""

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("source", Integer, ForeignKey("sources.id"), primary_key=True),
    Column("name", String, nullable=False),
    Column("began_at", Moment, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""Where a run that did not come to its end can be taken up. name: its pass. began_at: when its first part began.
body: the connector's cursor and what was met, sealed under the source's key.
"""

clauses = Table(
    "clauses",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)
"""Clauses in normal form, by the hash of it."""

scopes = Table(
    "scopes",
    metadata,
    Column("id", String, primary_key=True),
    Column("source", Integer, ForeignKey("sources.id"), nullable=False, index=True),
    Column("parent", String),
    Column("clause", LargeBinary, ForeignKey("clauses.digest"), index=True),
    Column("unknown", LargeBinary),
    Column("label", LargeBinary, nullable=False),
    Column("facts", LargeBinary, nullable=False),
    CheckConstraint("(clause IS NULL) != (unknown IS NULL)"),
)
"""facts: keyed hash of everything that was sent, so that an unchanged container is not written."""

former = Table(
    "former",
    metadata,
    Column("ref", String, primary_key=True),
    Column("source", Integer, ForeignKey("sources.id"), nullable=False, index=True),
    Column("around", String),
    Column("clause", LargeBinary, ForeignKey("clauses.digest"), nullable=False, index=True),
)
"""The rules that counted last of what nobody reads now, so that their return is not taken for new access.

ref: a container's id, or a document's ordinal. around: the container around it then.
"""

stops = Table(
    "stops",
    metadata,
    Column("hold_id", String, primary_key=True),
    Column("source", Integer, ForeignKey("sources.id"), nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("listed_at", Moment, nullable=False),
    Column("keys", LargeBinary, nullable=False),
    Column("report", LargeBinary, nullable=False),
)
"""What the circuit breaker holds, until it is approved and applied, or no longer asked for. kind: `widening`, `purge`,
`members`. keys: hashes of each change that is held. report: the state, counts, the run, the groups and who decided,
sealed under the source's key.
"""

acls = Table(
    "acls",
    metadata,
    Column("acl_id", Integer, CheckConstraint("acl_id > 0"), primary_key=True),
    Column("source", Integer, ForeignKey("sources.id"), nullable=False),
    Column("scope", String),
    Column("own", LargeBinary, ForeignKey("clauses.digest"), nullable=False, index=True),
)
Index("acls_pair", acls.c.source, acls.c.own, acls.c.scope)

documents = Table(
    "documents",
    metadata,
    Column("ordinal", Integer, primary_key=True),
    Column("document_id", String, nullable=False, unique=True),
    Column("source", Integer, ForeignKey("sources.id"), nullable=False),
    Column("native", LargeBinary, nullable=False),
    Column("deleted", Boolean, nullable=False, default=False),
    Column("scope", String),
    Column("acl_id", Integer, nullable=False),
    Column("quarantine", LargeBinary),
    Column("facts", LargeBinary, nullable=False),
    Column("title", LargeBinary, nullable=False),
    Column("named", Boolean, nullable=False),
    Column("location", LargeBinary, nullable=False),
    Column("media_type", String, nullable=False),
    Column("modified_at", Moment, nullable=False),
    Column("source_version", LargeBinary),
    Column("content", LargeBinary),
    Column("version", Integer, nullable=False, default=0),
    Column("text_problem", String, nullable=False, default=""),
    Column("row_start", Integer, nullable=False, default=0),
    Column("row_stop", Integer, nullable=False, default=0),
    Column("permissions_seq", Integer, nullable=False),
    Column("text_seq", Integer, nullable=False, default=0),
    Column("text_at", Moment),
    UniqueConstraint("source", "native"),
    CheckConstraint("(acl_id = 0) = (quarantine IS NOT NULL)"),
    CheckConstraint("row_start <= row_stop"),
)
"""deleted: a tombstone, invisible from then on. named: the title is only the document's name.
source_version: keyed hash of the version whose text was dealt with; NULL while that is still to do.
content: keyed hash of the bytes and the media type that the text was made from.
"""
Index("documents_content", documents.c.source, documents.c.content)
Index("documents_acl", documents.c.acl_id)
# A run counts and lists all documents of a source, and must not read their rows for that, which are long.
Index("documents_rules", documents.c.source, documents.c.acl_id, documents.c.deleted)
# Partial, so that it is chosen for tombstones alone, of which there are few or none.
Index("documents_buried", documents.c.source, sqlite_where=documents.c.deleted.is_(True))

chunks = Table(
    "chunks",
    metadata,
    Column("row", Integer, primary_key=True),
    Column("chunk_id", String, nullable=False, unique=True),
    Column("ordinal", Integer, ForeignKey("documents.ordinal"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("stop", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("vector", LargeBinary, nullable=False),
)
"""Chunks of the document's current version alone."""

changes = Table(
    "changes",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("source", Integer, ForeignKey("sources.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("ref", String, nullable=False),
    UniqueConstraint("kind", "ref"),
)
"""What changed last when: one row a thing, which moves to the end with every change of it."""

feed = Table(
    "feed",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("row", Integer, nullable=False, unique=True),
    Column("ordinal", Integer),
)
"""For the vector index: rows to hold, with their document; rows to forget, without."""

memberships = Table(
    "memberships",
    metadata,
    Column("id", String, primary_key=True),
    Column("source", Integer, ForeignKey("sources.id"), nullable=False, index=True),
    Column("facts", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""Groups that sources have themselves. id: keyed hash of the group, after the source's name. facts: keyed hash of all
that was sent, marked where former members count besides. body: the group with its members, and the former ones, sealed
under the source's key, because it names people.
"""

membership_passes = Table(
    "membership_passes",
    metadata,
    Column("source", Integer, ForeignKey("sources.id"), primary_key=True),
    Column("verified_at", Moment),
    Column("unread", LargeBinary),
)
"""When the latest pass began that read every group of a source. unread: why the latest one did not, sealed."""

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("source", Integer, ForeignKey("sources.id"), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("report", LargeBinary, nullable=False),
    UniqueConstraint("source", "fence"),
)
"""report: counts, problems and the failure, sealed under the source's key."""
