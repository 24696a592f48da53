"""Shredding: a document, or all of a source, is taken away so that nothing that is left can be read.

1. Tombstones, and the index forgets the rows: from that commit on it does not exist for anybody.
2. The keys are deleted, from the key store's files too: every copy of the catalog, older ones included, is noise.
3. The rows are removed.
4. The catalog gets another incarnation, so that the next start builds the index anew: files of the running one may hold
   forgotten vectors until then. `service.upkeep.purge` makes it anew at once, beside the served one, and takes that
   back.

A crash in between leaves tombstones, which the next run over the source takes to their end; shredding again does too.
The certificate names what is still to come.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from service.errors import NotFoundError, SyncRunningError, UnavailableError
from service.keys import Backup, Custody
from service.stores.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was shredded, and what must still happen until nothing can be read any more.

    document_id: empty when it was the whole source. documents: how many keys of documents are gone.
    backups: copies of the key store from before, each of which opens older copies of the content until it has expired.
    index_rebuild_pending: files of the index may hold the vectors, until it was made anew or the next start.
    same_content: other documents of the source with the same content, which were left alone.
    requested_by, approved_by: the persons, each with their directory; one and the same where one is enough.
    """

    source: str
    document_id: str
    documents: int
    shredded_at: datetime
    backups: Sequence[Backup]
    index_rebuild_pending: bool
    same_content: int = 0
    requested_by: str = ""
    approved_by: str = ""


class Shredder:
    """Shreds in an opened catalog. Blocking.

    settle: returns when both indexes have everything that was committed.
    purge: has them made anew, and waits for it a little.
    """

    def __init__(
        self,
        catalog: Catalog,
        custody: Custody,
        settle: Callable[[], object],
        now: Callable[[], datetime],
        purge: Callable[[], object] = lambda: None,
    ) -> None:
        self._catalog = catalog
        self._custody = custody
        self._settle = settle
        self._now = now
        self._purge = purge

    @property
    def rebuild_pending(self) -> bool:
        """Whether files of the index may hold vectors of what was shredded."""
        return self._catalog.rebuild_pending

    def source_of(self, document_id: str, source: str) -> str:
        """Return the source of a document, or without one `source` itself. Raises NotFoundError."""
        with self._catalog.reader() as reader:
            if not document_id:
                if source not in reader.clocks():
                    raise NotFoundError("no source has this name")
                return source
            found = reader.document_by_id(document_id)
        if found is None:
            raise NotFoundError("no document has this id")
        return found.source

    def document(self, document_id: str) -> Certificate:
        """Shred one document. Raises NotFoundError, SyncRunningError and StorageError."""
        with self._catalog.reader() as reader:
            found = reader.document_by_id(document_id)
            same = reader.same_contents(found.ordinal) if found is not None else 0
        if found is None:
            raise NotFoundError("no document has this id")
        fence = self._fence(found.source)
        with self._catalog.writer(found.source, fence) as writer:
            writer.bury([found.ordinal])
        self._catalog.purge(found.source, fence)
        return self._certify(found.source, document_id, 1, same)

    def source(self, name: str) -> Certificate:
        """Shred all of a source: documents, containers, rules, runs. Errors as `document`."""
        with self._catalog.reader() as reader:
            if name not in reader.clocks():
                raise NotFoundError("no source has this name")
        documents = self._catalog.shred_source(name, self._fence(name))
        return self._certify(name, "", documents, 0)

    def _fence(self, source: str) -> int:
        """Keep runs from writing: none may be under way, and one that opens later finds what was done."""
        with self._catalog.reader() as reader:
            running = reader.running(source)
        if running is not None:
            raise SyncRunningError(source, running)
        return self._catalog.take_fence(source)

    def _certify(self, source: str, document_id: str, documents: int, same: int) -> Certificate:
        at = self._now()
        self._catalog.renew()
        # An index that does not answer follows later: a tombstone is served by nobody meanwhile.
        with contextlib.suppress(UnavailableError):
            self._settle()
        self._purge()
        return Certificate(
            source,
            document_id,
            documents,
            at,
            [backup for backup in self._custody.backups() if backup.made_at <= at],
            self._catalog.rebuild_pending,
            same,
        )
