"""The law of `test_sync_held` for everything at once: both passes, runs in parts, documents that are sent twice, and a
circuit breaker about which somebody decides."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.errors import RetriableError
from connectors.testing.hostile import Faults
from service.stores.records import RunState, SyncPass
from service.stores.stops import StopState
from service.sync import texts, walk
from service.sync.breaker import BreakerLimits
from service.sync.engine import Policy
from tests.service.sync_support import SOURCE, World, open_world
from tests.service.test_sync_held import _BEGINNING, Program, SaysAgain, _during, _names, _step

GONE = "the mount is gone"

_run = st.tuples(
    st.just("run"),
    _during,
    st.one_of(st.none(), st.none(), st.integers(0, 12)),
    st.frozensets(_names, max_size=1),
    st.sampled_from(list(SyncPass)),
    st.frozensets(_names, max_size=2),
)
_word = st.tuples(st.just("word"), st.sampled_from([StopState.APPROVED, StopState.APPROVED, StopState.REJECTED]))
_program = st.lists(st.one_of(_step, _step, _run, _run, _word), min_size=3, max_size=16)


class Mixed(Program):
    """Runs of any kind. A container does not go there and back before a run is complete: no walk can notice."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.world = world
        self.touched: set[object] = set()

    def step(self, step: tuple[object, ...]) -> None:
        """See `Program`."""
        if step[0] in ("scope", "rules", "no scope"):
            if step[1] in self.touched:
                return
            self.touched.add(step[1])
        super().step(step)

    def mixed(
        self,
        during: list[tuple[int, tuple[object, ...]]],
        fail_at: int | None,
        changing: frozenset[str],
        sync_pass: SyncPass,
        again: frozenset[str],
    ) -> None:
        """Run a sync, during which the source changes, and hold all of its commits against what ever was."""
        waiting = sorted(during, key=lambda one: one[0])

        def meanwhile(number: int) -> None:
            while waiting and waiting[0][0] <= number:
                self.step(waiting.pop(0)[1])

        assert isinstance(self.source, SaysAgain)
        self.source.again = again
        error = RetriableError(GONE)
        self.source.faults = Faults(fail_at=fail_at, error=error, changing=set(changing), before_change=meanwhile)
        run = self.world.sync(sync_pass)
        self.source.faults, self.source.again = Faults(), frozenset()
        self.history.check()
        assert self.history.leaks == []
        assert run.failure == ("" if fail_at is None else GONE)
        if run.state is RunState.SUCCEEDED:
            self.touched.clear()

    def decide(self, state: StopState) -> None:
        """Say a word on what is held, if anything is."""
        with self.world.catalog.reader() as reader:
            stops = reader.stops(SOURCE)
        for stop in stops[:1]:
            self.world.catalog.decide_stop(stop.hold_id, state, "u-1007", self.world.clock())


@pytest.mark.parametrize("share", [1.0, 0.3])
@settings(max_examples=max(12, settings().max_examples // 8))
@given(steps=_program)
def test_nothing_is_served_that_was_never_so_whatever_the_runs_are(
    steps: list[tuple[object, ...]], share: float
) -> None:
    """However changes, passes, failures, second words and decisions follow each other."""
    policy = Policy(BreakerLimits(share, share, least=1))
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory() as folder,
        open_world(Path(folder), SaysAgain(checkpoint_every=1), policy) as world,
    ):
        patch.setattr(walk, "MOST_CHANGES", 1)
        patch.setattr(walk, "CHECKPOINT_EVERY", timedelta(0))
        patch.setattr(texts, "_BATCH_DOCUMENTS", 1)
        program = Mixed(world)
        for beginning in _BEGINNING:
            program.step(beginning)
        program.mixed([], None, frozenset(), SyncPass.CONTENT, frozenset())
        for step in steps:
            match step:
                case ("run", list(during), fail_at, frozenset(changing), SyncPass() as sync_pass, frozenset(again)):
                    failing = fail_at if isinstance(fail_at, int) else None
                    program.mixed(during, failing, changing, sync_pass, again)
                case ("word", StopState() as state):
                    program.decide(state)
                case _:
                    program.step(step)
        for _ in range(3):
            program.mixed([], None, frozenset(), SyncPass.CONTENT, frozenset())
