"""After a shredding the running service makes its indexes anew: every byte of their files is looked at."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from service.errors import SearchUnavailableError
from service.index.base import FeedItem, Remove
from service.index.edge import EdgeIndex
from service.index.follow import RenewingFollower
from service.index.generations import VectorGenerations, WordGenerations
from service.index.keyword import AddTerms, KeywordIndex, TermFeed
from service.index.postings import Segment
from service.text.terms import passage_terms
from service.upkeep.purge import Purge
from service.upkeep.shred import Shredder
from tests.service.harness import ALICE, Service, allow, serving

TEXTS = {
    "one": "zirconium lighthouse ledger",
    "two": "yttrium harbour ledger",
    "three": "xenon quay ledger",
}


@dataclass
class Indexes:
    """Both indexes of a service with real files, and what makes them anew."""

    folder: Path
    vectors: VectorGenerations
    follower: RenewingFollower[FeedItem]
    words: RenewingFollower[AddTerms | Remove]
    purge: Purge
    shredder: Shredder
    done: list[str]

    def holds(self, vector: bytes) -> bool:
        """Whether a vector stands in any file of any generation."""
        files = [path.read_bytes() for path in (self.folder / "vectors").rglob("*") if path.is_file()]
        return any(vector in data for data in files)

    def has_term(self, number: int) -> bool:
        """Whether a term stands in any file of the words."""
        segments = [Segment.load(path.read_bytes()) for path in (self.folder / "words").rglob("*.segment")]
        return any(number in one.terms for one in segments)


@pytest.fixture
async def service(tmp_path: Path) -> object:
    async with serving(tmp_path / "remit") as running:
        for name, text in TEXTS.items():
            running.add(name, text, allow(ALICE))
        running.sync()
        yield running


@pytest.fixture
def indexes(service: Service, tmp_path: Path) -> Iterator[Indexes]:
    catalog, dimension = service.catalog, service.embedder.dimension
    with ExitStack() as closing:

        def generation(path: Path) -> EdgeIndex:
            return EdgeIndex(path, incarnation=catalog.incarnation, dimension=dimension)

        def words_generation(path: Path) -> KeywordIndex:
            return KeywordIndex(path, incarnation=catalog.incarnation, hashed=service.hashed)

        vectors = VectorGenerations(tmp_path / "vectors", generation)
        closing.callback(vectors.close)
        follower = RenewingFollower(catalog, vectors)
        follower.start()
        closing.callback(follower.close)
        keywords = WordGenerations(tmp_path / "words", words_generation)
        closing.callback(keywords.close)
        words = RenewingFollower(TermFeed(catalog, service.hashed), keywords)
        words.start()
        closing.callback(words.close)
        done: list[str] = []
        purge = Purge(catalog, (follower, words), lambda: done.append("done"))
        closing.callback(purge.close)

        def settle() -> None:
            follower.settle()
            words.settle()

        shredder = Shredder(catalog, service.custody, settle, service.clock, purge)
        yield Indexes(tmp_path, vectors, follower, words, purge, shredder, done)


def traces(service: Service, name: str) -> tuple[bytes, int]:
    """A document's vector, and the number of the word that it alone has."""
    with service.catalog.reader() as reader:
        ordinal = reader.document_by_id(service.document_ids()[name])
        assert ordinal is not None
        rows = {chunk.row for chunk in reader.chunks_of(ordinal.ordinal)}
        (vector,) = [item.vector for item in reader.feed(0, 100) if item.row in rows]  # type: ignore[union-attr]
    word = TEXTS[name].split()[0]
    (stem,) = passage_terms(word)
    return np.asarray(vector).tobytes(), service.hashed.numbers([stem])[0]


async def test_nothing_of_a_shredded_document_stays_in_an_index(service: Service, indexes: Indexes) -> None:
    """Vector and term are in the files before, and in none once the certificate says so; the neighbours stay."""
    (vector, term), (other, other_term) = traces(service, "one"), traces(service, "two")
    indexes.words.flush()
    indexes.follower.flush()
    assert indexes.holds(vector), "the control: it is found before"
    assert indexes.has_term(term)
    before = service.catalog.incarnation
    indexes.purge.start()

    done = indexes.shredder.document(service.document_ids()["one"])

    assert not done.index_rebuild_pending
    assert not indexes.holds(vector)
    assert not indexes.has_term(term)
    assert indexes.holds(other)
    assert indexes.has_term(other_term)
    assert indexes.vectors.count == 2
    assert indexes.vectors.applied_seq == indexes.vectors._live.applied_seq
    with service.catalog._readers.begin() as connection:
        stored = connection.exec_driver_sql("SELECT value FROM about WHERE name = 'incarnation'").scalar_one()
    assert stored == before, "the next start has nothing to do"
    assert indexes.done == ["done"]


async def test_until_it_is_done_the_certificate_says_so(service: Service, indexes: Indexes) -> None:
    """Without the purge, and after one that failed: the next start makes the index anew, as before."""
    vector, _ = traces(service, "one")
    indexes.purge.close()

    done = indexes.shredder.document(service.document_ids()["one"])

    assert done.index_rebuild_pending
    assert indexes.holds(vector)
    with service.catalog._readers.begin() as connection:
        stored = connection.exec_driver_sql("SELECT value FROM about WHERE name = 'incarnation'").scalar_one()
    assert stored != service.catalog.incarnation


async def test_a_folder_that_cannot_be_removed_is_not_called_gone(
    service: Service, indexes: Indexes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vector is still readable there: pending stays true, and a later purge ends it."""
    vector, _ = traces(service, "one")
    monkeypatch.setattr("service.upkeep.purge._WAIT_S", 3.0)
    monkeypatch.setattr("service.upkeep.purge._RETRY_S", 0.2)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        indexes.purge.start()
        indexes.purge._catalog.renew()  # type: ignore[attr-defined]  # as a shredding does
        indexes.purge(1.0)
        assert service.catalog.rebuild_pending
    indexes.purge(30.0)

    assert not service.catalog.rebuild_pending
    done = indexes.shredder.document(service.document_ids()["one"])
    assert not done.index_rebuild_pending
    assert not indexes.holds(vector)


async def test_a_second_shredding_during_a_purge_is_not_forgotten(
    service: Service, indexes: Indexes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes too late for the generation that is being built is purged by one more."""
    first, second = traces(service, "one"), traces(service, "two")
    ids = service.document_ids()
    entered, go = threading.Event(), threading.Event()
    real = VectorGenerations.replace
    calls: list[int] = []

    def slow(self: VectorGenerations, built: EdgeIndex) -> None:
        calls.append(1)
        if len(calls) == 1:
            entered.set()
            assert go.wait(30)
        real(self, built)

    monkeypatch.setattr(VectorGenerations, "replace", slow)
    indexes.purge.start()
    one = threading.Thread(target=indexes.shredder.document, args=[ids["one"]])
    one.start()
    assert entered.wait(30)
    # The index stands still while it is replaced: so much of a shredding as comes before it follows the feed.
    with service.catalog.reader() as reader:
        found = reader.document_by_id(ids["two"])
    assert found is not None
    fence = service.catalog.take_fence(found.source)
    with service.catalog.writer(found.source, fence) as writer:
        writer.bury([found.ordinal])
    service.catalog.purge(found.source, fence)
    service.catalog.renew()
    go.set()
    one.join(30)
    indexes.purge(30.0)

    assert len(calls) == 2
    assert not service.catalog.rebuild_pending
    assert not indexes.holds(first[0])
    assert not indexes.holds(second[0])
    assert not indexes.has_term(second[1])
    assert indexes.vectors.count == 1


async def test_searches_go_on_while_it_is_made_anew(service: Service, indexes: Indexes) -> None:
    """No search fails, and what is permitted is found throughout."""
    from pyroaring import BitMap

    vector = np.frombuffer(traces(service, "two")[0], np.float32)
    stop, failures, answers = threading.Event(), list[BaseException](), list[int]()

    def search() -> None:
        while not stop.is_set():
            try:
                found = indexes.vectors.search(vector, BitMap(range(100)), 1)
                answers.append(len(found.candidates))
            except SearchUnavailableError as err:
                failures.append(err)

    thread = threading.Thread(target=search)
    thread.start()
    indexes.purge.start()
    try:
        done = indexes.shredder.document(service.document_ids()["one"])
    finally:
        stop.set()
        thread.join()

    assert not done.index_rebuild_pending
    assert not failures
    assert answers
    assert set(answers) == {1}
