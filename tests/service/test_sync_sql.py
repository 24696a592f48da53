"""A database through the sync: what happens to what is stored when the declaration changes."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from connectors.base import Connector
from connectors.registry import build
from service.stores.records import RunState
from service.sync.engine import SyncEngine
from tests.service.sync_support import SOURCE, open_world


def test_a_text_is_not_served_under_rules_that_were_declared_for_another_column(tmp_path: Path) -> None:
    """An administrator has the public summary indexed in place of the report, for everybody: the report is gone."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/reports.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE reports (id integer, report text, summary text, revision integer)")
        connection.exec_driver_sql("INSERT INTO reports VALUES (1, 'the losses', 'all is well', 1)")
    engine.dispose()
    text, readers = "report", [1]

    def connect(name: str) -> Connector:
        columns = {"table": "reports", "key": "id", "text": text, "version": "revision", "title": "id"}
        principals = [f"posix:corp:uid-{number}" for number in readers]
        documents = {**columns, "modified_at": "id", "rules": [{"effect": "allow", "principals": principals}]}
        options = {"url": "sqlite:///reports.db", "audience": ["posix:corp:uid-1", "posix:corp:uid-2"]}
        return build("sql", {**options, "documents": documents}, tmp_path, name)

    with open_world(tmp_path) as world:
        sync = SyncEngine(
            world.catalog, world.keys, connect, world.extractor, world.embedder, limit_bytes=1000, now=world.clock
        )
        sync.run(SOURCE)
        assert world.readable(1) == {"1": ["the losses"]}
        text, readers = "summary", [1, 2]

        assert sync.run(SOURCE).state is RunState.SUCCEEDED

        assert world.readable(2) == {"1": ["all is well"]}
        sync.run(SOURCE)
        assert world.extractor.extracted == ["the losses", "all is well"], (
            "what is declared as before is not read again"
        )
