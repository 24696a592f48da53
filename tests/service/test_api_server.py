"""The listeners: what each serves, addresses, TLS, health; and the administrators' methods behind them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from remit.client import AdminClient, AsyncClient, NotFoundError, SyncRunningError, SyncState
from remit.v1 import source_pb2

from service.api.arrivals import Arrivals
from service.api.health import Health
from service.api.server import CALLER_SERVICES, Served, Server
from service.api.wrapper import Wrapper
from service.errors import StartError
from service.settings import Address
from tests.service.harness import COMPANY, LOOPBACK, SALES, Service, allow, serving
from tests.service.tls_support import certificates


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service over an empty source."""
    async with serving(tmp_path / "remit") as running:
        yield running


def _server() -> Server:
    async def unused() -> None:
        raise AssertionError

    served = SimpleNamespace(**{method.name: unused for method in CALLER_SERVICES[1].methods})
    none: object = None
    wrapper = Wrapper(authenticator=none, callers=none, auditor=none, gate=none, executor=none)  # type: ignore[arg-type]  # unused
    return Server(
        wrapper=wrapper,
        health=Health([]),
        callers=[Served(CALLER_SERVICES[1], served)],
        administrators=[],
        arrivals=Arrivals(()),
    )


async def health(address: Address, name: str = "") -> str:
    """What the health service says."""
    async with grpc.aio.insecure_channel(str(address)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.mark.parametrize("which", ["callers", "administrators"])
async def test_a_port_in_use_is_one_sentence_that_names_it(which: str) -> None:
    """Starting on a port that another program has is refused; on a free one it succeeds."""
    with socket.socket() as taken, socket.socket() as probe:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = Address("127.0.0.1", port)
        probe.bind(("127.0.0.1", 0))
        free = Address("127.0.0.1", probe.getsockname()[1])
        probe.close()

        with pytest.raises(StartError, match=rf"cannot listen on 127\.0\.0\.1:{port}: port {port} is in use"):
            await _server().start(*((busy, free) if which == "callers" else (free, busy)), None)

    server = _server()
    assert (await server.start(free, LOOPBACK, None))[0] == free
    await server.stop(0)


async def test_an_address_of_another_machine_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What the system says about an address becomes the sentence, and gRPC adds nothing to it."""
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:7420: cannot assign requested address"):
        await _server().start(Address("192.0.2.1", 7420), LOOPBACK, certificates(tmp_path))
    with pytest.raises(StartError, match=r"cannot listen on no-such-host\.invalid:7420"):
        await _server().start(Address("no-such-host.invalid", 7420), LOOPBACK, certificates(tmp_path))
    assert capfd.readouterr().err == ""


async def test_two_services_never_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC would share a port between processes by default; here the second is refused, also by gRPC itself."""
    first = _server()
    callers, _, _ = await first.start(LOOPBACK, LOOPBACK, None)

    with pytest.raises(StartError, match="in use"):
        await _server().start(callers, LOOPBACK, None)
    monkeypatch.setattr("service.api.server._check", lambda *_: None)
    with pytest.raises(StartError, match="cannot listen"):
        await _server().start(callers, LOOPBACK, None)
    await first.stop(0)


async def test_plaintext_is_refused_beyond_loopback() -> None:
    """Without a certificate nothing listens on an address that others can reach."""
    with pytest.raises(StartError, match="without TLS"):
        await _server().start(Address("0.0.0.0", 0), LOOPBACK, None)
    with pytest.raises(StartError, match="without TLS"):
        await _server().start(LOOPBACK, Address("::", 0), None)


async def test_callers_and_administrators_have_listeners_of_their_own(service: Service) -> None:
    """No method of one listener is served on the other, and only administrators get reflection."""
    operator = service.token("olga")

    async with AsyncClient(str(service.administrators), token=operator, insecure_loopback=True) as client:
        with pytest.raises(Exception, match="no such method"):
            await client.search("plan")
    async with grpc.aio.insecure_channel(str(service.callers)) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/remit.v1.SourceService/ListSources"
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"", metadata=[("authorization", f"Bearer {operator}")])
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED

    request = reflection_pb2.ServerReflectionRequest(list_services="")
    listed: dict[str, list[str]] = {}
    for name, address in (("callers", service.callers), ("administrators", service.administrators)):
        async with grpc.aio.insecure_channel(str(address)) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            try:
                answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
                listed[name] = [one.name for one in answers[0].list_services_response.service]
            except grpc.aio.AioRpcError as err:
                listed[name] = [err.code().name]
    assert listed["callers"] == ["UNIMPLEMENTED"]
    assert "remit.v1.SourceService" in listed["administrators"]


async def test_health_follows_the_audit_log(service: Service) -> None:
    """Serving from the start, NOT_SERVING while the audit log cannot be written, and serving again after."""
    names = ["", "remit.v1.RetrievalService", "remit.v1.SourceService"]
    assert [await health(service.callers, name) for name in names] == ["SERVING"] * 3

    failure: list[str | None] = [None]
    watch = asyncio.ensure_future(service.health.watch(lambda: failure[0], every_s=0.001))
    async with grpc.aio.insecure_channel(str(service.callers)) as channel:
        said = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()).__aiter__()
        assert await _next(said) == "SERVING"
        failure[0] = "the disk is full"
        assert await _next(said) == "NOT_SERVING"
        assert [await health(service.administrators, name) for name in names] == ["NOT_SERVING"] * 3
        failure[0] = None
        assert await _next(said) == "SERVING"
        await service.health.close()
        assert await _next(said) == "NOT_SERVING"
    watch.cancel()


async def test_a_part_that_fails_is_not_serving_alone(service: Service) -> None:
    """Without the key-encryption key nothing about keys can be changed, and everything else goes on."""
    names = ["", "remit.v1.RetrievalService", "remit.v1.CustodyService"]
    failure: list[str | None] = [None]
    parts = {"remit.v1.CustodyService": lambda: failure[0]}
    watch = asyncio.ensure_future(service.health.watch(lambda: None, every_s=0.001, parts=parts))
    async with grpc.aio.insecure_channel(str(service.administrators)) as channel:
        asked = health_pb2.HealthCheckRequest(service="remit.v1.CustodyService")
        said = health_pb2_grpc.HealthStub(channel).Watch(asked).__aiter__()
        assert await _next(said) == "SERVING"
        failure[0] = "Vault is sealed"
        assert await _next(said) == "NOT_SERVING"
        assert [await health(service.administrators, name) for name in names] == ["SERVING", "SERVING", "NOT_SERVING"]
        failure[0] = None
        assert await _next(said) == "SERVING"
    watch.cancel()


async def _next(said: AsyncIterator[health_pb2.HealthCheckResponse]) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name((await anext(said)).status))


def _admin(service: Service) -> AdminClient:
    return AdminClient(str(service.administrators), token=service.token("olga"), insecure_loopback=True)


async def test_an_operator_checks_syncs_and_watches(service: Service) -> None:
    """The administrators' methods drive a real run, from the check to its counts."""
    service.add("a", "plan a", allow(SALES))
    service.add("b", "plan b", allow(SALES))

    def administer() -> None:
        with _admin(service) as admin:
            (before,) = admin.list_sources()
            assert (before.name, before.kind, before.documents, before.latest_run) == (COMPANY, "memory", 0, None)
            assert before.permissions_verified_at is None
            assert before.max_permissions_age == timedelta(hours=24)
            assert admin.check_source(COMPANY).ready
            run = admin.start_sync(COMPANY)
            seen = list(admin.watch_sync_run(run.run_id))
            assert [one.run_id for one in seen] == [run.run_id] * len(seen)
            assert (seen[-1].state, seen[-1].counts.stored, seen[-1].failure) == (SyncState.SUCCEEDED, 2, "")
            assert admin.get_sync_run(run.run_id) == seen[-1]
            after = admin.get_source(COMPANY)
            assert (after.documents, after.chunks, after.latest_run) == (2, 2, seen[-1])
            assert after.permissions_verified_at is not None
            service.source.faults.check_error = "the mount is gone"
            assert [f.text for f in admin.check_source(COMPANY).findings] == ["the mount is gone"]
            assert not admin.check_source(COMPANY).ready

    await asyncio.to_thread(administer)


async def test_a_second_run_is_refused_and_names_the_first(service: Service) -> None:
    """While a run is under way another is FAILED_PRECONDITION; unknown names are NOT_FOUND."""
    gate, begun = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(_: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

    service.add("a", "plan a", allow(SALES))
    service.source.faults.before_change = hold

    def administer() -> str:
        with _admin(service) as admin:
            run = admin.start_sync(COMPANY)
            with pytest.raises(SyncRunningError) as caught:
                admin.start_sync(COMPANY)
            assert caught.value.run_id == run.run_id
            for refused in (admin.start_sync, admin.get_source, admin.check_source, admin.get_sync_run):
                with pytest.raises(NotFoundError):
                    refused("nothing of that name")
            with pytest.raises(NotFoundError):
                list(admin.watch_sync_run("nothing of that name"))
            return run.run_id

    run_id = await asyncio.to_thread(administer)
    await begun.wait()
    gate.set()
    request = source_pb2.WatchSyncRunRequest(run_id=run_id)
    assert (await service.call("SourceService/WatchSyncRun", request, token=service.token("olga"))).code == "OK"
