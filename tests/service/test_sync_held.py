"""Old rules count besides new ones until what lies below them is verified: at no commit is a text served to somebody
who could not read it at the source while it stood there (docs/adr/0004)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from acl.changes import AclPut, ScopePut
from acl.decide import Allowed, decide
from acl.model import MAX_DEPTH, Acl, AclId, Clause, ScopeId, Unknown
from acl.readable import ReadableIndex
from connectors.base import Change, Cursor, ScanComplete, Upsert
from connectors.errors import RetriableError
from connectors.testing.hostile import Faults, MemoryScope, MemorySource
from service.stores.records import RunState
from service.sync import texts, walk
from tests.service.history import History, held
from tests.service.sync_support import SOURCE, World, acl_of, allow, caller, open_world, truth

ROOT, TEAM, SAFE = ScopeId("root"), ScopeId("team"), ScopeId("safe")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit every change and every text by itself, so that there are many moments to look at."""
    monkeypatch.setattr(walk, "MOST_CHANGES", 1)
    monkeypatch.setattr(texts, "_BATCH_DOCUMENTS", 1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        opened.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2, 3), "/team")
        yield opened


@pytest.fixture
def history(world: World) -> History:
    return History(world)


def scope(world: World, scope_id: ScopeId, clause: Clause | Unknown, parent: ScopeId | None = ROOT) -> None:
    """Put a container."""
    world.source.scopes[scope_id] = MemoryScope(parent, clause, f"/{scope_id}")


def quiet(history: History) -> None:
    """After a complete run in which nothing happened, nothing is held and everybody reads what the source says."""
    world = history.world
    history.sync()
    assert held(world) == 0
    for user in history.users:
        assert world.readable(user) == truth(world.source, user)
    world.source.reads.clear()
    assert history.sync().counts.permissions_changed == 0
    assert not world.source.reads


# Documents.


def test_an_old_text_is_not_served_under_the_wider_rules_of_the_new_one(world: World, history: History) -> None:
    """Redacted and opened in one moment: who could read before reads on, who could not waits for the new text."""
    history.change(lambda: world.add("a.txt", "the secret", allow(1)))
    history.sync()
    history.change(lambda: world.add("a.txt", "redacted", allow(1, 2)))

    history.sync()

    assert history.always(1, "a.txt")
    assert world.readable(2) == {"a.txt": ["redacted"]}
    assert held(world) == 0


def test_a_document_is_released_with_its_text_and_does_not_wait_for_the_run(world: World, history: History) -> None:
    """While the next document is still extracted, the first is there for everybody who may read it.

    It widens, so that it waits for the walk, of which the breaker learns how many do; but for no other text.
    """
    for name in ("a.txt", "b.txt"):
        world.add(name, f"old {name}", allow(1))
    history.change(lambda: None)
    history.sync()
    seen: list[dict[str, list[str]]] = []

    def wait(text: str) -> None:
        until = time.monotonic() + 20
        while text == "new c" and not seen and time.monotonic() < until:
            seen.extend(found for found in [world.readable(2)] if found)

    world.extractor.before = wait
    history.change(lambda: world.add("a.txt", "new a", allow(1, 2)))
    for number in range(texts._MOST_READY + 5):
        history.change(lambda number=number: world.add(f"{number}.txt", f"new {number}", allow(1)))  # type: ignore[misc]
    history.change(lambda: world.add("c.txt", "new c", allow(1)))

    history.sync()

    assert seen == [{"a.txt": ["new a"]}]


def test_a_document_that_was_nobodys_stays_so_until_its_text_is_confirmed(world: World, history: History) -> None:
    """Rules that become known do not open a text of before; the neighbour is read all the time."""
    history.change(lambda: world.add("a.txt", "the secret", allow(1)))
    history.change(lambda: world.add("b.txt", "neighbour", allow(2)))
    history.sync()
    history.change(lambda: world.add("a.txt", "the secret", Unknown("not understood")))
    history.sync()
    history.change(lambda: world.add("a.txt", "redacted", allow(1, 2)))

    history.sync()

    assert world.readable(2) == {"a.txt": ["redacted"], "b.txt": ["neighbour"]}
    assert history.always(2, "b.txt")


def test_a_document_that_moves_is_withheld_until_its_text_is_confirmed(world: World, history: History) -> None:
    """Out of a closed container into an open one, redacted on the way: the old text stays closed."""
    scope(world, SAFE, allow(1))
    history.change(lambda: world.add("a.txt", "the secret", allow(1, 2), "safe"))
    history.sync()
    history.change(lambda: world.add("a.txt", "redacted", allow(1, 2), "team"))

    history.sync()

    assert world.readable(2) == {"a.txt": ["redacted"]}
    quiet(history)


def test_changed_rights_of_many_documents_take_them_from_nobody_who_keeps_them(world: World, history: History) -> None:
    """As after `chmod -R`, where the version changes with the rights: no commit without them, and no text anew."""
    for number in range(30):
        world.add(f"{number}.txt", f"text {number}", allow(1, 2), "team")
    history.change(lambda: None)
    history.sync()

    def chmod() -> None:
        scope(world, TEAM, allow(1, 3))
        for name, document in world.source.documents.items():
            world.source.documents[name] = replace(document, own=allow(1, 3), revision=1)

    history.change(chmod)
    world.embedder.texts.clear()
    history.sync()

    assert all(history.always(1, f"{number}.txt") for number in range(30))
    assert len(world.readable(3)) == 30
    assert (world.readable(2), world.embedder.texts) == ({}, [])
    quiet(history)


def test_a_document_that_changes_twice_before_it_is_confirmed_is_held_by_both(world: World, history: History) -> None:
    """A failed run between two changes forgets neither; who may read under all of them reads."""
    world.add("a.txt", "the secret", allow(1, 3))
    history.users = (1, 2, 3)
    history.moments.clear()
    history.change(lambda: None)
    history.sync()
    for own in (allow(1, 2), allow(1, 2, 3)):
        history.change(lambda own=own: world.add("a.txt", "redacted", own))  # type: ignore[misc]
        world.source.faults.changing.add("a.txt")
        history.sync()
        assert (set(world.readable(1)), world.readable(2)) == ({"a.txt"}, {})
    assert world.readable(3) == {}, "the rules in between let user 3 not through"

    world.source.faults.changing.clear()
    quiet(history)


class SaysAgain(MemorySource):
    """Sends documents once more at the end of a walk, as a source does in which a folder was moved meanwhile.

    again: which, None: all of them.
    """

    def __init__(self, *, checkpoint_every: int = 0) -> None:
        super().__init__(checkpoint_every=checkpoint_every)
        self.again: frozenset[str] | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    def changes(self, cursor: Cursor | None) -> Iterator[Change]:
        """See `Connector`."""
        sent: list[Upsert] = []
        for change in super().changes(cursor):
            if isinstance(change, Upsert):
                sent.append(change)
            if isinstance(change, ScanComplete):
                self.meanwhile()
                for upsert in sent:
                    found = self.documents.get(upsert.native_id)
                    if found is None or (self.again is not None and upsert.native_id not in self.again):
                        continue
                    size = len(found.content)
                    yield replace(upsert, own=found.own, scope=found.scope, version=found.version, size_bytes=size)
            yield change


@pytest.mark.parametrize("container", [False, True])
def test_a_text_is_not_released_under_rules_of_a_later_version(tmp_path: Path, container: bool) -> None:
    """The source says a thing of a document, its text is stored, and then it says another: redacted, and opened."""
    source = SaysAgain()
    source.scopes[ROOT] = MemoryScope(None, allow(1, 2, 3), "/")
    source.scopes[TEAM] = MemoryScope(ROOT, allow(1) if container else allow(1, 2, 3), "/team")
    with open_world(tmp_path, source) as world:
        history = History(world)
        own = allow(1, 2, 3) if container else allow(1)
        history.change(lambda: world.add("a.txt", "the secret", own, "team"))
        history.change(lambda: world.add("b.txt", "the plan", own, "team"))
        if container:
            history.sync()
            scope(world, TEAM, allow(1, 2, 3))
            history.change(lambda: world.add("a.txt", "another secret", allow(1), "team"))

        def redact() -> None:
            deadline_s = time.monotonic() + 30
            while not world.readable(1) and time.monotonic() < deadline_s:
                time.sleep(0.01)
            history.change(lambda: world.add("a.txt", "redacted", allow(1, 2), "team"))
            source.meanwhile = lambda: None

        source.meanwhile = redact
        history.sync()

        assert "a.txt" not in world.readable(2)
        assert container or world.readable(1) == {"a.txt": ["the secret"], "b.txt": ["the plan"]}
        quiet(history)
        assert world.readable(2)["a.txt"] == ["redacted"]


# Containers.


def test_an_opened_container_opens_no_old_text_below(world: World, history: History) -> None:
    """A folder is opened and its files are redacted in one run: the folder opens when all of them are stored."""
    scope(world, TEAM, allow(1))
    for number in range(5):
        world.add(f"{number}.txt", f"secret {number}", allow(1, 2), "team")
    history.change(lambda: world.add("beside.txt", "beside", allow(2)))
    history.sync()

    def publish() -> None:
        scope(world, TEAM, allow(1, 2))
        for number in range(5):
            world.add(f"{number}.txt", f"redacted {number}", allow(1, 2), "team")

    history.change(publish)
    history.sync()

    assert all(history.always(1, f"{number}.txt") for number in range(5))
    assert history.always(2, "beside.txt")
    assert len(world.readable(2)) == 6
    assert held(world) == 0


def test_narrowing_a_file_and_then_opening_its_folder_never_shows_it(world: World, history: History) -> None:
    """The walk meets the folder first: between the two commits nobody gains what the source never gave."""
    scope(world, TEAM, allow(1))
    world.add("a.txt", "for one", allow(1, 2), "team")
    world.add("b.txt", "for both", allow(1, 2), "team")
    history.change(lambda: None)
    history.sync()
    history.change(lambda: world.add("a.txt", "for one", allow(1), "team"))
    history.change(lambda: scope(world, TEAM, allow(1, 2)))

    history.sync()

    assert set(world.readable(1)) == {"a.txt", "b.txt"}
    assert set(world.readable(2)) == {"b.txt"}
    assert history.always(1, "a.txt")


def test_what_changes_behind_and_ahead_of_the_walk_is_not_put_together(world: World, history: History) -> None:
    """A folder is closed after the walk met it, then a file in it opened before: the second look notices."""
    world.add("a.txt", "for one", allow(1), "team")
    world.add("b.txt", "neighbour", allow(2))
    history.change(lambda: None)
    history.sync()

    def meanwhile(number: int) -> None:
        if number == 2:  # Both containers were sent.
            history.change(lambda: scope(world, TEAM, allow(1)))
            history.change(lambda: world.add("a.txt", "for one", allow(1, 2), "team"))

    world.source.documents["a.txt"] = world.source.documents.pop("a.txt")
    world.source.faults.before_change = meanwhile
    history.sync()
    world.source.faults.before_change = None

    assert world.readable(2) == {"b.txt": ["neighbour"]}
    assert history.always(1, "a.txt")
    quiet(history)


def test_a_narrowed_container_is_in_force_at_once(world: World, history: History) -> None:
    """The first commit after it was met takes the documents away, whatever waits; the rest of the run does not."""
    for number in range(10):
        world.add(f"{number}.txt", f"text {number}", allow(1, 2), "team")
    history.change(lambda: None)
    history.sync()
    history.change(lambda: scope(world, TEAM, allow(1)))

    history.sync()

    assert [moment[2] for moment in history.served] == [{}] * len(history.served)
    assert all(len(moment[1]) == 10 for moment in history.served)


def test_a_container_that_moves_is_withheld_until_the_run_is_complete(world: World, history: History) -> None:
    """Its old surroundings count no more and its new ones not yet; a failed run leaves it so."""
    scope(world, SAFE, allow(1))
    scope(world, TEAM, allow(1, 2), SAFE)
    world.add("a.txt", "the secret", allow(1, 2), "team")
    world.add("b.txt", "beside", allow(1, 2), "safe")
    history.change(lambda: None)
    history.sync()

    def publish() -> None:
        scope(world, TEAM, allow(1, 2), ROOT)
        world.add("a.txt", "redacted", allow(1, 2), "team")

    history.change(publish)
    world.source.faults = Faults(fail_at=4, error=RetriableError("the mount is gone"))
    history.sync(state=RunState.FAILED)
    assert world.readable(1) == {"b.txt": ["beside"]}
    assert world.readable(2) == {}
    world.source.faults = Faults()
    history.sync()

    assert world.readable(2) == {"a.txt": ["redacted"]}
    assert set(world.readable(1)) == {"a.txt", "b.txt"}
    assert held(world) == 0


def test_a_container_whose_rules_become_known_opens_at_the_end_of_the_run(world: World, history: History) -> None:
    """Nobody passed while they were unknown, so nobody does until the texts below are confirmed."""
    scope(world, TEAM, allow(1))
    world.add("a.txt", "the secret", allow(1, 2), "team")
    history.change(lambda: None)
    history.sync()
    history.change(lambda: scope(world, TEAM, Unknown("not understood")))
    history.sync()
    assert world.readable(1) == {}

    def publish() -> None:
        scope(world, TEAM, allow(1, 2))
        world.add("a.txt", "redacted", allow(1, 2), "team")

    history.change(publish)
    history.sync()

    assert world.readable(2) == {"a.txt": ["redacted"]}
    assert held(world) == 0


def test_a_container_that_was_missing_opens_at_the_end_of_the_run(world: World, history: History) -> None:
    """What lay in a container that the source did not list is not opened by listing it."""
    world.add("a.txt", "the secret", allow(1, 2), "lost")
    history.change(lambda: None)
    history.sync()

    def publish() -> None:
        scope(world, ScopeId("lost"), allow(1, 2))
        world.add("a.txt", "redacted", allow(1, 2), "lost")

    history.change(publish)
    history.sync()

    assert world.readable(2) == {"a.txt": ["redacted"]}


@pytest.mark.parametrize("batch", [1, 200])
def test_a_container_that_changes_during_the_run_is_held_until_the_next(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """What was met below it belongs to either of its rules, so both count; the next run has one."""
    monkeypatch.setattr(walk, "MOST_CHANGES", batch)
    scope(world, TEAM, allow(1))
    world.add("a.txt", "text", allow(1, 2, 3), "team")
    history.change(lambda: None)
    history.sync()

    def meanwhile(number: int) -> None:
        if number == 2:
            history.change(lambda: scope(world, TEAM, allow(1, 3)))

    history.users = (1, 2, 3)
    history.moments.clear()
    history.change(lambda: None)
    history.change(lambda: scope(world, TEAM, allow(1, 2)))
    world.source.faults.before_change = meanwhile
    history.sync()
    world.source.faults.before_change = None

    assert held(world) == 2
    assert (set(world.readable(1)), world.readable(2), world.readable(3)) == ({"a.txt"}, {}, {})
    quiet(history)
    assert set(world.readable(3)) == {"a.txt"}


def test_a_document_that_cannot_be_confirmed_is_withheld_and_holds_nobody_up(world: World, history: History) -> None:
    """A file that is written to all the time does not keep its folder closed for the others."""
    scope(world, TEAM, allow(1))
    world.add("log.txt", "the secret", allow(1, 2), "team")
    world.add("a.txt", "text", allow(1, 2), "team")
    world.add("beside.txt", "old", allow(1, 2))
    history.change(lambda: None)
    history.sync()

    def publish() -> None:
        scope(world, TEAM, allow(1, 2))
        world.add("log.txt", "redacted", allow(1, 2), "team")
        world.add("beside.txt", "new", allow(1, 2))

    history.change(publish)
    world.source.faults.changing |= {"log.txt", "beside.txt"}
    history.sync()

    assert world.readable(2) == {"a.txt": ["text"], "beside.txt": ["old"]}
    assert set(world.readable(1)) == {"a.txt", "beside.txt"}, "nothing around `beside.txt` changed"
    world.source.faults.changing.clear()
    quiet(history)
    assert set(world.readable(2)) == {"a.txt", "log.txt", "beside.txt"}


def test_nothing_is_released_below_a_container_that_was_not_met(world: World, history: History) -> None:
    """A source that lists a document but not its container says nothing of who passes there now."""
    dark, deep = ScopeId("dark"), ScopeId("deep")
    scope(world, dark, allow(1, 2))
    scope(world, deep, allow(1, 2), dark)
    world.add("a.txt", "for one", allow(1), "deep")
    world.add("b.txt", "old", allow(1), "deep")
    history.change(lambda: None)
    history.sync()
    history.change(lambda: scope(world, deep, allow(1), dark))
    history.change(lambda: world.add("a.txt", "for one", allow(1, 2), "deep"))
    history.change(lambda: world.add("b.txt", "new", allow(1, 2), "deep"))
    world.source.scopes[dark] = MemoryScope(ROOT, allow(1, 2), "/dark", complete=False)
    world.source.faults.withhold_scopes = {deep}
    world.source.reads.clear()

    history.sync()

    assert not world.source.reads
    assert world.readable(2) == {}
    assert set(world.readable(1)) == {"a.txt", "b.txt"}
    world.source.scopes[dark] = MemoryScope(ROOT, allow(1, 2), "/dark")
    world.source.faults = Faults()
    quiet(history)


def test_what_an_earlier_run_left_held_is_not_released_by_a_run_that_did_not_meet_it(
    world: World, history: History
) -> None:
    """A complete listing with a gap verifies nothing in the gap."""
    dark, deep = ScopeId("dark"), ScopeId("deep")
    scope(world, dark, allow(1, 2))
    scope(world, deep, allow(1), dark)
    world.add("b.txt", "the secret", allow(1, 2), "deep")
    history.change(lambda: None)
    history.sync()

    def publish() -> None:
        scope(world, deep, allow(1, 2), dark)
        world.add("b.txt", "redacted", allow(1, 2), "deep")

    history.change(publish)
    world.source.faults = Faults(fail_at=4)
    history.sync(state=RunState.FAILED)
    world.source.scopes[dark] = MemoryScope(ROOT, allow(1, 2), "/dark", complete=False)
    world.source.faults = Faults(withhold_scopes={deep})

    history.sync()

    assert (set(world.readable(1)), world.readable(2)) == ({"b.txt"}, {})
    world.source.scopes[dark] = MemoryScope(ROOT, allow(1, 2), "/dark")
    world.source.faults = Faults()
    quiet(history)
    assert world.readable(2) == {"b.txt": ["redacted"]}


# What holds are like.


def test_rules_that_were_written_meanwhile_are_not_released(world: World) -> None:
    """Who releases says which rules it knows: others that came since then stay."""
    world.add("a.txt", "text", allow(1))
    world.sync()
    opening = world.catalog.open_run(SOURCE, world.clock())
    (known,) = opening.documents.get([world.documents()["a.txt"].ordinal])
    for acl_id in (AclId(known.acl_id + 99), known.acl_id):
        assert world.readable(2) == {}
        with world.catalog.writer(SOURCE, opening.fence) as writer:
            wider = writer.rules.intern(known.scope, allow(1, 2))
            writer.give([(replace(known, acl_id=acl_id), wider)])
    assert set(world.readable(2)) == {"a.txt"}


def test_what_is_held_outlives_the_process(tmp_path: Path) -> None:
    """A run that ends before its texts are stored leaves everything held; the next process releases it."""
    with open_world(tmp_path) as world:
        source = world.source
        scope(world, TEAM, allow(1))
        world.add("a.txt", "the secret", allow(1), "team")
        world.add("b.txt", "second secret", allow(1, 2), "team")
        history = History(world)
        history.sync()

        def publish() -> None:
            scope(world, TEAM, allow(1, 2))
            world.add("a.txt", "redacted", allow(1, 2), "team")
            world.add("b.txt", "also redacted", allow(1, 2), "team")

        def stop(text: str) -> None:
            raise OSError("the power is gone")

        history.change(publish)
        world.extractor.before = stop
        history.sync(state=RunState.FAILED)
        moments = history.moments
    with open_world(tmp_path, source) as world:
        history = History(world, moments=moments)
        history.check()
        assert set(world.readable(1)) == {"a.txt", "b.txt"}
        assert world.readable(2) == {}
        assert held(world) > 0
        history.sync()
        assert world.readable(2) == {"a.txt": ["redacted"], "b.txt": ["also redacted"]}
        quiet(history)


def test_changing_to_and_fro_does_not_heap_up_what_is_held(world: World, history: History) -> None:
    """A clause that is held already is not held again, and runs that fail add no row after the first few."""
    world.add("a.txt", "text", allow(1), "team")
    history.change(lambda: None)
    history.sync()
    clauses = (allow(1), allow(1, 2), allow(1, 3))
    for number in range(20):
        history.change(lambda number=number: scope(world, TEAM, clauses[number % 3]))  # type: ignore[misc]
        history.change(lambda number=number: world.add("a.txt", f"{number}", clauses[number % 3], "team"))  # type: ignore[misc]
        world.source.faults = Faults(stop_at=3)
        history.sync(state=RunState.FAILED)

    assert held(world) <= 20
    assert set(world.readable(1)) == {"a.txt"}
    world.source.faults = Faults()
    quiet(history)


def test_a_chain_that_gets_too_deep_is_nobodys_until_it_is_released(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held scopes count as depth: past the limit nobody passes; afterwards everybody does again."""
    monkeypatch.setattr(walk, "MOST_CHANGES", 100)
    outer = ROOT
    depth = MAX_DEPTH - 3
    for number in range(depth):
        scope(world, ScopeId(f"deep{number}"), allow(1, 2), outer)
        outer = ScopeId(f"deep{number}")
    world.add("deep.txt", "deep", allow(1), outer)
    world.add("b.txt", "shallow", allow(1))
    history.change(lambda: None)
    history.sync()
    assert set(world.readable(1)) == {"deep.txt", "b.txt"}
    for number in range(5):
        scope(world, ScopeId(f"deep{number}"), allow(1), ROOT if number == 0 else ScopeId(f"deep{number - 1}"))
    world.source.faults = Faults(fail_at=depth + 3)
    history.change(lambda: None)
    history.sync(state=RunState.FAILED)

    with world.catalog.reader() as reader:
        values = [change.value for change in reader.changes_since(0)]
    assert sum(isinstance(value, ScopePut) for value in values) > MAX_DEPTH
    deep = world.documents()["deep.txt"]
    assert _indexed(world) == {world.documents()["b.txt"].ordinal}
    world.source.faults = Faults()
    history.sync()
    assert deep.ordinal in _indexed(world)


def _indexed(world: World) -> frozenset[int]:
    """What user 1 may read by the compiled index, each asked of `decide` as well."""
    index = ReadableIndex()
    with world.catalog.reader() as reader:
        index.apply(SOURCE, [change.value for change in reader.changes_since(0)])
    found = frozenset(index.readable(caller(1), world.clock.time).documents)
    for document in world.documents().values():
        decision = decide(index.acl(document.acl_id), caller(1), world.clock.time)
        assert isinstance(decision, Allowed) == (document.ordinal in found)
    return found


def test_a_held_rule_is_named_apart_and_nothing_of_it_is_in_the_clear(world: World, history: History) -> None:
    """A grant names old and new rules, each by an id of its own; labels are sealed as those of containers."""
    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1, 2), "/CANARY")
    world.add("a.txt", "text", allow(1, 2), "team")
    history.change(lambda: None)
    history.sync()
    world.source.scopes[TEAM] = MemoryScope(ROOT, allow(1), "/CANARY")
    world.add("a.txt", "text 2", allow(1), "team")
    world.source.faults.stop_at = 3
    history.change(lambda: None)
    history.sync(state=RunState.FAILED)

    stored = world.documents()["a.txt"]
    with world.catalog.reader() as reader:
        values = [change.value for change in reader.changes_since(0)]
        counted = reader.sources()[0]
    acl = acl_of(stored, values)
    assert isinstance(acl, Acl)
    assert acl.scope is not None
    chain = list(acl.scope.chain())
    decision = decide(acl, caller(1), world.clock.time)
    assert isinstance(decision, Allowed)
    assert [match.clause for match in decision.matches] == [
        "/",
        "/CANARY (before this run)",
        "/CANARY",
        "the document's own rules (before this run)",
        "own",
    ]
    assert len({scope.id for scope in chain}) == len(chain)
    assert sum(isinstance(value, AclPut) for value in values) >= 1
    assert (counted.documents, counted.quarantined) == (1, 0)
    with world.catalog._writer.begin() as connection:
        rows = connection.execute(text("SELECT * FROM scopes WHERE id LIKE '%#%'")).all()
    assert rows
    assert "CANARY" not in repr(rows)
    assert "before this run" not in repr(rows)


# The law.

_clauses = st.sampled_from([allow(1), allow(2), allow(1, 2), allow(1, 2), Clause(()), Unknown("not understood")])
_scopes = st.sampled_from(["top", "left", "right", "deep"])
_names = st.sampled_from(["a", "b", "c", "d"])
_parents = st.sampled_from([None, "top", "top", "left", "deep", "nowhere"])
_step = st.one_of(
    st.tuples(st.just("scope"), _scopes, _parents, _clauses),
    st.tuples(st.just("rules"), _scopes, _clauses),
    st.tuples(st.just("put"), _names, st.one_of(st.none(), _scopes), _clauses),
    st.tuples(st.just("own"), _names, _clauses),
    st.tuples(st.just("own"), _names, _clauses),
    st.tuples(st.just("text"), _names),
    st.tuples(st.just("publish"), _names, _clauses),
    st.tuples(st.just("drop"), _names),
    st.tuples(st.just("no scope"), _scopes),
)
_during = st.lists(st.tuples(st.integers(0, 9), _step), max_size=4)
_run = st.tuples(
    st.just("run"), _during, st.one_of(st.none(), st.none(), st.integers(0, 9)), st.frozensets(_names, max_size=1)
)
_program = st.lists(st.one_of(_step, _step, _run), min_size=2, max_size=12)

_BEGINNING: tuple[tuple[object, ...], ...] = (
    ("scope", "top", None, allow(1, 2)),
    ("scope", "left", "top", allow(1)),
    ("scope", "deep", "left", allow(1, 2)),
    ("put", "a", "top", allow(1)),
    ("put", "b", "left", allow(1, 2)),
    ("put", "c", "deep", allow(1, 2)),
)


class Program:
    """Applies steps to a source; every text that it writes is another one."""

    def __init__(self, world: World) -> None:
        self.history = History(world)
        self.source = world.source
        self.texts = 0

    def step(self, step: tuple[object, ...]) -> None:
        """Change the source in one moment."""
        self.history.change(lambda: self._apply(step))

    def _apply(self, step: tuple[object, ...]) -> None:
        documents, scopes, world = self.source.documents, self.source.scopes, self.history.world
        self.texts += 1
        match step:
            case ("scope", str(name), parent, Clause() | Unknown() as clause):
                above = ScopeId(parent) if isinstance(parent, str) else None
                scopes[ScopeId(name)] = MemoryScope(above, clause, f"/{name}")
            case ("rules", str(name), Clause() | Unknown() as clause) if ScopeId(name) in scopes:
                scopes[ScopeId(name)] = replace(scopes[ScopeId(name)], clause=clause)
            case ("no scope", str(name)):
                scopes.pop(ScopeId(name), None)
            case ("put", str(name), place, Clause() | Unknown() as clause):
                world.add(name, f"{name} {self.texts}", clause, place if isinstance(place, str) else None)
            case ("own", str(name), Clause() | Unknown() as clause) if name in documents:
                documents[name] = replace(documents[name], own=clause)
            case ("text", str(name)) if name in documents:
                documents[name] = replace(documents[name], content=f"{name} {self.texts}".encode())
            case ("publish", str(name), Clause() | Unknown() as clause) if name in documents:
                documents[name] = replace(documents[name], own=clause, content=f"{name} {self.texts}".encode())
            case ("drop", str(name)):
                documents.pop(name, None)
            case _:
                pass

    def run(self, during: list[tuple[int, tuple[object, ...]]], fail_at: int | None, changing: frozenset[str]) -> None:
        """Run a sync, during which the source changes; no container there and back, which no walk can notice."""
        touched: set[object] = set()
        waiting = sorted(during, key=lambda one: one[0])

        def meanwhile(number: int) -> None:
            while waiting and waiting[0][0] <= number:
                _, step = waiting.pop(0)
                if step[0] in ("scope", "rules", "no scope"):
                    if step[1] in touched:
                        continue
                    touched.add(step[1])
                self.step(step)

        error = RetriableError("the mount is gone")
        self.source.faults = Faults(fail_at=fail_at, error=error, changing=set(changing), before_change=meanwhile)
        self.history.sync(state=RunState.SUCCEEDED if fail_at is None else RunState.FAILED)
        self.source.faults = Faults()


@settings(max_examples=max(25, settings().max_examples // 4))
@given(_program)
def test_nothing_is_served_that_was_never_so_at_the_source(steps: list[tuple[object, ...]]) -> None:
    """However changes of the source fall between a walk's looks at it, and after a quiet run nothing is held."""
    with tempfile.TemporaryDirectory() as folder, open_world(Path(folder), MemorySource()) as world:
        program = Program(world)
        for beginning in _BEGINNING:
            program.step(beginning)
        program.run([], None, frozenset())
        for step in steps:
            match step:
                case ("run", list(during), fail_at, frozenset(changing)):
                    program.run(during, fail_at if isinstance(fail_at, int) else None, changing)
                case _:
                    program.step(step)
        quiet(program.history)
