"""The first half of a sync: what the source says about containers, rules and existence goes into the catalog.

Rules are committed while the walk goes on, in small batches, and never wait for content: that is `service.sync.texts`,
which is told about a document only once its rules are in force. Nothing here reads a document, and nothing here
remembers one: what is stored is asked for in batches, what was met is a bitmap.

Rules that take the place of others count besides them until they are released (docs/adr/0004): by `service.sync.texts`
with a document's text, by `service.sync.ending` when the walk and when the run is complete.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

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
    own_realm,
)
from connectors.errors import FatalError
from service.keys.store import KeyStore
from service.stores.catalog import Catalog, Opening
from service.stores.checkpoints import StoredCheckpoint
from service.stores.holds import Acls, Held, Interned
from service.stores.records import Problem, SyncPass
from service.stores.writer import NOBODY, Writer
from service.stores.writes import DocumentWrite, Former, Known, ScopeWrite, Withholding
from service.sync import holds
from service.sync.breaker import Breaker, BreakerLimits, Comparison
from service.sync.containers import Containers
from service.sync.joins import Joins
from service.sync.memberships import MembershipPass
from service.sync.met import Met
from service.sync.names import Names
from service.sync.questions import Questions
from service.sync.runs import Progress, Tally

MOST_CHANGES: Final = 200
"""A batch of changed rules is committed at this size,"""

LONGEST_WAIT_S: Final = 0.2
"""or at this age, whichever comes first."""

CHECKPOINT_EVERY: Final = timedelta(seconds=5)
"""A connector may offer checkpoints more often than they are worth storing."""

_TELL_AT: Final = 1000


@dataclass(frozen=True, slots=True)
class Todo:
    """A document whose rules are in force and whose text is to do.

    version: keyed hash of `upsert.version`. released: the ACL that it has when nothing is held any more.
    widens: whether that would let somebody in who was not let in before.
    """

    upsert: Upsert
    document: Known
    version: bytes
    released: AclId
    widens: bool


@dataclass(frozen=True, slots=True)
class _Pending:
    """A document that waits for the next commit. own: None when the rules are not understood."""

    upsert: Upsert
    native: bytes
    known: Known | None
    scope: ScopeId | None
    own: Clause | None
    held: Held
    former: Former | None
    quarantine: str
    facts: bytes
    version: bytes
    write: bool
    todo: bool


class Walk:
    """One walk over a source. `apply` is called from one thread, `flush_late` may run in another.

    todo: told of each document whose text is to do, in a pass for content. mark: told of each checkpoint, in order
    with them; what came before is stored when everything before it was done. settings: digest of what the source is
    read by. limits: of the breaker, for members of groups. questions: what it asks a person.
    """

    def __init__(
        self,
        catalog: Catalog,
        keys: KeyStore,
        opening: Opening,
        progress: Progress,
        met: Met,
        *,
        todo: Callable[[Todo], None],
        mark: Callable[[StoredCheckpoint], None],
        on_commit: Callable[[], None],
        settings: str,
        limits: BreakerLimits,
        questions: Questions,
        resumed: StoredCheckpoint | None = None,
    ) -> None:
        self._catalog = catalog
        self._names = Names(keys, opening.run.source)
        self._source = opening.run.source
        self._fence = opening.fence
        self._pass = opening.run.sync_pass
        self._settings = settings
        self._began_at = opening.run.started_at if resumed is None else resumed.began_at
        self.documents = opening.documents
        self._acls: Acls = opening.acls
        self.interned = {acl_id: interned for interned, acl_id in opening.acls.items()}
        self.containers = Containers(self._names, opening.scopes, opening.occupied, resumed)
        self.comparison = Comparison(opening.documents.clause)
        self.met = met
        self._memberships = MembershipPass(
            catalog,
            self._names,
            opening,
            progress,
            lambda stops: Breaker(limits, self.comparison, stops),
            Joins(own_realm(self._source), self._names, self.documents, self.interned, self.containers),
            questions,
        )
        self._progress = progress
        self._todo = todo
        self._mark = mark
        self._on_commit = on_commit
        self.lock = threading.RLock()
        # Heard and not looked at yet, so that what is stored can be asked for many at once.
        self._heard: list[ScopeChange | Upsert | Skip] = []
        self._found: dict[bytes, Known] = {}
        # Documents in containers that the source did not name yet, or will not: no text under rules of an earlier run.
        self._early: list[Todo] = []
        self._pending_scopes: dict[ScopeId, ScopeWrite] = {}
        self._pending: dict[bytes, _Pending] = {}
        self._pending_withheld: dict[bytes, Withholding] = {}
        self._since = 0.0
        self._marked_at = time.monotonic()
        self._counted = Tally()
        self.cursor: Cursor | None = None

    @property
    def began_at(self) -> datetime:
        """When the first part of the run began: what it verifies, it verifies as of then."""
        return self._began_at

    def apply(self, change: Change) -> None:
        """Take one change. Raises FatalError when the connector goes on after the end of its listing."""
        with self.lock:
            if self.cursor is not None and not isinstance(change, ScanComplete):
                raise FatalError("the connector went on after the end of its listing: report this to who wrote it")
            match change:
                case ScopeChange() | Upsert() | Skip():
                    self._heard.append(change)
                    self._wait()
                    if len(self._heard) >= MOST_CHANGES or self._age_s() >= LONGEST_WAIT_S:
                        self._look()
                case Membership() | MembershipsEnd():
                    self._memberships.apply(change)
                case Checkpoint():
                    self.flush()
                    self._checkpoint(change.cursor)
                case ScanComplete():
                    self.flush()
                    self.cursor = change.cursor

    def flush_late(self) -> None:
        """Commit what has waited long enough while the source was silent."""
        with self.lock:
            self._memberships.flush()
            if self._since and self._age_s() >= LONGEST_WAIT_S:
                self.flush()
            self._tell()

    def flush(self) -> None:
        """Commit the rules that wait; then hand on the documents whose text is to do."""
        with self.lock:
            self._memberships.flush()
            self._look()
            if self._since:
                self._commit()
            self._tell()

    def hand_on_early(self) -> None:
        """Hand on what waited for its containers. What they still do not verify keeps waiting, for another run."""
        early, self._early = self._early, []
        for todo in early:
            self._hand_on(todo)

    def intern(self, rules: Interned, writer: Writer, fresh: Acls, own: Clause | None = None) -> AclId:
        """Return the id of rules, which goes into `fresh` when it is new: call `remember` once that is committed.

        own: the clause, where it may not be stored yet.
        """
        found = self._acls.get(rules) or fresh.get(rules)
        if found is None:
            found = fresh[rules] = writer.rules.intern(rules.scope, rules.own if own is None else own, rules.held)
        return found

    def remember(self, fresh: Acls) -> None:
        """Take note of rules that were interned and committed."""
        self._acls.update(fresh)
        self.interned.update((acl_id, interned) for interned, acl_id in fresh.items())

    def former(self, known: Known) -> Former | None:
        """Return what to remember of the rules of a document that nobody may read from now on."""
        rules = self.interned.get(known.acl_id)
        return known.former if rules is None else holds.former(rules.scope, rules.held, rules.own)

    def withholding(self, known: Known, reason: str) -> Withholding | None:
        """Return what takes a document away from everybody; None when that was done, for the same reason."""
        facts = self._names.withheld(reason)
        return Withholding(known, reason, facts, self.former(known)) if known.facts != facts else None

    # What was heard.

    def _look(self) -> None:
        """Look at what was heard, in its order, beside what is stored of it."""
        heard, self._heard = self._heard, []
        natives = {
            change.native_id: self._names.document(change.native_id)
            for change in heard
            if not isinstance(change, ScopeChange) and change.native_id is not None
        }
        self._found = self.documents.find(natives.values()) if natives else {}
        for change in heard:
            match change:
                case ScopeChange():
                    self._scope(change)
                case Upsert():
                    self._upsert(change, natives[change.native_id])
                case Skip():
                    self._skip(change, None if change.native_id is None else natives[change.native_id])
            if self._waiting() >= MOST_CHANGES:
                self._commit()
        if not self._waiting():
            self._since = 0.0
        elif self._age_s() >= LONGEST_WAIT_S:
            self._commit()
        if self._counted.documents >= _TELL_AT:
            self._tell()

    def _scope(self, change: ScopeChange) -> None:
        write, first = self.containers.apply(change)
        if first:
            self._counted.scopes += 1
        if write is None:
            return
        if write.id in self._pending_scopes:
            # Each word on it is stored before the next, or it could not be held.
            self._commit()
        self._wait()
        self._pending_scopes[write.id] = write

    def _upsert(self, upsert: Upsert, native: bytes) -> None:
        known = self._found.get(native)
        # A later word on the same document takes the place of an earlier one.
        earlier = self._pending.pop(native, None)
        self._pending_withheld.pop(native, None)
        first = earlier is None and (known is None or known.ordinal not in self.met.seen)
        if first:
            self._counted.documents += 1
        if known is not None:
            self.met.seen.add(known.ordinal)
        elif self._pass is SyncPass.PERMISSIONS:
            return  # New: the pass for content stores it with its text.
        scope = None if upsert.scope is None else self._names.scope(upsert.scope)
        own: Clause | None
        held: Held = ()
        former: Former | None = None
        match upsert.own:
            case Clause() as own:
                digest = self._names.digest(own)
                quarantine, acl_id = "", self._acls.get(Interned(scope, digest))
                if known is not None and known.acl_id != acl_id:
                    held = holds.around_document(self.interned.get(known.acl_id), known.former, scope, digest)
                    acl_id = self._acls.get(Interned(scope, digest, held))
            case Unknown(reason):
                own, quarantine, acl_id = None, reason or "not understood", NOBODY
                former = None if known is None else self.former(known)
        facts = self._names.facts(upsert, quarantine)
        version = self._names.version(upsert)
        write = known is None or known.acl_id != acl_id or known.scope != scope or known.facts != facts
        queued = known is not None and self.met.is_queued(known.ordinal)
        if known is not None and queued:
            # Its text is read once a run; one of an earlier version was never the source's under these rules.
            if known.source_version == version:
                self.met.stored(known.ordinal)
            else:
                self.met.sent_again(known.ordinal, version)
        # What nobody may read is not read by us either.
        todo = own is not None and (known is None or known.source_version != version) and not queued
        if earlier is not None:
            todo = todo or (earlier.todo and own is not None)
        if write or todo or earlier is not None:
            self._wait()
            self._pending[native] = _Pending(
                upsert,
                native,
                known,
                scope,
                own,
                held,
                former,
                quarantine,
                facts,
                version,
                write or earlier is not None,
                todo,
            )
        if first and own is None:
            self._counted.skipped += 1
            self._counted.problems.append(Problem(upsert.location, "unknown rules", quarantine))
        elif first and not todo:
            self._counted.unchanged += 1

    def _skip(self, skip: Skip, native: bytes | None) -> None:
        self._counted.skipped += 1
        self._counted.problems.append(Problem(skip.location, skip.reason, skip.detail))
        if native is None:
            return
        self._pending.pop(native, None)
        self._pending_withheld.pop(native, None)
        known = self._found.get(native)
        if known is None:
            return
        self.met.seen.add(known.ordinal)
        # Whatever the reason, its rules were not verified by this walk: nobody reads it until they are.
        withholding = self.withholding(known, f"{skip.reason}: {skip.detail}")
        if withholding is not None:
            self._wait()
            self._pending_withheld[native] = withholding

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
            released = [self.intern(self._rules(pending, own, ()), writer, fresh, own) for pending, own in todos]
        # Committed: from here on this is what the catalog knows.
        self.remember(fresh)
        now = {pending.native: pending.known for pending, _ in todos}
        for pending, known in zip(writes, stored, strict=True):
            now[pending.native] = self._found[pending.native] = known
            self.met.seen.add(known.ordinal)
        for (native, _), known in zip(withheld, narrowed, strict=True):
            self._found[native] = known
        self._counted.permissions_changed += sum(pending.known is not None for pending in writes) + len(withheld)
        self._pending_scopes.clear()
        self._pending.clear()
        self._pending_withheld.clear()
        self._since = 0.0
        self._on_commit()
        for (pending, own), acl_id in zip(todos, released, strict=True):
            document = now[pending.native]
            assert document is not None, "what has no row yet is written"
            if self._pass is SyncPass.PERMISSIONS:
                self.met.unconfirmed(document.ordinal)
                continue
            self.met.queue(document.ordinal)
            widens = (
                document.served and bool(pending.held) and self.comparison.widens(pending.held, self._names.digest(own))
            )
            self._hand_on(Todo(pending.upsert, document, pending.version, acl_id, widens))

    def _hand_on(self, todo: Todo) -> None:
        if self.containers.is_verified(todo.document.scope):
            self._todo(todo)
        else:
            self._early.append(todo)

    def _rules(self, pending: _Pending, own: Clause, held: Held) -> Interned:
        return Interned(pending.scope, self._names.digest(own), held)

    def _document_write(self, pending: _Pending, writer: Writer, fresh: Acls) -> DocumentWrite:
        acl_id = NOBODY
        if pending.own is not None:
            acl_id = self.intern(self._rules(pending, pending.own, pending.held), writer, fresh, pending.own)
        upsert = pending.upsert
        return DocumentWrite(
            known=pending.known,
            native=pending.native,
            acl_id=acl_id,
            scope=pending.scope,
            quarantine=pending.quarantine,
            facts=pending.facts,
            name=upsert.name,
            location=upsert.location,
            media_type=upsert.media_type,
            modified_at=upsert.modified_at,
            former=pending.former,
        )

    def _checkpoint(self, cursor: Cursor) -> None:
        """Offer the place to be taken up again, unless something before it waits for what comes behind it."""
        if self._early or time.monotonic() - self._marked_at < CHECKPOINT_EVERY.total_seconds():
            return
        self._marked_at = time.monotonic()
        self._mark(
            StoredCheckpoint(
                settings=self._settings,
                began_at=self._began_at,
                cursor=cursor,
                seen=self.met.seen.copy(),
                unconfirmed=self.met.unconfirmed_texts(),
                containers=self.containers.met(),
                restless=self.containers.restless(),
            )
        )

    def _waiting(self) -> int:
        return len(self._pending) + len(self._pending_scopes) + len(self._pending_withheld)

    def _wait(self) -> None:
        if not self._since:
            self._since = time.monotonic()

    def _age_s(self) -> float:
        return time.monotonic() - self._since

    def _tell(self) -> None:
        if self._counted.any():
            self._progress.add(self._counted.counts(), self._counted.problems)
            self._counted = Tally()
