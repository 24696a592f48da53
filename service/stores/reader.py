"""Reading the catalog: everything here comes from one snapshot. Tombstones and older texts are not seen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import structlog
from sqlalchemy import Column, Connection, Row, Select, String, and_, func, select

from acl.changes import AclDrop, AclPut, Change, DocumentDrop, DocumentPut, ScopeDrop, ScopePut
from acl.model import AclId, Clause, ScopeId, Unknown
from service.index.base import Add, AddText, FeedItem, Remove
from service.keys.envelope import UnsealError
from service.stores import queries, schema
from service.stores.clauses import read_clause
from service.stores.clocks import read_clocks
from service.stores.copies import find_text
from service.stores.memberships import MEMBERSHIP, GroupChange, Pass, changes_since, passes
from service.stores.prepared import VALUES
from service.stores.records import (
    AccessChange,
    AclUse,
    PassClock,
    RunState,
    StoredChunk,
    StoredDocument,
    StoredRun,
    StoredSource,
    SyncPass,
)
from service.stores.runs import run_from_row
from service.stores.sealing import DocumentSeal, Sealing
from service.stores.stops import Stop, stops_of
from service.stores.writes import FoundText

log = structlog.get_logger()

_BATCH: Final = 500
"""How many values are asked for in one statement."""


class Reader:
    """One snapshot of the catalog. Use it from one thread, and soon: a long one keeps the log from shrinking."""

    def __init__(self, connection: Connection, sealing: Sealing) -> None:
        self._connection = connection
        self._sealing = sealing
        ((change, feed),) = queries.COUNTERS.rows(connection)
        self.seq: int = change
        self.feed_seq: int = feed

    def changes_since(self, seq: int) -> list[AccessChange]:
        """Return which rules changed after `seq`, in order, with the values of this snapshot; after 0 all there are."""
        if seq >= self.seq:
            return []
        rows = self._connection.execute(
            select(schema.changes.c.seq, schema.sources.c.name, schema.changes.c.kind, schema.changes.c.ref)
            .join(schema.sources, schema.sources.c.id == schema.changes.c.source)
            .where(schema.changes.c.seq > seq, schema.changes.c.kind != MEMBERSHIP)
            .order_by(schema.changes.c.seq)
        ).all()
        values: dict[tuple[str, str], Change] = {}
        whole = seq == 0
        for kind, read in (("scope", self._scopes), ("acl", self._acls), ("document", self._places)):
            refs = None if whole else [row.ref for row in rows if row.kind == kind]
            values.update(((kind, ref), value) for ref, value in read(refs))
        found: list[AccessChange] = []
        for row in rows:
            value = values.get((row.kind, row.ref))
            if value is not None:
                found.append(AccessChange(row.seq, row.name, value))
            elif not whole:
                found.append(AccessChange(row.seq, row.name, _drop(row.kind, row.ref)))
        return found

    def groups_since(self, seq: int) -> list[GroupChange]:
        """Return which groups of sources changed after `seq`, as they are in this snapshot; after 0 all there are."""
        return changes_since(self._connection, self._sealing, seq) if seq < self.seq else []

    def group_passes(self) -> dict[str, Pass]:
        """Return for each source that has groups of its own when they were last read in full."""
        return passes(self._connection, self._sealing)

    def documents(self, ordinals: Collection[int]) -> dict[int, StoredDocument]:
        """Return the documents that exist, by ordinal."""
        found = map(queries.document, queries.DOCUMENTS_BY_ORDINAL.among(self._connection, tuple(ordinals)))
        return {document.ordinal: document for document in found}

    def document_by_id(self, document_id: str) -> StoredDocument | None:
        """Return a document by its id, None when there is none."""
        return self.documents_by_id([document_id]).get(document_id)

    def documents_by_id(self, document_ids: Collection[str]) -> dict[str, StoredDocument]:
        """Return the documents that exist, by id."""
        found = map(queries.document, queries.DOCUMENTS_BY_ID.among(self._connection, tuple(document_ids)))
        return {document.document_id: document for document in found}

    def chunks(self, rows: Collection[int]) -> dict[int, StoredChunk]:
        """Return the chunks of current texts, by row."""
        return {
            chunk.row: chunk for chunk in map(queries.chunk, queries.CHUNKS_BY_ROW.among(self._connection, tuple(rows)))
        }

    def chunks_by_id(self, chunk_ids: Collection[str]) -> dict[str, StoredChunk]:
        """Return the chunks of current texts, by id."""
        found = map(queries.chunk, queries.CHUNKS_BY_ID.among(self._connection, tuple(chunk_ids)))
        return {chunk.chunk_id: chunk for chunk in found}

    def any_chunks(self, count: int) -> list[StoredChunk]:
        """Return as many chunks, whichever they are: what stands in for those that are absent. 0 is asked for, too."""
        return list(map(queries.chunk, queries.ANY_CHUNKS.rows(self._connection, count=count)))

    def any_documents(self, count: int) -> list[StoredDocument]:
        """Return as many documents, whichever they are, as `any_chunks` does."""
        return list(map(queries.document, queries.ANY_DOCUMENTS.rows(self._connection, count=count)))

    def chunks_of(self, ordinal: int) -> list[StoredChunk]:
        """Return the chunks of a document's current text in their order."""
        return list(map(queries.chunk, queries.CHUNKS_OF.rows(self._connection, ordinal=ordinal)))

    def feed(self, after: int, limit: int) -> list[FeedItem]:
        """Return at most `limit` items of the index's feed that come after `after`, in order; [] at its end.

        Vectors are opened: float32, unit length. One that does not open is not searched; the others must not wait.
        """
        rows = self._feed_rows(after, limit, schema.chunks.c.vector)
        seals = self._seals(rows)
        items: list[FeedItem] = []
        for row in rows:
            seal = None if row.ordinal is None else seals[row.name].get(row.document_id)
            if seal is None:
                # The row, its document or its key is gone: whoever holds it forgets it.
                items.append(Remove(row.seq, row.row))
            else:
                try:
                    vector = seal.open_vector(row.version, row.position, row.vector)
                except UnsealError:
                    log.error("vector_unreadable", document_id=row.document_id)
                    items.append(Remove(row.seq, row.row))
                else:
                    items.append(Add(row.seq, row.row, row.ordinal, vector))
        return items

    def text_feed(self, after: int, limit: int) -> list[AddText | Remove]:
        """Return items of the feed as `feed` does, with the words of each chunk: its headings and its text.

        A passage that does not open can be read by nobody, so it is not found by its words either.
        """
        rows = self._feed_rows(after, limit, schema.chunks.c.body)
        seals = self._seals(rows)
        items: list[AddText | Remove] = []
        for row in rows:
            seal = None if row.ordinal is None else seals[row.name].get(row.document_id)
            if seal is None:
                items.append(Remove(row.seq, row.row))
                continue
            try:
                opened = seal.open_body(row.version, row.position, row.body)
            except UnsealError:
                items.append(Remove(row.seq, row.row))
            else:
                items.append(AddText(row.seq, row.row, "\n".join([*opened.headings, opened.text])))
        return items

    def _feed_rows(self, after: int, limit: int, column: Column[bytes]) -> Sequence[Row[Any]]:
        feed, chunks, documents = schema.feed.c, schema.chunks.c, schema.documents.c
        return self._connection.execute(
            select(
                feed.seq,
                feed.row,
                documents.ordinal,
                documents.document_id,
                documents.version,
                schema.sources.c.name,
                chunks.position,
                column,
            )
            .outerjoin(schema.chunks, and_(chunks.row == feed.row, feed.ordinal.is_not(None)))
            .outerjoin(schema.documents, and_(documents.ordinal == chunks.ordinal, documents.deleted.is_(False)))
            .outerjoin(schema.sources, schema.sources.c.id == documents.source)
            .where(feed.seq > after)
            .order_by(feed.seq)
            .limit(limit)
        ).all()

    def _seals(self, rows: Sequence[Row[Any]]) -> dict[str, Mapping[str, DocumentSeal]]:
        wanted: dict[str, set[str]] = {}
        for row in rows:
            if row.ordinal is not None:
                wanted.setdefault(row.name, set()).add(row.document_id)
        return {source: self._sealing.documents(source, ids) for source, ids in wanted.items()}

    def ordinals(self, source: str, limit: int) -> list[int]:
        """Return some documents of a source, at most `limit`."""
        documents = schema.documents.c
        wanted = select(documents.ordinal).join(schema.sources, schema.sources.c.id == documents.source)
        wanted = wanted.where(schema.sources.c.name == source, documents.deleted.is_(False)).limit(limit)
        return list(self._connection.scalars(wanted))

    def same_content(self, ordinal: int, content: bytes) -> bool:
        """True when the document's text is stored and was made from this content (keyed hash)."""
        documents = schema.documents.c
        found = self._connection.scalar(
            select(documents.ordinal).where(
                documents.ordinal == ordinal,
                documents.content == content,
                documents.deleted.is_(False),
                documents.row_start < documents.row_stop,
            )
        )
        return found is not None

    def same_contents(self, ordinal: int) -> int:
        """Count the other documents of its source with the content of this one."""
        documents = schema.documents.c
        this = select(documents.source, documents.content).where(documents.ordinal == ordinal).subquery()
        found = self._connection.scalar(
            select(func.count())
            .select_from(schema.documents)
            .join(this, and_(this.c.source == documents.source, this.c.content == documents.content))
            .where(documents.ordinal != ordinal, documents.deleted.is_(False))
        )
        return found or 0

    def running(self, source: str) -> str | None:
        """Return the id of the run over a source that is under way, None when none is."""
        wanted = _RUNS.where(schema.sources.c.name == source, schema.runs.c.state == RunState.RUNNING.value)
        row = self._connection.execute(wanted).first()
        return None if row is None else str(row.run_id)

    def find_text(self, source: str, content: bytes) -> FoundText | None:
        """Return the text that is stored for a content of a source; see `copies`."""
        return find_text(self._connection, self._sealing, source, content)

    def sources(self) -> list[StoredSource]:
        """Return every source that was ever registered, by name."""
        documents = schema.documents.c
        can_be_served = and_(documents.acl_id > 0, documents.row_start < documents.row_stop)
        counted = {
            row.source: row
            for row in self._connection.execute(
                select(
                    documents.source,
                    func.count().filter(can_be_served).label("documents"),
                    func.coalesce(func.sum(documents.row_stop - documents.row_start).filter(can_be_served), 0).label(
                        "chunks"
                    ),
                    func.count().filter(documents.acl_id == 0).label("quarantined"),
                )
                .where(documents.deleted.is_(False))
                .group_by(documents.source)
            )
        }
        all_clocks = self.clocks()
        found: list[StoredSource] = []
        for row in self._connection.execute(select(schema.sources).order_by(schema.sources.c.name)).all():
            counts, clocks = counted.get(row.id), all_clocks.get(row.name, {})
            found.append(
                StoredSource(
                    row.name,
                    row.kind,
                    None if SyncPass.PERMISSIONS not in clocks else clocks[SyncPass.PERMISSIONS].verified_at,
                    0 if counts is None else counts.documents,
                    0 if counts is None else counts.chunks,
                    0 if counts is None else counts.quarantined,
                    next(iter(self.runs(row.name, 1)), None),
                    clocks,
                )
            )
        return found

    def documents_from(self, ordinal: int, limit: int, sources: Collection[str]) -> list[StoredDocument]:
        """Return the documents of these sources that exist from an ordinal on, in order, at most `limit`."""
        # Of all sources the table is walked in its order; of some an index leads to theirs, whatever others have.
        if self.clocks().keys() <= set(sources):
            found = queries.DOCUMENTS_FROM.rows(self._connection, ordinal=ordinal, count=limit)
            return list(map(queries.document, found))
        documents = schema.documents.c
        wanted = queries.DOCUMENTS.where(documents.ordinal >= ordinal, schema.sources.c.name.in_(sources))
        rows = self._connection.execute(wanted.order_by(documents.ordinal).limit(limit))
        return [StoredDocument(*row) for row in rows]

    def documents_by_acl(self) -> list[AclUse]:
        """Return every ACL that a document with a text has, and how many of these have it."""
        documents = schema.documents.c
        rows = self._connection.execute(
            select(schema.sources.c.name, documents.acl_id, func.count().label("documents"))
            .join(schema.sources, schema.sources.c.id == documents.source)
            .where(documents.deleted.is_(False), documents.acl_id > 0, documents.row_start < documents.row_stop)
            .group_by(schema.sources.c.name, documents.acl_id)
            .order_by(schema.sources.c.name, documents.acl_id)
        )
        return [AclUse(row.name, AclId(row.acl_id), row.documents) for row in rows]

    def ordinals_of(self, acl_id: AclId) -> list[int]:
        """Return the ordinals of the documents with a text that have an ACL."""
        documents = schema.documents.c
        rows = self._connection.execute(
            select(documents.ordinal).where(
                documents.acl_id == acl_id, documents.deleted.is_(False), documents.row_start < documents.row_stop
            )
        )
        return [row.ordinal for row in rows]

    def clocks(self) -> dict[str, dict[SyncPass, PassClock]]:
        """Return the clocks of every source: of each pass that was ever complete."""
        return read_clocks(self._connection)

    def stops(self, source: str | None) -> list[Stop]:
        """Return what the breaker holds of a source, or of all, the newest first."""
        return stops_of(self._connection, self._sealing, source)

    def run(self, run_id: str) -> StoredRun | None:
        """Return one run, None when there is none."""
        row = self._connection.execute(_RUNS.where(schema.runs.c.run_id == run_id)).one_or_none()
        return None if row is None else run_from_row(row, self._sealing)

    def runs(self, source: str, limit: int) -> list[StoredRun]:
        """Return the latest runs over a source, the newest first."""
        return [run for _, run in self.numbered_runs(source, None, limit)]

    def numbered_runs(self, source: str, before: int | None, limit: int) -> list[tuple[int, StoredRun]]:
        """Return runs over a source with their numbers, the newest first: those below `before`, or the latest."""
        wanted = _RUNS.where(schema.sources.c.name == source)
        if before is not None:
            wanted = wanted.where(schema.runs.c.fence < before)
        rows = self._connection.execute(wanted.order_by(schema.runs.c.fence.desc()).limit(limit)).all()
        return [(row.fence, run_from_row(row, self._sealing)) for row in rows]

    def _all(self, wanted: Select[Any], values: Collection[int] | Collection[str]) -> Iterator[Row[Any]]:
        """Ask for what `wanted` says of `values`, a batch at a time."""
        listed: Sequence[int | str] = list(values)
        for start in range(0, len(listed), _BATCH):
            yield from self._connection.execute(wanted, {"values": listed[start : start + _BATCH]})

    def _pick(self, wanted: Select[Any], column: Any, refs: list[str] | None) -> Iterable[Row[Any]]:
        """Ask for all that `wanted` says, or for what the log calls `refs`."""
        if refs is None:
            return self._connection.execute(wanted)
        values = refs if isinstance(column.type, String) else [int(ref) for ref in refs]
        return self._all(wanted.where(column.in_(VALUES)), values)

    def _scopes(self, refs: list[str] | None) -> Iterator[tuple[str, ScopePut]]:
        scopes = schema.scopes.c
        wanted = (
            select(
                scopes.id,
                scopes.parent,
                scopes.unknown,
                scopes.label,
                schema.sources.c.name,
                schema.clauses.c.digest,
                schema.clauses.c.body,
            )
            .join(schema.sources, schema.sources.c.id == scopes.source)
            .outerjoin(schema.clauses, schema.clauses.c.digest == scopes.clause)
        )
        for row in self._pick(wanted, scopes.id, refs):
            clause: Clause | Unknown
            label = self._said(row, "label", row.label)
            if row.body is not None:
                clause = read_clause(row.digest, row.body)
            else:
                clause = Unknown(self._said(row, "unknown", row.unknown) or "why does not open")
            parent = None if row.parent is None else ScopeId(row.parent)
            yield row.id, ScopePut(ScopeId(row.id), parent, clause, label)

    def _said(self, row: Row[Any], field: str, sealed: bytes) -> str:
        """Open what is said of a container for people; nothing when it does not open, which closes no other source."""
        try:
            return self._sealing.open_of_source(row.name, field, row.id, sealed)
        except UnsealError:
            return ""

    def _acls(self, refs: list[str] | None) -> Iterator[tuple[str, AclPut]]:
        acls = schema.acls.c
        wanted = select(acls.acl_id, acls.scope, schema.clauses.c.digest, schema.clauses.c.body).join(
            schema.clauses, schema.clauses.c.digest == acls.own
        )
        clauses: dict[bytes, Clause | Unknown] = {}
        for row in self._pick(wanted, acls.acl_id, refs):
            own = clauses.get(row.digest)
            if own is None:
                own = clauses[row.digest] = read_clause(row.digest, row.body)
            scope = None if row.scope is None else ScopeId(row.scope)
            yield str(row.acl_id), AclPut(AclId(row.acl_id), scope, own)

    def _places(self, refs: list[str] | None) -> Iterator[tuple[str, DocumentPut]]:
        documents = schema.documents.c
        wanted = select(documents.ordinal, documents.acl_id, documents.row_start, documents.row_stop).where(
            documents.deleted.is_(False)
        )
        for row in self._pick(wanted, documents.ordinal, refs):
            rows = ((row.row_start, row.row_stop),) if row.row_start < row.row_stop else ()
            yield str(row.ordinal), DocumentPut(row.ordinal, AclId(row.acl_id), rows)


_RUNS: Final[Select[Any]] = select(schema.runs, schema.sources.c.name.label("source_name")).join(
    schema.sources, schema.sources.c.id == schema.runs.c.source
)


def _drop(kind: str, ref: str) -> Change:
    match kind:
        case "scope":
            return ScopeDrop(ScopeId(ref))
        case "acl":
            return AclDrop(AclId(int(ref)))
        case _:
            return DocumentDrop(int(ref))
