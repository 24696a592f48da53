"""How the catalog looks for what a run asks of it: SQLite has no idea how many documents a source has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import event

from acl.model import ScopeId
from connectors.testing.hostile import MemoryScope
from service.stores.records import RunState, SyncPass
from tests.service.sync_support import World, allow, open_world

_NAMES_SOME: Final = re.compile(r"(ordinal|native|acl_id|document_id) (= \?|IN \(\?)")
_ALL_OF_A_SOURCE: Final = re.compile(r"(SCAN documents\b|SEARCH documents .*\(source=\?( AND deleted=\?)?\))")


@contextmanager
def heard(world: World) -> Iterator[dict[str, Any]]:
    """Collect every statement over documents, with values that it was asked with."""
    found: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:
        if "documents" in statement and not statement.startswith("INSERT"):
            found[statement] = values[0] if many else values

    engines = (world.catalog._readers, world.catalog._writer)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


def plan(world: World, statement: str, values: Any) -> str:
    """Say how SQLite goes about a statement."""
    with world.catalog._writer.begin() as connection:
        return "\n".join(row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values))


def test_a_run_that_looks_for_some_documents_does_not_read_all(tmp_path: Path) -> None:
    """Whatever changed: who names documents, contents or ACLs finds them by an index that has these in it."""
    with open_world(tmp_path) as world:
        world.source.scopes[ScopeId("below")] = MemoryScope(ScopeId("root"), allow(1, 2, 3), "/below")
        for number in range(12):
            world.add(f"{number}.txt", f"text {number}", allow(1, 2), "root" if number % 2 else "below")
        assert world.sync().state is RunState.SUCCEEDED

        with heard(world) as statements:
            world.add("1.txt", "text 1", allow(1, 2, 3))  # wider
            world.add("2.txt", "text 2", allow(1), "below")  # narrower
            world.add("3.txt", "text 3", allow(1, 2), "below")  # moved
            world.add("4.txt", "another text", allow(1, 2), "below")  # changed, and not read by the first pass
            del world.source.documents["5.txt"]
            world.source.scopes[ScopeId("root")] = MemoryScope(None, allow(1, 2), "/")
            assert world.sync(SyncPass.PERMISSIONS).state is RunState.SUCCEEDED
            assert world.sync().state is RunState.SUCCEEDED

        some = {statement: values for statement, values in statements.items() if _NAMES_SOME.search(statement)}
        assert len(some) >= 8, "the pattern still finds them"
        for statement, values in some.items():
            assert not _ALL_OF_A_SOURCE.search(plan(world, statement, values)), statement


def test_counting_and_listing_a_source_reads_no_rows(tmp_path: Path) -> None:
    """How many there are, which, and which of them are tombstones stands in an index."""
    with open_world(tmp_path) as world:
        world.add("a.txt", "text", allow(1))
        assert world.sync().state is RunState.SUCCEEDED
        documents = world.catalog.open_run("company", world.clock()).documents

        with heard(world) as statements:
            assert (len(documents), list(documents.ordinals())) == (1, [1])
        assert len(statements) == 2
        for statement, values in statements.items():
            assert "USING COVERING INDEX" in plan(world, statement, values), statement

        with heard(world) as statements:
            world.catalog.open_run("company", world.clock())
        (buried,) = [one for one in statements if "deleted IS 1" in one]
        assert "INDEX documents_buried" in plan(world, buried, statements[buried])


def test_a_catalog_without_a_later_index_gets_it(tmp_path: Path) -> None:
    """As one that an earlier version made; what stands in it is the same afterwards."""
    with open_world(tmp_path) as world:
        world.add("a.txt", "text", allow(1))
        assert world.sync().state is RunState.SUCCEEDED
        before = world.readable(1)
        with world.catalog._writer.begin() as connection:
            connection.exec_driver_sql("DROP INDEX documents_rules")
            connection.exec_driver_sql("DROP INDEX documents_buried")

    with open_world(tmp_path) as world, world.catalog._readers.begin() as connection:
        rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")
        assert {"documents_rules", "documents_buried"} <= {row.name for row in rows}
        assert world.readable(1) == before != {}
