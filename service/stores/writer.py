"""Writing the catalog: one transaction of a run. Containers and ACLs are left to `rules`, the change log and the
index's feed to `journal`, and which change follows from what the source says to `service.sync.engine`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from acl.model import AclId
from service.keys.store import KeyStore
from service.stores import schema
from service.stores.checkpoints import Checkpoints
from service.stores.copies import find_text
from service.stores.former import Formers
from service.stores.journal import Journal
from service.stores.memberships import Groups
from service.stores.records import PassClock, StoredRun, SyncPass
from service.stores.rules import Rules, batches
from service.stores.runs import seal_report
from service.stores.sealing import Sealing
from service.stores.sqlite import tuples, unindexed
from service.stores.stops import Stops
from service.stores.writes import DocumentWrite, Former, FoundText, Known, TextWrite, Withholding

NOBODY: Final = AclId(0)


class Writer:
    """One write transaction of one run. Everything in it is committed together or not at all.

    rules: containers and ACLs. groups: those that the source has itself. checkpoints: where the run can be taken up.
    stops: what the breaker holds.
    """

    def __init__(
        self,
        connection: Connection,
        source: str,
        source_id: int,
        keys: KeyStore,
        sealing: Sealing,
        groups_change: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._source = source
        self._source_id = source_id
        self._keys = keys
        self._sealing = sealing
        self._journal = Journal(connection, source_id)
        self._formers = Formers(connection, source_id)
        self.rules = Rules(connection, source, source_id, sealing, self._journal, self._formers)
        self.checkpoints = Checkpoints(connection, source, source_id, sealing)
        self.stops = Stops(connection, source, source_id, sealing)
        self.groups = Groups(connection, source, source_id, sealing, self._journal, groups_change)

    def close(self) -> None:
        """Write the numbers that were given out; the catalog calls it before the commit."""
        self._journal.close()

    # Documents without their text.

    def put_documents(self, writes: Sequence[DocumentWrite]) -> list[Known]:
        """Store documents, new ones and changed ones, and return what to remember of each, in the same order."""
        made = {write.native: secrets.token_urlsafe(18) for write in writes if write.known is None}
        # Keys are durable before anything is sealed with them; a crash in between leaves keys that nobody uses.
        self._keys.create(self._source, made.values())
        opened = [w.known.document_id for w in writes if w.known is not None and w.facts != w.known.facts]
        seals = self._sealing.documents(self._source, [*made.values(), *opened])
        named = self._named([w.known.ordinal for w in writes if w.known is not None and w.facts != w.known.facts])
        fresh: list[dict[str, Any]] = []
        moved: list[dict[str, Any]] = []
        ruled: list[dict[str, Any]] = []
        remembered: list[Known] = []
        for number, write in enumerate(writes, start=1):
            row: dict[str, Any] = {
                "acl_id": write.acl_id,
                "scope": write.scope,
                "permissions_seq": self._journal.change + number,
            }
            if write.known is not None and write.facts == write.known.facts:
                known = write.known
                ruled.append({"key": known.ordinal, **row})
            else:
                document_id = write.known.document_id if write.known is not None else made[write.native]
                seal = seals[document_id]
                row["quarantine"] = seal.seal_field("quarantine", 0, write.quarantine) if not write.acl_id else None
                row["facts"] = write.facts
                row["location"] = seal.seal_field("location", 0, write.location)
                row["media_type"] = write.media_type
                row["modified_at"] = write.modified_at
                if write.known is None:
                    ordinal = self._journal.next_ordinal()
                    row["ordinal"] = ordinal
                    row["document_id"] = document_id
                    row["source"] = self._source_id
                    row["native"] = write.native
                    row["title"] = seal.seal_field("title", 0, write.name)
                    row["named"] = True
                    fresh.append(row)
                    known = Known(ordinal, document_id, write.acl_id, write.scope, None, write.facts)
                else:
                    known = write.known
                    version, is_named, title = named[known.ordinal]
                    row["title"] = seal.seal_field("title", version, write.name) if is_named else title
                    moved.append({"key": known.ordinal, **row})
            remembered.append(
                replace(known, acl_id=write.acl_id, scope=write.scope, facts=write.facts, former=write.former)
            )
        if fresh:
            self._connection.execute(insert(schema.documents), fresh)
        self._update_documents(moved)
        self._update_documents(ruled)
        self._formers.forget([str(w.known.ordinal) for w in writes if w.known is not None and w.known.former])
        self._remember(remembered)
        self._journal.log("document", [known.ordinal for known in remembered])
        return remembered

    def withhold(self, documents: Sequence[Withholding]) -> list[Known]:
        """Take documents away from everybody. Their text stays stored."""
        seals = self._sealing.documents(self._source, [one.known.document_id for one in documents])
        rows, remembered = [], []
        for number, one in enumerate(documents, start=1):
            known = one.known
            rows.append(
                {
                    "key": known.ordinal,
                    "acl_id": NOBODY,
                    "quarantine": seals[known.document_id].seal_field("quarantine", 0, one.reason),
                    "facts": one.facts,
                    "permissions_seq": self._journal.change + number,
                }
            )
            remembered.append(replace(known, acl_id=NOBODY, facts=one.facts, former=one.former))
        self._update_documents(rows)
        self._remember(remembered)
        self._journal.log("document", [known.ordinal for known in remembered])
        return remembered

    def give(self, documents: Iterable[tuple[Known, AclId]]) -> None:
        """Give documents other ACLs, but not to those that are gone or have got another one than they were known by."""
        wanted = {known.ordinal: (known.acl_id, acl_id) for known, acl_id in documents if known.acl_id != acl_id}
        table = schema.documents.c
        rows: list[dict[str, Any]] = []
        for batch in batches(wanted):
            found = self._connection.execute(
                select(table.ordinal, table.acl_id).where(table.ordinal.in_(batch), table.deleted.is_(False))
            )
            for ordinal, current in found.all():
                known, acl_id = wanted[ordinal]
                if current == known:
                    seq = self._journal.change + len(rows) + 1
                    rows.append({"key": ordinal, "acl_id": acl_id, "permissions_seq": seq})
        self._update_documents(rows)
        self._journal.log("document", [row["key"] for row in rows])

    def bury(self, documents: Collection[int]) -> None:
        """Make tombstones of documents: from the commit on they do not exist; `Catalog.purge` removes them."""
        for batch in batches(documents):
            for _, start, stop in self._ranges(batch):
                self._journal.forget(start, stop)
            self._connection.execute(
                update(schema.documents).where(schema.documents.c.ordinal.in_(batch)).values(deleted=True)
            )
        self._formers.forget([str(ordinal) for ordinal in documents])
        self._journal.log("document", documents)

    def document_ids(self) -> dict[str, int]:
        """Return the ids of all documents that exist, with their ordinals."""
        documents = schema.documents.c
        wanted = select(documents.document_id, documents.ordinal).where(
            documents.source == self._source_id, documents.deleted.is_(False)
        )
        return dict(tuples(self._connection, wanted))

    def buried(self) -> list[str]:
        """Return the ids of the tombstones."""
        documents = schema.documents.c
        wanted = select(documents.document_id).where(documents.source == self._source_id, documents.deleted.is_(True))
        return list(self._connection.scalars(wanted))

    def remove_buried(self) -> None:
        """Remove the tombstones and what hangs on them. Their keys are gone already."""
        documents = schema.documents.c
        buried = select(documents.ordinal).where(documents.source == self._source_id, documents.deleted.is_(True))
        self._connection.execute(delete(schema.chunks).where(schema.chunks.c.ordinal.in_(buried)))
        self._connection.execute(
            delete(schema.documents).where(documents.source == self._source_id, documents.deleted.is_(True))
        )

    def forget_source(self) -> int:
        """Make tombstones of all documents, and remove containers, rules, runs and the cursor; return how many."""
        documents, scopes = schema.documents.c, schema.scopes.c
        ordinals = self._connection.scalars(
            select(documents.ordinal).where(documents.source == self._source_id, documents.deleted.is_(False))
        ).all()
        self.bury(ordinals)
        self.rules.drop_scopes(
            self._connection.scalars(select(scopes.id).where(scopes.source == self._source_id)).all()
        )
        self._formers.forget_all()
        self.rules.drop_unused()
        self.groups.forget()
        self._connection.execute(delete(schema.runs).where(schema.runs.c.source == self._source_id))
        self._connection.execute(
            update(schema.sources).where(schema.sources.c.id == self._source_id).values(cursor=None)
        )
        self._connection.execute(delete(schema.passes).where(schema.passes.c.source == self._source_id))
        self.checkpoints.drop()
        self.stops.forget()
        return len(ordinals)

    # Text.

    def find_text(self, content: bytes) -> FoundText | None:
        """Return the text that is stored for a content of this source; see `copies`."""
        return find_text(self._connection, self._sealing, self._source, content)

    def put_texts(self, writes: Sequence[TextWrite], at: datetime) -> frozenset[int]:
        """Store new texts in place of the old ones; return the ordinals of those documents that still exist."""
        current = {row[0]: row[1:] for row in self._ranges([write.document.ordinal for write in writes])}
        versions = {ordinal: version for ordinal, (version, _, _) in self._named(current).items()}
        present = [write for write in writes if write.document.ordinal in current]
        seals = self._sealing.documents(self._source, [write.document.document_id for write in present])
        rows: list[dict[str, Any]] = []
        updates: list[dict[str, Any]] = []
        for batch in batches(current):
            self._connection.execute(delete(schema.chunks).where(schema.chunks.c.ordinal.in_(batch)))
        for number, write in enumerate(present, start=1):
            ordinal = write.document.ordinal
            version = versions[ordinal] + 1
            seal = seals[write.document.document_id]
            self._journal.forget(*current[ordinal])
            first = self._journal.next_rows(len(write.passages))
            for position, passage in enumerate(write.passages):
                rows.append(
                    {
                        "row": first + position,
                        "chunk_id": secrets.token_urlsafe(18),
                        "ordinal": ordinal,
                        "position": position,
                        "start": passage.start,
                        "stop": passage.end,
                        "body": seal.seal_body(version, position, passage.text, passage.headings),
                        "vector": seal.seal_vector(version, position, passage.vector),
                    }
                )
            updates.append(
                {
                    "key": ordinal,
                    "title": seal.seal_field("title", version, write.title or write.name),
                    "named": not write.title,
                    "source_version": write.source_version,
                    "content": write.content,
                    "version": version,
                    "text_problem": write.problem,
                    "row_start": first,
                    "row_stop": first + len(write.passages),
                    "text_seq": self._journal.change + number,
                    "text_at": at,
                }
            )
        if rows:
            self._connection.execute(insert(schema.chunks), rows)
            self._journal.hold([(row["row"], row["ordinal"]) for row in rows])
        self._update_documents(updates)
        self._journal.log("document", list(current))
        return frozenset(current)

    def confirm_text(self, documents: Collection[tuple[Known, bytes]]) -> None:
        """Note that a new version, (document, source_version), has the content that is stored already."""
        self._update_documents([{"key": known.ordinal, "source_version": version} for known, version in documents])

    # The run.

    def save_run(self, run: StoredRun) -> None:
        """Write a run as it stands."""
        self._connection.execute(
            update(schema.runs)
            .where(schema.runs.c.run_id == run.run_id)
            .values(state=run.state.value, ended_at=run.ended_at, report=seal_report(run, self._sealing))
        )

    def complete(self, sync_pass: SyncPass, clock: PassClock, cursor: str) -> None:
        """Note a complete run of a pass, and where the connector goes on after one that read content, as JSON."""
        passes = {sync_pass: clock}
        if sync_pass is SyncPass.CONTENT:
            # A walk for texts reads all rules too. How long one for rules alone takes, only such a one knows.
            passes[SyncPass.PERMISSIONS] = replace(clock, took=self._took(SyncPass.PERMISSIONS))
            sealed = self._sealing.seal_of_source(self._source, "cursor", "", cursor)
            self._connection.execute(
                update(schema.sources).where(schema.sources.c.id == self._source_id).values(cursor=sealed)
            )
        if not clock.took:
            passes[sync_pass] = replace(clock, took=self._took(sync_pass))
        self._connection.execute(
            insert(schema.passes).prefix_with("OR REPLACE"),
            [
                {
                    "source": self._source_id,
                    "name": one.value,
                    "verified_at": of.verified_at,
                    "took_ms": of.took // timedelta(milliseconds=1),
                }
                for one, of in passes.items()
            ],
        )
        self.checkpoints.drop()

    def _took(self, sync_pass: SyncPass) -> timedelta:
        found = self._connection.scalar(
            select(schema.passes.c.took_ms).where(
                schema.passes.c.source == self._source_id, schema.passes.c.name == sync_pass.value
            )
        )
        return timedelta(milliseconds=found or 0)

    # Within.

    def _remember(self, documents: Iterable[Known]) -> None:
        former: dict[str, Former] = {str(one.ordinal): one.former for one in documents if one.former is not None}
        self._formers.remember(former)

    def _named(self, ordinals: Collection[int]) -> dict[int, tuple[int, bool, bytes]]:
        """Return version, whether the title is only the name, and the sealed title."""
        documents = schema.documents.c
        found: dict[int, tuple[int, bool, bytes]] = {}
        for batch in batches(ordinals):
            for ordinal, version, named, title in self._connection.execute(
                select(documents.ordinal, documents.version, documents.named, documents.title).where(
                    documents.ordinal.in_(batch)
                )
            ):
                found[ordinal] = (version, named, title)
        return found

    def _ranges(self, ordinals: Collection[int]) -> list[tuple[int, int, int]]:
        """Return (ordinal, row_start, row_stop) of those documents that exist."""
        documents = schema.documents.c
        found: list[tuple[int, int, int]] = []
        for batch in batches(ordinals):
            rows = self._connection.execute(
                select(documents.ordinal, documents.row_start, documents.row_stop).where(
                    unindexed(documents.source) == self._source_id,
                    documents.ordinal.in_(batch),
                    documents.deleted.is_(False),
                )
            )
            found.extend((ordinal, start, stop) for ordinal, start, stop in rows)
        return found

    def _update_documents(self, rows: list[dict[str, Any]]) -> None:
        """Update documents; every row names the same columns, and its ordinal as `key`."""
        if rows:
            values: dict[str, Any] = {name: bindparam(name) for name in rows[0] if name != "key"}
            self._connection.execute(
                update(schema.documents).where(schema.documents.c.ordinal == bindparam("key")).values(values), rows
            )
