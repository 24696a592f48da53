"""Callers that take more than is theirs: large messages, hidden sizes, many streams, streams that nobody reads.

What must hold: they are refused or bounded, and everybody else is answered meanwhile.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from remit.v1 import audit_pb2, retrieval_pb2

from service.api import reflection
from tests.isolation.raw import Connection, Headers, Reply, frame
from tests.service.harness import COMPANY, FINANCE, PEOPLE, SALES, Service, allow, serving

_SEARCH: Final = "/remit.v1.RetrievalService/Search"
_MB: Final = 1024 * 1024
_EXHAUSTED: Final = "8"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """One document for Alice, one for Bob."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", "the kestrel plan of finance", allow(FINANCE))
        running.sync()
        yield running


async def searched(service: Service, headers: Headers, body: bytes, wait_s: float | None = None) -> Reply:
    """A search on a connection of its own, with these bytes."""
    async with Connection.open(service.callers) as connection:
        return await connection.call(_SEARCH, headers, body, wait_s=wait_s)


async def answered(service: Service, who: str = "bob") -> bool:
    """Whether somebody else is still answered."""
    request = retrieval_pb2.SearchRequest(query="plan")
    return (await service.call("RetrievalService/Search", request, token=service.token(who))).code == "OK"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_small_message_that_becomes_a_large_one_is_refused(service: Service, encoding: str) -> None:
    """32 MB of zeros in 32 KB: refused for its size, and the process does not grow by it. A small one is read."""
    token = service.token("alice")
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    headers = [("authorization", f"Bearer {token}"), ("grpc-encoding", encoding)]
    message = retrieval_pb2.SearchRequest(query="plan").SerializeToString()
    assert (await searched(service, headers, frame(pack(message), compressed=True))).status == "0"
    bomb = frame(pack(bytes(32 * _MB)), compressed=True)
    assert len(bomb) < 64 * 1024
    before = psutil.Process().memory_info().rss
    for _ in range(5):
        assert (await searched(service, headers, bomb)).status == _EXHAUSTED

    assert psutil.Process().memory_info().rss - before < 48 * _MB
    assert await answered(service)


async def test_lengths_that_lie_are_refused(service: Service) -> None:
    """A message that says it is longer than it is, or has 4 GB, or flags that do not exist: no answer.

    gRPC ends some of them without a status; the place of such a call is free, which the searches afterwards show.
    """
    token = service.token("alice")
    message = retrieval_pb2.SearchRequest(query="plan").SerializeToString()
    for body in (
        frame(message, length=2**32 - 1),
        frame(message, length=2 * _MB),
        frame(message, length=len(message) + 10),
        b"\x07" + frame(message)[1:],
        frame(message)[:3],
        b"",
    ):
        reply = await searched(service, [("authorization", f"Bearer {token}")], body, wait_s=1)
        assert reply.status != "0", body
        assert b"plan of" not in reply.everything
    assert await answered(service)


async def test_streams_that_are_hoarded_end_at_a_number_and_keep_nobody_else_out(service: Service) -> None:
    """One connection opens calls and never ends them: the listener says how many it takes; others are answered."""
    token = service.token("alice")
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(Connection.open(service.callers)) for _ in range(3)]
        for connection in connections:
            for _ in range(100):
                await connection.begin(_SEARCH, [("authorization", f"Bearer {token}")], end=False)
        async with asyncio.timeout(30):
            while connections[0].most_streams > 128:
                await connections[0].read()
        assert connections[0].most_streams == 128
        assert await answered(service)
    assert await answered(service, "alice")


async def test_streams_that_nobody_reads_hold_up_nobody(service: Service) -> None:
    """Sixteen exports whose reader does not read: other calls of administrators are answered, and so are searches."""
    auditor = [("authorization", f"Bearer {service.token('adam')}")]
    follow = frame(audit_pb2.ExportAuditRecordsRequest(follow=True).SerializeToString())
    for number in range(30):
        await service.call("RetrievalService/GetDocument", retrieval_pb2.GetDocumentRequest(document_id=f"{number}"))
    async with AsyncExitStack() as stack:
        for _ in range(2):
            connection = await stack.enter_async_context(Connection.open(service.administrators))
            for _ in range(8):
                # The whole log, and what comes after it; and then not one byte is read.
                await connection.begin("/remit.v1.AuditService/ExportAuditRecords", auditor, follow)
        assert await answered(service)
        assert (await service.call("AuditService/GetCheckpoint", token=service.token("adam"))).code == "OK"
    assert await answered(service)


async def test_watches_of_health_are_bounded_in_size_and_number(service: Service) -> None:
    """Who proves nothing may watch health: a few times, and what is watched is a name and not a megabyte.

    The place of a watch that ended is free again.
    """
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    before = psutil.Process().memory_info().rss
    async with grpc.aio.insecure_channel(str(service.callers), options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for number in range(60):
            long = health_pb2.HealthCheckRequest(service=f"{number}".ljust(_MB - 100, "x"))
            with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
                await stub.Watch(long, timeout=10).read()
        assert psutil.Process().memory_info().rss - before < 48 * _MB
        for _ in range(2):
            watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(40)]
            ended = sorted([await _first(watch) for watch in watches])
            assert ended == ["RESOURCE_EXHAUSTED"] * 8 + ["SERVING"] * 32
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
            for watch in watches:
                watch.cancel()
            await asyncio.sleep(0.2)
    assert await answered(service)


async def test_streams_of_reflection_are_bounded_in_number_and_time(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who proves nothing may ask which methods there are, but not hold every place of the listener by asking."""
    monkeypatch.setattr(reflection, "_LONGEST_S", 1.0)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    async with grpc.aio.insecure_channel(str(service.administrators), [("grpc.enable_http_proxy", 0)]) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        once = stub.ServerReflectionInfo(timeout=10)
        await once.write(asked)
        assert (await once.read()).list_services_response.service
        await once.done_writing()
        assert await _code(once) == "OK"
        for _ in range(2):
            streams = [stub.ServerReflectionInfo(timeout=10) for _ in range(40)]
            # Nobody ends those that have a place: their time does, and then their places are free again.
            codes = sorted([await _code(stream) for stream in streams])
            assert codes == ["OK"] * 32 + ["RESOURCE_EXHAUSTED"] * 8
    assert await answered(service)


async def _code(stream: Any) -> str:
    """How a stream ended that its caller did not end."""
    return str((await stream.code()).name)


async def _first(watch: grpc.aio.UnaryStreamCall[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]) -> str:
    """The first thing that a watch says, or how it ended."""
    try:
        said = await watch.read()
    except grpc.aio.AioRpcError as err:
        return err.code().name
    assert isinstance(said, health_pb2.HealthCheckResponse)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(said.status))


async def test_a_caller_of_nine_thousand_groups_is_answered_and_so_are_the_others(service: Service) -> None:
    """A giant group list costs its owner time and widens nothing."""
    groups = [f"g{number}" for number in range(9_000)]
    people = PEOPLE.replace("groups: [sales]}", f"groups: [sales, {', '.join(groups)}]}}")
    service.people(people + "".join(f"  - {{id: {name}}}\n" for name in groups))
    request = retrieval_pb2.SearchRequest(query="plan", limit=100)

    outcome = await service.call("RetrievalService/Search", request, token=service.token("alice"), timeout_s=60)

    found = outcome.parsed(retrieval_pb2.SearchResponse)
    assert isinstance(found, retrieval_pb2.SearchResponse)
    assert {hit.chunk.document.location for hit in found.hits} == {"sales"}
    assert await answered(service)


async def test_a_flood_of_searches_is_refused_beyond_a_number_and_ends_with_it(service: Service) -> None:
    """Five hundred at once: each is answered or told that there are too many; afterwards everything is as before."""
    token = service.token("alice")
    request = retrieval_pb2.SearchRequest(query="x " * 4000, limit=100)

    outcomes = await asyncio.gather(
        *(service.call("RetrievalService/Search", request, token=token, timeout_s=60) for _ in range(500))
    )

    # A stream that the listener did not begin at all (REFUSED_STREAM) is one that every client sends again.
    codes = {outcome.code if "RST_STREAM" not in outcome.details else "refused stream" for outcome in outcomes}
    assert codes <= {"OK", "RESOURCE_EXHAUSTED", "refused stream"}
    assert "OK" in codes
    assert await answered(service)


async def test_calls_that_name_everything_are_bounded_by_the_documented_numbers(service: Service) -> None:
    """One more than the API documents of anything that repeats or is long: refused with the field; the most: read."""
    token = service.token("alice")
    for method, most, more, field in (
        ("Search", retrieval_pb2.SearchRequest(query="x" * 8192),
         retrieval_pb2.SearchRequest(query="x" * 8193), b"query"),
        ("Search", retrieval_pb2.SearchRequest(query="x", sources=["s"] * 32),
         retrieval_pb2.SearchRequest(query="x", sources=["s"] * 33), b"sources"),
        ("Search", retrieval_pb2.SearchRequest(query="x", limit=100),
         retrieval_pb2.SearchRequest(query="x", limit=101), b"limit"),
        ("BatchGetChunks", retrieval_pb2.BatchGetChunksRequest(chunk_ids=["x"] * 100),
         retrieval_pb2.BatchGetChunksRequest(chunk_ids=["x"] * 101), b"chunk_ids"),
    ):  # fmt: skip
        assert (await service.call(f"RetrievalService/{method}", most, token=token)).code == "OK", field
        refused = await service.call(f"RetrievalService/{method}", more, token=token)
        assert refused.code == "INVALID_ARGUMENT", field
        assert repr(field)[2:-1] in repr(refused.trailing)


async def test_a_call_without_a_deadline_has_one(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who would wait for ever does not hold a place for ever: the method's longest time ends the call."""
    from service.api.methods import METHODS, Rule

    monkeypatch.setitem(METHODS, "remit.v1.RetrievalService/Search", Rule(None, default_s=0.2, longest_s=0.2))
    async with serving(service.folder.parent / "other") as slow:
        token = slow.token("alice")
        slow.add("sales", "the plan", allow(SALES))
        slow.sync()

        async def hang(*args: object) -> object:
            return await asyncio.Event().wait()

        monkeypatch.setattr(slow.executor, "run", hang)
        request = retrieval_pb2.SearchRequest(query="plan")
        for timeout_s in (None, 3600.0):
            outcome = await slow.call("RetrievalService/Search", request, token=token, timeout_s=timeout_s)
            assert outcome.code == "DEADLINE_EXCEEDED"


async def test_a_listener_is_not_shared_with_who_comes_second(service: Service) -> None:
    """Nobody binds the port of a running service and takes a part of its calls."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])

    with pytest.raises(RuntimeError):
        server.add_insecure_port(str(service.callers))
    assert await answered(service)
    assert COMPANY in {one.name for one in service.config.sources}
