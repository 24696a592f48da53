"""How documents and passages are asked for, and what the rows that come back are. Tombstones are never among them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Integer, Select, bindparam, select

from service.stores import moment, schema
from service.stores.prepared import VALUES, Prepared
from service.stores.records import StoredChunk, StoredDocument

COUNTERS: Final = Prepared(select(schema.counters.c.change, schema.counters.c.feed))

# The columns stand in the order of the fields.
DOCUMENTS: Final[Select[Any]] = (
    select(
        schema.documents.c.ordinal,
        schema.documents.c.document_id,
        schema.sources.c.name,
        schema.documents.c.acl_id,
        schema.documents.c.quarantine,
        schema.documents.c.version,
        schema.documents.c.row_start,
        schema.documents.c.row_stop,
        schema.documents.c.title,
        schema.documents.c.location,
        schema.documents.c.media_type,
        schema.documents.c.modified_at,
        schema.documents.c.text_problem,
        schema.documents.c.permissions_seq,
        schema.documents.c.text_seq,
        schema.documents.c.text_at,
    )
    .join(schema.sources, schema.sources.c.id == schema.documents.c.source)
    .where(schema.documents.c.deleted.is_(False))
)

_CHUNKS: Final[Select[Any]] = (
    select(
        schema.chunks.c.row,
        schema.chunks.c.chunk_id,
        schema.chunks.c.ordinal,
        schema.sources.c.name,
        schema.documents.c.document_id,
        schema.documents.c.version,
        schema.chunks.c.position,
        schema.chunks.c.start,
        schema.chunks.c.stop,
        schema.chunks.c.body,
    )
    .join(schema.documents, schema.documents.c.ordinal == schema.chunks.c.ordinal)
    .join(schema.sources, schema.sources.c.id == schema.documents.c.source)
    .where(schema.documents.c.deleted.is_(False))
)

_COUNT: Final = bindparam("count", type_=Integer)
_ORDINAL: Final = bindparam("ordinal", type_=Integer)

DOCUMENTS_BY_ORDINAL: Final = Prepared(DOCUMENTS.where(schema.documents.c.ordinal.in_(VALUES)))
DOCUMENTS_BY_ID: Final = Prepared(DOCUMENTS.where(schema.documents.c.document_id.in_(VALUES)))
DOCUMENTS_FROM: Final = Prepared(
    DOCUMENTS.where(schema.documents.c.ordinal >= _ORDINAL).order_by(schema.documents.c.ordinal).limit(_COUNT)
)
CHUNKS_BY_ROW: Final = Prepared(_CHUNKS.where(schema.chunks.c.row.in_(VALUES)))
CHUNKS_BY_ID: Final = Prepared(_CHUNKS.where(schema.chunks.c.chunk_id.in_(VALUES)))
CHUNKS_OF: Final = Prepared(_CHUNKS.where(schema.chunks.c.ordinal == _ORDINAL).order_by(schema.chunks.c.position))

# By id, so that a row is looked up as one that was asked for: by its place in an index, then in the table.
ANY_CHUNKS: Final = Prepared(_CHUNKS.order_by(schema.chunks.c.chunk_id).limit(_COUNT))
ANY_DOCUMENTS: Final = Prepared(DOCUMENTS.order_by(schema.documents.c.document_id).limit(_COUNT))


def document(row: Any) -> StoredDocument:
    """A document as the driver has it: only its two times are something else there."""
    fields = list(row)
    fields[11] = moment.read(fields[11])
    if fields[15] is not None:
        fields[15] = moment.read(fields[15])
    return StoredDocument(*fields)


def chunk(row: Any) -> StoredChunk:
    """A passage as the driver has it."""
    return StoredChunk(*row)
