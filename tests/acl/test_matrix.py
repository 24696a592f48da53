"""The matrix of worlds drives `decide` and `readable`."""

from __future__ import annotations

from typing import Any

import pytest

from acl.changes import AclDrop, AclPut, Change, DocumentDrop, DocumentPut, ScopeDrop, ScopePut
from acl.decide import Allowed, Denied, decide
from acl.model import AclId, Clause, state_of
from acl.readable import ReadableIndex
from acl.scopes import ScopeTree
from tests.acl.reference import chain, may_read, plain_clause
from tests.matrix.worlds import Step, World, worlds

_WORLDS = list(worlds())
_each = pytest.mark.parametrize("world", _WORLDS, ids=lambda world: world.name)


def test_there_are_enough_worlds() -> None:
    """At least sixty worlds, each with a name of its own, a mistake, and somebody who is let in or kept out by it."""
    assert len(_WORLDS) >= 60
    assert len({world.name for world in _WORLDS}) == len(_WORLDS)
    for world in _WORLDS:
        assert len(world.mistake.split()) > 3
        answers = {name in step.reads[who] for step in world.steps for who in step.reads for name in step.documents}
        assert answers == {True, False}, f"{world.name} has no allowed neighbour, or nobody who is refused"


@_each
def test_decide_answers_every_world(world: World) -> None:
    """`decide` gives the expected answers at every step, with the expected reasons."""
    for step in world.steps:
        tree = ScopeTree(step.scopes)
        for who, caller in step.callers.items():
            decisions = {name: decide(tree.acl(*place), caller, step.at) for name, place in step.documents.items()}
            assert {name for name, found in decisions.items() if isinstance(found, Allowed)} == step.reads[who], who
            for name, why in step.why.get(who, {}).items():
                found = decisions[name]
                assert isinstance(found, Denied)
                assert found.reason.value == why


@_each
def test_the_literal_evaluator_answers_every_world(world: World) -> None:
    """So does the second evaluator, which shares no code."""
    for step in world.steps:
        rows: dict[str, tuple[str | None, Any]] = {
            row.id: (row.parent, plain_clause(row.clause) if isinstance(row.clause, Clause) else None)
            for row in step.scopes
        }
        for who, caller in step.callers.items():
            found = set()
            for name, (scope, own) in step.documents.items():
                around = chain(rows, scope)
                if around is not None and isinstance(own, Clause):
                    clauses = [*around, plain_clause(own)]
                    if may_read(clauses, caller.principals, caller.complete, step.at.timestamp()):
                        found.add(name)
            assert found == step.reads[who], who


def _changes(before: Step | None, step: Step, numbers: dict[str, int]) -> list[Change]:
    found: list[Change] = [ScopePut(row.id, row.parent, row.clause, row.label) for row in step.scopes]
    for name, (scope, own) in step.documents.items():
        number = numbers.setdefault(name, len(numbers) + 1)
        found.append(AclPut(AclId(number), scope, own))
        found.append(DocumentPut(number, AclId(number), ((number * 10, number * 10 + 3),)))
    if before is not None:
        gone = {row.id for row in before.scopes} - {row.id for row in step.scopes}
        found += [ScopeDrop(scope) for scope in gone]
        for name in before.documents.keys() - step.documents.keys():
            found += [AclDrop(AclId(numbers[name])), DocumentDrop(numbers[name])]
    return found


@_each
def test_readable_answers_every_world(world: World) -> None:
    """The compiled index follows every step and gives the same documents, chunks and counts."""
    index = ReadableIndex()
    numbers: dict[str, int] = {}
    before: Step | None = None
    for step in world.steps:
        index.apply("world", _changes(before, step, numbers))
        for who, caller in step.callers.items():
            found = index.readable(caller, step.at)
            expected = {numbers[name] for name in step.reads[who]}
            assert set(found.documents) == expected, who
            assert set(found.acl_ids) == expected, who
            assert found.chunk_count == len(found.chunks) == 3 * len(expected)
        for name in step.documents:
            assert state_of(index.acl(AclId(numbers[name]))) is state_of(
                ScopeTree(step.scopes).acl(*step.documents[name])
            )
        before = step
