"""Whatever happened to a source before: after a complete run each user reads what the source says, and no more."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from acl.model import Clause, ScopeId, Unknown
from connectors.errors import RetriableError
from connectors.testing.hostile import Faults, MemoryDocument, MemoryScope, MemorySource
from service.stores.records import RunState, SyncPass
from tests.service.sync_support import World, allow, everything, open_world, truth

USERS = (1, 2)

_clauses = st.sampled_from([allow(1), allow(2), allow(1, 2), Clause(()), Unknown("not understood")])
_scopes = st.sampled_from(["top", "left", "right", "deep"])
_names = st.sampled_from(["a", "b", "c", "d"])
_contents = st.sampled_from(["one", "two", "three\n\nthree and a half", ""])

_put_scope = st.tuples(st.just("scope"), _scopes, st.sampled_from([None, "top", "left", "deep", "nowhere"]), _clauses)
_drop_scope = st.tuples(st.just("no scope"), _scopes)
_put = st.tuples(st.just("put"), _names, st.one_of(st.none(), _scopes), _clauses, _contents)
_touch = st.tuples(st.just("touch"), _names)
_drop = st.tuples(st.just("drop"), _names)
_sync = st.tuples(st.just("sync"))
_fail = st.tuples(st.just("fail"), st.integers(0, 8))
_changing = st.tuples(st.just("changing"), _names)

# A source with something in it, stored: otherwise most examples would have nothing to change.
_BEGINNING: tuple[tuple[object, ...], ...] = (
    ("scope", "top", None, allow(1, 2)),
    ("scope", "left", "top", allow(1, 2)),
    ("scope", "deep", "left", allow(1, 2)),
    ("put", "a", "top", allow(1), "one"),
    ("put", "b", "left", allow(1, 2), "two"),
    ("put", "c", "deep", allow(1, 2), "one"),
    ("sync",),
)

_steps = st.lists(
    st.one_of(_put_scope, _put, _put, _put, _touch, _drop, _drop_scope, _sync, _fail, _changing),
    min_size=3,
    max_size=25,
)


def apply(step: tuple[object, ...], world: World) -> None:
    """Do one thing to the source, or let a run over it succeed, fail or meet documents that change."""
    source = world.source
    match step:
        case ("scope", str(name), parent, Clause() | Unknown() as clause):
            above = ScopeId(parent) if isinstance(parent, str) else None
            source.scopes[ScopeId(name)] = MemoryScope(above, clause, f"/{name}")
        case ("no scope", str(name)):
            source.scopes.pop(ScopeId(name), None)
        case ("put", str(name), scope, Clause() | Unknown() as clause, str(content)):
            where = ScopeId(scope) if isinstance(scope, str) else None
            source.documents[name] = MemoryDocument(content.encode(), where, clause)
        case ("touch", str(name)) if name in source.documents:
            was = source.documents[name]
            source.documents[name] = replace(was, revision=was.revision + 1)
        case ("drop", str(name)):
            source.documents.pop(name, None)
        case ("sync",):
            assert world.sync().state is RunState.SUCCEEDED
        case ("fail", int(at)):
            source.faults = Faults(fail_at=at, error=RetriableError("the mount is gone"))
            assert world.sync().state is RunState.FAILED
        case ("changing", str(name)):
            source.faults = Faults(changing={name})
            assert world.sync().state is RunState.SUCCEEDED
        case _:  # A touch of what is not there.
            pass
    source.faults = Faults()


@settings(max_examples=max(12, settings().max_examples // 8))
@given(_steps)
def test_a_complete_run_gives_exactly_what_the_source_says(steps: list[tuple[object, ...]]) -> None:
    """No history of changes, failures and moves leaves a document wider, narrower, older or twice."""
    with tempfile.TemporaryDirectory() as folder, open_world(Path(folder), MemorySource()) as world:
        for step in (*_BEGINNING, *steps):
            apply(step, world)

        run = world.sync()

        assert run.state is RunState.SUCCEEDED
        for user in USERS:
            assert world.readable(user) == truth(world.source, user)
        assert len(world.documents()) == len(world.source.documents)
        assert len(world.keys.documents("company")) == len(world.source.documents)
        world.source.reads.clear()
        again = world.sync()
        assert (again.counts.stored, again.counts.permissions_changed, again.counts.removed) == (0, 0, 0)
        assert not world.source.reads


def test_a_run_over_an_unchanged_source_writes_nothing(tmp_path: Path) -> None:
    """No row changes but those that say that there was a run; of either pass, also with things withheld and held."""
    with open_world(tmp_path) as world:
        for step in (*_BEGINNING, ("put", "d", "deep", Unknown("not understood"), "two"), ("drop", "a"), ("sync",)):
            apply(step, world)
        runs = {"runs", "sources", "passes"}
        before, commits = everything(world, runs), len(world.commits)
        for sync_pass in (*SyncPass, *SyncPass):
            assert world.sync(sync_pass).state is RunState.SUCCEEDED
            assert everything(world, runs) == before
        assert len(world.commits) > commits, "the control: these were runs"


_own = st.tuples(st.just("put"), _names, st.just("top"), _clauses, _contents)


@settings(max_examples=max(10, settings().max_examples // 10))
@given(
    st.lists(st.one_of(_own, _put_scope), max_size=6, unique_by=lambda step: step[:2]),
    st.randoms(use_true_random=False),
)
def test_the_order_of_changes_does_not_matter(changes: list[tuple[object, ...]], random: Random) -> None:
    """The same changes to different things, in any order, with runs anywhere between: one state in the end."""
    ends = []
    for _ in range(2):
        steps = [*changes, *[("sync",)] * random.randint(0, 3), *[("fail", random.randint(0, 6))]]
        random.shuffle(steps)
        with tempfile.TemporaryDirectory() as folder, open_world(Path(folder), MemorySource()) as world:
            for step in (*_BEGINNING, *steps):
                apply(step, world)
            world.sync()
            readable = [world.readable(user) for user in USERS]
            stored = {
                name: (found.version > 0, found.quarantine is None, found.text_problem)
                for name, found in world.documents().items()
            }
            ends.append((readable, stored, len(world.keys.documents("company"))))
    assert ends[0] == ends[1]
