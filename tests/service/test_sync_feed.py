"""A feed through the sync: what a broken, a truncated and an unknown feed do to what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.stores.records import RunState, StoredRun
from service.sync.engine import SyncEngine
from tests.connectors.feeds import document, feed, scope, whole, write, write_lines
from tests.service.sync_support import SOURCE, World, allow, open_world

ALICE = [{"effect": "allow", "principals": ["posix:corp:uid-1"]}]
BOB = [{"effect": "allow", "principals": ["posix:corp:uid-2"]}]
BOTH = [*ALICE, *BOB]


@dataclass(frozen=True, slots=True)
class Fed:
    """A catalog that is fed by a file."""

    world: World
    path: Path
    sync: Callable[[], StoredRun]

    def readable(self, number: int) -> set[str]:
        """Titles that a user may read."""
        return set(self.world.readable(number))


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Fed]:
    path = tmp_path / "feed.jsonl"
    with open_world(tmp_path) as world:
        engine = SyncEngine(
            world.catalog,
            world.keys,
            lambda name: feed(path, allow(1, 2)),
            world.extractor,
            world.embedder,
            limit_bytes=1 << 20,
            now=world.clock,
        )
        yield Fed(world, path, lambda: engine.run(SOURCE))


def test_a_feed_is_stored_under_its_rules(fed: Fed) -> None:
    """Each person reads what audience, scopes and the document itself let them read."""
    write(
        fed.path,
        scope("space", ALICE),
        document("for alice", BOTH, scope="space"),
        document("for bob", BOB),
        document("for carol", [{"effect": "allow", "principals": ["posix:corp:uid-3"]}]),
    )

    run = fed.sync()

    assert run.state is RunState.SUCCEEDED
    assert fed.readable(1) == {"for alice"}
    assert fed.readable(2) == {"for bob"}
    assert fed.readable(3) == set()


def test_a_broken_line_removes_nothing(fed: Fed) -> None:
    """While a line is broken, what was not seen is withheld and kept; once it is mended, what is gone is gone."""
    write(fed.path, document("a", BOTH), document("b", BOTH), document("c", BOTH))
    fed.sync()
    write(fed.path, document("a", BOTH), b"{", document("c", BOTH))

    broken = fed.sync()

    assert broken.state is RunState.SUCCEEDED
    assert broken.counts.removed == 0
    assert fed.readable(1) == {"a", "c"}
    assert len(fed.world.documents()) == 3

    write(fed.path, document("a", BOTH), document("c", BOTH))
    assert fed.sync().counts.removed == 1
    assert fed.readable(1) == {"a", "c"}


def test_a_feed_without_its_end_changes_nothing(fed: Fed) -> None:
    """A truncated feed fails the run, removes nothing and opens nothing."""
    write(fed.path, document("a", ALICE), document("b", BOTH))
    fed.sync()
    write_lines(fed.path, whole(document("a", BOTH))[:-1])

    run = fed.sync()

    assert run.state is RunState.FAILED
    assert "no end marker" in run.failure
    assert (fed.readable(1), fed.readable(2)) == ({"a", "b"}, {"b"})


def test_a_feed_of_an_unknown_version_is_nobodys(fed: Fed) -> None:
    """What was stored is withheld at once, and readable again with a feed that is understood."""
    write(fed.path, document("a", BOTH))
    fed.sync()
    write_lines(fed.path, [{"kind": "feed", "version": 2}, *whole(document("a", BOTH))[1:]])

    run = fed.sync()

    assert run.state is RunState.FAILED
    assert fed.readable(1) == set()

    write(fed.path, document("a", BOTH))
    fed.sync()
    assert fed.readable(1) == {"a"}


def test_rules_that_are_not_understood_close_what_was_open(fed: Fed) -> None:
    """A document whose rules got a kind that is not known is withheld, and its neighbour is not."""
    write(fed.path, document("a", BOTH), document("b", BOTH))
    fed.sync()
    write(fed.path, document("a", [*BOTH, {"effect": "ask", "principals": ["posix:corp:uid-1"]}]), document("b", BOTH))

    fed.sync()

    assert fed.readable(1) == {"b"}
