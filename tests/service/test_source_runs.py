"""Runs that operators start: what happens when one cannot be recorded, and when the service ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from service.errors import AuditUnavailableError, NotFoundError
from service.settings import SourceSettings
from service.stores.catalog import Catalog
from service.stores.records import Counts, RunState, StoredRun, SyncPass
from service.sync.engine import SyncEngine
from service.sync.removal import Removals
from service.sync.source_runs import SourceRuns


class Progress:
    """The counts of a run that nobody looks at."""

    def snapshot(self) -> StoredRun:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return StoredRun("r", "company", RunState.SUCCEEDED, at, at, Counts())


class Run:
    """An opened run that notes what is done with it."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.done: list[str] = []

    def stop(self) -> None:
        self.done.append("stop")

    def execute(self) -> StoredRun:
        self.done.append("execute")
        return self.progress.snapshot()


class Engine:
    """An engine with one run."""

    def __init__(self) -> None:
        self.one = Run()

    def open(self, source: str, sync_pass: SyncPass) -> Run:
        return self.one

    def stop(self) -> None:
        self.one.done.append("engine stopped")

    def cancel_source(self, source: str) -> None:
        self.one.done.append(f"cancelled {source}")


def runs(engine: Engine, error: Exception | None) -> SourceRuns:
    """Runs over one source, whose record is refused with `error`."""

    def started(run: StoredRun) -> None:
        if error is not None:
            raise error

    return SourceRuns(
        {"company": SourceSettings("company", "memory", timedelta(days=1), {})},
        cast(Catalog, object()),
        cast(SyncEngine, engine),
        lambda name: pytest.fail("nothing is connected here"),
        started,
        cast(Removals, object()),
    )


@pytest.mark.parametrize("error", [AuditUnavailableError("the disk is full"), RuntimeError("a defect")])
def test_a_run_without_a_record_reads_nothing_and_ends(error: Exception) -> None:
    """Whatever refuses the record: the run is told to stop before it executes, so it has an end and no reading."""
    engine = Engine()

    with pytest.raises(type(error)):
        runs(engine, error).start("company")

    assert engine.one.done == ["stop", "execute"]


def test_a_recorded_run_executes_and_close_waits_for_it() -> None:
    """The allowed neighbour: it is executed once, and is over when `close` returns."""
    engine = Engine()
    found = runs(engine, None)

    found.start("company")
    found.close()

    assert sorted(engine.one.done) == ["engine stopped", "execute"]


def test_other_settings_end_the_run_that_reads_by_the_former_ones() -> None:
    """Of the source that differs or is gone; the same settings end nothing."""
    engine = Engine()
    found = runs(engine, None)
    same = SourceSettings("company", "memory", timedelta(days=1), {})

    found.use([same, SourceSettings("second", "memory", timedelta(days=1), {})])
    assert engine.one.done == []
    found.use([SourceSettings("company", "memory", timedelta(days=1), {"root": "/elsewhere"})])

    assert sorted(engine.one.done) == ["cancelled company", "cancelled second"]
    with pytest.raises(NotFoundError):
        found.start("second")
    found.start("company")
    found.close()
    assert "execute" in engine.one.done
