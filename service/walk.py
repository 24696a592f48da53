"""The first half of a sync: what the source says about containers, rules and existence goes into the catalog.

Rules are committed while the walk goes on, in small batches, and never wait for content: that is `service.texts`, which
is told about a document only once its rules are in force. Nothing here reads a document.

Rules that take the place of others count besides them until they are released (docs/adr/0004):
1. Those of a document whose text is to do, with that text, by `service.texts`.
2. Those of any other document, when the walk is complete: its version says that the text is the stored one.
3. Those of a container when the run is complete, if the source said the same of it from its first to its last word.
   A document below it whose text could not be confirmed is withheld from then on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from acl.model import AclId, Clause, ScopeId, Unknown
from connectors.base import (
    Change,
    Checkpoint,
    Cursor,
    Membership,
    MembershipsEnd,
    ScanComplete,
    ScopeChange,
    Skip,
    Upsert,
)
from connectors.errors import FatalError, RetriableError
from service import holds
from service.containers import Containers
from service.keys.store import KeyStore
from service.memberships import MembershipPass
from service.names import Names
from service.runs import Progress, Tally
from service.stores.catalog import Catalog, Opening
from service.stores.holds import WITHHELD, Acls, Held, Interned
from service.stores.records import Counts, Problem
from service.stores.writer import NOBODY, Writer
from service.stores.writes import DocumentWrite, Known, ScopeWrite

MOST_CHANGES: Final = 200
"""A batch of changed rules is committed at this size,"""

LONGEST_WAIT_S: Final = 0.2
"""or at this age, whichever comes first."""

_SWEEP_BATCH: Final = 1000

_T = TypeVar("_T")

UNLISTED: Final = "its container could not be listed in full, so that its rules were not verified"


@dataclass(frozen=True, slots=True)
class Todo:
    """A document whose rules are in force and whose text is to do.

    version: keyed hash of `upsert.version`. released: the ACL that it has when nothing is held any more.
    """

    upsert: Upsert
    document: Known
    version: bytes
    released: AclId


@dataclass(frozen=True, slots=True)
class _Pending:
    """A document that waits for the next commit. own: None when the rules are not understood."""

    upsert: Upsert
    native: bytes
    scope: ScopeId | None
    own: Clause | None
    held: Held
    quarantine: str
    facts: bytes
    version: bytes
    write: bool
    todo: bool


class Walk:
    """One walk over a source. `apply` is called from one thread, `flush_late` may run in another."""

    def __init__(
        self,
        catalog: Catalog,
        keys: KeyStore,
        opening: Opening,
        progress: Progress,
        todo: Callable[[Todo], None],
        on_commit: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._names = Names(keys, opening.run.source)
        self._source = opening.run.source
        self._fence = opening.fence
        self._documents = opening.documents
        self._acls: Acls = opening.acls
        self._interned = {acl_id: interned for interned, acl_id in opening.acls.items()}
        self._containers = Containers(self._names, opening.scopes, opening.documents.values())
        self._memberships = MembershipPass(catalog, self._names, opening, progress)
        self._progress = progress
        self._todo = todo
        self._on_commit = on_commit
        self._lock = threading.RLock()
        self._seen: set[bytes] = set()
        # Documents with the stored text and rules that are held.
        self._settled: dict[bytes, tuple[ScopeId | None, Clause]] = {}
        self._queued: set[bytes] = set()
        # Documents in containers that the source did not name yet, or will not: no text under rules of an earlier run.
        self._early: list[Todo] = []
        self._pending_scopes: dict[ScopeId, ScopeWrite] = {}
        self._pending: dict[bytes, _Pending] = {}
        self._pending_withheld: dict[bytes, tuple[Known, str, bytes]] = {}
        self._pending_since = 0.0
        self._counted = Tally()
        self.cursor: Cursor | None = None

    def apply(self, change: Change) -> None:
        """Take one change. Raises FatalError when the connector goes on after the end of its listing."""
        with self._lock:
            if self.cursor is not None and not isinstance(change, ScanComplete):
                raise FatalError("the connector went on after the end of its listing: report this to who wrote it")
            match change:
                case ScopeChange():
                    self._scope(change)
                case Upsert():
                    self._upsert(change)
                case Skip():
                    self._skip(change)
                case Membership() | MembershipsEnd():
                    self._memberships.apply(change)
                case Checkpoint():
                    self.flush()
                case ScanComplete():
                    self.flush()
                    self.cursor = change.cursor
            waiting = len(self._pending) + len(self._pending_scopes) + len(self._pending_withheld)
            if waiting >= MOST_CHANGES or (waiting and self._age_s() >= LONGEST_WAIT_S):
                self.flush()
            elif self._counted.documents >= _SWEEP_BATCH:
                self._tell()

    def flush_late(self) -> None:
        """Commit what has waited long enough while the source was silent."""
        with self._lock:
            self._memberships.flush()
            if self._pending_since and self._age_s() >= LONGEST_WAIT_S:
                self.flush()
            self._tell()

    def flush(self) -> None:
        """Commit the rules that wait; then hand on the documents whose text is to do."""
        with self._lock:
            self._memberships.flush()
            if self._pending_since:
                self._commit()
            self._tell()

    def finish(self) -> None:
        """Make tombstones of what a complete walk did not meet. Raises RetriableError when it was not complete."""
        with self._lock:
            if self.cursor is None:
                raise RetriableError("the source ended its listing early: nothing was removed, start the run again")
            self.flush()
            lost = self._containers.forget_lost()
            if lost:
                with self._catalog.writer(self._source, self._fence) as writer:
                    writer.rules.drop_scopes(lost)
                self._on_commit()
            self._release_settled()
            early, self._early = self._early, []
            for todo in early:
                self._hand_on(todo)
            unmet = [native for native in self._documents if native not in self._seen]
            gone = [native for native in unmet if self._containers.is_gone(self._documents[native].scope)]
            unlisted = sorted(set(unmet).difference(gone))
            facts = self._names.withheld(UNLISTED)
            withheld = [
                (self._documents[native], UNLISTED, facts)
                for native in unlisted
                if self._documents[native].facts != facts
            ]
            for part in _parts(withheld):
                with self._catalog.writer(self._source, self._fence) as writer:
                    writer.withhold(part)
                self._on_commit()
            for natives in _parts(gone):
                with self._catalog.writer(self._source, self._fence) as writer:
                    writer.bury([self._documents[native].ordinal for native in natives])
                self._on_commit()
                self._progress.add(Counts(removed=len(natives)))
            self._progress.add(
                Counts(permissions_changed=len(withheld), skipped=len(unlisted)),
                [Problem("", "unlisted", f"{len(unlisted)} documents withheld: {UNLISTED}")] if unlisted else [],
            )

    def settle(self, unconfirmed: Collection[Todo]) -> None:
        """Release what is held around containers once every text is stored; then tidy up.

        unconfirmed: documents whose text changed while it was read, so that an older one may be stored.
        """
        with self._lock:
            released = self._containers.to_release()
            doubtful = [
                self._documents[self._names.document(todo.upsert.native_id)] for todo in [*unconfirmed, *self._early]
            ]
            with self._catalog.writer(self._source, self._fence) as writer:
                writer.give(
                    [
                        (known, writer.rules.intern(known.scope, self._interned[known.acl_id].own, WITHHELD))
                        for known in doubtful
                        if known.acl_id != NOBODY
                        and any(scope in released for scope in self._containers.around(known.scope))
                    ]
                )
                writer.rules.release(released)
                writer.rules.drop_unused()
            self._on_commit()

    def _release_settled(self) -> None:
        verified = [
            (native, rules) for native, rules in self._settled.items() if self._containers.is_verified(rules[0])
        ]
        for part in _parts(verified):
            fresh: Acls = {}
            with self._catalog.writer(self._source, self._fence) as writer:
                given = [
                    (native, self._documents[native], self._intern(scope, own, (), writer, fresh))
                    for native, (scope, own) in part
                ]
                writer.give([(known, acl_id) for _, known, acl_id in given])
            self._remember(fresh)
            self._on_commit()
            for native, known, acl_id in given:
                self._documents[native] = replace(known, acl_id=acl_id)

    # One change each.

    def _scope(self, change: ScopeChange) -> None:
        write, first = self._containers.apply(change)
        if first:
            self._counted.scopes += 1
        if write is None:
            return
        if write.id in self._pending_scopes:
            # Each word on it is stored before the next, or it could not be held.
            self.flush()
        self._wait()
        self._pending_scopes[write.id] = write

    def _upsert(self, upsert: Upsert) -> None:
        native = self._names.document(upsert.native_id)
        if native not in self._seen:
            self._seen.add(native)
            self._counted.documents += 1
            first = True
        else:
            first = False
        known = self._documents.get(native)
        scope = None if upsert.scope is None else self._names.scope(upsert.scope)
        own: Clause | None
        held: Held = ()
        match upsert.own:
            case Clause() as own:
                digest = self._names.digest(own)
                quarantine, acl_id = "", self._acls.get(Interned(scope, digest))
                if known is not None and known.acl_id != acl_id:
                    held = holds.around_document(self._interned.get(known.acl_id), scope, digest)
                    acl_id = self._acls.get(Interned(scope, digest, held))
            case Unknown(reason):
                own, quarantine, acl_id = None, reason or "not understood", NOBODY
        facts = self._names.facts(upsert, quarantine)
        version = self._names.version(upsert)
        write = known is None or known.acl_id != acl_id or known.scope != scope or known.facts != facts
        # What nobody may read is not read by us either.
        todo = own is not None and (known is None or known.source_version != version) and native not in self._queued
        # A later word on the same document takes the place of an earlier one.
        self._pending_withheld.pop(native, None)
        earlier = self._pending.pop(native, None)
        if earlier is not None:
            todo = todo or (earlier.todo and own is not None)
        if write or todo:
            self._wait()
            self._pending[native] = _Pending(
                upsert, native, scope, own, held, quarantine, facts, version, write or earlier is not None, todo
            )
        if held and own is not None and not todo and native not in self._queued:
            self._settled[native] = (scope, own)
        else:
            self._settled.pop(native, None)
        if first and own is None:
            self._counted.skipped += 1
            self._counted.problems.append(Problem(upsert.location, "unknown rules", quarantine))
        elif first and not todo:
            self._counted.unchanged += 1

    def _skip(self, skip: Skip) -> None:
        self._counted.skipped += 1
        self._counted.problems.append(Problem(skip.location, skip.reason, skip.detail))
        if skip.native_id is None:
            return
        native = self._names.document(skip.native_id)
        self._seen.add(native)
        self._pending.pop(native, None)
        self._settled.pop(native, None)
        known = self._documents.get(native)
        if known is None:
            return
        # Whatever the reason, its rules were not verified by this walk: nobody reads it until they are.
        reason = f"{skip.reason}: {skip.detail}"
        facts = self._names.withheld(reason)
        if known.facts != facts:
            self._wait()
            self._pending_withheld[native] = (known, reason, facts)

    # Committing.

    def _commit(self) -> None:
        withheld = list(self._pending_withheld.items())
        writes = [pending for pending in self._pending.values() if pending.write]
        todos = [
            (pending, pending.own) for pending in self._pending.values() if pending.todo and pending.own is not None
        ]
        fresh: Acls = {}
        with self._catalog.writer(self._source, self._fence) as writer:
            writer.rules.put_scopes(self._pending_scopes.values())
            narrowed = writer.withhold([what for _, what in withheld])
            stored = writer.put_documents([self._document_write(pending, writer, fresh) for pending in writes])
            released = [self._intern(pending.scope, own, (), writer, fresh) for pending, own in todos]
        # Committed: from here on this is what the catalog knows.
        self._remember(fresh)
        known_before = sum(pending.native in self._documents for pending in writes)
        for pending, known in zip(writes, stored, strict=True):
            self._documents[pending.native] = known
        for (native, _), known in zip(withheld, narrowed, strict=True):
            self._documents[native] = known
        self._counted.permissions_changed += known_before + len(withheld)
        self._pending_scopes.clear()
        self._pending.clear()
        self._pending_withheld.clear()
        self._pending_since = 0.0
        self._on_commit()
        for (pending, _), acl_id in zip(todos, released, strict=True):
            self._queued.add(pending.native)
            self._hand_on(Todo(pending.upsert, self._documents[pending.native], pending.version, acl_id))

    def _hand_on(self, todo: Todo) -> None:
        if self._containers.is_verified(todo.document.scope):
            self._todo(todo)
        else:
            self._early.append(todo)

    def _document_write(self, pending: _Pending, writer: Writer, fresh: Acls) -> DocumentWrite:
        acl_id = NOBODY
        if pending.own is not None:
            acl_id = self._intern(pending.scope, pending.own, pending.held, writer, fresh)
        upsert = pending.upsert
        return DocumentWrite(
            known=self._documents.get(pending.native),
            native=pending.native,
            acl_id=acl_id,
            scope=pending.scope,
            quarantine=pending.quarantine,
            facts=pending.facts,
            name=upsert.name,
            location=upsert.location,
            media_type=upsert.media_type,
            modified_at=upsert.modified_at,
        )

    def _intern(self, scope: ScopeId | None, own: Clause, held: Held, writer: Writer, fresh: Acls) -> AclId:
        interned = Interned(scope, self._names.digest(own), held)
        found = self._acls.get(interned) or fresh.get(interned)
        if found is None:
            found = fresh[interned] = writer.rules.intern(scope, own, held)
        return found

    def _remember(self, fresh: Acls) -> None:
        self._acls.update(fresh)
        self._interned.update((acl_id, interned) for interned, acl_id in fresh.items())

    def _wait(self) -> None:
        if not self._pending_since:
            self._pending_since = time.monotonic()

    def _age_s(self) -> float:
        return time.monotonic() - self._pending_since

    def _tell(self) -> None:
        if self._counted.any():
            self._progress.add(self._counted.counts(), self._counted.problems)
            self._counted = Tally()


def _parts(values: Iterable[_T]) -> Iterable[list[_T]]:
    listed = list(values)
    for start in range(0, len(listed), _SWEEP_BATCH):
        yield listed[start : start + _SWEEP_BATCH]
