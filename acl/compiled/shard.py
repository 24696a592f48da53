"""The compiled index of one source: its scopes, ACLs and documents, kept in step change by change.

Every table names the next: a row of the index its ACL, an ACL its scope and its own clause, a scope the scope around it
and its clause. A change sets what it names, and nothing that points there; an answer follows the tables, all at once.

INVARIANT: what nobody put, or what is not understood, has clause 0, which nobody passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap, FrozenBitMap

from acl.changes import AclDrop, AclPut, Change, DocumentDrop, DocumentPut, ScopeDrop, ScopePut
from acl.compiled.clauses import Clauses
from acl.compiled.columns import Column, Numbers, Places, bitmap_of, each_segment, picked
from acl.compiled.containers import Containers
from acl.compiled.containment import TOP
from acl.model import Acl, AclId, Caller, Clause, ScopeId, Unknown
from acl.principal import Realm
from acl.scopes import ScopeTree

_KEPT_SCOPES: Final = 4096
_LONG: Final = 1 << 16


class Permitted:
    """Documents or rows with a permitted ACL, as they were at one moment."""

    def __init__(self, acls: NDArray[np.uint8], places: Places, acl: Column) -> None:
        """acls: a bit for each place of an ACL. acl: for each place of a thing, that of its ACL."""
        self._acls = acls
        self._acl = acl.lend()
        self._used = places.used
        self._layout = places.layout()
        self._found: FrozenBitMap | None = None

    def numbers(self) -> FrozenBitMap:
        """Their numbers; worked out when first asked for."""
        if self._found is None:
            flags = np.unpackbits(self._acls).view(np.bool_)
            self._found = bitmap_of(picked(flags, self._acl, self._used), self._layout)
        return self._found


@dataclass(frozen=True, slots=True)
class View:
    """What a caller may read in one source, for every moment `since <= at < until`. Keeps what it saw."""

    acls: FrozenBitMap
    chunk_count: int
    since: datetime
    until: datetime
    documents: Permitted
    rows: Permitted


class Shard:
    """One source. Not safe for threads: the owner holds a lock around every call."""

    def __init__(self) -> None:
        self._clauses = Clauses()
        self._containers = Containers(self._clauses)
        # Held by this and not by what it asks: in a circle, whole tables would wait for the garbage collector.
        self._values = ScopeTree.found_by(self._containers.row)
        self._acl_places = Places()
        self._acl_scope = Column(np.uint32)
        self._acl_clause = Column(np.uint32)
        self._acl_chunks = Column(np.uint32)
        self._unknown_acls: dict[int, str] = {}
        self._document_places = Places()
        self._document_acl = Column(np.uint32)
        self._document_start = Column(np.uint32)
        self._document_length = Column(np.uint16)
        self._ragged: dict[int, tuple[tuple[int, int], ...]] = {}
        self._row_places = Places()
        self._row_acl = Column(np.uint32)
        self._rows = 0
        self.acls = BitMap()
        self.documents = BitMap()

    # Reading

    @property
    def realms(self) -> frozenset[Realm]:
        """Every realm that some rule names."""
        return self._clauses.realms

    @property
    def held(self) -> int:
        """How many scopes, ACLs, documents and rows there are."""
        return self._containers.held + len(self.acls) + len(self.documents) + self._rows

    @property
    def unused(self) -> int:
        """How much room is kept beside that: what is gone keeps its own, because nothing is ever moved."""
        places = (self._acl_places, self._document_places, self._row_places)
        return len(self._containers) + sum(one.used for one in places) - self.held

    def view(self, caller: Caller, missing: frozenset[Realm], at: datetime) -> View:
        """Compute what a caller may read at the moment `at`; `missing` realms are incomplete."""
        # 1. The clauses that let the caller through; 2. the scopes that are open, with all around them.
        passed = self._clauses.passed(caller, missing, at)
        opened = self._containers.open(passed.flags)
        # 3. An ACL is permitted when its own clause and its scope are.
        clause, scope, chunks = self._acl_clause.now(), self._acl_scope.now(), self._acl_chunks.now()
        flags = np.empty(self._acl_places.used, np.bool_)
        count = 0
        for segment, places in each_segment(len(flags)):
            size = places.stop - places.start
            here = flags[places]
            np.logical_and(passed.flags.take(clause[segment][:size]), opened.take(scope[segment][:size]), out=here)
            # 4. The number of their chunks. INVARIANT: rows are distinct numbers of 32 bits, so no sum needs more.
            count += int((chunks[segment][:size] * here).sum(dtype=np.uint32))
        bits = np.packbits(flags)
        return View(
            bitmap_of(flags, self._acl_places.layout()),
            count,
            passed.since,
            passed.until,
            Permitted(bits, self._document_places, self._document_acl),
            Permitted(bits, self._row_places, self._row_acl),
        )

    def knows(self, acl_id: AclId) -> bool:
        """Whether an ACL was put, understood or not."""
        return acl_id in self.acls

    def acl(self, acl_id: AclId) -> Acl | Unknown:
        """Return the ACL as `decide` wants it; Unknown when any part of it is."""
        if acl_id not in self.acls:
            return Unknown(f"ACL {acl_id} is not known")
        place = self._acl_places.one(acl_id)
        node, number = self._acl_scope.at(place), self._acl_clause.at(place)
        own = self._clauses.get(number) if number else Unknown(self._unknown_acls[acl_id])
        if len(self._values) > _KEPT_SCOPES:
            self._values = ScopeTree.found_by(self._containers.row)
        return self._values.acl(self._containers.id(node), own)

    # Writing

    def apply(self, changes: Iterable[Change]) -> None:
        """Bring the index to the state that the changes name; the last word on each thing counts."""
        scopes: dict[ScopeId, ScopePut | ScopeDrop] = {}
        acls: dict[int, AclPut | AclDrop] = {}
        documents: dict[int, DocumentPut | DocumentDrop] = {}
        for change in changes:
            match change:
                case DocumentPut() | DocumentDrop():
                    documents[change.ordinal] = change
                case AclPut() | AclDrop():
                    acls[change.acl_id] = change
                case ScopePut() | ScopeDrop():
                    scopes[change.id] = change
        # Many changes of a batch share one clause object, and the batch keeps it alive.
        numbers: dict[int, int] = {}

        def number_of(clause: Clause) -> int:
            number = numbers.get(id(clause))
            if number is None:
                number = numbers[id(clause)] = self._clauses.put(clause)
            return number

        if scopes:
            self._values = ScopeTree.found_by(self._containers.row)
            self._clauses.change_uses(*self._containers.put(scopes.values(), number_of))
        if acls:
            self._clauses.change_uses(*self._put_acls(list(acls.values()), number_of))
        if documents:
            self._put_documents(documents)

    def _put_acls(
        self, changes: Sequence[AclPut | AclDrop], number_of: Callable[[Clause], int]
    ) -> tuple[list[int], list[int]]:
        nodes: list[int] = []
        clauses: list[int] = []
        for change in changes:
            node, number = TOP, 0
            self._unknown_acls.pop(change.acl_id, None)
            if isinstance(change, AclPut):
                node = self._containers.node(change.scope)
                if isinstance(change.own, Unknown):
                    self._unknown_acls[change.acl_id] = change.own.reason
                else:
                    number = number_of(change.own)
            nodes.append(node)
            clauses.append(number)
        ids = [change.acl_id for change in changes]
        self.acls -= BitMap(ids)
        self.acls |= BitMap([change.acl_id for change in changes if isinstance(change, AclPut)])
        places = self._acls_at(np.array(ids))
        before = self._acl_clause.of(places).tolist()
        self._acl_scope.put(places, np.array(nodes))
        self._acl_clause.put(places, np.array(clauses))
        return clauses, before

    def _acls_at(self, ids: Numbers) -> Numbers:
        """The places of ACLs. One that is only named so far gets one too, and is nobody's."""
        places = self._acl_places.make(ids)
        for column in (self._acl_scope, self._acl_clause, self._acl_chunks):
            column.reach(self._acl_places.used)
        return places

    def _put_documents(self, changes: dict[int, DocumentPut | DocumentDrop]) -> None:
        # Every row leaves its old document before any enters its new one, so that none is lost on the way.
        self._leave(list(changes))
        puts = [change for change in changes.values() if isinstance(change, DocumentPut)]
        self.documents -= BitMap(list(changes))
        self.documents |= BitMap([put.ordinal for put in puts])
        if puts:
            self._enter(puts)

    def _leave(self, ordinals: list[int]) -> None:
        places = self._document_places.find(np.array(ordinals))
        acls, length = self._document_acl.of(places), self._document_length.of(places)
        which = np.flatnonzero(length)
        self._fill(self._document_start.of(places)[which], length[which], acls[which], entering=False)
        if self._ragged:
            for acl, ordinal in zip(acls.tolist(), ordinals, strict=True):
                rows = np.array(self._ragged.pop(ordinal, ()), np.int64).reshape(-1, 2)
                self._fill(rows[:, 0], rows[:, 1] - rows[:, 0], np.full(len(rows), acl), entering=False)
        for column in (self._document_acl, self._document_start, self._document_length):
            column.put(places, 0)

    def _enter(self, puts: list[DocumentPut]) -> None:
        acls = self._acls_at(np.array([put.acl_id for put in puts]))
        places = self._document_places.make(np.array([put.ordinal for put in puts]))
        for column in (self._document_acl, self._document_start, self._document_length):
            column.reach(self._document_places.used)
        self._document_acl.put(places, acls)
        ranges = np.array([len(put.rows) for put in puts])
        which = np.repeat(np.arange(len(puts)), ranges)
        start = np.array([start for put in puts for start, _ in put.rows], np.int64)
        length = np.array([stop for put in puts for _, stop in put.rows], np.int64) - start
        self._fill(start, length, acls[which], entering=True)
        # Nearly all documents have one range.
        plain = (ranges[which] == 1) & (length < _LONG)
        self._document_start.put(places[which[plain]], start[plain])
        self._document_length.put(places[which[plain]], length[plain])
        for n in set(which[~plain].tolist()):
            self._ragged[puts[n].ordinal] = puts[n].rows

    def _fill(self, start: Numbers, length: Numbers, acls: Numbers, *, entering: bool) -> None:
        """Give ranges of rows to the ACLs at some places, or take them away from there."""
        self._acl_chunks.add(acls, length if entering else -length)
        self._rows += int(length.sum()) if entering else -int(length.sum())
        rows = np.repeat(start + length - np.cumsum(length), length) + np.arange(length.sum())
        if entering:
            places = self._row_places.make(rows)
            self._row_acl.reach(self._row_places.used)
            self._row_acl.put(places, np.repeat(acls, length))
        else:
            self._row_acl.put(self._row_places.find(rows), 0)
