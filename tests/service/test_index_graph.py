"""Approximate searches: by a graph where the deployment allows it, never further than what is permitted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyroaring import BitMap
from remit.v1.retrieval_pb2 import SearchRequest, SearchResponse

from service.index.base import Remove
from service.index.edge import EdgeIndex
from service.index.graph import Graph
from service.index.planner import SearchPath, Tuning, plan
from service.search.engine import Mode, Query
from tests.service.harness import FINANCE, SALES, allow, serving
from tests.service.test_index_edge import add, vectors
from tests.service.test_search_laws import resolved

DIMENSION = 32
COUNT = 4_000
TUNING = Tuning(candidates=100, exact_below=100, threads=1, approximate=True)
MATRIX = vectors(COUNT, dimension=DIMENSION)
QUERIES = vectors(20, seed=9, dimension=DIMENSION)


def opened(folder: Path, tuning: Tuning = TUNING) -> EdgeIndex:
    """An index over a folder."""
    return EdgeIndex(folder, incarnation="one", dimension=DIMENSION, tuning=tuning)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EdgeIndex]:
    """An index of a deployment that allows it, with everything in it."""
    made = opened(tmp_path / "index")
    made.apply(add(range(COUNT), MATRIX))
    yield made
    made.close()


def test_the_graph_answers_when_enough_of_what_it_finds_is_permitted(index: EdgeIndex) -> None:
    """Nearly what an exact search finds, with the same scores, and nothing that is not permitted."""
    rows, right = BitMap(range(0, COUNT, 3)), 0
    for query in QUERIES:
        found, exact = index.search(query, rows, 10, approximate=True), index.search(query, rows, 10, exact=True)
        assert found.path is SearchPath.GRAPH
        assert {hit.row for hit in found.candidates} <= set(rows)
        scores = {hit.row: hit.score for hit in exact.candidates}
        assert all(scores.get(hit.row, hit.score) == hit.score for hit in found.candidates)
        right += len({hit.row for hit in found.candidates} & scores.keys())

    assert right >= 190


def test_too_few_permitted_ones_are_noticed_and_scanned(index: EdgeIndex) -> None:
    """Where the nearest are hidden, the answer is that of the scan, and the proposal says why."""
    query = QUERIES[0]
    farthest = BitMap(np.argsort(MATRIX @ query)[: COUNT // 2].tolist())

    found, scan = index.search(query, farthest, 10, approximate=True), index.search(query, farthest, 10)

    assert found.candidates == scan.candidates
    assert (found.path, found.why) == (scan.path, "too few of what the graph found are permitted")


def test_a_small_share_is_never_left_to_the_graph() -> None:
    """Where many would have to be passed over, and where few are permitted, the plan is what it always is."""
    for permitted in (0, 50, 3_000):
        assert plan(permitted, 100_000, 10, TUNING, approximate=True) == plan(permitted, 100_000, 10, TUNING)
    assert plan(20_000, 100_000, 10, TUNING, approximate=True).reach == 116
    assert plan(20_000, 100_000, 10, TUNING, exact=True, approximate=True).path is SearchPath.EXACT


def test_without_the_deployments_permission_there_is_no_graph(tmp_path: Path) -> None:
    """The request alone changes nothing; a graph from before goes with the setting."""
    allowed = opened(tmp_path / "index")
    allowed.apply(add(range(COUNT), MATRIX))
    allowed.close()
    assert (tmp_path / "index" / "graph").exists()

    index = opened(tmp_path / "index", Tuning(candidates=100, exact_below=100, threads=1))

    rows = BitMap(range(0, COUNT, 3))
    for query in QUERIES:
        assert index.search(query, rows, 10, approximate=True) == index.search(query, rows, 10)
    assert not (tmp_path / "index" / "graph").exists()
    index.close()


def test_who_does_not_ask_for_it_is_not_answered_by_it(index: EdgeIndex, tmp_path: Path) -> None:
    """Whatever else the graph holds, a search without `approximate` finds the same."""
    alone = opened(tmp_path / "alone")
    rows = BitMap(range(0, COUNT, 3))
    alone.apply([item for item in add(range(COUNT), MATRIX) if item.row in rows])

    for query in QUERIES:
        assert alone.search(query, rows, 10).candidates == index.search(query, rows, 10).candidates
    alone.close()


def test_what_was_removed_is_not_found(index: EdgeIndex) -> None:
    """The graph keeps its place until it is made anew; the chunk has none in an answer, even if it was permitted."""
    everything = BitMap(range(COUNT))
    first = index.search(MATRIX[7], everything, 1, approximate=True).candidates[0].row
    assert first == 7

    index.apply([Remove(COUNT + 1, 7)])

    after = index.search(MATRIX[7], everything, 10, approximate=True)
    assert 7 not in {hit.row for hit in after.candidates}
    assert len(after.candidates) == 10


@pytest.mark.parametrize("damage", [None, b"", b"IxMp", "other"])
def test_a_graph_is_read_again_or_built_anew(tmp_path: Path, damage: bytes | str | None) -> None:
    """A file that is whole saves the building; damaged, or of another dimension, it counts for nothing."""
    path = tmp_path / "graph"
    rows = np.arange(3_000, dtype=np.uint32)
    first = Graph(path, DIMENSION, threads=1)
    first.put(rows, MATRIX[:3_000])
    first.save()
    if isinstance(damage, bytes):
        path.write_bytes(damage + path.read_bytes()[8:] if damage else b"")
    dimension = DIMENSION if damage != "other" else DIMENSION + 1

    again = Graph(path, dimension, threads=1)

    assert len(again) == (3_000 if damage is None else 0)
    again.put(rows, vectors(3_000, dimension=dimension) if damage == "other" else MATRIX[:3_000])
    assert len(again) == 3_000
    if damage != "other":
        assert again.nearest(MATRIX[5], 1) == [5]


async def test_a_request_asks_for_it_and_sees_only_what_it_may(tmp_path: Path) -> None:
    """Through the whole service: the audit record says which path it was, hidden copies stay hidden."""
    tuning = Tuning(candidates=10, exact_below=0, threads=1, approximate=True)
    async with serving(tmp_path / "remit", edge=True, tuning=tuning) as service:
        for number in range(40):
            service.add(f"m{number:02}", f"plan {number}", allow(SALES))
            service.add(f"h{number:02}", f"plan {number}", allow(FINANCE))
        service.sync()
        caller = resolved(service, "alice")

        answer = service.retrieval_core.search(caller, Query("plan 7", 3, mode=Mode.DENSE, approximate=True))
        both = SearchRequest(query="plan", exact=True, approximate=True)
        refused = await service.call("RetrievalService/Search", both, token=service.token("alice"))
        request = SearchRequest(query="plan", approximate=True)
        outcome = await service.call("RetrievalService/Search", request, token=service.token("alice"))
        found = outcome.parsed(SearchResponse)

    assert answer.trace is not None
    assert answer.trace.path == "graph"
    assert [p.text for p in answer.passages][:1] == ["plan 7"]
    assert refused.code == "INVALID_ARGUMENT"
    assert "approximate" in repr(refused.trailing)
    assert isinstance(found, SearchResponse)
    assert {hit.chunk.document.location[0] for hit in found.hits} == {"m"}
