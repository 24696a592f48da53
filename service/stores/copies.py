"""The text of a content that is stored already, for another document with the same content."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, select

from service.keys.envelope import UnsealError
from service.stores import schema
from service.stores.sealing import Sealing
from service.stores.writes import FoundText, PassageWrite


def find_text(connection: Connection, sealing: Sealing, source: str, content: bytes) -> FoundText | None:
    """Return the text that was made from `content` (keyed hash) in `source`, to be sealed anew; None without one.

    Tombstones count until they are removed: a renamed document is one that is gone and one that is new.
    A title that is only the other document's name is not returned: it is not part of the content.
    """
    documents = schema.documents.c
    wanted: Select[Any] = (
        select(documents.ordinal, documents.document_id, documents.version, documents.title, documents.named)
        .join(schema.sources, schema.sources.c.id == documents.source)
        .where(
            schema.sources.c.name == source,
            documents.content == content,
            documents.row_start < documents.row_stop,
        )
    )
    with connection.execute(wanted) as donors:
        for donor in donors:
            try:
                found = _opened(connection, sealing, source, donor)
            except UnsealError:
                continue  # It is damaged, which is no reason for a run to fail: another one's, or extracted anew.
            if found is not None:
                return found
    return None


def _opened(connection: Connection, sealing: Sealing, source: str, donor: Row[Any]) -> FoundText | None:
    """Open the text of one document, None when its key is gone. Raises UnsealError."""
    seal = sealing.documents(source, [donor.document_id]).get(donor.document_id)
    if seal is None:
        return None
    chunks = schema.chunks.c
    rows = connection.execute(
        select(schema.chunks).where(chunks.ordinal == donor.ordinal).order_by(chunks.position)
    ).all()
    passages = []
    for row in rows:
        text = seal.open_body(donor.version, row.position, row.body)
        vector = seal.open_half(donor.version, row.position, row.vector)
        passages.append(PassageWrite(text.text, text.headings, row.start, row.stop, vector))
    title = "" if donor.named else seal.open_field("title", donor.version, donor.title)
    return FoundText(title, tuple(passages))
