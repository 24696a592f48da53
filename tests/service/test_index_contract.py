"""What every vector index owes: Qdrant Edge, the client's local mode for the shape of its API, and a real server.

A real Qdrant server is asked where REMIT_QDRANT_URL names one, such as http://127.0.0.1:6334 (with the key's file in
REMIT_QDRANT_API_KEY). None can be installed with the tests, so that its absence is a skip and never a failure.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from pyroaring import BitMap
from qdrant_client import QdrantClient, models

from acl.changes import AclPut, Change, DocumentPut
from acl.model import NEVER, AclId, Caller, Clause, Effect, Rule
from acl.principal import Principal, realm
from acl.readable import ReadableIndex
from service.errors import SearchUnavailableError, StartError
from service.index.base import Add, Index, InvalidVectorError, Remove
from service.index.edge import EdgeIndex
from service.index.follow import follow
from service.index.planner import SearchPath, Tuning
from service.index.qdrant import STATE_ID, QdrantIndex, connect
from service.index.qdrant_settings import QdrantSettings
from tests.service.test_index_edge import DIMENSION, Feed, add, reference, vectors

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

CODED = Tuning(candidates=60, exact_below=60, threads=2)
MATRIX = vectors(400)
QUERIES = vectors(8, seed=9)
AT = datetime(2030, 1, 1, tzinfo=UTC)

Open = Callable[..., Index]


class Kept(QdrantClient):
    """A client in memory that outlives the indexes over it, as a server would."""

    def close(self, grpc_grace: float | None = None, **kwargs: object) -> None:
        """Nothing is forgotten."""


def server() -> QdrantClient:
    """A client of the server that the environment names."""
    url, key = urlsplit(os.environ["REMIT_QDRANT_URL"]), os.environ.get("REMIT_QDRANT_API_KEY")
    tls = url.scheme == "https"
    return connect(QdrantSettings(url.hostname or "", url.port or 6334, tls, None if key is None else Path(key)))


@pytest.fixture(params=["edge", "local", "local, server side", "server", "server, server side"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens indexes over one place: what a second one finds there is what the first one left."""
    kind, _, side = request.param.partition(", ")
    if kind == "server" and "REMIT_QDRANT_URL" not in os.environ:
        pytest.skip("REMIT_QDRANT_URL names no Qdrant server")
    opened: list[Index] = []
    collection = f"test-{secrets.token_hex(6)}"
    local = Kept(":memory:")

    def open_index(incarnation: str = "one", dimension: int = DIMENSION, tuning: Tuning = CODED) -> Index:
        made: Index
        if kind == "edge":
            made = EdgeIndex(tmp_path / "index", incarnation=incarnation, dimension=dimension, tuning=tuning)
        else:
            made = QdrantIndex(
                local if kind == "local" else server(),
                collection=collection,
                incarnation=incarnation,
                dimension=dimension,
                tuning=tuning,
                server_side=bool(side),
            )
        opened.append(made)
        return made

    yield open_index
    for index in opened:
        index.close()
    if kind == "server":
        cleaning = server()
        for one in cleaning.get_collections().collections:
            if one.name.startswith(collection):
                cleaning.delete_collection(one.name)
        cleaning.close()


def rows_of(index: Index, query: NDArray[np.float32], rows: BitMap, limit: int, *, exact: bool = False) -> list[int]:
    """The rows that are proposed."""
    return [hit.row for hit in index.search(query, rows, limit, exact=exact).candidates]


def test_the_nearest_permitted_chunks_are_found_and_no_other(opening: Open) -> None:
    """Exactly, and by whatever the plan is for many: nothing hidden, exact cosines, nearly everything found."""
    index, rows, right = opening(), BitMap(range(0, 400, 2)), 0
    index.apply(add(range(400), MATRIX))
    for query in QUERIES:
        exact, usual = index.search(query, rows, 10, exact=True), index.search(query, rows, 10)
        assert [hit.row for hit in exact.candidates] == reference(MATRIX, query, rows, 10)
        assert {hit.row for hit in usual.candidates} <= set(rows)
        assert (usual.permitted, exact.permitted) == (200, 200)
        for hit in (*exact.candidates, *usual.candidates):
            assert hit.score == pytest.approx(float(MATRIX[hit.row] @ query), abs=1e-5)
        right += len({hit.row for hit in exact.candidates} & {hit.row for hit in usual.candidates})
    assert right >= 0.9 * 10 * len(QUERIES)


def test_nothing_permitted_finds_nothing_and_what_is_not_held_neither(opening: Open) -> None:
    """An engine's empty filter would select every point."""
    index = opening()
    index.apply(add(range(20), MATRIX))

    assert index.search(QUERIES[0], BitMap(), 10).path is SearchPath.NONE
    assert rows_of(index, QUERIES[0], BitMap([999]), 10) == []
    assert set(rows_of(index, QUERIES[0], BitMap([3, 7, *range(500, 900)]), 10)) == {3, 7}


def test_what_is_hidden_changes_nothing(opening: Open) -> None:
    """The same permitted chunks among other hidden ones, copies of them included: the same proposals, ties by row."""
    mine = BitMap(range(0, 400, 4))
    matrix = MATRIX.copy()
    matrix[40:80] = matrix[40]
    crowd = vectors(400, seed=5)
    crowd[::4] = matrix[::4]
    crowd[41:80] = matrix[40]
    answers = []
    for name, items in (
        ("one", [i for i in add(range(400), matrix) if i.row in mine]),
        ("two", add(range(400), crowd)),
    ):
        index = opening(name)
        index.apply(items)
        asked = [(query, exact) for query in (*QUERIES, matrix[40]) for exact in (True, False)]
        answers.append([index.search(query, mine, 7, exact=exact).candidates for query, exact in asked])
        index.close()

    assert answers[0] == answers[1]


def test_what_was_removed_is_not_found_and_what_comes_again_changes_nothing(opening: Open) -> None:
    """The feed may be repeated from any earlier place."""
    index, every = opening(), BitMap(range(40))
    index.apply([*add(range(20), MATRIX), Remove(21, 3), Remove(22, 99)])
    before = index.search(MATRIX[3], every, 40, exact=True)

    index.apply(add(range(5, 9), MATRIX))

    assert index.search(MATRIX[3], every, 40, exact=True) == before
    assert 3 not in {hit.row for hit in before.candidates}
    assert (index.count, index.applied_seq) == (19, 22)


@pytest.mark.parametrize("bad", [np.full(DIMENSION, np.nan), np.ones(DIMENSION - 1)])
def test_bad_vectors_are_refused_and_nothing_is_applied(opening: Open, bad: NDArray[np.float64]) -> None:
    """In feeds and in questions; the good neighbour works."""
    index = opening()
    with pytest.raises(InvalidVectorError):
        index.apply([Add(1, 0, 0, MATRIX[0]), Add(2, 1, 0, bad.astype(np.float32))])
    assert (index.count, index.applied_seq) == (0, 0)
    index.apply(add(range(2), MATRIX))
    with pytest.raises(InvalidVectorError):
        index.search(bad.astype(np.float32), BitMap([0]), 1)
    assert rows_of(index, MATRIX[1], BitMap([0, 1]), 1) == [1]


def test_a_second_start_goes_on_where_the_first_one_was(opening: Open) -> None:
    """Rows, place in the feed and answers are there; removed ones are not."""
    first, every = opening(), BitMap(range(400))
    first.apply([*add(range(300), MATRIX), Remove(301, 7)])
    before = first.search(MATRIX[7], every, 10)
    first.close()

    second = opening()

    assert (second.applied_seq, second.count) == (301, 299)
    assert second.search(MATRIX[7], every, 10) == before


def test_another_catalog_meets_nothing_of_the_first(opening: Open) -> None:
    """Another incarnation starts empty, whatever the rows of the other mean."""
    first = opening()
    first.apply(add(range(50), MATRIX))
    first.close()

    second = opening("two")

    assert (second.applied_seq, second.count) == (0, 0)
    assert rows_of(second, MATRIX[7], BitMap(range(50)), 10) == []


def test_an_index_that_is_ahead_of_its_catalog_is_emptied(opening: Open) -> None:
    """After a restored backup rows mean something else."""
    index = opening()
    follow(Feed(add(range(30), MATRIX)), index)

    follow(Feed(add(range(10), vectors(10, seed=5))), index)

    assert (index.count, index.applied_seq) == (10, 10)
    assert rows_of(index, vectors(10, seed=5)[4], BitMap(range(30)), 1) == [4]


@pytest.mark.slow
def test_every_chunk_may_have_an_acl_of_its_own(opening: Open, request: pytest.FixtureRequest) -> None:
    """100,000 documents shared one by one: each person finds the nearest of exactly what is theirs.

    The client's local mode takes minutes for so many, so that it gets 3,000: it is there for the shape of the API.
    """
    count = 3_000 if "local" in request.node.name else 100_000
    people = realm("posix", "bench")
    draw = np.random.default_rng(3)
    owners = (300 * draw.random(count) ** 2).astype(int).tolist()
    changes: list[Change] = []
    for number, owner in enumerate(owners):
        # Everybody's number is in it, so that no two are equal.
        named = frozenset({Principal(people, f"uid-{owner}"), Principal(people, f"uid-{1_000 + number}")})
        changes.append(AclPut(AclId(number + 1), None, Clause((Rule(Effect.ALLOW, named),))))
        changes.append(DocumentPut(number, AclId(number + 1), ((number, number + 1),)))
    rules = ReadableIndex()
    rules.apply("shared", changes)
    matrix = vectors(count, seed=4, dimension=32)
    index = opening(dimension=32, tuning=Tuning(threads=2))
    for start in range(0, count, 5_000):
        index.apply(add(range(start, min(count, start + 5_000)), matrix))

    for owner in (0, 3, 40, 250):
        held = frozenset({Principal(people, f"uid-{owner}")})
        rows = rules.readable(Caller("somebody", held, frozenset({people}), AT, NEVER), AT).chunks
        mine = [row for row, one in enumerate(owners) if one == owner]
        assert list(rows) == mine
        assert rows_of(index, matrix[-1], BitMap(rows), 10, exact=True) == reference(matrix, matrix[-1], mine, 10)
        usual = rows_of(index, matrix[-1], BitMap(rows), 10)
        assert set(usual) <= set(mine)
        assert len(usual) == min(10, len(mine))
    index.close()


def in_memory(**changed: object) -> tuple[Kept, QdrantIndex]:
    """An index over a client in memory, with 100 chunks in it."""
    client = Kept(":memory:")
    index = QdrantIndex(client, collection="x", incarnation="one", dimension=DIMENSION, tuning=CODED, **changed)  # type: ignore[arg-type]
    index.apply(add(range(100), MATRIX))
    return client, index


def test_a_server_that_lost_something_is_read_again_and_filled_from_the_feed() -> None:
    """What is missing is noticed by the search that wants it, never answered around; then all of it is there again."""
    client, index = in_memory()
    client.delete("x-one", [7])

    with pytest.raises(SearchUnavailableError, match="has lost passages"):
        index.search(MATRIX[7], BitMap(range(100)), 5)
    index.recover()
    assert (index.count, index.applied_seq) == (0, 0)
    follow(Feed(add(range(100), MATRIX)), index)

    assert rows_of(index, MATRIX[7], BitMap(range(100)), 1) == [7]
    index.close()


@pytest.mark.parametrize("server_side", [False, True])
def test_a_search_while_something_is_removed_takes_nothing_for_lost(
    monkeypatch: pytest.MonkeyPatch, server_side: bool
) -> None:
    """Between the server's removal and its answer the row is missing there, and nothing is wrong."""
    client, index = in_memory(server_side=server_side)
    update, found = client.batch_update_points, []

    def slow(*args: Any, **kwargs: Any) -> Any:
        done = update(*args, **kwargs)
        found.append(rows_of(index, MATRIX[7], BitMap(range(9)), 20))
        return done

    monkeypatch.setattr(client, "batch_update_points", slow)
    index.apply([Remove(101, 7)])

    assert [set(rows) for rows in found] == [{*range(9)} - {7}]
    index.close()


def test_a_change_that_did_not_arrive_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed call the place in the feed is where it was, and the same items bring what they say."""
    client, index = in_memory()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(client, "batch_update_points", fail)
        with pytest.raises(SearchUnavailableError):
            index.apply([Add(101, 100, 0, MATRIX[100]), Remove(102, 7)])
    assert index.applied_seq == 100
    index.apply([Add(101, 100, 0, MATRIX[100]), Remove(102, 7)])

    assert (index.applied_seq, index.count) == (102, 100)
    index.close()
    again = QdrantIndex(client, collection="x", incarnation="one", dimension=DIMENSION, tuning=CODED)
    assert (again.applied_seq, again.count) == (102, 100)
    again.close()


@pytest.mark.parametrize("change", ["gone", "more", "state"])
def test_a_collection_that_is_not_what_its_state_says_is_emptied(change: str) -> None:
    """At a start: a row too few, a row too many, or a state of something else."""
    client, index = in_memory()
    index.close()
    match change:
        case "gone":
            client.delete("x-one", [7])
        case "more":
            point = models.PointStruct(id=500, vector={"chunk": MATRIX[0].tolist()})
            client.upsert("x-one", [point])
        case _:
            client.set_payload("x-one", {"incarnation": "two"}, [STATE_ID])

    again = QdrantIndex(client, collection="x", incarnation="one", dimension=DIMENSION, tuning=CODED)

    assert (again.count, again.applied_seq) == (0, 0)
    again.close()


def test_a_server_that_answers_with_more_than_was_asked_for_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On both ways: nothing is answered at all."""
    for server_side in (False, True):
        client, index = in_memory(server_side=server_side)
        retrieve, query = client.retrieve, client.query_points
        monkeypatch.setattr(client, "retrieve", lambda name, ids, f=retrieve, **kw: f(name, [*ids, 99], **kw))
        monkeypatch.setattr(client, "query_points", lambda name, f=query, **kw: f(name, **kw | {"query_filter": None}))
        with pytest.raises(SearchUnavailableError, match="outside the permitted"):
            index.search(MATRIX[3], BitMap([3, 5]), 5)
        index.close()


def test_who_may_read_more_than_can_be_named_is_refused_where_vectors_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number alone, with the reason; a caller with fewer is answered, and so is everybody by the usual way."""
    monkeypatch.setattr("service.index.qdrant.MOST_NAMED", 50)
    _, index = in_memory(server_side=True)
    with pytest.raises(SearchUnavailableError, match="more than the 50 that can be named"):
        index.search(MATRIX[3], BitMap(range(51)), 5)
    assert rows_of(index, MATRIX[3], BitMap(range(50)), 1) == [3]
    index.close()
    _, usual = in_memory()
    assert rows_of(usual, MATRIX[3], BitMap(range(100)), 1) == [3]
    usual.close()


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    """Nothing listens there; the start says so without a traceback and without the server's words."""
    client = connect(QdrantSettings("127.0.0.1", 1, False, None, timeout=timedelta(seconds=2)))
    with pytest.raises(StartError, match="the Qdrant server does not answer: UNAVAILABLE"):
        QdrantIndex(client, collection="x", incarnation="one", dimension=DIMENSION, tuning=CODED)


def test_few_are_compared_in_full_and_how_many_vectors_a_server_sends_is_bounded(opening: Open) -> None:
    """Where vectors lie beside us thousands of permitted ones are compared; from a server no more than 1,000 come."""
    index = opening(tuning=Tuning(threads=2))
    index.apply(add(range(2_400), vectors(2_400, seed=8)))

    few, more = (index.search(QUERIES[0], BitMap(range(0, 2_400, step)), 10) for step in (4, 2))

    assert (few.path, few.scored) == (SearchPath.EXACT, 600)
    fetches = isinstance(index, QdrantIndex) and not index._server_side
    assert (more.path, more.scored) == ((SearchPath.MASKED, 300) if fetches else (SearchPath.EXACT, 1_200))
