"""What it costs until another rule of a container is durable: one commit, whatever lies below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import event

from acl.model import ScopeId
from connectors.base import ScopeChange
from service.sync.breaker import BreakerLimits
from service.sync.met import Met
from service.sync.questions import Questions
from service.sync.runs import Progress
from service.sync.walk import Walk
from tests.service.sync_support import SOURCE, allow, open_world


def test_a_container_s_rules_are_durable_with_one_commit_and_one_change(tmp_path: Path) -> None:
    """The key store is not written for it, no document below is, and the next question is answered by the new rules."""
    with open_world(tmp_path) as world:
        for number in range(30):
            world.add(f"{number}.txt", f"text {number}", allow(1, 2))
        world.sync()
        assert len(world.readable(1)) == len(world.readable(2)) == 30
        opening = world.catalog.open_run(SOURCE, world.clock())
        with world.catalog.reader() as reader:
            before = reader.seq
        progress = Progress(opening.run)
        walk = Walk(
            world.catalog,
            world.keys,
            opening,
            progress,
            Met(),
            todo=lambda todo: None,
            mark=lambda mark: None,
            on_commit=lambda: None,
            settings="",
            limits=BreakerLimits(),
            questions=Questions(opening.run, progress, lambda stop: None),
        )
        commits: list[str] = []

        def committed(connection: Any) -> None:
            commits.append(Path(connection.engine.url.database).name)

        walk.apply(ScopeChange(ScopeId("root"), None, allow(2, 3), "/"))
        for engine in (world.catalog._writer, world.keys._writer):
            event.listen(engine, "commit", committed)
        walk.flush()

        assert commits == ["catalog.sqlite"]
        with world.catalog.reader() as reader:
            changed = reader.changes_since(before)
        assert len(changed) == 2, "the container, and what is held around it until the run has verified it"
        assert not world.readable(1)
        assert len(world.readable(2)) == 30
