"""Rules and catalog held together: one moment of both, and nothing in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from acl.decide import Allowed, decide
from acl.model import Acl, Unknown
from acl.readable import ReadableIndex
from service.access.index import Access
from service.stores.errors import StorageError
from service.stores.records import SyncPass
from tests.service.sync_support import SOURCE, World, acl_of, allow, caller, open_world

LIMIT = timedelta(days=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A catalog over one source in memory."""
    with open_world(tmp_path) as opened:
        yield opened


@pytest.fixture
def access(world: World) -> Access:
    """The rules of that catalog."""
    return Access(world.catalog, {SOURCE: {SyncPass.PERMISSIONS: LIMIT}}, lambda: world.clock.time)


def titles(world: World, access: Access, number: int) -> set[str]:
    """What a user may read, by the permitted set."""
    with access.snapshot() as snapshot:
        ordinals = snapshot.permitted(caller(number), frozenset()).documents
        return {world.catalog.sealing.title(d) for d in snapshot.reader.documents(list(ordinals)).values()}


def test_the_permitted_set_follows_the_catalog(world: World, access: Access) -> None:
    """Every snapshot has what was committed before it: documents, rules and removals."""
    world.add("a", "text a", allow(1))
    world.add("b", "text b", allow(1, 2))
    world.sync()
    assert (titles(world, access, 1), titles(world, access, 2)) == ({"a", "b"}, {"b"})

    world.add("a", "text a", allow(2))
    del world.source.documents["b"]
    world.sync()

    assert (titles(world, access, 1), titles(world, access, 2)) == (set(), {"a"})


def test_a_catalog_that_was_followed_equals_one_that_was_read_at_once(world: World, access: Access) -> None:
    """Catching up step by step and building from nothing give the same sets."""
    for step in range(6):
        world.add(f"d{step % 4}", f"text {step}", allow(1 + step % 3))
        world.sync()
        for number in (1, 2, 3):
            assert titles(world, access, number) == titles(
                world, Access(world.catalog, {SOURCE: {SyncPass.PERMISSIONS: LIMIT}}, lambda: world.clock.time), number
            )


def test_rules_and_documents_are_of_one_moment(world: World, access: Access) -> None:
    """A commit during a snapshot shows neither in its documents nor in its rules, and in both of the next."""
    world.add("a", "public text", allow(1))
    world.sync()
    with access.snapshot() as snapshot:
        world.add("a", "secret text", allow(2))
        world.sync()
        (document,) = snapshot.reader.documents(list(snapshot.permitted(caller(1), frozenset()).documents)).values()
        acl = snapshot.acl(document)
        (chunk,) = snapshot.reader.chunks_of(document.ordinal)

    assert world.catalog.sealing.text(chunk).text == "public text"
    assert isinstance(decide(acl, caller(1), world.clock.time), Allowed)
    assert (titles(world, access, 1), titles(world, access, 2)) == (set(), {"a"})


def test_snapshots_wait_for_each_other_until_released(world: World, access: Access) -> None:
    """No snapshot moves the rules under another; after `release` the next one begins, and reading goes on."""
    world.add("a", "text", allow(1))
    world.sync()
    begun, entered = threading.Event(), threading.Event()

    def other() -> None:
        begun.set()
        with access.snapshot():
            entered.set()

    thread = threading.Thread(target=other)
    with access.snapshot() as snapshot:
        thread.start()
        begun.wait()
        assert not entered.wait(0.02)
        snapshot.release()
        assert entered.wait(10)
        assert snapshot.reader.seq == snapshot.seq
        with pytest.raises(AssertionError):
            snapshot.permitted(caller(1), frozenset())
    thread.join()


def test_an_error_inside_a_snapshot_lets_the_next_one_begin(world: World, access: Access) -> None:
    """The lock is given back whatever happens."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), access.snapshot():
            raise ZeroDivisionError


def test_changes_that_failed_half_way_decide_nothing(
    world: World, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error while catching up the rules are built anew from the whole log."""
    world.add("a", "text", allow(1))
    world.sync()
    assert titles(world, access, 1) == {"a"}
    world.add("a", "text", allow(2))
    world.sync()

    def broken(self: ReadableIndex, source: str, changes: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(ReadableIndex, "apply", broken)
        with pytest.raises(MemoryError):
            titles(world, access, 1)

    assert (titles(world, access, 1), titles(world, access, 2)) == (set(), {"a"})


def test_what_is_gone_takes_no_room_for_ever(world: World, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often documents come, go and get other rules: the room is that of what is there, or twice that; the
    answers are the same, and the epochs only grow."""
    monkeypatch.setattr("service.access.index._UNUSED", 100)
    rooms, epochs = list[int](), list[int]()
    for turn in range(40):
        for number in range(10):
            world.source.documents.pop(f"{turn - 1} {number}", None)
            world.add(f"{turn} {number}", f"text {turn}", allow(1, 2 + turn % 7, 20 + number), "root")
        world.sync()
        assert titles(world, access, 1) == {f"{turn} {number}" for number in range(10)}
        access.close()  # waits for what is under way
        rooms.append(access._index.unused)
        epochs.append(access._index.epoch(SOURCE))

    assert max(rooms[20:]) <= max(rooms[:20])
    assert epochs == sorted(set(epochs))
    assert titles(world, access, 1) == {f"39 {number}" for number in range(10)}


def test_rules_that_cannot_be_made_anew_stay(world: World, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog that cannot be read then changes nothing of what is answered."""
    monkeypatch.setattr("service.access.index._UNUSED", -1000)
    world.add("a", "text", allow(1))
    world.sync()
    assert titles(world, access, 1) == {"a"}

    def broken() -> None:
        raise StorageError("the disk does not answer")

    monkeypatch.setattr(access, "renew", broken)
    world.add("b", "text", allow(1))
    world.sync()

    assert titles(world, access, 1) == {"a", "b"}
    access.close()
    assert titles(world, access, 1) == {"a", "b"}


def _aged(world: World, at: datetime) -> tuple[bool, Acl | Unknown, int]:
    with Access(world.catalog, {SOURCE: {SyncPass.PERMISSIONS: LIMIT}}, lambda: at).snapshot() as snapshot:
        (document,) = snapshot.reader.documents(range(10)).values()
        (age,) = snapshot.ages(caller(1), frozenset())
        return age.withheld, snapshot.acl(document), len(snapshot.permitted(caller(1), frozenset()).documents)


def test_the_limit_of_age_is_sharp(world: World) -> None:
    """Up to the limit documents are served, a microsecond past it they are not, and neither before their time."""
    world.add("a", "text", allow(1))
    world.sync()
    with world.catalog.reader() as reader:
        verified = reader.clocks()[SOURCE][SyncPass.PERMISSIONS].verified_at
    step = timedelta(microseconds=1)

    for moment, served in ((0 * step, True), (LIMIT, True), (LIMIT + step, False), (-step, False)):
        withheld, acl, permitted = _aged(world, verified + moment)
        assert (withheld, permitted, isinstance(acl, Acl)) == (not served, int(served), served)


def test_sources_are_named_only_to_those_who_read_something_in_them(world: World, access: Access) -> None:
    """Ages are listed by what the caller may read, also among the sources asked for."""
    world.add("a", "text", allow(1))
    world.sync()
    with access.snapshot() as snapshot:

        def named(number: int, *sources: str) -> list[str]:
            return [age.source for age in snapshot.ages(caller(number), frozenset(sources))]

        assert (named(1), named(1, SOURCE, "other"), named(1, "other")) == ([SOURCE], [SOURCE], [])
        assert (named(2), named(2, SOURCE)) == ([], [])
        assert snapshot.epochs(frozenset([SOURCE]))[SOURCE] > 0


def test_what_does_not_exist_denies_like_what_is_hidden(world: World, access: Access) -> None:
    """There is an ACL to decide on for no document, and it lets nobody through."""
    with access.snapshot() as snapshot:
        absent = snapshot.acl(None)

    assert not isinstance(decide(absent, caller(1), world.clock.time), Allowed)


def test_many_readers_and_a_writer_agree_at_every_moment(world: World, access: Access) -> None:
    """While a sync commits, and while the rules are made anew, the rules of every snapshot are those that its own
    transaction of the catalog holds."""
    world.add("a", "text", allow(1))
    world.sync()
    stop, looked, wrong = threading.Event(), list[int](), list[str]()

    def read(number: int) -> None:
        while not stop.is_set():
            with access.snapshot() as snapshot:
                values = [change.value for change in snapshot.reader.changes_since(0)]
                for document in snapshot.reader.documents(range(10)).values():
                    compiled, plain = snapshot.acl(document), acl_of(document, values)
                    looked.append(snapshot.seq)
                    if compiled != plain:
                        wrong.append(f"{compiled} is not {plain}")
                    permitted = document.ordinal in snapshot.permitted(caller(number), frozenset()).documents
                    if permitted != isinstance(decide(plain, caller(number), snapshot.at), Allowed):
                        wrong.append(f"permitted: {permitted}, under {plain}")

    readers = [threading.Thread(target=read, args=(number,)) for number in (1, 2)]
    for reader in readers:
        reader.start()
    for turn in range(15):
        world.add("a", "text", allow(2 - turn % 2))
        world.sync()
        access.renew()
    stop.set()
    for reader in readers:
        reader.join()

    assert wrong == []
    assert len(set(looked)) > 1
