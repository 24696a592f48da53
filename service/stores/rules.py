"""Writing containers and ACLs within a transaction of a run, with what is held around them (`holds`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from acl.model import AclId, Clause, ScopeId, Unknown
from acl.normalize import encode, fingerprint, normalize
from service.stores import schema
from service.stores.former import Formers
from service.stores.holds import MARKED, REASON, Held, around_container, around_own, label
from service.stores.journal import Journal
from service.stores.sealing import Sealing
from service.stores.writes import Former, ScopeWrite

_BATCH: Final = 500

# Made once: to put these together takes longer than to store a row.
_PUT: Final = upsert(schema.scopes)
_PUT_SCOPE: Final = _PUT.on_conflict_do_update(
    index_elements=["id"],
    set_={name: _PUT.excluded[name] for name in ("parent", "clause", "unknown", "label", "facts")},
)
_PUT_CLAUSE: Final = upsert(schema.clauses).on_conflict_do_nothing()


class Rules:
    """The containers and ACLs of one source, in one write transaction."""

    def __init__(
        self,
        connection: Connection,
        source: str,
        source_id: int,
        sealing: Sealing,
        journal: Journal,
        formers: Formers,
    ) -> None:
        self._connection = connection
        self._source = source
        self._source_id = source_id
        self._sealing = sealing
        self._journal = journal
        self._formers = formers

    def put_scopes(self, scopes: Iterable[ScopeWrite]) -> None:
        """Store containers with their rules and places, and what is held around them."""
        rows: list[dict[str, Any]] = []
        former: dict[str, Former | None] = {}
        for scope in scopes:
            former[scope.id] = scope.former
            names = around_container(scope.id, scope.held)
            rows += self._held_rows(scope.parent, names, scope.held, scope.label)
            around = names[-1] if names else scope.parent
            clause = self._put_clause(scope.clause) if isinstance(scope.clause, Clause) else None
            reason = scope.clause.reason if isinstance(scope.clause, Unknown) else ""
            rows.append(self._scope_row(scope.id, around, clause, reason, scope.label, scope.facts))
        self._put_scope_rows(rows)
        self._formers.forget([scope for scope, was in former.items() if was is None])
        self._formers.remember({scope: was for scope, was in former.items() if was is not None})

    def withhold_scopes(self, scopes: Mapping[ScopeId, Former | None], reason: str) -> None:
        """Let nobody through containers any more; their places stay. Names the rules that counted last."""
        table = schema.scopes.c
        for scope in scopes:
            self._connection.execute(
                update(schema.scopes)
                .where(table.source == self._source_id, table.id == scope)
                .values(
                    clause=None,
                    unknown=self._sealing.seal_of_source(self._source, "unknown", scope, reason),
                    facts=b"",
                )
            )
        self._formers.remember({scope: was for scope, was in scopes.items() if was is not None})
        self._journal.log("scope", list(scopes))

    def release(self, scopes: Mapping[ScopeId, ScopeId | None]) -> None:
        """End what is held around containers, or the inner part of it.

        Names what lies directly around each from the commit on: its parent, where its own rules alone count.
        """
        if scopes:
            self._connection.execute(
                update(schema.scopes)
                .where(schema.scopes.c.id == bindparam("key"))
                .values(parent=bindparam("around", type_=schema.scopes.c.parent.type)),
                [{"key": scope, "around": parent} for scope, parent in scopes.items()],
            )
            self._journal.log("scope", list(scopes))

    def drop_scopes(self, scopes: Collection[ScopeId]) -> None:
        """Remove containers. Documents that still name one are nobody's."""
        for batch in batches(scopes):
            self._connection.execute(
                delete(schema.scopes).where(schema.scopes.c.source == self._source_id, schema.scopes.c.id.in_(batch))
            )
        self._formers.forget(scopes)
        self._journal.log("scope", scopes)

    def intern(self, scope: ScopeId | None, own: Clause | bytes, held: Held = ()) -> AclId:
        """Return the id of a scope, an own clause and what is held between the two; a new one when it has none.

        own: the clause, or the digest of one that is stored. held: clauses that are stored.
        """
        digest = fingerprint(own) if isinstance(own, Clause) else own
        names = around_own(self._source, scope, held)
        around = names[-1] if names else scope
        acls = schema.acls.c
        found = self._connection.scalar(
            select(acls.acl_id).where(
                acls.source == self._source_id, acls.own == digest, acls.scope.is_not_distinct_from(around)
            )
        )
        if found is not None:
            return AclId(found)
        if isinstance(own, Clause):
            self._put_clause(own)
        # The label names no document: many share it.
        self._put_scope_rows(self._held_rows(scope, names, held, "the document's own rules"))
        acl_id = self._journal.next_acl_id()
        self._connection.execute(
            insert(schema.acls).values(acl_id=acl_id, source=self._source_id, scope=around, own=digest)
        )
        self._journal.log("acl", [acl_id])
        return acl_id

    def drop_unused(self) -> None:
        """Remove ACLs that no document of the source has, held scopes that nothing lies in, and clauses without use.

        Ids stay used up.
        """
        acls, scopes, documents = schema.acls.c, schema.scopes.c, schema.documents.c
        in_use = select(documents.acl_id).where(documents.source == self._source_id, documents.deleted.is_(False))
        unused = self._connection.scalars(
            select(acls.acl_id).where(acls.source == self._source_id, acls.acl_id.not_in(in_use))
        ).all()
        for batch in batches(unused):
            self._connection.execute(delete(schema.acls).where(acls.acl_id.in_(batch)))
        self._journal.log("acl", unused)
        dropped = bool(unused)
        inner = select(acls.scope).where(acls.scope.is_not(None))
        around = schema.scopes.alias()
        parents = select(around.c.parent).where(around.c.parent.is_not(None))
        # One around another goes in the next round.
        while ended := self._connection.scalars(
            select(scopes.id).where(
                scopes.source == self._source_id,
                scopes.id.like(MARKED),
                scopes.id.not_in(inner),
                scopes.id.not_in(parents),
            )
        ).all():
            self.drop_scopes(ended)
            dropped = True
        if dropped:
            named = select(acls.own).union(
                select(scopes.clause).where(scopes.clause.is_not(None)), select(schema.former.c.clause)
            )
            self._connection.execute(delete(schema.clauses).where(schema.clauses.c.digest.not_in(named)))

    def _held_rows(self, around: ScopeId | None, names: Sequence[ScopeId], held: Held, of: str) -> list[dict[str, Any]]:
        outer = [around, *names]
        return [
            self._scope_row(name, outer[number - 1], clause, REASON, label(of, number), b"")
            for number, (name, clause) in enumerate(zip(names, held, strict=True), start=1)
        ]

    def _scope_row(
        self, scope: ScopeId, parent: ScopeId | None, clause: bytes | None, reason: str, called: str, facts: bytes
    ) -> dict[str, Any]:
        """Make a row. `reason`: why there is no clause, when there is none."""
        unknown = self._sealing.seal_of_source(self._source, "unknown", scope, reason) if clause is None else None
        return {
            "id": scope,
            "source": self._source_id,
            "parent": parent,
            "clause": clause,
            "unknown": unknown,
            "label": self._sealing.seal_of_source(self._source, "label", scope, called),
            "facts": facts,
        }

    def _put_scope_rows(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._connection.execute(_PUT_SCOPE, rows)
            self._journal.log("scope", [row["id"] for row in rows])

    def _put_clause(self, clause: Clause) -> bytes:
        digest = fingerprint(clause)
        self._connection.execute(_PUT_CLAUSE, {"digest": digest, "body": encode(normalize(clause))})
        return digest


def batches(values: Collection[Any]) -> Iterable[list[Any]]:
    """Cut into what one statement can name."""
    listed = list(values)
    for start in range(0, len(listed), _BATCH):
        yield listed[start : start + _BATCH]
