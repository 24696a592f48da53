"""What passages are found by: meaning, words or both; and what of it a caller can see."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from remit.client import Hit, SearchMode, UnavailableError
from remit.v1.retrieval_pb2 import SearchMode as WireMode
from remit.v1.retrieval_pb2 import SearchRequest, SearchResponse

from acl.model import Clause
from service.errors import SearchUnavailableError
from service.index.base import Remove
from service.search.fuse import fuse
from tests.service.harness import EVERYBODY, FINANCE, SALES, MemoryIndex, MemoryKeywords, Service, allow, serving
from tests.service.test_audit_complete import bodies

HYBRID, DENSE, KEYWORD = SearchMode.HYBRID, SearchMode.DENSE, SearchMode.KEYWORD


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service over an empty source."""
    async with serving(tmp_path / "remit") as running:
        yield running


async def hits(service: Service, query: str, mode: SearchMode, name: str = "alice", limit: int = 10) -> list[Hit]:
    """What somebody finds."""
    async with service.client(name) as client:
        return list((await client.search(query, limit=limit, mode=mode)).hits)


async def found(service: Service, query: str, mode: SearchMode, name: str = "alice", limit: int = 10) -> list[str]:
    """The texts of what somebody finds."""
    return [hit.chunk.text for hit in await hits(service, query, mode, name, limit)]


async def test_keyword_finds_words_in_any_form_and_nothing_else(service: Service) -> None:
    """English and German inflections match; a passage without one of the words is not there, however near."""
    service.add("a", "approvals of rebates", allow(SALES))
    service.add("b", "Rechnungen für das dritte Quartal", allow(SALES))
    service.add("c", "nothing of the kind", allow(SALES))
    service.sync()

    assert await found(service, "approval", KEYWORD) == ["approvals of rebates"]
    assert await found(service, "RECHNUNG?", KEYWORD) == ["Rechnungen für das dritte Quartal"]
    assert await found(service, "of the", KEYWORD) == []
    assert await found(service, "unheard", KEYWORD) == []
    assert len(await found(service, "approval", DENSE)) == 3


async def test_hybrid_ranks_what_both_find_first_and_is_the_default(service: Service) -> None:
    """Every passage that either finds is in it, and no mode named means hybrid."""
    service.add("a", "approvals", allow(SALES))
    service.add("b", "approval of the plan", allow(SALES))
    service.add("c", "nothing", allow(SALES))
    service.sync()

    hybrid = await found(service, "approval plan", HYBRID)

    assert hybrid[0] == "approval of the plan"
    assert sorted(hybrid) == ["approval of the plan", "approvals", "nothing"]
    request = SearchRequest(query="approval plan")
    default = (await service.call("RetrievalService/Search", request, token=service.token("alice"))).parsed(
        SearchResponse
    )
    assert isinstance(default, SearchResponse)
    assert [hit.chunk.text for hit in default.hits] == hybrid


@pytest.mark.parametrize("edge", [False, True])
async def test_score_is_the_cosine_in_every_mode(tmp_path: Path, edge: bool) -> None:
    """A hit has the score that depends on query and passage alone, also one that only its words found."""
    async with serving(tmp_path / "remit", edge=edge) as service:
        for number in range(80):
            service.add(f"n{number:02}", f"approval approval {number}", allow(SALES))
        service.add("far", "approvals and forty other words " + " ".join(f"word{n}" for n in range(40)), allow(SALES))
        service.sync()
        query = service.embedder.embed(["approval"])[0]

        for mode in SearchMode:
            answer = await hits(service, "approval", mode, limit=100)
            vectors = service.embedder.embed([hit.chunk.text for hit in answer])
            assert len(answer) == 81
            assert np.allclose([hit.score for hit in answer], vectors @ query, atol=2e-3)


async def test_words_of_hidden_passages_open_nothing(service: Service) -> None:
    """Postings that propose everything show nothing: the decision stands behind them."""
    service.add("mine", "the merger of sales", allow(SALES))
    service.add("theirs", "the merger of finance", allow(FINANCE))
    service.sync()
    assert isinstance(service.keywords, MemoryKeywords)

    service.keywords.propose_all = True

    for mode in (KEYWORD, HYBRID):
        assert await found(service, "merger finance", mode) == ["the merger of sales"]
        assert await found(service, "merger finance", mode, "bob") == ["the merger of finance"]


async def test_a_revocation_is_in_force_on_the_next_question_by_words(service: Service) -> None:
    """Once the rule is committed the passage is gone, whatever the postings hold."""
    service.add("plan", "the merger", allow(SALES))
    service.add("open", "the merger, announced", allow(EVERYBODY))
    service.sync()
    assert len(await found(service, "merger", KEYWORD)) == 2

    service.add("plan", "the merger", Clause(()))
    service.engine.run("company")

    assert await found(service, "merger", KEYWORD) == ["the merger, announced"]


async def test_what_has_words_but_no_vector_yet_waits(service: Service) -> None:
    """A passage is found once both indexes have it, never with a score that was made up."""
    service.add("plan", "the merger", allow(SALES))
    service.sync()
    assert isinstance(service.index, MemoryIndex)

    service.index.apply([Remove(99, row) for row in list(service.index.rows)])

    assert await found(service, "merger", KEYWORD) == []
    assert await found(service, "merger", HYBRID) == []


@pytest.mark.parametrize("edge", [False, True])
async def test_hidden_documents_cannot_be_counted_by_their_words(tmp_path: Path, edge: bool) -> None:
    """The published attack (STRESS): watching one's own documents while others add the term shows nothing.

    With the frequencies of the whole collection a word loses worth as hidden documents use it, and the order of one's
    own documents turns. Here the whole answer stays, byte for byte.
    """
    async with serving(tmp_path / "remit", edge=edge, new_id=lambda: "fixed") as service:
        for number in range(6):
            service.add(f"probe{number}", f"helios {'filler ' * number}", allow(SALES))
            service.add(f"other{number}", f"budget {'filler ' * number} budget", allow(SALES))
        service.sync()
        requests = [
            SearchRequest(query=query, mode=mode)
            for query in ("helios budget", "budget filler", "helios filler budget", "layoffs helios", "layoffs")
            for mode in (WireMode.SEARCH_MODE_HYBRID, WireMode.SEARCH_MODE_KEYWORD)
        ]
        token = service.token("alice")
        before = [await service.call("RetrievalService/Search", request, token=token) for request in requests]

        for hidden in (1, 5, 20, 100):
            for number in range(hidden):
                service.add(f"hidden{number}", "helios layoffs helios", allow(FINANCE))
            service.sync()
            after = [await service.call("RetrievalService/Search", request, token=token) for request in requests]
            assert after == before
        assert len(await found(service, "layoffs", KEYWORD, "bob", limit=100)) == 100


async def test_an_unknown_mode_is_an_invalid_argument(service: Service) -> None:
    """A number that is no mode is refused by name; those that are, are not."""
    request = SearchRequest.FromString(SearchRequest(query="plan").SerializeToString() + bytes([5 << 3, 9]))
    outcome = await service.call("RetrievalService/Search", request, token=service.token("alice"))

    assert outcome.code == "INVALID_ARGUMENT"
    assert "mode" in repr(outcome.trailing)
    assert await found(service, "plan", KEYWORD) == []


def test_fused_ranks_are_those_of_the_formula() -> None:
    """1/(60 + rank) from each ranking; equal sums by row; the order of the rankings does not matter."""
    assert fuse([[7, 3, 5], [5, 3]]) == [5, 3, 7]
    assert fuse([[9], [2]]) == [2, 9]
    assert fuse([[1, 2], [2, 1]]) == [1, 2]
    assert fuse([[], [4]]) == [4]
    assert fuse([[7, 3, 5], [5, 3]]) == fuse([[5, 3], [7, 3, 5]])
    assert fuse([]) == fuse([[], []]) == []


def test_fused_ranks_are_exact_however_many() -> None:
    """As fractions say it, also where two sums differ by less than any float does."""
    draw = random.Random(4)
    for length in (1, 50, 400):
        rankings = [draw.sample(range(2 * length), length), draw.sample(range(2 * length), length // 2)]
        sums = {row: Fraction(0) for row in {*rankings[0], *rankings[1]}}
        for ranking in rankings:
            for rank, row in enumerate(ranking, start=1):
                sums[row] += Fraction(1, 60 + rank)
        assert fuse(rankings) == sorted(sums, key=lambda row: (-sums[row], row))


async def test_hybrid_looks_deeper_than_it_was_asked_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is third in both rankings comes before what is first in one, also when a single passage is asked for."""
    texts = ["one two three", "one two three four", "one two three four five", "one six seven", "one six seven eight"]
    for number, text in enumerate(texts):
        service.add(f"d{number}", text, allow(SALES))
    for number in range(30):
        service.add(f"between{number}", f"one two three x y z{number}", allow(SALES))
    service.sync()
    with service.catalog.reader() as reader:
        rows = {service.catalog.sealing.text(one).text: one.row for one in reader.chunks(range(99)).values()}
    words = [rows[texts[3]], rows[texts[4]], rows[texts[2]]]
    monkeypatch.setattr(service.keywords, "search", lambda text, permitted, limit: words[:limit])

    assert await found(service, "one two three", DENSE, limit=3) == texts[:3]
    assert await found(service, "one two three", KEYWORD, limit=3) == [texts[3], texts[4], texts[2]]
    assert await found(service, "one two three", HYBRID, limit=1) == [texts[2]]


async def test_without_the_index_of_words_meaning_answers_and_says_so(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hybrid is what dense is, with a flag; words alone are UNAVAILABLE; with the index back there is no flag."""
    service.add("a", "the merger", allow(SALES))
    service.add("b", "something else", allow(SALES))
    service.add("hidden", "the merger of finance", allow(FINANCE))
    service.sync()

    def down(text: str, rows: object, limit: int) -> list[int]:
        raise SearchUnavailableError("the keyword index process ended")

    with monkeypatch.context() as broken:
        broken.setattr(service.keywords, "search", down)
        async with service.client("alice") as client:
            hybrid = await client.search("merger", mode=HYBRID)
            dense = await client.search("merger", mode=DENSE)
            with pytest.raises(UnavailableError):
                await client.search("merger", mode=KEYWORD)
            nothing = await client.search("unheard of", mode=HYBRID)
    sought = {body["response_id"]: body["sought"] for body in bodies(service) if "sought" in body}
    async with service.client("alice") as client:
        whole = await client.search("merger", mode=HYBRID)

    assert (hybrid.dense_only, dense.dense_only, nothing.dense_only, whole.dense_only) == (True, False, True, False)
    assert [(h.chunk.text, h.score) for h in hybrid.hits] == [(h.chunk.text, h.score) for h in dense.hits]
    assert whole.hits[0].chunk.text == "the merger"
    assert [sought[one.response_id].get("dense_only") for one in (hybrid, dense)] == [True, None]


async def test_the_flag_says_nothing_of_hidden_passages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the index of words down, two corpora that differ in what is hidden still answer byte for byte alike."""
    answers = []
    for hidden in (0, 30):
        async with serving(tmp_path / str(hidden), new_id=lambda: "fixed") as service:
            service.add("a", "the merger", allow(SALES))
            for number in range(hidden):
                service.add(f"h{number}", "the merger", allow(FINANCE))
            service.sync()
            ids = [*service.chunk_ids("a"), service.document_ids()["a"]]

            def down(text: str, rows: object, limit: int) -> list[int]:
                raise SearchUnavailableError("down")

            monkeypatch.setattr(service.keywords, "search", down)
            request = SearchRequest(query="merger")
            outcome = await service.call("RetrievalService/Search", request, token=service.token("alice"))
            message = outcome.message
            for one in ids:
                message = message.replace(one.encode(), b"x" * len(one))
            answers.append(message)

    assert answers[0] == answers[1]
