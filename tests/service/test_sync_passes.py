"""The pass for permissions: rules without content, with a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from acl.model import Acl, ScopeId
from acl.principal import Principal
from connectors.base import own_realm
from connectors.testing.hostile import Faults, MemoryScope
from service.access.index import Access
from service.stores.records import PassClock, RunState, SyncPass
from tests.service.history import History, held
from tests.service.sync_support import SOURCE, World, allow, open_world, person

ROOT = ScopeId("root")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        for name in ("a.txt", "b.txt"):
            opened.add(name, f"the text of {name}", allow(1, 2))
        assert opened.sync().state is RunState.SUCCEEDED
        opened.source.reads.clear()
        opened.embedder.texts.clear()
        yield opened


def permissions(world: World) -> None:
    """Run a pass for permissions, which reads and embeds nothing."""
    run = world.sync(SyncPass.PERMISSIONS)
    assert run.state is RunState.SUCCEEDED, run
    assert run.sync_pass is SyncPass.PERMISSIONS
    assert (world.source.reads, world.embedder.texts) == ([], [])


def clocks(world: World) -> dict[SyncPass, PassClock]:
    """The clocks of the source."""
    with world.catalog.reader() as reader:
        return dict(reader.clocks()[SOURCE])


def test_rules_change_both_ways_without_a_byte_of_content(world: World) -> None:
    """What narrows and what widens, of a document and of a container, is in force when the pass is complete."""
    world.source.documents["a.txt"] = replace(world.source.documents["a.txt"], own=allow(2, 3))
    permissions(world)
    assert [set(world.readable(user)) for user in (1, 2, 3)] == [{"b.txt"}, {"a.txt", "b.txt"}, {"a.txt"}]

    world.source.scopes[ROOT] = MemoryScope(None, allow(2, 3, 4), "/")
    permissions(world)
    assert [set(world.readable(user)) for user in (1, 2, 3)] == [set(), {"a.txt", "b.txt"}, {"a.txt"}]
    assert held(world) == 0


def test_a_text_that_changed_is_not_opened_before_it_is_read(world: World) -> None:
    """Redacted and then opened: the old text stays under old and new rules until a run for content has read the new."""
    history = History(world, users=(1, 2, 3))
    history.change(lambda: world.add("a.txt", "redacted", allow(1, 2, 3)))

    permissions(world)
    history.check()

    assert history.leaks == []
    assert set(world.readable(3)) == set()
    assert set(world.readable(1)) == {"a.txt", "b.txt"}
    world.source.reads.clear()
    history.sync()
    assert world.readable(3) == {"a.txt": ["redacted"]}


def test_a_text_that_changed_below_a_container_that_opens_is_withheld(world: World) -> None:
    """The container opens for everything else; the document comes back with its text."""
    history = History(world, users=(1, 2, 3))

    def publish() -> None:
        world.source.scopes[ROOT] = MemoryScope(None, allow(1, 2, 3, 4), "/")
        world.add("a.txt", "redacted", allow(1, 2))

    history.change(publish)
    permissions(world)
    history.check()
    assert history.leaks == []
    assert set(world.readable(1)) == {"b.txt"}
    history.sync()
    assert set(world.readable(1)) == {"a.txt", "b.txt"}
    assert held(world) == 0


def test_what_is_new_waits_and_what_is_gone_goes(world: World) -> None:
    """A new document is stored with its text by the other pass; a deletion is in force at once."""
    world.add("new.txt", "new", allow(1))
    del world.source.documents["b.txt"]

    permissions(world)

    assert set(world.readable(1)) == {"a.txt"}
    assert set(world.documents()) == {"a.txt"}
    world.sync()
    assert set(world.readable(1)) == {"a.txt", "new.txt"}


def test_each_pass_renews_its_own_clock_and_content_renews_both(world: World) -> None:
    """A pass for permissions says nothing of content; the cursor is of the run that read it."""
    before = clocks(world)
    assert before[SyncPass.CONTENT].verified_at == before[SyncPass.PERMISSIONS].verified_at

    permissions(world)
    after = clocks(world)
    assert after[SyncPass.CONTENT] == before[SyncPass.CONTENT]
    assert after[SyncPass.PERMISSIONS].verified_at > before[SyncPass.PERMISSIONS].verified_at
    assert after[SyncPass.PERMISSIONS].took > timedelta(0)

    world.source.faults = Faults(fail_at=1)
    world.sync(SyncPass.PERMISSIONS)
    world.source.faults = Faults()
    assert clocks(world) == after, "a run that failed renews nothing"
    world.sync()
    assert clocks(world)[SyncPass.PERMISSIONS].verified_at > after[SyncPass.PERMISSIONS].verified_at


@pytest.mark.parametrize("ahead", [timedelta(hours=10), timedelta(seconds=2)])
def test_what_was_verified_by_a_clock_that_was_ahead_does_not_count_when_its_time_comes(
    world: World, ahead: timedelta
) -> None:
    """The clock is set back, and no run is complete since: hours later the old pass must not look like a new one."""
    group = Principal(own_realm(SOURCE), "team")
    world.source.groups = {group: {person(1)}}
    world.clock.time += ahead
    world.sync()
    world.clock.time -= ahead + timedelta(seconds=1)
    world.source.faults = Faults(fail_at=0)

    world.sync(SyncPass.PERMISSIONS)

    counts = ahead < timedelta(minutes=1)
    with world.catalog.reader() as reader:
        assert (clocks(world) != {}) is counts, "a clock is corrected by seconds all the time"
        assert (reader.group_passes()[SOURCE].verified_at is not None) is counts
    world.source.faults = Faults()
    world.sync()
    assert set(clocks(world)) == set(SyncPass)


@pytest.mark.parametrize("stale", list(SyncPass))
def test_documents_are_withheld_when_either_lease_is_over(world: World, stale: SyncPass) -> None:
    """Whichever pass was too long ago; with both leases kept they are served."""
    now = clocks(world)[stale].verified_at + timedelta(hours=1)
    for limit, withheld in ((timedelta(minutes=59), True), (timedelta(hours=1), False)):
        leases = {one: timedelta(days=9) for one in SyncPass} | {stale: limit}
        with Access(world.catalog, {SOURCE: leases}, lambda: now).snapshot() as snapshot:
            (document, *_) = snapshot.reader.documents(range(10)).values()

            assert isinstance(snapshot.acl(document), Acl) is not withheld
