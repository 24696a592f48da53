"""The compiled index of one source: its scopes, ACLs and documents, kept in step change by change.

INVARIANT: an ACL, its documents and their rows are in the postings of exactly the own clause, and below exactly the
scope, that the tables name for it. An ACL without an understood own clause is in no posting: nobody's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pyroaring import BitMap, FrozenBitMap

from acl.changes import AclDrop, AclPut, Change, DocumentDrop, DocumentPut, ScopeDrop, ScopePut
from acl.containment import TOP, Containment
from acl.model import Acl, AclId, Caller, Clause, ScopeId, Unknown
from acl.postings import (
    ACLS,
    DOCUMENTS,
    NOTHING,
    SCOPES,
    Bits,
    Compiled,
    Delta,
    Gathered,
    Items,
    Postings,
    compile_clause,
    merged,
    patched,
    union_of,
    without,
)
from acl.principal import Realm
from acl.scopes import ScopeRow, ScopeTree
from acl.tables import Batch, ChunkCounts, Clauses, Members, Tables

_KEPT_SCOPES: Final = 4096


@dataclass(slots=True)
class View:
    """What a caller may read in one source, for every moment `since <= at < until`. Keeps what it saw."""

    acls: FrozenBitMap
    chunk_count: int
    since: datetime
    until: datetime
    _own: Gathered
    _hidden: list[Bits]
    _planes: dict[int, FrozenBitMap] = field(default_factory=dict)

    def plane(self, kind: int) -> FrozenBitMap:
        """The permitted items of a kind, DOCUMENTS or ROWS."""
        found = self._planes.get(kind)
        if found is None:
            found = self._own.plane(kind) - union_of(self._hidden, kind)
            self._planes[kind] = found
        return found


class Shard:
    """One source. Not safe for threads: the owner holds a lock around every call."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._postings = Postings()
        self._tree = Containment()
        self._nodes: dict[ScopeId, int] = {}
        self._ids: list[ScopeId] = [ScopeId(""), ScopeId("")]
        self._labels: list[str] = ["", ""]
        self._scope_clause = array("I", (0, 0))
        self._unknown_scopes: dict[int, str] = {}
        self._unknown_acls: dict[int, tuple[int, str]] = {}
        self._acls_in = Members()
        self._documents_in = Members()
        self._homeless: dict[int, set[int]] = {}
        self._under: dict[int, Bits] = {}
        self._counts = ChunkCounts()
        self._gathered = False
        self._compiled: dict[int, Compiled] = {}
        self._numbered: dict[int, int] = {}
        self._values = ScopeTree.found_by(self._row)
        self.acls = BitMap()
        self.documents = BitMap()
        self.realms: frozenset[Realm] = frozenset()

    # Reading

    def view(self, caller: Caller, missing: frozenset[Realm], at: datetime) -> View:
        """Compute what a caller may read at the moment `at`; `missing` realms are incomplete."""
        found = self._postings.gather(caller, missing, at)
        closed = self._tree.closed(found.plane(SCOPES))
        hidden = [bits for node in closed if (bits := self._hold_under(node))[ACLS] is not None]
        acls = found.plane(ACLS) - union_of(hidden, ACLS)
        self._gathered = True
        return View(acls, self._counts.total(acls), found.since, found.until, found, hidden)

    def knows(self, acl_id: AclId) -> bool:
        """Whether an ACL was put, understood or not."""
        return acl_id in self.acls or acl_id in self._unknown_acls

    def acl(self, acl_id: AclId) -> Acl | Unknown:
        """Return the ACL as `decide` wants it; Unknown when any part of it is."""
        own: Clause | Unknown
        if acl_id in self.acls:
            node, own = self._tables.acl_scope[acl_id], self._tables.clauses.get(self._tables.acl_clause[acl_id])
        elif acl_id in self._unknown_acls:
            node, reason = self._unknown_acls[acl_id]
            own = Unknown(reason)
        else:
            return Unknown(f"ACL {acl_id} is not known")
        if len(self._values) > _KEPT_SCOPES:
            self._values = ScopeTree.found_by(self._row)
        return self._values.acl(None if node == TOP else self._ids[node], own)

    def _row(self, scope_id: ScopeId) -> ScopeRow | None:
        node = self._nodes.get(scope_id)
        if node is None:
            return None
        clause: Clause | Unknown
        if self._scope_clause[node]:
            clause = self._tables.clauses.get(self._scope_clause[node])
        elif node in self._unknown_scopes:
            clause = Unknown(self._unknown_scopes[node])
        else:
            return None
        parent = self._tree.declared[node]
        return ScopeRow(scope_id, None if parent == TOP else self._ids[parent], clause, self._labels[node])

    # Writing

    def apply(self, changes: Iterable[Change]) -> None:
        """Bring the index to the state that the changes name; the last word on each thing counts."""
        scopes: dict[ScopeId, ScopePut | ScopeDrop] = {}
        acls: dict[AclId, AclPut | AclDrop] = {}
        documents: dict[int, DocumentPut | DocumentDrop] = {}
        for change in changes:
            match change:
                case DocumentPut() | DocumentDrop():
                    documents[change.ordinal] = change
                case AclPut() | AclDrop():
                    acls[change.acl_id] = change
                case ScopePut() | ScopeDrop():
                    scopes[change.id] = change
        # Everything leaves its old place before anything enters its new one, so that no step can undo another.
        fresh_documents = self._documents_leave(documents.values())
        fresh_acls = self._acls_leave(acls.values())
        self._put_scopes(scopes.values())
        entering = Batch(self._tables)
        self._tables.grow(
            max((put.acl_id for put, _ in fresh_acls), default=0),
            max((put.ordinal for put in fresh_documents), default=0),
        )
        for put, node in fresh_acls:
            self._acl_enters(put, node, entering)
        for document in fresh_documents:
            self._document_enters(document, entering)
        self._flush(entering, adding=True)
        self._compiled.clear()
        self._numbered.clear()
        self.realms = frozenset(self._postings.realms)

    def _documents_leave(self, changes: Iterable[DocumentPut | DocumentDrop]) -> list[DocumentPut]:
        leaving = Batch(self._tables)
        entering: list[DocumentPut] = []
        for change in changes:
            ordinal = change.ordinal
            if ordinal in self.documents:
                acl = self._tables.document_acl[ordinal]
                if (
                    isinstance(change, DocumentPut)
                    and change.acl_id == acl
                    and change.rows == self._tables.rows(ordinal)
                ):
                    continue
                if acl in self.acls:
                    leaving.document(ordinal)
                elif acl:
                    self._homeless[acl].discard(ordinal)
                    if not self._homeless[acl]:
                        del self._homeless[acl]
            if isinstance(change, DocumentPut):
                entering.append(change)
            else:
                self.documents.discard(ordinal)
        self._flush(leaving, adding=False)
        return entering

    def _acls_leave(self, changes: Iterable[AclPut | AclDrop]) -> list[tuple[AclPut, int]]:
        leaving = Batch(self._tables)
        entering: list[tuple[AclPut, int]] = []
        for change in changes:
            acl = change.acl_id
            node = TOP
            if isinstance(change, AclPut):
                node = TOP if change.scope is None else self._node(change.scope)
                entering.append((change, node))
            if acl in self.acls:
                if isinstance(change, AclPut) and isinstance(change.own, Clause) and self._stands(change, node):
                    entering.pop()
                    continue
                leaving.acl(acl)
                self._tables.clauses.give_up()
                homeless = self._documents_of(acl)
                for ordinal in homeless:
                    leaving.document(ordinal)
                if homeless:
                    self._homeless[acl] = set(homeless)
                self.acls.discard(acl)
            self._unknown_acls.pop(acl, None)
        self._flush(leaving, adding=False)
        return entering

    def _stands(self, change: AclPut, node: int) -> bool:
        acl = change.acl_id
        clauses = self._tables.clauses
        return node == self._tables.acl_scope[acl] and clauses.get(self._tables.acl_clause[acl]) == change.own

    def _documents_of(self, acl: int) -> list[int]:
        found = self._documents_in.at(self._tables.acl_scope[acl])
        if isinstance(found, BitMap):
            narrow = self._postings.narrowest(self._compiled_of(self._tables.acl_clause[acl]), DOCUMENTS)
            found = found if narrow is None else found & narrow
        return [ordinal for ordinal in found if self._tables.document_acl[ordinal] == acl]

    def _acl_enters(self, put: AclPut, node: int, entering: Batch) -> None:
        acl = put.acl_id
        if isinstance(put.own, Unknown):
            self._unknown_acls[acl] = (node, put.own.reason)
            return
        self._tables.put_acl(acl, node, self._number(put.own))
        self.acls.add(acl)
        entering.acl(acl)
        for ordinal in self._homeless.pop(acl, ()):
            entering.document(ordinal)

    def _document_enters(self, put: DocumentPut, entering: Batch) -> None:
        self._tables.put_document(put.ordinal, put.acl_id, put.rows)
        self.documents.add(put.ordinal)
        if put.acl_id in self.acls:
            entering.document(put.ordinal)
        elif put.acl_id:
            self._homeless.setdefault(put.acl_id, set()).add(put.ordinal)

    def _flush(self, batch: Batch, *, adding: bool) -> None:
        if not batch.by_clause:
            return
        delta = Delta()
        for clause, items in batch.by_clause.items():
            delta.add(self._compiled_of(clause), items)
        self._postings.patch(delta, adding=adding)
        under: dict[int, list[Items]] = {}
        for node, items in batch.by_node.items():
            for members, numbers in ((self._acls_in, items.acls), (self._documents_in, items.documents)):
                if numbers:
                    (members.add if adding else members.discard)(node, numbers)
            for here in self._tree.around(node):
                if here in self._under:
                    under.setdefault(here, []).append(items)
        for here, several in under.items():
            self._under[here] = patched(self._under[here], several, adding=adding, in_place=not self._gathered)
        self._counts.change(batch.chunks if adding else {acl: -count for acl, count in batch.chunks.items()})

    # Scopes

    def _node(self, scope_id: ScopeId) -> int:
        """The number of a scope. One that is only named so far gets one too, and is opened to nobody."""
        node = self._nodes.get(scope_id)
        if node is None:
            node = self._nodes[scope_id] = self._tree.add()
            self._ids.append(scope_id)
            self._labels.append("")
            self._scope_clause.append(0)
        return node

    def _put_scopes(self, changes: Iterable[ScopePut | ScopeDrop]) -> None:
        old, new = Delta(), Delta()
        changed: list[int] = []
        for change in changes:
            self._values = ScopeTree.found_by(self._row)
            node = self._node(change.id)
            number = 0
            parent = TOP
            self._unknown_scopes.pop(node, None)
            if isinstance(change, ScopePut):
                self._labels[node] = change.label
                parent = TOP if change.parent is None else self._node(change.parent)
                if isinstance(change.clause, Unknown):
                    self._unknown_scopes[node] = change.clause.reason
                else:
                    number = self._number(change.clause)
            if number != self._scope_clause[node]:
                changed.append(node)
                for which, delta in ((self._scope_clause[node], old), (number, new)):
                    if which:
                        items = Items()
                        items.scopes.append(node)
                        delta.add(self._compiled_of(which), items)
                self._tables.clauses.give_up()
                self._scope_clause[node] = number
            if parent != self._tree.declared[node]:
                for moved in self._tree.place(node, parent):
                    self._move(moved)
        self._postings.patch(old, adding=False)
        self._postings.patch(new, adding=True)
        for node in changed:
            # A scope that asks what one around it asks already is never the first to deny; any other soon will be.
            clause = self._scope_clause[node]
            if all(self._scope_clause[here] != clause for here in self._tree.around(self._tree.parent[node])):
                self._hold_under(node)

    def _move(self, node: int) -> None:
        target = self._tree.target(node)
        if target != self._tree.parent[node]:
            bits = self._bits_under(node)
            for here in self._tree.around(self._tree.parent[node]):
                if here in self._under:
                    self._under[here] = without(self._under[here], bits)
            self._tree.move(node, target)
            for here in self._tree.around(target):
                if here in self._under:
                    self._under[here] = merged(self._under[here], bits)

    def _hold_under(self, node: int) -> Bits:
        found = self._under.get(node)
        if found is None:
            found = self._under[node] = self._bits_under(node)
        return found

    def _bits_under(self, node: int) -> Bits:
        """Everything that lies in a scope, at any depth."""
        parts: list[Bits] = []
        direct: list[Items] = []
        queue = [node]
        for here in queue:
            if here in self._under:
                parts.append(self._under[here])
                continue
            items = Items()
            items.acls.extend(self._acls_in.at(here))
            items.documents.extend(self._documents_in.at(here))
            for ordinal in items.documents:
                items.ranges += self._tables.rows(ordinal)
            direct.append(items)
            queue.extend(self._tree.children(here))
        found = patched(NOTHING, direct, adding=True, in_place=False) if direct else NOTHING
        for bits in parts:
            found = merged(found, bits)
        return found

    # Clauses

    def clauses_used(self) -> int:
        """How many uses of clauses there are."""
        return len(self.acls) + len(self._scope_clause)

    def move_clauses(self, old: Clauses, new: Clauses, moved: dict[int, int]) -> None:
        """Copy every clause in use from old to new storage. moved: the numbers so far, shared by all sources."""

        def number(before: int) -> int:
            if before and before not in moved:
                moved[before] = new.put(old.get(before))
            return moved[before] if before else 0

        for acl in self.acls:
            self._tables.acl_clause[acl] = number(self._tables.acl_clause[acl])
        for node, before in enumerate(self._scope_clause):
            self._scope_clause[node] = number(before)

    def _number(self, clause: Clause) -> int:
        # Many changes of a batch share one clause object, and the batch keeps it alive.
        number = self._numbered.get(id(clause))
        if number is None:
            number = self._numbered[id(clause)] = self._tables.clauses.put(clause)
            if number not in self._compiled:
                self._compiled[number] = compile_clause(clause)
        return number

    def _compiled_of(self, number: int) -> Compiled:
        found = self._compiled.get(number)
        if found is None:
            found = self._compiled[number] = compile_clause(self._tables.clauses.get(number))
        return found
