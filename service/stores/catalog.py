"""The catalog: the one truth about documents, their rules, their texts and the runs that brought them.

It opens and creates the tables, hands out snapshots and write transactions, and keeps the life of a run and of a
tombstone in order. What stands in a transaction is left to `reader` and `writer`.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Connection, delete, func, insert, select, update

from acl.model import ScopeId
from connectors.base import Cursor
from service.errors import StartError
from service.keys.provider import KeyProvider
from service.keys.store import KeyStore
from service.stores import schema
from service.stores.checkpoints import StoredCheckpoint
from service.stores.errors import FencedError, ModelChangedError, storage_errors
from service.stores.folder import DataFolder
from service.stores.holds import Acls
from service.stores.journal import forget_dead, forget_dead_rows
from service.stores.known import KnownDocuments, known_rules, occupied
from service.stores.memberships import Revision, known_groups
from service.stores.reader import Reader
from service.stores.records import Counts, Removal, RunState, StoredRun, SyncPass
from service.stores.runs import INTERRUPTED, run_from_row, seal_report
from service.stores.sealing import Sealing
from service.stores.sqlite import open_readers, open_writer
from service.stores.stops import Stop, StopState, decide_stop
from service.stores.writer import Writer
from service.stores.writes import KnownScope

log = structlog.get_logger()

KEYS: Final = "keys.sqlite"
"""The key store's file in its folder."""


_REMOVED: Final = "removed:"
_CLOCK_STEP: Final = timedelta(minutes=1)
"""A clock is set back by so much without notice: it is corrected all the time."""
_KEPT_RUNS: Final = 10_000
"""Of each source; every run is in the audit log for as long as that keeps it."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a run starts with. `fence`: its number, which every write of it is checked against.

    documents: what is stored. occupied: the containers in which documents lie. scopes: containers by id, without held
    ones. cursor: of the last complete run. groups: the facts of the source's own, by id.
    checkpoint: where a run of this pass was interrupted, None when none was.
    """

    run: StoredRun
    fence: int
    documents: KnownDocuments
    occupied: frozenset[ScopeId]
    scopes: dict[ScopeId, KnownScope]
    acls: Acls
    cursor: Cursor | None
    groups: dict[str, bytes]
    checkpoint: StoredCheckpoint | None = None


class Catalog:
    """The opened catalog. Safe to use from several threads: many readers, one writer at a time."""

    def __init__(self, path: Path, keys: KeyStore, at: datetime) -> None:
        """Open or create the catalog at `path`; runs that a crash left under way are failed as of `at`.

        Raises StartError when it belongs to another key store.
        """
        self._path = path
        self._keys = keys
        self._lock = threading.Lock()
        self.memberships_revision = Revision()
        self.sealing = Sealing(keys)
        self._writer = open_writer(path)
        self._readers = open_readers(path)
        try:
            with self._write() as connection:
                if not connection.dialect.has_table(connection, schema.about.name):
                    _create(connection, keys)
                # Tables and indexes that later versions added; those that are there stay as they are.
                schema.metadata.create_all(connection)
                for index in schema.documents.indexes:
                    index.create(connection, checkfirst=True)
                about = _about(connection)
                if about["keys"] != keys.id:
                    raise StartError(
                        f"`{path}` was sealed with keys of another key store: restore the `{KEYS}` that belongs to it"
                    )
                self._fail_interrupted(connection, None, at)
                forget_dead(connection)
        except BaseException:
            self.close()
            raise
        self.incarnation: str = about["incarnation"]
        self.renewal = ""
        """Which call of `renew` the next start has to act upon; empty for none."""

    @property
    def folder(self) -> Path:
        """Where the catalog lies: the data folder."""
        return self._path.parent

    def close(self) -> None:
        """Close the database. The key store is closed by who opened it."""
        self._readers.dispose()
        self._writer.dispose()

    def bind_model(self, digest: str, dimension: int) -> None:
        """Note which model makes the vectors. Raises ModelChangedError when stored ones came from another."""
        with self._write() as connection:
            model = f"{digest}/{dimension}"
            bound = _about(connection).get("model")
            if bound == model:
                return
            if connection.scalar(select(func.count()).select_from(schema.chunks)):
                raise ModelChangedError(
                    f"the passages in `{self._path.parent}` were embedded by another model than the configured one: "
                    "set `embedding` back, or start with a new data folder and sync again"
                )
            connection.execute(insert(schema.about).prefix_with("OR REPLACE"), [{"name": "model", "value": model}])

    def dimension(self) -> int | None:
        """Return the length of the stored vectors; None before a model was bound."""
        with storage_errors(self._path), self._readers.begin() as connection:
            bound = _about(connection).get("model")
        return None if bound is None else int(bound.rpartition("/")[2])

    def add_source(self, name: str, kind: str) -> None:
        """Register a source. Raises StartError when the name belongs to a source of another kind."""
        self._keys.add_source(name)
        with self._write() as connection:
            found = connection.scalar(select(schema.sources.c.kind).where(schema.sources.c.name == name))
            if found is None:
                connection.execute(insert(schema.sources).values(name=name, kind=kind))
            elif not found:  # the name of one that was removed
                connection.execute(update(schema.sources).where(schema.sources.c.name == name).values(kind=kind))
            elif found != kind:
                raise StartError(f"source `{name}` is stored as one of kind `{found}`, not `{kind}`: name it anew")

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Open one snapshot."""
        with storage_errors(self._path), self._readers.begin() as connection:
            yield Reader(connection, self.sealing)

    @contextmanager
    def writer(self, source: str, fence: int) -> Iterator[Writer]:
        """Open one write transaction of a run; it is committed at the end, or not at all.

        Raises FencedError when a later run over the source was opened, and StorageFullError.
        """
        with self.memberships_revision.changing() as change, self._write() as connection:
            row = connection.execute(
                select(schema.sources.c.id, schema.sources.c.fence).where(schema.sources.c.name == source)
            ).one()
            if row.fence != fence:
                raise FencedError(source, fence)
            writer = Writer(connection, source, row.id, self._keys, self.sealing, change)
            yield writer
            writer.close()

    def open_run(self, source: str, at: datetime, sync_pass: SyncPass = SyncPass.CONTENT) -> Opening:
        """Open a run over `source`: every earlier one may not write any more. Finishes what a crash left undone."""
        with self._write() as connection:
            self._fail_interrupted(connection, source, at)
            source_id, cursor = connection.execute(
                update(schema.sources)
                .where(schema.sources.c.name == source)
                .values(fence=schema.sources.c.fence + 1)
                .returning(schema.sources.c.id, schema.sources.c.cursor)
            ).one()
            fence = connection.scalar(select(schema.sources.c.fence).where(schema.sources.c.id == source_id))
            assert fence is not None
            _forget_clocks_ahead(connection, source_id, at)
            runs = schema.runs.c
            connection.execute(delete(schema.runs).where(runs.source == source_id, runs.fence <= fence - _KEPT_RUNS))
            run_id = secrets.token_urlsafe(12)
            run = StoredRun(run_id, source, RunState.RUNNING, at, None, Counts(), sync_pass=sync_pass)
            connection.execute(
                insert(schema.runs).values(
                    run_id=run.run_id,
                    source=source_id,
                    fence=fence,
                    state=run.state.value,
                    started_at=at,
                    report=seal_report(run, self.sealing),
                )
            )
        self._match_keys(source, fence)
        self.purge(source, fence)
        with self.writer(source, fence) as writer:
            checkpoint = writer.checkpoints.get(sync_pass)
            if checkpoint is None:
                # One of another pass is of a time before this one: what was met then is not what is met now.
                writer.checkpoints.drop()
        with storage_errors(self._path), self._readers.begin() as connection:
            inside = occupied(connection, source_id)
            scopes, acls = known_rules(connection, source_id)
            groups = known_groups(connection, source_id)
        opened = None if cursor is None else json.loads(self.sealing.open_of_source(source, "cursor", "", cursor))
        documents = KnownDocuments(self._path, self._readers, source_id)
        return Opening(run, fence, documents, inside, scopes, acls, opened, groups, checkpoint)

    def purge(self, source: str, fence: int) -> None:
        """Remove the tombstones of a source: first their keys, then their rows."""
        with self.writer(source, fence) as writer:
            buried = writer.buried()
        if buried:
            self._keys.shred(source, buried)
            with self.writer(source, fence) as writer:
                writer.remove_buried()

    def decide_stop(self, hold_id: str, state: StopState, by: str, at: datetime) -> Stop | None:
        """Write down what a person decided about what the breaker holds; None when that is not held any more."""
        with self._write() as connection:
            return decide_stop(connection, self.sealing, hold_id, state, by, at)

    def take_fence(self, source: str) -> int:
        """Return a new number for writing to `source`: runs that were opened before may not write any more."""
        with self._write() as connection:
            table = schema.sources.c
            connection.execute(update(schema.sources).where(table.name == source).values(fence=table.fence + 1))
            of_source = select(table.id).where(table.name == source).scalar_subquery()
            connection.execute(delete(schema.checkpoints).where(schema.checkpoints.c.source == of_source))
            fence: int = connection.execute(select(table.fence).where(table.name == source)).scalar_one()
        return fence

    def shred_source(self, source: str, fence: int) -> int:
        """Remove everything of a source with its keys, and give it new ones; return how many documents that were."""
        with self.writer(source, fence) as writer:
            documents = writer.forget_source()
        self._keys.shred_source(source)
        self._keys.add_source(source)
        with self.writer(source, fence) as writer:
            writer.remove_buried()
        return documents

    def forget_source(self, source: str, fence: int) -> None:
        """Remove everything of a source with its keys; what is left is its name, which holds nothing."""
        with self.writer(source, fence) as writer:
            writer.forget_source()
        self._keys.shred_source(source)
        with self.writer(source, fence) as writer:
            writer.remove_buried()

    def removals(self) -> dict[str, Removal]:
        """Return the sources that were removed, by name, and how far that is."""
        with storage_errors(self._path), self._readers.begin() as connection:
            about = _about(connection)
        return {
            name.removeprefix(_REMOVED): Removal(value) for name, value in about.items() if name.startswith(_REMOVED)
        }

    def mark_removed(self, source: str, state: Removal) -> None:
        """Note that a source was removed, and how far that is."""
        values = [{"name": _REMOVED + source, "value": state.value}]
        with self._write() as connection:
            connection.execute(insert(schema.about).prefix_with("OR REPLACE"), values)

    def free_name(self, source: str) -> None:
        """Let the name of a source that is gone be used again, for one of any kind."""
        with self._write() as connection:
            connection.execute(delete(schema.about).where(schema.about.c.name == _REMOVED + source))
            connection.execute(update(schema.sources).where(schema.sources.c.name == source).values(kind=""))

    def unverify(self) -> None:
        """Take nothing for verified: until a run that begins at the beginning is complete, each source is withheld."""
        with self._write() as connection:
            connection.execute(delete(schema.passes))
            connection.execute(delete(schema.checkpoints))
            connection.execute(update(schema.membership_passes).values(verified_at=None))

    def applied(self, place: int) -> None:
        """Say that both indexes have durably applied this place of the feed: what is before it need not all be kept."""
        with self._write() as connection:
            forget_dead_rows(connection, place)

    def renew(self) -> None:
        """Have the next start build the index anew: what it holds now may remember what was forgotten."""
        made = secrets.token_hex(16)
        with self._write() as connection:
            _become(connection, made)
            self.renewal = made

    def keep(self, renewal: str) -> bool:
        """Take back one call of `renew`, unless another came later: the indexes were made anew since, as they are."""
        with self._write() as connection:
            if self.renewal != renewal:
                return False
            _become(connection, self.incarnation)
            self.renewal = ""
        return True

    @property
    def rebuild_pending(self) -> bool:
        """Whether the next start makes the indexes anew."""
        return bool(self.renewal)

    def _match_keys(self, source: str, fence: int) -> None:
        """Make tombstones of documents whose key is gone, so that a run reads them anew, and delete keys of none.

        A document was shredded and its source has it still, or an older key store was restored beside this catalog.
        A crash came between a key and its document: nothing was sealed with it that could still be read.
        """
        # Within one transaction, so that no key is taken for one of no document whose row comes a moment later.
        with self.writer(source, fence) as writer:
            documents, keys = writer.document_ids(), self._keys.documents(source)
            lost = [ordinal for document_id, ordinal in documents.items() if document_id not in keys]
            self._keys.shred(source, keys.difference(documents, writer.buried()))
            if lost:
                log.warning("documents_without_keys", source=source, documents=len(lost))
                writer.bury(lost)
                # They were met by a run that was interrupted, and are to be met again.
                writer.checkpoints.drop()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._lock, storage_errors(self._path), self._writer.begin() as connection:
            yield connection
            # INVARIANT: a key's count is durable before anything that was sealed with it.
            self._keys.save_uses()

    def _fail_interrupted(self, connection: Connection, source: str | None, at: datetime) -> None:
        """Fail runs that are written down as under way though nobody is working on them."""
        wanted = (
            select(schema.runs, schema.sources.c.name.label("source_name"))
            .join(schema.sources, schema.sources.c.id == schema.runs.c.source)
            .where(schema.runs.c.state == RunState.RUNNING.value)
        )
        if source is not None:
            wanted = wanted.where(schema.sources.c.name == source)
        for row in connection.execute(wanted).all():
            was = run_from_row(row, self.sealing)
            run = replace(was, state=RunState.FAILED, ended_at=at, failure=INTERRUPTED)
            connection.execute(
                update(schema.runs)
                .where(schema.runs.c.run_id == run.run_id)
                .values(state=run.state.value, ended_at=at, report=seal_report(run, self.sealing))
            )


def open_stores(folder: DataFolder, keystore: Path, provider: KeyProvider, at: datetime) -> tuple[KeyStore, Catalog]:
    """Open the catalog of a data folder with its key store. Raises StartError and StorageError.

    keystore: the folder of the key store; made when it does not exist.
    """
    # The key store is committed before the catalog is made: where there is a catalog, its keys must be there.
    keys = KeyStore(keystore / KEYS, provider, create=not folder.catalog.exists())
    try:
        return keys, Catalog(folder.catalog, keys, at)
    except BaseException:
        keys.close()
        raise


def _create(connection: Connection, keys: KeyStore) -> None:
    schema.metadata.create_all(connection)
    connection.execute(insert(schema.counters).values(only=1, change=0, feed=0, ordinal=0, row=0, acl_id=0))
    rows = [{"name": "incarnation", "value": secrets.token_hex(16)}, {"name": "keys", "value": keys.id}]
    connection.execute(insert(schema.about), rows)


def _forget_clocks_ahead(connection: Connection, source_id: int, at: datetime) -> None:
    """Take nothing for verified at a time that is still to come: once that has come, it would count anew.

    A clock that was ahead has been set back. What was verified by it is withheld already, see `service.sync.leases`.
    """
    passes, groups = schema.passes.c, schema.membership_passes.c
    ahead = at + _CLOCK_STEP
    connection.execute(delete(schema.passes).where(passes.source == source_id, passes.verified_at > ahead))
    connection.execute(
        update(schema.membership_passes)
        .where(groups.source == source_id, groups.verified_at > ahead)
        .values(verified_at=None)
    )


def _become(connection: Connection, incarnation: str) -> None:
    values = [{"name": "incarnation", "value": incarnation}]
    connection.execute(insert(schema.about).prefix_with("OR REPLACE"), values)


def _about(connection: Connection) -> dict[str, str]:
    rows = connection.execute(select(schema.about.c.name, schema.about.c.value))
    return {row.name: row.value for row in rows}
