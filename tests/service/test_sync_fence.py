"""A run that is no longer the source's latest writes nothing, whatever it was about to write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from acl.model import ScopeId
from connectors.base import Upsert
from connectors.testing.hostile import MemoryScope
from service.stores.catalog import Opening
from service.stores.checkpoints import StoredCheckpoint
from service.stores.errors import FencedError
from service.stores.records import PassClock, RunState, SyncPass
from service.stores.stops import Stop, StopKind, StopState
from service.sync.breaker import BreakerLimits
from service.sync.ending import Ending
from service.sync.met import Met
from service.sync.questions import Questions
from service.sync.rules_only import RulesOnly
from service.sync.runs import Progress
from service.sync.walk import Walk
from tests.service.sync_support import SOURCE, World, allow, everything, open_world

ROOT = ScopeId("root")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        for number in range(4):
            opened.add(f"{number}.txt", f"text {number}", allow(1, 2))
        opened.sync()
        yield opened


def paused(world: World) -> tuple[Walk, Ending]:
    """A run that was opened, has looked at everything, and is then paused while another one is opened."""
    opening = world.catalog.open_run(SOURCE, world.clock())
    progress = Progress(opening.run)
    questions = Questions(opening.run, progress, lambda stop: None)
    walk = Walk(
        world.catalog,
        world.keys,
        opening,
        progress,
        Met(),
        todo=lambda todo: None,
        mark=RulesOnly(world.catalog, opening).put,
        on_commit=lambda: None,
        settings="",
        limits=BreakerLimits(),
        questions=questions,
    )
    ending = Ending(world.catalog, opening, walk, progress, BreakerLimits(), lambda: None, questions)
    return walk, ending


def _writes(world: World, opening: Opening) -> dict[str, Callable[[], object]]:
    """Each kind of write that a run or its end makes, called with its number."""
    known = opening.documents.get(opening.documents.ordinals())

    def within(write: Callable[..., object]) -> Callable[[], object]:
        def run() -> None:
            with world.catalog.writer(SOURCE, opening.fence) as writer:
                write(writer)

        return run

    checkpoint = StoredCheckpoint("", world.clock(), {}, Met().seen, Met().seen, {}, frozenset())
    stop = Stop("", SOURCE, StopKind.PURGE, StopState.WAITING, 1, 1, "run", world.clock(), frozenset())
    return {
        "wider rules": within(lambda w: w.give([(known[0], w.rules.intern(known[0].scope, allow(1, 2, 3)))])),
        "a container": within(lambda w: w.rules.release({ROOT: None})),
        "tombstones": within(lambda w: w.bury([known[0].ordinal])),
        "a purge": lambda: world.catalog.purge(SOURCE, opening.fence),
        "the end": within(
            lambda w: w.complete(SyncPass.CONTENT, PassClock(world.clock(), world.clock() - world.clock.time), "{}")
        ),
        "a checkpoint": within(lambda w: w.checkpoints.put(SyncPass.CONTENT, checkpoint)),
        "a hold": within(lambda w: w.stops.hold(stop)),
        "a run": within(lambda w: w.save_run(replace(opening.run, state=RunState.SUCCEEDED))),
        "shredding": lambda: world.catalog.shred_source(SOURCE, opening.fence),
    }


WRITES = (
    *("wider rules", "a container", "tombstones", "a purge", "the end", "a checkpoint"),
    *("a hold", "a run", "shredding"),
)


@pytest.mark.parametrize("what", WRITES)
def test_no_write_of_an_older_run_is_made(world: World, what: str) -> None:
    """Refused, with nothing changed and no key shredded; the same write of the latest run is made."""
    opening = world.catalog.open_run(SOURCE, world.clock())
    with world.catalog.writer(SOURCE, opening.fence) as writer:
        writer.bury([opening.documents.ordinals().max()])  # something for a purge to do
    later = world.catalog.open_run(SOURCE, world.clock())
    with world.catalog.writer(SOURCE, later.fence) as writer:
        writer.bury([later.documents.ordinals().max()])
    writes = _writes(world, opening)
    assert set(writes) == set(WRITES)
    before = everything(world)

    with pytest.raises(FencedError):
        writes[what]()

    assert everything(world) == before
    _writes(world, later)[what]()
    assert everything(world) != before


def test_a_paused_run_brings_back_no_wider_rules(world: World) -> None:
    """It read rules, slept, and another run narrowed them: what it wakes up with is refused at every step."""
    walk, ending = paused(world)
    changes = list(world.source.changes(None))
    for change in changes[:-1]:
        walk.apply(change)
    narrowed = {name: replace(one, own=allow(1)) for name, one in world.source.documents.items()}
    world.source.documents.update(narrowed)
    world.source.scopes[ROOT] = MemoryScope(None, allow(1, 2), "/")
    assert world.sync().state is RunState.SUCCEEDED
    assert world.readable(2) == {}

    def wake_up() -> None:
        for change in changes[:-1]:
            walk.apply(replace(change, own=allow(1, 2, 3)) if isinstance(change, Upsert) else change)
        walk.flush()

    def end() -> None:
        walk.apply(changes[-1])
        ending.finish()

    for step in (wake_up, end):
        with pytest.raises(FencedError):
            step()

    assert (world.readable(2), len(world.readable(1))) == ({}, 4)
    assert world.keys.documents(SOURCE) == {one.document_id for one in world.documents().values()}


def test_a_run_that_was_overtaken_ends_as_failed(world: World) -> None:
    """While its text is extracted another number is taken: the text is not stored, and the run says why."""
    world.add("0.txt", "other text", allow(1, 2))
    taken = threading.Event()

    def overtake(text: str) -> None:
        if not taken.is_set():
            taken.set()
            world.catalog.take_fence(SOURCE)

    world.extractor.before = overtake
    run = world.sync()

    assert run.state is RunState.FAILED
    assert "no longer the latest" in run.failure
    assert world.readable(1)["0.txt"] == ["text 0"]
