"""What a write transaction leaves for followers: numbers never used again, the change log, the index's feed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import Connection, Integer, cast, delete, exists, func, insert, select, update

from acl.model import AclId
from service.stores import schema

_MOST_DEAD: Final = 10_000
_MOST_DEAD_ROWS: Final = 100_000


class Journal:
    """The numbers, the log and the feed of one write transaction."""

    def __init__(self, connection: Connection, source_id: int) -> None:
        self._connection = connection
        self._source_id = source_id
        found = connection.execute(select(schema.counters)).one()
        self.change: int = found.change
        self._feed: int = found.feed
        self._ordinal: int = found.ordinal
        self._row: int = found.row
        self._acl_id: int = found.acl_id

    def close(self) -> None:
        """Write the numbers that were given out; do it before the commit."""
        self._connection.execute(
            update(schema.counters).values(
                change=self.change, feed=self._feed, ordinal=self._ordinal, row=self._row, acl_id=self._acl_id
            )
        )

    def next_ordinal(self) -> int:
        """Give out a document's number."""
        self._ordinal += 1
        return self._ordinal

    def next_acl_id(self) -> AclId:
        """Give out an ACL's number."""
        self._acl_id += 1
        return AclId(self._acl_id)

    def next_rows(self, count: int) -> int:
        """Give out `count` neighbouring rows and return the first."""
        first = self._row + 1
        self._row += count
        return first

    def log(self, kind: str, refs: Collection[str | int]) -> None:
        """Put things at the change log's end, in their order from `change` + 1 on: kind and what names each."""
        if refs:
            first = self.change + 1
            self.change += len(refs)
            self._connection.execute(
                insert(schema.changes).prefix_with("OR REPLACE"),
                [
                    {"seq": first + n, "source": self._source_id, "kind": kind, "ref": str(ref)}
                    for n, ref in enumerate(refs)
                ],
            )

    def hold(self, rows: Sequence[tuple[int, int]]) -> None:
        """Tell the index to hold chunks: (row, ordinal)."""
        self._tell(rows)

    def forget(self, start: int, stop: int) -> None:
        """Tell the index to forget the chunks of these rows."""
        self._tell([(row, None) for row in range(start, stop)])

    def _tell(self, rows: Sequence[tuple[int, int | None]]) -> None:
        if rows:
            first = self._feed + 1
            self._feed += len(rows)
            self._connection.execute(
                insert(schema.feed).prefix_with("OR REPLACE"),
                [{"seq": first + n, "row": row, "ordinal": ordinal} for n, (row, ordinal) in enumerate(rows)],
            )


def forget_dead(connection: Connection) -> None:
    """Take out of the change log what became of things that are gone, once that is much.

    Only while nobody follows the log: who begins with it, begins with what there is. A follower learns of an end by it.
    """
    changes, documents = schema.changes.c, schema.documents.c
    there = {
        "document": (
            schema.documents,
            (documents.ordinal == cast(changes.ref, Integer)) & documents.deleted.is_(False),
        ),
        "acl": (schema.acls, schema.acls.c.acl_id == cast(changes.ref, Integer)),
        "scope": (schema.scopes, schema.scopes.c.id == changes.ref),
        "membership": (schema.memberships, schema.memberships.c.id == changes.ref),
    }
    counted = [
        select(func.count()).select_from(table) for table in (schema.changes, *(one for one, _ in there.values()))
    ]
    logged, *live = (connection.scalar(count) or 0 for count in counted)
    if logged - sum(live) <= _MOST_DEAD:
        return
    for kind, (table, same) in there.items():
        found = exists().select_from(table).where(same)
        connection.execute(delete(schema.changes).where(changes.kind == kind, ~found))


def forget_dead_rows(connection: Connection, applied: int) -> None:
    """Take out of the index's feed the rows that are to be forgotten, once they are most of it.

    applied: every index has durably applied this place. An index that is made anew meanwhile was never told of them:
    a row stands in the feed once, and moves to its end when it is to be forgotten.
    """
    feed = schema.feed.c
    rows, dead, last = connection.execute(
        select(func.count(), func.count().filter(feed.ordinal.is_(None)), func.max(feed.seq))
    ).one()
    if dead > _MOST_DEAD_ROWS and 2 * dead > rows:
        # INVARIANT: the feed's end stays, so that who follows from its beginning arrives where the others are.
        gone = (feed.ordinal.is_(None), feed.seq <= applied, feed.seq < last)
        connection.execute(delete(schema.feed).where(*gone))
