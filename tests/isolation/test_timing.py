"""Hidden and absent take the same time, within noise and with the size of the effect: no id tells that it exists."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest
from google.protobuf.message import Message
from remit.v1 import retrieval_pb2

from tests.isolation.timing import TRIES, cliffs_delta, delta, smallest_delta
from tests.service.harness import FINANCE, SALES, Outcome, Service, allow, serving

CANARY: Final = "quetzalcoatlus"
_SEED: Final = 20261125
SMALL: Final = 0.33
"""The bound of a small effect (Romano et al. 2006). A hundred passages had 0.93 before the work was even."""


def asking(service: Service, method: str, request: Message, who: str = "alice") -> Callable[[], Awaitable[Outcome]]:
    """A call that can be made again and again."""
    token, data = service.token(who), request.SerializeToString()
    return lambda: service.call(method, data, token=token)


@pytest.mark.slow
async def test_hidden_and_absent_take_the_same_time(tmp_path: Path) -> None:
    """A document of Bob's, and an id that never was: within noise for Alice, with the size of the effect.

    So are passages, alone and in numbers, of one document and of many, where hidden ones once took three times as long;
    and a search for a word that only hidden documents have beside one that none has. The control is a difference that
    is there: the same measure tells a document that is answered from one that is not.
    """
    async with serving(tmp_path / "remit") as service:
        text = "\n\n".join(f"the {CANARY} plan of finance, paragraph {n}" for n in range(80))
        service.add("finance", text, allow(FINANCE))
        service.add("sales", text.replace(CANARY, "sales"), allow(SALES))
        for number in range(80):
            service.add(f"finance{number}", f"{CANARY} {number}", allow(FINANCE))
        service.sync()
        ids = service.document_ids()
        hidden, absent = ids["finance"], "A" * len(ids["finance"])
        passages = service.chunk_ids("finance")
        many = [one for number in range(80) for one in service.chunk_ids(f"finance{number}")]

        def document(which: str) -> Callable[[], Awaitable[Outcome]]:
            return asking(service, "RetrievalService/GetDocument", retrieval_pb2.GetDocumentRequest(document_id=which))

        def chunks(which: list[str]) -> Callable[[], Awaitable[Outcome]]:
            request = retrieval_pb2.BatchGetChunksRequest(chunk_ids=which)
            return asking(service, "RetrievalService/BatchGetChunks", request)

        def search(word: str) -> Callable[[], Awaitable[Outcome]]:
            request = retrieval_pb2.SearchRequest(query=word, mode=retrieval_pb2.SEARCH_MODE_KEYWORD)
            return asking(service, "RetrievalService/Search", request)

        never = [f"{n:02}" + "A" * (len(passages[0]) - 2) for n in range(len(passages))]
        for what, one, other, bound in (
            ("document", document(hidden), document(absent), SMALL),
            ("search", search(CANARY), search("pterodactylus"), SMALL),
            ("one passage", chunks(passages[:1]), chunks(never[:1]), SMALL),
            ("all passages of one document", chunks(passages), chunks(never), SMALL),
            ("passages of many documents", chunks(many), chunks(never), SMALL),
        ):
            size, tries = await smallest_delta(one, other, pairs=150, bound=bound, seed=_SEED)
            assert size <= bound, (what, tries)

        controls: list[float] = []
        while len(controls) < TRIES and (not controls or controls[-1] <= 0.6):
            controls.append(await delta(document(ids["sales"]), document(absent), pairs=60, seed=_SEED + len(controls)))
        assert max(controls) > 0.6, ("the measure finds a difference that is there", controls)


def test_the_measure_of_times_is_that_of_its_definition() -> None:
    """Against the double loop over all pairs, and its ends."""
    random_ = random.Random(_SEED)
    for _ in range(20):
        one, other = ([random_.randrange(5) for _ in range(random_.randint(1, 9))] for _ in range(2))
        pairs = [(a > b) - (a < b) for a in one for b in other]
        assert cliffs_delta(one, other) == pytest.approx(sum(pairs) / len(pairs))
    assert (cliffs_delta([2, 3], [0, 1]), cliffs_delta([0], [1]), cliffs_delta([1], [1])) == (1, -1, 0)
