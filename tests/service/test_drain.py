"""Health that tells the truth, and stopping without a call that fails for good."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from remit.v1 import audit_pb2, retrieval_pb2

from connectors.directories.static import StaticDirectory
from service import condition
from service.api import wrapper
from service.api.hang_up import hang_up
from service.settings import SettingsError, load
from tests.service.drain_rounds import Seen, rounds
from tests.service.harness import PEOPLE, SALES, Service, allow, serving
from tests.service.test_api_server import health
from tests.service.test_settings import GOOD

SEARCH = retrieval_pb2.SearchRequest(query="plan")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """One document."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.sync()
        yield running


# --- health ---


def test_a_service_is_not_well_when_what_it_rests_on_is_not() -> None:
    """Each part by itself, and those services that need it."""
    ill: dict[str, str | None] = {}

    def says(name: str) -> condition.Failure:
        return lambda: ill.get(name)

    parts = condition.parts(
        audit=says("audit"),
        issuers=says("issuers"),
        keys=says("keys"),
        indexes=[says("vectors"), says("words")],
        directories={"people": says("people"), "cloud": says("cloud")},
        proving=[says("nobody of people")],
    )

    def wrong() -> set[str]:
        return {name for name, one in parts.items() if one() is not None}

    assert wrong() == set()
    for cause, expected in {
        "words": {"index", "remit.v1.RetrievalService"},
        "cloud": {"directory/cloud"},
        "people": {"directory/people"},
        "nobody of people": {
            "remit.v1.RetrievalService",
            "remit.v1.AccessService",
            "remit.v1.ReviewService",
        },
        "keys": {"keys", "remit.v1.CustodyService"},
        "audit": {"audit"},
    }.items():
        ill[cause] = "not well"
        assert wrong() == expected, cause
        ill.clear()


async def test_health_at_the_wire_follows_the_directory(service: Service) -> None:
    """A file of people that is broken is no directory: the services that decide say so, and recover with it."""
    directory = service.directory.directory
    assert isinstance(directory, StaticDirectory)
    parts = condition.parts(
        audit=condition.of(service.audit),
        issuers=lambda: None,
        keys=lambda: None,
        indexes=[],
        directories={"people": directory.failure},
        proving=[directory.failure],
    )
    watch = asyncio.ensure_future(service.health.watch(lambda: None, every_s=0.01, parts=parts))
    try:
        names = ["", "directory/people", "remit.v1.RetrievalService", "remit.v1.SourceService"]
        await _becomes(service, "directory/people", "SERVING")
        service.people("users: [")
        await _becomes(service, "directory/people", "NOT_SERVING")
        said = [await health(service.callers, name) for name in names]
        assert said == ["SERVING", "NOT_SERVING", "NOT_SERVING", "SERVING"]
        outcome = await service.call("RetrievalService/Search", SEARCH, token="x.y.z")
        assert outcome.code == "UNAUTHENTICATED"
        service.people(PEOPLE)
        await _becomes(service, "remit.v1.RetrievalService", "SERVING")
    finally:
        watch.cancel()


async def _becomes(service: Service, name: str, expected: str) -> None:
    async with asyncio.timeout(20), grpc.aio.insecure_channel(str(service.callers)) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        async for answer in health_pb2_grpc.HealthStub(channel).Watch(request):
            if health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == expected:
                return


# --- stopping ---


async def test_a_call_under_way_ends_well_while_the_service_stops(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken, so it is answered; a later one is refused with a status that may be tried again."""
    began, going = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    real = service.retrieval_core.search

    def slow(*args: object) -> object:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(going.wait(), loop).result()
        return real(*args)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(service.retrieval_core, "search", slow)
    token = service.token("alice")
    call = asyncio.create_task(service.call("RetrievalService/Search", SEARCH, token=token))
    await began.wait()

    stopping = asyncio.create_task(service.server.stop(20))
    await asyncio.sleep(0)
    later = await service.call("AccessService/GetCaller", token=token)
    going.set()

    assert (await call).code == "OK"
    assert later.code == "UNAVAILABLE"
    await stopping


@pytest.mark.parametrize("reads", [True, False])
async def test_a_stream_that_is_ended_waits_for_the_message_on_its_way(reads: bool) -> None:
    """For gRPC takes no status before: a reader who reads is told why; one who does not holds nothing up."""
    over = asyncio.Event()
    written: list[bytes] = []

    class Slow:
        """A context whose message takes a while."""

        async def write(self, data: bytes) -> None:
            await over.wait()
            written.append(data)

    writing = asyncio.create_task(wrapper._write(cast(Any, Slow()), b"one"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.sleep(0)
    assert not writing.done(), "the message is still on its way"
    if reads:
        over.set()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert written == ([b"one"] if reads else [])


async def test_streams_are_told_that_the_service_stops(service: Service) -> None:
    """At once, with the reason, and with a status that may be tried again: not with the end of the grace."""
    follow = audit_pb2.ExportAuditRecordsRequest(follow=True)
    stream = asyncio.create_task(
        service.call("AuditService/ExportAuditRecords", follow, token=service.token("adam"), timeout_s=60)
    )
    async with asyncio.timeout(20):
        while service.wrapper._meter.under_way != 1:  # noqa: ASYNC110  the meter tells nobody
            await asyncio.sleep(0.01)

    async with asyncio.timeout(15):
        await service.server.stop(30)
        outcome = await stream

    assert outcome.code == "UNAVAILABLE"
    assert b"DRAINING" in repr(dict(outcome.trailing)["grpc-status-details-bin"]).encode()


async def test_what_does_not_end_in_the_grace_may_be_tried_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller gets the reason before gRPC cuts it."""

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(service.executor, "run", never)
    call = asyncio.create_task(service.call("RetrievalService/Search", SEARCH, token=service.token("alice")))
    async with asyncio.timeout(20):
        while service.wrapper._meter.under_way != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await service.server.stop(1.0)

    assert (await call).code == "UNAVAILABLE"


async def test_who_calls_again_in_the_moment_of_the_end_is_not_failed_for_good(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the end of the connections and that of gRPC a busy machine may take long: long enough to connect again
    and to call. Such a call would be taken, and ended as CANCELLED, which nobody tries again."""
    codes: set[str] = set()
    called, hung_up, ended = (threading.Event() for _ in range(3))

    def call_on() -> None:
        options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0), ("grpc.max_reconnect_backoff_ms", 100),
                   ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100)]  # fmt: skip
        with grpc.insecure_channel(str(service.callers), options) as channel:
            search: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/remit.v1.RetrievalService/Search"
            )
            while not ended.is_set():
                try:
                    search(SEARCH.SerializeToString(), timeout=10)
                except grpc.RpcError as err:
                    codes.add(err.code().name)
                    called.set()

    def slowly(ports: Collection[int]) -> int:
        found = hang_up(ports)
        hung_up.set()
        time.sleep(0.5)  # nothing of the service's own runs meanwhile, as when it is not its turn
        return found

    monkeypatch.setattr("service.api.server.hang_up", slowly)
    callers = [threading.Thread(target=call_on) for _ in range(4)]
    for caller in callers:
        caller.start()
    await asyncio.to_thread(called.wait, 10)
    await service.server.stop(0.2)
    ended.set()
    for caller in callers:
        await asyncio.to_thread(caller.join)

    assert hung_up.is_set()
    assert codes <= {"UNAUTHENTICATED", "UNAVAILABLE"}
    assert "UNAVAILABLE" in codes


def test_the_time_to_drain_is_read_with_its_bound(tmp_path: Path) -> None:
    """A duration of at most five minutes; none by default."""
    path = tmp_path / "remit.yaml"
    path.write_text(GOOD)
    assert load(path).listen.drain == timedelta(0)
    path.write_text(GOOD.replace("listen:\n", "listen:\n  drain: 20s\n"))
    assert load(path).listen.drain == timedelta(seconds=20)
    path.write_text(GOOD.replace("listen:\n", "listen:\n  drain: 6m\n"))
    with pytest.raises(SettingsError, match="at most `5m`"):
        load(path)


@pytest.mark.slow
async def test_rolling_drains_fail_no_call_for_good(tmp_path: Path) -> None:
    """Two rounds of what `make drain` does twenty times."""
    seen: Seen = await rounds(tmp_path, 2)

    assert seen.for_good == {}
    assert seen.answered > 50
    assert seen.unrecorded == 0
    assert seen.told_first == 2
