"""A source in memory that behaves, until it is told not to: for testing whatever consumes a connector.

`MemorySource.documents`, `.scopes` and `.groups` are its truth and may be changed at any moment, also during a walk.
`.faults` says how the connector misbehaves. Without faults it passes `connectors.testing.contract`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from acl.model import Clause, ScopeId, Unknown
from acl.principal import Principal
from connectors.base import (
    Change,
    Checkpoint,
    Cursor,
    Finding,
    Level,
    Membership,
    MembershipsEnd,
    ScanComplete,
    ScopeChange,
    Skip,
    Upsert,
)
from connectors.errors import ConnectorError, FatalError, SkippableError

_EPOCH: Final = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class MemoryScope:
    """A container. `parent` may dangle or lead in a circle: sent as it is."""

    parent: ScopeId | None
    clause: Clause | Unknown
    location: str = ""
    complete: bool = True


@dataclass(frozen=True, slots=True)
class MemoryDocument:
    """A document. `scope` may dangle.

    revision: raise it to get a new version with the same content, as a `touch` would.
    size_bytes: what the walk claims; None is the truth.
    """

    content: bytes
    scope: ScopeId | None
    own: Clause | Unknown
    media_type: str = "text/plain"
    modified_at: datetime = _EPOCH
    revision: int = 0
    size_bytes: int | None = None

    @property
    def version(self) -> str:
        """Changes with content and revision, never with the rules."""
        return f"{sha256(self.content).hexdigest()[:32]}-{self.revision}"


@dataclass(slots=True)
class Faults:
    """How the source misbehaves. Every field is off by default; set what the test needs, at any moment.

    fail_at: raise `error` in place of change number n (from 0) of a walk.
    stop_at: the walk just ends before change number n: no error, no ScanComplete.
    error: what `fail_at` raises; any exception, so that one that is no ConnectorError can be tried too.
    repeat: how often each change is sent.
    withhold_scopes: scopes that are not sent though documents name them.
    withhold_documents: documents that exist but are not listed.
    withhold_groups: groups that exist but are not listed.
    unknown_groups: groups whose members cannot be read.
    groups_incomplete: the groups never end: MembershipsEnd does not come.
    groups_unread: why MembershipsEnd says that not all could be read.
    incomplete_scopes: scopes that are sent as not listed in full.
    unknown_scopes: scopes that are sent with rules that are not understood.
    scopes_last: containers come after their documents, which the protocol forbids.
    flood: this many extra skips without native_id, as from a folder full of FIFOs.
    after_complete: changes sent after ScanComplete, which the protocol forbids.
    unreadable: documents whose `read` raises SkippableError("unreadable").
    changing: documents whose `read` raises SkippableError("changed").
    read_error: raised by every `read`.
    content_at_read: other bytes than those whose version was sent, returned as if they were right.
    before_change: called with the number of each change before it is sent; may change the source.
    during_read: called in `read` before the second look at the rules; may change the source.
    check_error: reported by `check` as a finding of level ERROR.
    """

    fail_at: int | None = None
    stop_at: int | None = None
    error: Exception = field(default_factory=lambda: FatalError("the source was told to fail"))
    repeat: int = 1
    withhold_scopes: set[ScopeId] = field(default_factory=set)
    withhold_documents: set[str] = field(default_factory=set)
    withhold_groups: set[Principal] = field(default_factory=set)
    unknown_groups: set[Principal] = field(default_factory=set)
    groups_incomplete: bool = False
    groups_unread: str = ""
    incomplete_scopes: set[ScopeId] = field(default_factory=set)
    unknown_scopes: set[ScopeId] = field(default_factory=set)
    scopes_last: bool = False
    flood: int = 0
    after_complete: tuple[Change, ...] = ()
    unreadable: set[str] = field(default_factory=set)
    changing: set[str] = field(default_factory=set)
    read_error: ConnectorError | None = None
    content_at_read: dict[str, bytes] = field(default_factory=dict)
    before_change: Callable[[int], None] | None = None
    during_read: Callable[[Upsert], None] | None = None
    check_error: str = ""


class MemorySource:
    """A connector over dictionaries. Not thread-safe beyond what a test arranges.

    groups: who is in each group that the source has itself. None: it has none, and never speaks of any.
    reads: native ids in the order in which `read` was called, so that a test can tell what was not read again.
    cursors: what each call of `changes` was given.
    """

    def __init__(self, *, checkpoint_every: int = 0) -> None:
        self.documents: dict[str, MemoryDocument] = {}
        self.scopes: dict[ScopeId, MemoryScope] = {}
        self.groups: dict[Principal, set[Principal]] | None = None
        self.skips: list[Skip] = []
        self.faults = Faults()
        self.reads: list[str] = []
        self.cursors: list[Cursor | None] = []
        self.closed = False
        self._checkpoint_every = checkpoint_every
        self._listed: set[str] = set()
        self._sent: dict[ScopeId, MemoryScope] = {}
        self._sent_twice: set[ScopeId] = set()

    def empty(self) -> None:
        """Lose everything, and go on listing as if that were the truth."""
        self.documents.clear()
        self.scopes.clear()
        self.skips.clear()
        if self.groups is not None:
            self.groups.clear()

    def check(self) -> list[Finding]:
        """Report `faults.check_error`, else the number of documents."""
        if self.faults.check_error:
            return [Finding(Level.ERROR, self.faults.check_error)]
        return [Finding(Level.INFO, f"{len(self.documents)} documents in memory")]

    def resumes(self, cursor: Cursor) -> bool:
        """Whether what was sent before this checkpoint is still what comes before it."""
        return self._place(cursor) is not None

    def changes(self, cursor: Cursor | None) -> Iterator[Change]:
        """Send containers in the order of `scopes`, documents in the order of `documents`, and the faults."""
        self.cursors.append(cursor)
        self._listed.clear()
        self._sent_twice.clear()
        self._sent = dict(self.scopes)
        for number, change in enumerate(self._walk(None if cursor is None else self._place(cursor))):
            if self.faults.before_change is not None:
                self.faults.before_change(number)
            if self.faults.fail_at == number:
                raise self.faults.error
            if self.faults.stop_at == number:
                return
            for _ in range(self.faults.repeat):
                yield change
        # The walk may be shorter than the test thought: the fault it asked for must not go missing.
        if self.faults.fail_at is not None:
            raise self.faults.error
        yield from self.faults.after_complete

    def read(self, document: Upsert, limit_bytes: int) -> bytes:
        """Return the content if version and rules are those that the last walk sent."""
        self.reads.append(document.native_id)
        if self.faults.read_error is not None:
            raise self.faults.read_error
        if document.native_id in self.faults.unreadable:
            raise SkippableError("unreadable", f"`{document.location}` was told not to be readable")
        if document.native_id in self.faults.changing:
            raise SkippableError("changed", f"`{document.location}` changes all the time")
        self._compare(document)
        found = self.documents[document.native_id]
        content = self.faults.content_at_read.get(document.native_id, found.content)
        if self.faults.during_read is not None:
            self.faults.during_read(document)
        self._compare(document)
        if len(content) > limit_bytes:
            raise SkippableError("too large", f"`{document.location}` has {len(content)} bytes, over {limit_bytes}")
        return content

    def close(self) -> None:
        """Remember that it was called."""
        self.closed = True

    def _place(self, cursor: Cursor) -> int | None:
        """How many documents come before a checkpoint; None when it cannot be told any more."""
        last, sent = cursor.get("last"), cursor.get("sent")
        names = list(self.documents)
        # A document that was put in anew is behind the others: then what was sent is not what stands before it.
        if isinstance(sent, int) and last in self.documents and names.index(str(last)) < sent:
            return names.index(str(last)) + 1
        return None

    def _walk(self, place: int | None) -> Iterator[Change]:
        faults = self.faults
        yield from self._memberships()
        if not faults.scopes_last:
            yield from self._scope_changes()
        # Those before the checkpoint were listed by the walk that was interrupted.
        self._listed.update(list(self.documents)[:place] if place else ())
        sent = place or 0
        for native_id in list(self.documents)[sent:]:
            found = self.documents.get(native_id)
            if found is None or native_id in faults.withhold_documents:
                continue
            self._listed.add(native_id)
            yield _upsert(native_id, found)
            sent += 1
            if self._checkpoint_every and sent % self._checkpoint_every == 0:
                yield Checkpoint({"sent": sent, "last": native_id})
        if faults.scopes_last:
            yield from self._scope_changes()
        yield from list(self.skips)
        for number in range(faults.flood):
            yield Skip(None, f"pipe-{number}", "special file", "a FIFO")
        yield from self._scopes_again()
        yield ScanComplete({"documents": sent})

    def _memberships(self) -> Iterator[Change]:
        if self.groups is None:
            return
        faults = self.faults
        for group in list(self.groups):
            members = self.groups.get(group)
            if members is None or group in faults.withhold_groups:
                continue
            unknown = group in faults.unknown_groups
            sent = Unknown("its members were told not to be readable") if unknown else frozenset(members)
            yield Membership(group, sent, group.id)
        if not faults.groups_incomplete:
            yield MembershipsEnd(faults.groups_unread)

    def _scope_changes(self) -> Iterator[Change]:
        for scope_id in list(self.scopes):
            scope = self.scopes.get(scope_id)
            if scope is not None and scope_id not in self.faults.withhold_scopes:
                self._sent[scope_id] = scope
                yield _scope_change(scope_id, self._disturbed(scope_id, scope))

    def _disturbed(self, scope_id: ScopeId, scope: MemoryScope) -> MemoryScope:
        if scope_id in self.faults.incomplete_scopes:
            scope = replace(scope, complete=False)
        if scope_id in self.faults.unknown_scopes:
            scope = replace(scope, clause=Unknown("the source was told not to say"))
        return scope

    def _scopes_again(self) -> Iterator[Change]:
        """Send containers that are not what they were when they were sent; as unknown those that are gone."""
        for scope_id in [*self._sent, *(scope for scope in list(self.scopes) if scope not in self._sent)]:
            was, now = self._sent.get(scope_id), self.scopes.get(scope_id)
            if was == now or scope_id in self.faults.withhold_scopes:
                continue
            self._sent_twice.add(scope_id)
            if now is not None:
                yield _scope_change(scope_id, now)
            elif was is not None:
                gone = MemoryScope(was.parent, Unknown("it vanished during the walk"), was.location, complete=False)
                yield _scope_change(scope_id, gone)

    def _compare(self, document: Upsert) -> None:
        found = self.documents.get(document.native_id)
        if found is None:
            raise SkippableError("vanished", f"`{document.location}` is gone")
        now = (found.version, found.own, *_chain(found.scope, self.scopes))
        sent = (document.version, document.own, *_chain(document.scope, self._sent))
        moved = any(scope in self._sent_twice for scope, _ in _chain(document.scope, self._sent))
        if now != sent or moved or document.native_id not in self._listed:
            raise SkippableError("changed", f"`{document.location}` is not what the walk sent")


def _chain(
    innermost: ScopeId | None, scopes: Mapping[ScopeId, MemoryScope]
) -> list[tuple[ScopeId, Clause | Unknown | None]]:
    """Every container around a document with its clause; ends at a circle or a missing one."""
    chain: list[tuple[ScopeId, Clause | Unknown | None]] = []
    here = innermost
    while here is not None and all(here != scope for scope, _ in chain):
        scope = scopes.get(here)
        chain.append((here, scope.clause if scope is not None else None))
        here = scope.parent if scope is not None else None
    return chain


def _scope_change(scope_id: ScopeId, scope: MemoryScope) -> ScopeChange:
    return ScopeChange(scope_id, scope.parent, scope.clause, scope.location or str(scope_id), scope.complete)


def _upsert(native_id: str, found: MemoryDocument) -> Upsert:
    size = len(found.content) if found.size_bytes is None else found.size_bytes
    return Upsert(
        native_id=native_id,
        scope=found.scope,
        own=found.own,
        version=found.version,
        name=native_id.rpartition("/")[2],
        location=native_id,
        media_type=found.media_type,
        size_bytes=size,
        modified_at=found.modified_at,
    )
