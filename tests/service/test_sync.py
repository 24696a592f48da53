"""A run over a source: what it stores, what it leaves alone, what it withholds, and what it never removes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from acl.changes import ScopeDrop, ScopePut
from acl.model import ScopeId, Unknown
from connectors.base import Skip, Upsert
from connectors.errors import FatalError, RetriableError
from connectors.media_types import UNKNOWN
from connectors.testing.hostile import MemoryScope
from service.errors import SearchUnavailableError, SyncRunningError
from service.stores.errors import FencedError
from service.stores.records import Phase, Recovery, RunState, StoredRun
from service.sync import texts
from service.sync.runs import StoppedError
from service.sync.texts import UNTITLED
from service.text.extract import Extractor
from tests.service.sync_support import SOURCE, World, allow, open_world

ROOT = ScopeId("root")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        yield opened


def test_a_first_run_stores_every_document_under_its_rules(world: World) -> None:
    """Each user reads exactly the documents whose own clause and containers let them through."""
    world.add("plan.txt", "# The plan\n\nsell more", allow(1))
    world.add("pay.txt", "everybody gets a raise", allow(2))

    run = world.sync()

    assert run.state is RunState.SUCCEEDED, run
    assert (run.counts.seen, run.counts.stored, run.counts.chunks, run.counts.scopes) == (2, 2, 3, 1)
    assert world.readable(1) == {"The plan": ["# The plan", "sell more"]}
    assert world.readable(2) == {"pay.txt": ["everybody gets a raise"]}
    assert world.readable(3) == {}
    assert world.finished == [run]


def test_an_unchanged_source_is_not_read_and_nothing_is_written(world: World) -> None:
    """The second run reads no content, embeds nothing and leaves the change log where it was."""
    for number in range(300):
        world.add(f"{number}.txt", f"text {number}", allow(1))
    world.sync()
    world.source.reads.clear()
    world.embedder.texts.clear()
    with world.catalog.reader() as reader:
        before = reader.seq, reader.feed_seq

    run = world.sync()

    assert run.counts.unchanged == run.counts.seen == 300
    assert not world.source.reads
    assert not world.embedder.texts
    with world.catalog.reader() as reader:
        assert (reader.seq, reader.feed_seq) == before


def test_an_unchanged_source_costs_no_statement_a_document(world: World) -> None:
    """The number of statements of a run over what is known grows with batches, not with documents."""
    counted: list[int] = []

    def count(*_: object) -> None:
        counted[-1] += 1

    event.listen(Engine, "before_cursor_execute", count)
    try:
        for size in (10, 400):
            for number in range(size):
                world.add(f"{number}.txt", f"text {number}", allow(1))
            counted.append(0)
            world.sync()
            counted.append(0)
            world.sync()
    finally:
        event.remove(Engine, "before_cursor_execute", count)

    assert counted[3] - counted[1] <= 400 // 50, "two for each batch of two hundred"
    assert counted[2] > counted[3], "the control: statements are counted"


def test_a_new_version_with_old_content_is_read_but_not_embedded(world: World) -> None:
    """A touched file is hashed; its text, its chunks and their ids stay."""
    world.add("a.txt", "text", allow(1))
    world.sync()
    before = world.documents()["a.txt"]
    world.source.documents["a.txt"] = replace(world.source.documents["a.txt"], revision=1)
    world.embedder.texts.clear()

    world.sync()
    world.source.reads.clear()
    world.sync()

    assert not world.embedder.texts
    assert not world.source.reads, "the new version was remembered"
    assert world.documents()["a.txt"].row_start == before.row_start


def test_new_content_takes_the_place_of_the_old(world: World) -> None:
    """After a change there is only the new text, in new rows; the index is told to forget the old ones."""
    world.add("a.txt", "old\n\ntext", allow(1))
    world.sync()
    world.add("a.txt", "new", allow(1))

    world.sync()

    assert world.readable(1) == {"a.txt": ["new"]}
    with world.catalog.reader() as reader:
        assert [(type(item).__name__, item.row) for item in reader.feed(0, 10)] == [
            ("Remove", 1),
            ("Remove", 2),
            ("Add", 3),
        ]


def test_the_same_content_is_extracted_and_embedded_once(world: World) -> None:
    """Copies share the work, in one run and across runs, but neither rules nor a name that stood in for a title."""
    world.add("secret-name.txt", "same text", allow(1))
    world.add("b.txt", "same text", allow(2))
    world.sync()
    world.add("c.txt", "same text", allow(3))

    run = world.sync()

    assert run.counts.stored == 1
    assert world.extractor.extracted == ["same text"]
    assert world.embedder.texts == ["same text"]
    assert world.readable(1) == {"secret-name.txt": ["same text"]}
    assert world.readable(2) == {"b.txt": ["same text"]}
    assert world.readable(3) == {"c.txt": ["same text"]}


def test_a_renamed_document_is_neither_extracted_nor_embedded_again(world: World) -> None:
    """One is gone and one is new: the text goes over under the new rules, and the old document leaves nothing."""
    world.add("old.txt", "# Kept\n\ntext", allow(1, 2))
    world.sync()
    world.embedder.texts.clear()
    world.extractor.extracted.clear()
    del world.source.documents["old.txt"]
    world.add("new.txt", "# Kept\n\ntext", allow(1))

    run = world.sync()

    assert (run.counts.stored, run.counts.removed) == (1, 1)
    assert (world.embedder.texts, world.extractor.extracted) == ([], [])
    assert (world.readable(1), world.readable(2)) == ({"Kept": ["# Kept", "text"]}, {})
    assert world.keys.documents(SOURCE) == {world.documents()["new.txt"].document_id}


def test_contents_that_change_places_are_both_stored(world: World) -> None:
    """Each is taken from the other before either is overwritten, however the batches fall."""
    for number in range(200):
        world.add(f"{number}.txt", f"text {number}", allow(1))
    world.sync()
    world.embedder.texts.clear()
    for number in range(200):
        world.add(f"{number}.txt", f"text {199 - number}", allow(1))

    run = world.sync()

    assert (run.counts.stored, run.problems) == (200, ())
    assert world.readable(1) == {f"{number}.txt": [f"text {199 - number}"] for number in range(200)}


def test_content_of_another_media_type_is_no_copy(world: World) -> None:
    """The same bytes read as another format may give another text."""
    world.add("a.txt", "same", allow(1))
    world.add("a.md", "same", allow(1), media_type="text/markdown")

    world.sync()

    assert world.extractor.extracted == ["same", "same"]


def test_narrowed_rules_are_in_force_before_any_content_work(world: World) -> None:
    """While an earlier document hangs in extraction, a later one's narrowing is already committed."""
    world.add("slow.txt", "slow", allow(1))
    world.add("shared.txt", "shared", allow(1, 2))
    world.sync()
    assert "shared.txt" in world.readable(2)
    hanging, go_on = threading.Event(), threading.Event()

    def hang(text: str) -> None:
        hanging.set()
        assert go_on.wait(30)

    world.extractor.before = hang
    world.add("slow.txt", "slow, and changed", allow(1))
    world.source.documents["shared.txt"] = world.source.documents.pop("shared.txt")
    world.add("shared.txt", "shared", allow(1))
    with_runner: list[StoredRun] = []
    runner = threading.Thread(target=lambda: with_runner.append(world.sync()))
    runner.start()
    try:
        assert hanging.wait(30)
        progress = next(iter(world.engine._live.values())).progress
        revision, run = 0, progress.snapshot()
        while run.counts.permissions_changed == 0 and run.state is RunState.RUNNING:
            revision, run = progress.wait(revision, 30)
        narrowed = world.readable(2)
        still = world.readable(1)
    finally:
        go_on.set()
        runner.join(30)

    assert narrowed == {}
    assert still["shared.txt"] == ["shared"]
    assert with_runner[0].state is RunState.SUCCEEDED


def test_rules_are_committed_while_the_source_is_silent(world: World) -> None:
    """A narrowing does not wait in a batch for the source's next word."""
    world.add("a.txt", "text", allow(1, 2))
    world.add("b.txt", "text", allow(1))
    world.sync()
    world.add("a.txt", "text", allow(1))
    committed = threading.Event()
    seen: list[dict[str, list[str]]] = []

    def wait_for_it(number: int) -> None:
        if number == 2:  # The container and `a.txt` were sent, `b.txt` was not.
            world.commits.clear()
            for _ in range(300):
                if world.commits or committed.wait(0.05):
                    break
            seen.append(world.readable(2))

    world.source.faults.before_change = wait_for_it

    world.sync()

    assert seen == [{}]


def test_a_container_that_narrows_takes_everything_below_with_it(world: World) -> None:
    """Rows of containers change; no document below is written or read."""
    world.source.scopes[ScopeId("team")] = MemoryScope(ROOT, allow(1, 2), "/team")
    for number in range(50):
        world.add(f"team/{number}.txt", f"text {number}", allow(1, 2), "team")
    world.sync()
    world.source.reads.clear()
    world.source.scopes[ScopeId("team")] = MemoryScope(ROOT, allow(1), "/team")
    with world.catalog.reader() as reader:
        before = reader.seq

    world.sync()

    assert len(world.readable(1)) == 50
    assert world.readable(2) == {}
    with world.catalog.reader() as reader:
        assert {type(change.value) for change in reader.changes_since(before)} <= {ScopePut, ScopeDrop}
    assert world.source.reads == []


@pytest.mark.parametrize("parent", ["nowhere", "team"])
def test_a_container_without_a_way_to_the_root_is_nobodys(world: World, parent: str) -> None:
    """A parent that dangles or leads in a circle takes the documents away; others stay."""
    world.source.scopes[ScopeId("team")] = MemoryScope(ScopeId(parent), allow(1), "/team")
    world.add("team/a.txt", "text", allow(1), "team")
    world.add("b.txt", "text b", allow(1))

    world.sync()

    assert world.readable(1) == {"b.txt": ["text b"]}


def test_rules_that_are_not_understood_withhold_the_document_and_its_content_is_not_read(world: World) -> None:
    """An unknown clause is nobody's, listed with its reason, until it is understood again."""
    world.add("a.txt", "text", Unknown("a kind of entry that is not known"))
    world.add("b.txt", "text b", allow(1))

    run = world.sync()

    assert world.readable(1) == {"b.txt": ["text b"]}
    assert world.source.reads == ["b.txt"]
    assert [(p.location, p.detail) for p in run.problems] == [("a.txt", "a kind of entry that is not known")]
    stored = world.documents()["a.txt"]
    assert stored.acl_id == 0
    assert world.catalog.sealing.quarantine(stored) == "a kind of entry that is not known"
    world.add("a.txt", "text", allow(1))
    world.sync()
    assert world.readable(1) == {"a.txt": ["text"], "b.txt": ["text b"]}


def test_a_skipped_document_is_withheld_until_it_is_sent_again(world: World) -> None:
    """What the walk could not verify nobody reads, and when it can, nothing is embedded again."""
    world.add("a.txt", "text", allow(1))
    world.add("b.txt", "text b", allow(1))
    world.sync()
    kept = world.source.documents.pop("a.txt")
    world.source.skips.append(Skip("a.txt", "a.txt", "unreadable", "permission denied"))
    world.embedder.texts.clear()

    run = world.sync()
    withheld = world.readable(1)
    world.source.skips.clear()
    world.source.documents["a.txt"] = kept
    world.sync()

    assert withheld == {"b.txt": ["text b"]}
    assert [problem.reason for problem in run.problems] == ["unreadable"]
    assert world.readable(1) == {"a.txt": ["text"], "b.txt": ["text b"]}
    assert not world.embedder.texts


def test_a_document_that_changes_while_it_is_read_keeps_its_old_text_under_the_new_rules(world: World) -> None:
    """The next run reads it; until then nobody sees a text under rules that were not sent with it."""
    world.add("a.txt", "old", allow(1, 2))
    world.sync()
    world.add("a.txt", "new", allow(1))
    world.source.faults.changing.add("a.txt")

    run = world.sync()
    meanwhile = world.readable(1), world.readable(2)
    world.source.faults.changing.clear()
    world.sync()

    assert run.state is RunState.SUCCEEDED
    assert [problem.reason for problem in run.problems] == ["changed"]
    assert meanwhile == ({"a.txt": ["old"]}, {})
    assert world.readable(1) == {"a.txt": ["new"]}


def test_an_unreadable_document_loses_its_text_and_is_tried_again(world: World) -> None:
    """An old text is not served as if it were current."""
    world.add("a.txt", "old", allow(1))
    world.add("b.txt", "neighbour", allow(1))
    world.sync()
    world.add("a.txt", "new", allow(1))
    world.source.faults.unreadable.add("a.txt")

    world.sync()
    meanwhile = world.readable(1)
    world.source.faults.unreadable.clear()
    world.sync()

    assert meanwhile == {"b.txt": ["neighbour"]}
    assert world.readable(1) == {"a.txt": ["new"], "b.txt": ["neighbour"]}


def test_a_document_that_cannot_be_extracted_is_listed_and_not_tried_again_until_it_changes(world: World) -> None:
    """The run goes on; the old text is gone; the same version is not opened twice."""
    world.add("a.txt", "old", allow(1))
    world.add("b.txt", "neighbour", allow(1))
    world.sync()
    world.add("a.txt", "new", allow(1))
    world.extractor.failures["new"] = "encrypted"

    run = world.sync()
    meanwhile = world.readable(1)
    world.source.reads.clear()
    world.sync()

    assert run.state is RunState.SUCCEEDED
    assert [(problem.location, problem.reason) for problem in run.problems] == [("a.txt", "encrypted")]
    assert meanwhile == {"b.txt": ["neighbour"]}
    assert not world.source.reads
    assert world.documents()["a.txt"].text_problem == "encrypted"
    world.extractor.failures.clear()
    world.add("a.txt", "newer", allow(1))
    world.sync()
    assert world.readable(1) == {"a.txt": ["newer"], "b.txt": ["neighbour"]}


def test_a_document_over_the_limit_is_skipped(world: World) -> None:
    """Too large is a reason, not a failure of the run, and not tried again."""
    world.add("big.txt", "x" * 200_000, allow(1))
    world.add("small.txt", "x", allow(1))

    run = world.sync()
    world.source.reads.clear()
    world.sync()

    assert [problem.reason for problem in run.problems] == ["too large"]
    assert world.readable(1) == {"small.txt": ["x"]}
    assert not world.source.reads


def test_a_document_of_a_kind_that_nothing_reads_is_listed_and_not_read(world: World) -> None:
    """A share full of images costs no reading; the old text is gone, and the neighbour is stored."""
    world.add("a.png", "old", allow(1))
    world.add("b.txt", "neighbour", allow(1))
    world.sync()
    world.source.reads.clear()
    world.add("a.png", "pixels", allow(1), media_type=UNKNOWN)
    world.add("b.txt", "new neighbour", allow(1))

    run = world.sync()
    again = world.sync()

    assert world.source.reads == ["b.txt"]
    assert [(problem.location, problem.reason) for problem in run.problems] == [("a.png", "unsupported")]
    assert world.documents()["a.png"].text_problem == "unsupported"
    assert world.readable(1) == {"b.txt": ["new neighbour"]}
    assert again.problems == ()


def test_the_first_texts_are_stored_soon(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first commits hold fewer documents than the later ones, so that a progress bar moves."""
    monkeypatch.setattr(texts, "_BATCH_S", 30.0)
    for number in range(200):
        world.add(f"{number}.txt", f"text {number}", allow(1))
    stored: list[int] = []

    def count() -> None:
        with world.catalog.reader() as reader:
            stored.append(reader.sources()[0].documents)

    world.engine._on_commit = count

    world.sync()

    steps = [now - before for before, now in pairwise([0, *dict.fromkeys(stored)]) if now > before]
    assert sum(steps) == 200
    assert steps[:2] == [16, 32]
    assert max(steps) == 64


def test_what_is_gone_from_a_complete_listing_is_removed_with_its_key(world: World) -> None:
    """Row, chunks, key and container are gone, the index is told, and the neighbour stays."""
    world.source.scopes[ScopeId("team")] = MemoryScope(ROOT, allow(1), "/team")
    world.add("team/a.txt", "text", allow(1), "team")
    world.add("b.txt", "text b", allow(1))
    world.sync()
    gone = world.documents()["team/a.txt"]
    del world.source.documents["team/a.txt"]
    del world.source.scopes[ScopeId("team")]

    run = world.sync()

    assert run.counts.removed == 1
    assert world.readable(1) == {"b.txt": ["text b"]}
    assert world.keys.documents(SOURCE) == {world.documents()["b.txt"].document_id}
    with world.catalog.reader() as reader:
        assert reader.document_by_id(gone.document_id) is None
        assert not reader.chunks(range(gone.row_start, gone.row_stop))
        kinds = sorted(type(change.value).__name__ for change in reader.changes_since(0))
        assert kinds == ["AclPut", "DocumentPut", "ScopePut"]
        assert sorted((type(item).__name__, item.row) for item in reader.feed(0, 9)) == [
            ("Add", world.documents()["b.txt"].row_start),
            ("Remove", gone.row_start),
        ]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RetriableError("the mount `/srv` is gone", timedelta(minutes=5)), "the mount `/srv` is gone"),
        (FatalError("the root is another folder"), "the root is another folder"),
        (ValueError("text of a document"), "an error that nobody foresaw"),
    ],
)
def test_a_failed_walk_removes_nothing_and_keeps_what_it_narrowed(
    world: World, error: Exception, sentence: str
) -> None:
    """Its sentence is in the report, the time of the last verification stays, and the next run goes on."""
    world.add("a.txt", "text a", allow(1, 2))
    world.add("b.txt", "text b", allow(1))
    world.add("c.txt", "text c", allow(1))
    world.sync()
    with world.catalog.reader() as reader:
        verified_at = reader.sources()[0].permissions_verified_at
    world.add("a.txt", "text a", allow(1))
    del world.source.documents["b.txt"]
    world.source.faults.fail_at = 2
    world.source.faults.error = error

    run = world.sync()

    assert run.state is RunState.FAILED
    assert sentence in run.failure
    assert "text of a document" not in run.failure
    assert run.recovery is (Recovery.PERSON if isinstance(error, FatalError) else Recovery.RETRY)
    assert run.retry_after == (timedelta(minutes=5) if isinstance(error, RetriableError) else None)
    assert set(world.readable(1)) == {"a.txt", "b.txt", "c.txt"}
    assert world.readable(2) == {}
    with world.catalog.reader() as reader:
        assert reader.sources()[0].permissions_verified_at == verified_at
        assert reader.run(run.run_id) == run
    world.source.faults.fail_at = None
    assert world.sync().state is RunState.SUCCEEDED
    assert set(world.readable(1)) == {"a.txt", "c.txt"}


def test_a_listing_that_just_ends_removes_nothing(world: World) -> None:
    """Without the word that it was complete, what was not seen is not gone."""
    for name in "abc":
        world.add(f"{name}.txt", name, allow(1))
    world.sync()
    world.source.faults.stop_at = 2

    run = world.sync()

    assert run.state is RunState.FAILED
    assert "ended its listing early" in run.failure
    assert set(world.readable(1)) == {"a.txt", "b.txt", "c.txt"}


def test_a_listing_that_goes_on_after_its_end_fails_the_run(world: World) -> None:
    """Nothing was removed on the word of such a connector."""
    world.add("a.txt", "a", allow(1))
    world.sync()
    del world.source.documents["a.txt"]
    world.source.faults.after_complete = (Skip(None, "x", "special file", "a FIFO"),)

    run = world.sync()

    assert run.state is RunState.FAILED
    assert set(world.readable(1)) == {"a.txt"}


def test_what_lies_below_an_incomplete_container_is_withheld_and_not_removed(world: World) -> None:
    """Unseen there is not gone; nobody reads it until it is seen; a container elsewhere is swept as usual."""
    world.source.scopes[ScopeId("dark")] = MemoryScope(ROOT, allow(1), "/dark")
    world.source.scopes[ScopeId("deep")] = MemoryScope(ScopeId("dark"), allow(1), "/dark/deep")
    world.add("dark/deep/a.txt", "deep", allow(1), "deep")
    world.add("b.txt", "gone", allow(1))
    world.add("c.txt", "stays", allow(1))
    world.sync()
    world.embedder.texts.clear()
    world.source.scopes[ScopeId("dark")] = MemoryScope(ROOT, allow(1), "/dark", complete=False)
    deep = world.source.scopes.pop(ScopeId("deep"))
    document = world.source.documents.pop("dark/deep/a.txt")
    del world.source.documents["b.txt"]

    run = world.sync()
    meanwhile = world.readable(1)
    again = world.sync()
    world.source.scopes[ScopeId("dark")] = MemoryScope(ROOT, allow(1), "/dark")
    world.source.scopes[ScopeId("deep")] = deep
    world.source.documents["dark/deep/a.txt"] = document
    world.sync()

    assert (run.state, run.counts.removed, again.counts.removed) == (RunState.SUCCEEDED, 1, 0)
    assert "unlisted" in {problem.reason for problem in run.problems}
    assert meanwhile == {"c.txt": ["stays"]}
    assert set(world.readable(1)) == {"a.txt", "c.txt"}
    assert not world.embedder.texts


def test_changes_sent_twice_are_stored_once(world: World) -> None:
    """Counts, rows and reads are those of a source that says everything once."""
    world.source.faults.repeat = 2
    world.add("a.txt", "text a", allow(1))
    world.add("b.txt", "text b", allow(1))

    run = world.sync()

    assert (run.counts.seen, run.counts.stored, run.counts.scopes) == (2, 2, 1)
    assert sorted(world.source.reads) == ["a.txt", "b.txt"]
    assert set(world.readable(1)) == {"a.txt", "b.txt"}


def test_containers_that_come_after_their_documents_are_understood_at_last(world: World) -> None:
    """A document is nobody's until its container is known, and readable then."""
    world.source.faults.scopes_last = True
    world.add("a.txt", "text", allow(1))

    world.sync()

    assert world.readable(1) == {"a.txt": ["text"]}


def test_a_moved_document_keeps_its_text_and_gets_its_new_place(world: World) -> None:
    """A change of rules and container writes one row; nothing is read."""
    world.source.scopes[ScopeId("team")] = MemoryScope(ROOT, allow(2), "/team")
    world.add("a.txt", "text", allow(1, 2))
    world.sync()
    world.source.reads.clear()
    world.add("a.txt", "text", allow(1, 2), "team")

    run = world.sync()

    assert run.counts.permissions_changed == 1
    assert not world.source.reads
    assert (world.readable(1), world.readable(2)) == ({}, {"a.txt": ["text"]})


def test_one_run_at_a_time_over_a_source(world: World) -> None:
    """A second opening is refused with the id of the first; after its end it is allowed."""
    first = world.engine.open(SOURCE)

    with pytest.raises(SyncRunningError) as refused:
        world.engine.open(SOURCE)

    assert refused.value.run_id == first.progress.run_id
    first.execute()
    assert world.sync().state is RunState.SUCCEEDED


def test_a_run_that_lost_its_lease_cannot_write(world: World) -> None:
    """An older run's wider rules do not come back: its writes are refused, the newer run's stand."""
    world.add("a.txt", "text", allow(1, 2))
    paused = world.engine.open(SOURCE)
    del world.engine._live[SOURCE]
    world.add("a.txt", "text", allow(1))
    assert world.sync().state is RunState.SUCCEEDED
    world.add("a.txt", "text", allow(1, 2))
    world.engine._live[SOURCE] = paused

    run = paused.execute()

    assert run.state is RunState.FAILED
    assert "no longer the latest" in run.failure
    assert world.readable(2) == {}
    with pytest.raises(FencedError), world.catalog.writer(SOURCE, 1):
        pass


def test_a_run_that_is_told_to_stop_fails_and_the_next_goes_on(world: World) -> None:
    """Stopping waits for no document, and removes nothing."""
    for number in range(20):
        world.add(f"{number}.txt", f"text {number}", allow(1))

    def stop_at_third(text: str) -> None:
        if text == "text 2":
            world.engine._live[SOURCE].stop()

    world.extractor.before = stop_at_third

    run = world.sync()

    assert run.state is RunState.FAILED
    assert (run.failure[:7], run.recovery) == ("stopped", Recovery.RESUME)
    assert len(world.extractor.extracted) < 20
    world.extractor.before = lambda text: None
    assert world.sync().state is RunState.SUCCEEDED
    assert len(world.readable(1)) == 20


def test_a_stopping_engine_opens_no_run(world: World) -> None:
    """After `stop` no source is touched any more."""
    world.engine.stop()

    with pytest.raises(StoppedError):
        world.engine.open(SOURCE)


def test_a_model_that_does_not_answer_fails_the_run_and_nothing_is_half_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules are kept, no chunk is there, and the next run embeds what is missing."""
    world.add("a.txt", "text", allow(1))

    def refuse(texts: list[str]) -> None:
        raise SearchUnavailableError("the model does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.embedder, "embed", refuse)
        run = world.sync()

    assert (run.state, run.failure) == (RunState.FAILED, "the model does not answer")
    assert world.readable(1) == {}
    assert world.sync().counts.stored == 1
    assert world.readable(1) == {"a.txt": ["text"]}


def test_a_source_that_cannot_be_connected_fails_the_run_with_its_sentence(world: World) -> None:
    """The report says what to do; the lease is given back."""

    def refuse(name: str) -> None:
        raise FatalError("the root `/srv/company` does not exist: name another")

    connect = world.engine._connect
    world.engine._connect = refuse  # type: ignore[assignment]  # never returns

    run = world.sync()

    assert run.failure == "the root `/srv/company` does not exist: name another"
    world.engine._connect = connect
    assert world.sync().state is RunState.SUCCEEDED


def test_the_cursor_of_the_last_complete_run_is_handed_back(world: World) -> None:
    """A failed run does not move it."""
    world.add("a.txt", "text", allow(1))
    world.sync()
    world.source.faults.fail_at = 0
    world.sync()
    world.source.faults.fail_at = None
    world.sync()

    assert world.source.cursors == [None, {"documents": 1}, {"documents": 1}]


def test_only_a_complete_run_verifies_permissions_as_of_its_beginning(world: World) -> None:
    """The age of the rules counts from when the walk began, not from when the last text was stored."""
    world.source.faults.fail_at = 0
    world.sync()
    with world.catalog.reader() as reader:
        assert reader.sources()[0].permissions_verified_at is None
    world.source.faults.fail_at = None

    run = world.sync()

    with world.catalog.reader() as reader:
        assert reader.sources()[0].permissions_verified_at == run.started_at


def test_progress_can_be_followed_to_the_end(world: World) -> None:
    """Waiting returns something newer each time, and the ended run last; counts never fall."""
    for number in range(30):
        world.add(f"{number}.txt", f"text {number}", allow(1))
    run = world.engine.open(SOURCE)
    progress = world.engine.progress(run.progress.run_id)
    assert progress is not None
    seen: list[StoredRun] = []

    def watch() -> None:
        revision = 0
        while not seen or seen[-1].state is RunState.RUNNING:
            revision, now = progress.wait(revision, 30)
            seen.append(now)

    watcher = threading.Thread(target=watch)
    watcher.start()
    ended = run.execute()
    watcher.join(30)

    assert seen[-1] == ended
    assert [r.counts.stored for r in seen] == sorted(r.counts.stored for r in seen)
    phases = [r.live.phase for r in seen if r.live is not None]
    assert phases == sorted(phases, key=list(Phase).index)
    assert ended.live is None


def test_every_commit_is_announced(world: World) -> None:
    """The index follows because it is told; without changes there is at most the run's own."""
    world.add("a.txt", "text", allow(1))
    world.sync()
    first = len(world.commits)
    world.commits.clear()

    world.sync()

    assert first >= 3
    assert len(world.commits) <= 2


def test_a_text_is_not_stored_under_rules_that_changed_while_it_was_read(world: World) -> None:
    """The container narrows between two looks at the rules: the read is refused, and the next run puts it right."""
    world.add("a.txt", "secret", allow(1, 2))

    def narrow(upsert: Upsert) -> None:
        world.source.scopes[ROOT] = MemoryScope(None, allow(1), "/")

    world.source.faults.during_read = narrow

    world.sync()
    meanwhile = world.readable(2)
    world.sync()

    assert meanwhile == {}
    assert (world.readable(1), world.readable(2)) == ({"a.txt": ["secret"]}, {})


def test_a_document_without_a_title_or_a_name_is_untitled() -> None:
    """What a copy of a text relies on to get its own name, and not that of a document which others may not see."""
    extractor = Extractor(None, 256)
    try:
        assert extractor.extract(b"just a text", "text/plain", "").title == UNTITLED
        assert extractor.extract(b"just a text", "text/plain", "name.txt").title != UNTITLED
    finally:
        extractor.close()
