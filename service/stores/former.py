"""What is remembered of rules that counted last, of containers and documents that nobody reads now."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, delete, insert

from service.stores import schema
from service.stores.writes import Former

_BATCH = 500


class Formers:
    """The former rules of one source, in one write transaction. A document is called by its ordinal as text."""

    def __init__(self, connection: Connection, source_id: int) -> None:
        self._connection = connection
        self._source_id = source_id

    def remember(self, found: Mapping[str, Former]) -> None:
        """Store them, in place of what was remembered before."""
        if found:
            rows = [
                {"ref": ref, "source": self._source_id, "around": one.around, "clause": one.clause}
                for ref, one in found.items()
            ]
            self._connection.execute(insert(schema.former).prefix_with("OR REPLACE"), rows)

    def forget(self, refs: Collection[str]) -> None:
        """Forget what is remembered of these."""
        listed = list(refs)
        for start in range(0, len(listed), _BATCH):
            self._connection.execute(
                delete(schema.former).where(
                    schema.former.c.source == self._source_id, schema.former.c.ref.in_(listed[start : start + _BATCH])
                )
            )

    def forget_all(self) -> None:
        """Forget everything of the source."""
        self._connection.execute(delete(schema.former).where(schema.former.c.source == self._source_id))
