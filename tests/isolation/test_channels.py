"""What answers might tell beside their content: times, texts of errors, scores, counts, health, reflection, logs.

That two corpora which differ in what is hidden answer alike, byte for byte and in every mode, is a law in
`tests.service.test_search_laws`; here an attacker works at the wire, with documents of her own as probes.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from remit.v1 import access_pb2, retrieval_pb2

from service import telemetry
from tests.service.harness import FINANCE, SALES, Outcome, Service, allow, serving
from tests.service.test_api_matrix import _REQUESTS

CANARY: Final = "quetzalcoatlus"


def asking(service: Service, method: str, request: Message, who: str = "alice") -> Callable[[], Awaitable[Outcome]]:
    """A call that can be made again and again."""
    token, data = service.token(who), request.SerializeToString()
    return lambda: service.call(method, data, token=token)


async def test_scores_ranks_and_bytes_of_a_probe_say_nothing_of_hidden_documents(tmp_path: Path) -> None:
    """The attack on collections with one IDF: an own document with the word, and its score as hidden ones come in.

    STRESS (Wang et al., IEEE S&P 2017) counted hidden documents so, exactly. In every mode the answer stays the same
    bytes when 1, 5, 20 and 60 hidden documents with the word come, and when all of them go.
    """
    async with serving(tmp_path / "remit", edge=True, new_id=lambda: "fixed") as service:
        for number in range(6):
            service.add(f"own{number}", f"{CANARY * (number == 0)} plan {number}\n\nanother paragraph", allow(SALES))
        service.sync()
        token = service.token("alice")
        requests = [
            retrieval_pb2.SearchRequest(query=f"{CANARY} plan", limit=100, mode=mode, exact=exact, explain=True)
            for mode in retrieval_pb2.SearchMode.values()
            for exact in (False, True)
        ]

        async def observed() -> list[bytes]:
            return [(await service.call("RetrievalService/Search", one, token=token)).message for one in requests]

        before = await observed()
        assert all(before)
        count = 0
        for total in (1, 5, 20, 60, 0):
            while count < total:
                service.add(f"hidden{count}", f"{CANARY} " * (count % 3 + 1), allow(FINANCE))
                count += 1
            if total == 0:
                for number in range(count):
                    del service.source.documents[f"hidden{number}"]
            service.sync()
            assert await observed() == before, total
        # The control: one more readable document with the word does show.
        service.add("own-more", f"{CANARY} plan", allow(SALES))
        service.sync()
        assert await observed() != before


async def test_every_error_is_one_of_few_texts_and_names_nothing_that_was_asked(tmp_path: Path) -> None:
    """What is wrong is said by constants: no id, query, name, place, count or type of what was sent or is there."""
    async with serving(tmp_path / "remit") as service:
        service.add("finance", f"the {CANARY} plan", allow(FINANCE))
        service.sync()
        hidden = service.document_ids()["finance"]
        texts = set()
        for who in ("alice", "olga", "adam", "carla", "kai"):
            for method, request in _REQUESTS.items():
                for data in (request.SerializeToString(), b"\xff", b"\x0a\x40" + hidden.encode().ljust(64, b"x")):
                    outcome = await service.call(method, data, token=service.token(who))
                    if outcome.code != "OK":
                        texts.add(outcome.details)
                        told = outcome.details + repr(outcome.trailing)
                        assert hidden not in told
                        assert "Error:" not in told.replace("rpc.ErrorInfo", ""), told
                        assert "Traceback" not in told
                        assert CANARY not in told
        assert len(texts) <= 5, texts


async def test_health_says_the_same_whatever_is_hidden_and_to_whomever_asks(tmp_path: Path) -> None:
    """Health is asked without a credential: it knows services by name and states, and no source, person or count."""
    async with serving(tmp_path / "remit") as service:

        async def says(name: str) -> str:
            async with grpc.aio.insecure_channel(str(service.callers)) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                try:
                    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
                except grpc.aio.AioRpcError as err:
                    return err.code().name
            return str(answer.SerializeToString().hex())

        before = [await says(name) for name in ("", "remit.v1.RetrievalService", "company", "finance", "alice")]
        service.add("finance", f"the {CANARY} plan", allow(FINANCE))
        service.sync()

        assert [await says(name) for name in ("", "remit.v1.RetrievalService", "company", "finance", "alice")] == before
        assert before[2:] == ["NOT_FOUND"] * 3


async def test_ages_and_callers_in_answers_are_independent_of_hidden_documents(tmp_path: Path) -> None:
    """`GetCaller` and the freshness in answers: the same bytes before and after hidden documents, rules and scopes."""
    async with serving(tmp_path / "remit", new_id=lambda: "fixed") as service:
        service.add("sales", "the plan", allow(SALES))
        service.sync()
        asks = [
            asking(service, "AccessService/GetCaller", access_pb2.GetCallerRequest()),
            asking(service, "RetrievalService/Search", retrieval_pb2.SearchRequest(query="plan")),
        ]
        before = [await ask() for ask in asks]
        service.scope("vault", allow(FINANCE), "root")
        for number in range(20):
            service.add(f"finance{number}", f"the {CANARY} plan {number}", allow(FINANCE), "vault")
        service.sync()

        assert [await ask() for ask in asks] == before
        assert all(outcome.code == "OK" for outcome in before)


async def test_the_log_of_the_service_holds_nothing_of_a_session_full_of_canaries(tmp_path: Path) -> None:
    """Queries, ids, names of sources, tokens and bytes that are no message, all with the canary, found and refused."""
    stream = io.StringIO()
    with telemetry.logging_to(stream):
        async with serving(tmp_path / "remit") as service:
            service.add(f"{CANARY}-place", f"the {CANARY} plan", allow(SALES))
            service.sync()
            token = service.token("alice")
            calls = []
            for method in _REQUESTS:
                for data in (_REQUESTS[method].SerializeToString(), b"\x0a\x0e" + CANARY.encode(), CANARY.encode()):
                    calls += [
                        service.call(method, data, token=token),
                        service.call(method, data, token=f"{CANARY}.{CANARY}.{CANARY}"),
                        service.call(method, data, token=token, metadata=[("x-user", CANARY)]),
                    ]
            outcomes = await asyncio.gather(*calls)
            answer = await service.call(
                "RetrievalService/Search", retrieval_pb2.SearchRequest(query=f"{CANARY} plan"), token=token
            )

    assert {"OK", "UNAUTHENTICATED", "INVALID_ARGUMENT"} <= {outcome.code for outcome in outcomes}
    assert CANARY.encode() in answer.message
    assert "sync_finished" in stream.getvalue(), "the control: the log was written"
    assert CANARY not in stream.getvalue()
    assert token.split(".")[2] not in stream.getvalue()
