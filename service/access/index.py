"""Who may read what, in step with the catalog: its change log applied to `acl.readable`, one snapshot at a time.

A snapshot pairs one read transaction of the catalog with the access rules of exactly that moment: older rules would
serve what was just withdrawn, and newer ones could open an older text that they were never meant for.

Withheld here, whatever the rules say: sources that the configuration does not name, those that are stopped, and those
of which a pass was not complete within its limit. `acl.decide` decides everything else; the sets here only propose.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final, Protocol

import structlog

from acl.changes import ScopeDrop, ScopePut
from acl.model import NOBODY, Acl, AclId, Caller, ScopeId, Unknown
from acl.readable import Readable, ReadableIndex
from service.errors import RemitError
from service.stores.reader import Reader
from service.stores.records import AccessChange, StoredDocument, SyncPass
from service.sync import leases

log = structlog.get_logger()

_ABSENT: Final = Acl(None, NOBODY)
"""What is decided on for a document that does not exist, so that it costs what a hidden one costs."""

_UNUSED: Final = 1 << 17
"""Less room that is unused is no reason to make the rules anew: some megabytes, and a fraction of a millisecond."""


class Catalog(Protocol):
    """What is needed of the catalog."""

    def reader(self) -> AbstractContextManager[Reader]:
        """Open one read transaction."""


@dataclass(frozen=True, slots=True)
class SourceAge:
    """How long ago a source's rules were verified in full; None: never.

    withheld: some pass was too long ago, or the source is stopped.
    """

    source: str
    age: timedelta | None
    withheld: bool


class Snapshot:
    """One moment of catalog and rules together. Made by `Access.snapshot`; use it in one thread.

    Everything but `reader` and `seq` may be asked until `release`, which lets other snapshots begin.
    """

    def __init__(
        self,
        reader: Reader,
        index: ReadableIndex,
        ages: Mapping[str, SourceAge],
        at: datetime,
        lock: threading.Lock,
        written: _Written,
    ) -> None:
        self.reader = reader
        self.seq = reader.seq
        self.at = at
        self._ages = ages
        self._lock = lock
        self._written = written
        self._index: ReadableIndex | None = index

    @property
    def _rules(self) -> ReadableIndex:
        assert self._index is not None, "the snapshot was released"
        return self._index

    def permitted(self, caller: Caller, sources: frozenset[str]) -> Readable:
        """Return what `caller` may read in `sources`, those withheld left out. No sources: all.

        Raises CallerExpiredError.
        """
        fresh = frozenset(name for name, age in self._ages.items() if not age.withheld)
        return self._rules.readable(caller, self.at, fresh & sources if sources else fresh)

    def acl(self, document: StoredDocument | None) -> Acl | Unknown:
        """Return what to decide on for a document as it stands; for none, something that denies everybody."""
        if document is None:
            return _ABSENT
        age = self._ages.get(document.source)
        if age is None or age.withheld:
            return Unknown("stale")
        if document.row_start >= document.row_stop:
            return Unknown("no text")
        return self._rules.acl(document.acl_id)

    def newest(self, document: StoredDocument, acl: Acl | Unknown) -> int:
        """Return the change at which the document's text, or one of the rules that count for it, was written last."""
        return max(document.text_seq, document.permissions_seq, self._written.newest(acl))

    def age(self, source: str) -> SourceAge | None:
        """Return the age of one source, None for one that is not configured: for administrators alone."""
        return self._ages.get(source)

    def rules(self, document: StoredDocument) -> Acl | Unknown:
        """Return the rules of a document, however old they are and whether it has a text: for reports.

        Never to be decided on; that is `acl`.
        """
        return self.rules_of(document.acl_id)

    def rules_of(self, acl_id: AclId) -> Acl | Unknown:
        """Return an ACL, as `rules` does for a document."""
        return self._rules.acl(acl_id)

    def ages(self, caller: Caller, sources: frozenset[str]) -> tuple[SourceAge, ...]:
        """Return the ages of those `sources` in which `caller` may read something, or could if they were fresh.

        Other sources are not named: that they exist is nothing that the caller may know. No sources: all.
        """
        return tuple(
            age
            for name, age in sorted(self._ages.items())
            if (not sources or name in sources) and self._rules.readable(caller, self.at, frozenset([name])).documents
        )

    def epochs(self, sources: frozenset[str]) -> dict[str, int]:
        """Return the version of each source's rules, for the audit log."""
        return {name: self._rules.epoch(name) for name in sorted(sources)}

    def release(self) -> None:
        """Let other snapshots begin; the reader stays where it is. Does nothing the second time."""
        if self._index is not None:
            self._index = None
            self._lock.release()


class _Written:
    """At which change of the catalog containers were written last. since: what was written before is as of then."""

    def __init__(self, since: int) -> None:
        self._since = since
        self._scopes: dict[ScopeId, int] = {}

    def note(self, changes: Iterable[AccessChange]) -> None:
        """Take note of changes, in order."""
        for change in changes:
            if isinstance(change.value, ScopePut | ScopeDrop):
                self._scopes[change.value.id] = change.seq

    def newest(self, acl: Acl | Unknown) -> int:
        """Return when a container around documents with this ACL was written last."""
        if isinstance(acl, Unknown) or acl.scope is None or not self._scopes:
            return self._since
        return max(self._since, *(self._scopes.get(scope.id, 0) for scope in acl.scope.chain()))


class Access:
    """Keeps the rules in step with one catalog. Thread-safe.

    limits: for each configured source and each pass over it, how long ago that may have been complete.
    clock: the time that decisions are made for.
    stopped: the sources whose documents are withheld whatever their rules say.
    """

    def __init__(
        self,
        catalog: Catalog,
        limits: Mapping[str, Mapping[SyncPass, timedelta]],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        stopped: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self._catalog = catalog
        self._stopped = stopped
        self._limits = dict(limits)
        self._clock = clock
        self._lock = threading.Lock()
        self._index = ReadableIndex()
        self._written = _Written(0)
        self._seq = 0
        self._unused = 0  # when the index was made
        self._renewal: threading.Thread | None = None

    def close(self) -> None:
        """Wait until nothing is made anew any more."""
        if self._renewal is not None:
            self._renewal.join()

    def limit(self, limits: Mapping[str, Mapping[SyncPass, timedelta]]) -> None:
        """Use other limits from now on: a source that they do not name is withheld."""
        self._limits = dict(limits)

    def limit_of(self, source: str) -> timedelta | None:
        """Return how old a source's rules may be; None: the configuration does not name it."""
        return self._limits.get(source, {}).get(SyncPass.PERMISSIONS)

    def latest(self) -> int:
        """Return the catalog's latest change as it is now."""
        with self._catalog.reader() as reader:
            return reader.seq

    def all_ages(self) -> tuple[SourceAge, ...]:
        """Return the ages of all configured sources that were ever read: for administrators alone."""
        with self._catalog.reader() as reader:
            return tuple(self._ages(reader, self._clock()).values())

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Catch up with the catalog and hold both still. Its `at` is the moment of every decision and age in it."""
        self._lock.acquire()
        snapshot: Snapshot | None = None
        try:
            # Under the lock, so that the transaction is never older than what was already applied.
            with self._catalog.reader() as reader:
                self._catch_up(reader)
                # Read last: before the transaction, what was verified meanwhile would lie in the future.
                at = self._clock()
                snapshot = Snapshot(reader, self._index, self._ages(reader, at), at, self._lock, self._written)
                yield snapshot
        finally:
            if snapshot is None:
                self._lock.release()
            else:
                snapshot.release()

    def _catch_up(self, reader: Reader) -> None:
        if reader.seq == self._seq:
            return
        since, changes = self._seq, reader.changes_since(self._seq)
        # INVARIANT: rules that were applied half way decide nothing: they are dropped, and built from 0 next time.
        index, self._index, self._seq = self._index, ReadableIndex(), 0
        _apply(index, changes)
        if since:
            self._written.note(changes)
        else:
            self._written = _Written(reader.seq)
        self._index, self._seq = index, reader.seq
        if not since:
            self._unused = index.unused
        elif index.unused - self._unused > max(_UNUSED, index.held):
            self._begin_renewal()

    def _begin_renewal(self) -> None:
        if self._renewal is not None and self._renewal.is_alive():
            return
        # Should it fail, it is tried when as much is unused once more.
        self._unused = self._index.unused

        def renew() -> None:
            try:
                self.renew()
            except RemitError as err:
                log.warning("rules_not_renewed", error=type(err).__name__)

        self._renewal = threading.Thread(target=renew, name="rules-renewal", daemon=True)
        self._renewal.start()

    def renew(self) -> None:
        """Make the rules anew from the catalog, beside those in use, and use them: what is gone takes no room there.

        Questions go on meanwhile. Without it the room would grow with every change for as long as the service runs.
        """
        built = ReadableIndex()
        with self._catalog.reader() as reader:
            seq = reader.seq
            _apply(built, reader.changes_since(0))
        with self._lock:
            # INVARIANT: no snapshot is open, and every later one is of a transaction that begins after this: it is not
            # older than `seq`, and brings what came since.
            built.count_on(self._index)
            self._written = _Written(seq)
            self._index, self._seq, self._unused = built, seq, built.unused
        log.info("rules_renewed")

    def _ages(self, reader: Reader, at: datetime) -> dict[str, SourceAge]:
        clocks = reader.clocks()
        stopped = self._stopped()
        found: dict[str, SourceAge] = {}
        for name, limits in self._limits.items():
            if name not in clocks:
                continue
            ages = {one: at - clock.verified_at for one, clock in clocks[name].items()}
            # INVARIANT: a source without limits is withheld, as one whose limit nobody knows.
            fresh = SyncPass.PERMISSIONS in limits and all(
                leases.is_fresh(ages.get(one), limit) for one, limit in limits.items()
            )
            found[name] = SourceAge(name, ages.get(SyncPass.PERMISSIONS), not fresh or name in stopped)
        return found


def _apply(index: ReadableIndex, changes: Iterable[AccessChange]) -> None:
    for source, group in groupby(changes, key=lambda change: change.source):
        index.apply(source, [change.value for change in group])
