"""A run that was interrupted goes on from its last checkpoint, and ends as one that was not."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acl.model import Clause, ScopeId, Unknown
from connectors.errors import FatalError, RetriableError
from connectors.testing.hostile import Faults, MemoryScope, MemorySource
from service.stores.records import RunState, StoredRun, SyncPass
from service.sync import texts, walk
from service.sync.engine import Policy
from tests.service.history import History, held
from tests.service.sync_support import FREE, SOURCE, World, allow, open_world, truth

ROOT, TEAM = ScopeId("root"), ScopeId("team")
DOCUMENTS = 12


@pytest.fixture(autouse=True)
def every_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches, and every checkpoint that is offered is stored."""
    monkeypatch.setattr(walk, "CHECKPOINT_EVERY", timedelta(0))
    monkeypatch.setattr(walk, "MOST_CHANGES", 2)
    monkeypatch.setattr(texts, "_BATCH_DOCUMENTS", 2)


def source() -> MemorySource:
    """Twelve documents, half of them in a team's folder, with a checkpoint after each third one."""
    made = MemorySource(checkpoint_every=3)
    made.scopes[ROOT] = MemoryScope(None, allow(1, 2, 3), "/")
    made.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2), "/team")
    return made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path, source()) as opened:
        fill(opened)
        yield opened


def fill(world: World) -> None:
    """Put the documents."""
    for number in range(DOCUMENTS):
        world.add(f"{number:02}.txt", f"text {number}", allow(1, 2), ("root", "team")[number % 2])


def interrupt(world: World, at: int, error: Exception | None = None, *, stored: int = 0) -> None:
    """Run a sync that fails at this change, not before the checkpoint behind so many documents is stored."""

    def wait(number: int) -> None:
        until = time.monotonic() + 30
        while number == at and stored and not _met_before(world) >= stored:
            assert time.monotonic() < until, "the checkpoint is stored when the texts before it are"
            time.sleep(0.01)

    world.source.faults = Faults(fail_at=at, error=error or RetriableError("the line is cut"), before_change=wait)
    run = world.sync()
    assert run.state is RunState.FAILED, run
    world.source.faults = Faults()


def _met_before(world: World) -> int:
    """How many documents come before the stored checkpoint; 0 without one."""
    with world.catalog._readers.begin() as connection:
        body = connection.exec_driver_sql("SELECT body FROM checkpoints").scalar()
    if body is None:
        return 0
    sent = json.loads(world.catalog.sealing.open_of_source(SOURCE, "checkpoint", "", body))["cursor"]["sent"]
    return int(sent)


def resumed(world: World, sync_pass: SyncPass = SyncPass.CONTENT) -> StoredRun:
    """Run a sync to its end."""
    world.source.reads.clear()
    run = world.sync(sync_pass)
    assert run.state is RunState.SUCCEEDED, run
    return run


def test_a_run_goes_on_from_the_last_checkpoint(world: World) -> None:
    """What was sent before is not sent again, counts as seen, and is verified as of the first part."""
    world.source.faults.during_read = lambda document: None
    began = world.clock.time + timedelta(seconds=1)
    interrupt(world, 2 + 10, stored=6)  # behind both containers and ten changes: eight documents, two checkpoints

    run = resumed(world)

    cursor = world.source.cursors[-1]
    assert run.resumed
    assert cursor is not None
    assert run.counts.seen == DOCUMENTS - int(str(cursor["sent"])) < DOCUMENTS
    assert len(world.readable(1)) == DOCUMENTS
    with world.catalog.reader() as reader:
        clock = reader.clocks()[SOURCE][SyncPass.PERMISSIONS]
    assert clock.verified_at == began
    again = resumed(world)
    assert (again.resumed, again.counts.seen, again.counts.stored, again.counts.removed) == (False, DOCUMENTS, 0, 0)


def test_what_was_deleted_between_the_parts_goes_with_the_next_run(world: World) -> None:
    """It was there when the run began, which is all that the run says; what was not listed at all is swept."""
    resumed(world)
    del world.source.documents["10.txt"]
    interrupt(world, 2 + 8, stored=6)
    del world.source.documents["01.txt"]

    assert resumed(world).counts.removed == 1
    assert resumed(world).counts.removed == 1
    assert set(world.readable(1)) == set(world.source.documents)


def test_a_container_that_opens_between_the_parts_opens_no_older_text(world: World) -> None:
    """Redacted and opened while nobody looked: the text that the first part read stays under old and new rules."""
    history = History(world, users=(1, 2, 3))
    history.change(lambda: None)
    interrupt(world, 2 + 10, stored=6)

    def publish() -> None:
        world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2, 3), "/team")
        for name, document in list(world.source.documents.items()):
            world.source.documents[name] = replace(document, content=b"redacted", own=allow(1, 2, 3))

    history.change(publish)
    history.sync()
    assert held(world) > 0
    history.sync()
    assert held(world) == 0
    assert world.readable(3) == truth(world.source, 3)


def test_what_narrows_between_the_parts_is_in_force_with_the_next_word_on_it(world: World) -> None:
    """A container is sent again first, so that nobody waits for the documents."""
    resumed(world)
    interrupt(world, 2 + 10, stored=6)
    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1), "/team")
    interrupt(world, 3)

    assert len(world.readable(1)) == DOCUMENTS
    assert len(world.readable(2)) == DOCUMENTS // 2


@pytest.mark.parametrize("why", ["another pass", "other settings", "too late", "a fatal error", "listed anew"])
def test_a_run_begins_anew_when_what_was_met_is_of_another_time(tmp_path: Path, why: str) -> None:
    """Whatever came in between: nothing counts as seen that this run did not see, and everything is stored."""
    with open_world(tmp_path, source(), replace(FREE, settings="one", resume_within=timedelta(minutes=30))) as world:
        made = world.source
        fill(world)
        interrupt(world, 2 + 10, FatalError("no") if why == "a fatal error" else None, stored=6)
        if why == "another pass":
            resumed(world, SyncPass.PERMISSIONS)
        if why == "too late":
            world.clock.time += timedelta(hours=1)
        if why == "listed anew":
            made.documents = {name: made.documents[name] for name in sorted(made.documents, reverse=True)}
    other = Policy(FREE.breaker, timedelta(minutes=30), "two" if why == "other settings" else "one")
    with open_world(tmp_path, made, other) as world:
        world.clock.time += timedelta(hours=2 if why == "too late" else 0)
        run = resumed(world)
        assert (run.resumed, run.counts.seen) == (False, DOCUMENTS)
        assert len(world.readable(1)) == DOCUMENTS


def test_a_checkpoint_says_nothing_of_names_in_the_clear(world: World) -> None:
    """Its cursor is sealed."""
    interrupt(world, 2 + 10, stored=6)
    with world.catalog._readers.begin() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM checkpoints").all()
    assert rows
    assert "txt" not in repr(rows)


_clauses = st.sampled_from([allow(1), allow(1, 2), Clause(()), Unknown("not understood")])
_change = st.one_of(
    st.tuples(st.just("own"), st.integers(0, DOCUMENTS - 1), _clauses),
    st.tuples(st.just("text"), st.integers(0, DOCUMENTS - 1)),
    st.tuples(st.just("drop"), st.integers(0, DOCUMENTS - 1)),
    st.tuples(st.just("container"), _clauses),
)


def apply(world: World, change: tuple[object, ...]) -> None:
    """Change the source."""
    name = f"{change[1]:02}.txt" if isinstance(change[1], int) else ""
    found = world.source.documents.get(name)
    match change:
        case ("own", _, Clause() | Unknown() as clause) if found is not None:
            world.source.documents[name] = replace(found, own=clause)
        case ("text", _) if found is not None:
            world.source.documents[name] = replace(found, content=found.content + b" and more")
        case ("drop", _):
            world.source.documents.pop(name, None)
        case ("container", Clause() | Unknown() as clause):
            world.source.scopes[TEAM] = MemoryScope(ROOT, clause, "/team")
        case _:
            pass


@settings(max_examples=max(12, settings().max_examples // 8))
@given(st.lists(_change, max_size=6), st.lists(st.integers(0, 22), min_size=1, max_size=3))
def test_a_run_in_parts_ends_as_one_in_one_piece(changes: list[tuple[object, ...]], cuts: list[int]) -> None:
    """Wherever it is cut, and however often: nothing is held, lost or doubled, and everybody reads what is so."""
    with tempfile.TemporaryDirectory() as folder, open_world(Path(folder), source()) as world:
        fill(world)
        resumed(world)
        for change in changes:
            apply(world, change)
        for cut in cuts:
            interrupt(world, cut)

        resumed(world)

        for user in (1, 2, 3):
            assert world.readable(user) == truth(world.source, user)
        assert len(world.documents()) == len(world.source.documents)
        assert held(world) == 0
        again = resumed(world)
        assert (again.counts.stored, again.counts.permissions_changed, again.counts.removed) == (0, 0, 0)
        assert not world.source.reads
