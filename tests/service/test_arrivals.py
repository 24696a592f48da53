"""Calls that reach no method of ours are counted on record, and so are commands that run without the service."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service import audit_keys, offline
from service.app import rebuild_index
from service.audit import AuditKey, Bodies, Opener, segments
from service.errors import StartError
from service.keys import open_provider
from service.stores.catalog import open_stores
from service.stores.folder import open_folder
from tests.service.harness import SALES, Service, allow, serving


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with one document."""
    async with serving(tmp_path / "remit") as running:
        running.add("plan", "the plan of sales", allow(SALES))
        running.sync()
        yield running


async def ended(service: Service, calls: int) -> None:
    """Wait until so many calls were counted: one ends after its answer has come."""
    async with asyncio.timeout(30):
        while service.calls.arrivals._calls.total() < calls:  # noqa: ASYNC110  nothing tells when a call has ended
            await asyncio.sleep(0.01)


def counted(service: Service) -> list[dict[str, Any]]:
    """The records of counted calls."""
    return [one["body"] for one in service.records() if one["body"].get("event") == "calls_counted"]


async def test_health_reflection_and_calls_of_nothing_are_on_record(service: Service) -> None:
    """Each with its count, once; a search beside them has its own record and is not counted."""
    async with grpc.aio.insecure_channel(str(service.administrators), [("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for _ in range(3):
            await stub.Check(health_pb2.HealthCheckRequest())
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        mirror = reflection_pb2_grpc.ServerReflectionStub(channel)
        names = [one async for one in mirror.ServerReflectionInfo(iter(requests))]
        for path in ("/remit.v1.RetrievalService/Nothing", "/a.Service/Nothing", "/" + "x" * 5000):
            method: Any = channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await method(b"")
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await service.client("alice").search("plan")
    await ended(service, 7)

    await service.calls.flush()
    await service.calls.flush()

    (found,) = counted(service)
    assert names
    assert found["calls"] == {
        "grpc.health.v1.Health/Check": 3,
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": 1,
        "a method that does not exist": 3,
    }
    assert found["count"] == 7
    assert len([one for one in service.records() if one["body"].get("rpc", "").endswith("/Search")]) == 1


async def test_a_message_that_is_too_large_is_on_record(service: Service) -> None:
    """gRPC refuses it before anybody knows what it is: the call has its record, with whoever made it."""
    for _ in range(2):
        outcome = await service.call("RetrievalService/Search", bytes(1024 * 1024 + 100), token=service.token("alice"))
        assert outcome.code == "RESOURCE_EXHAUSTED"

    found = [one["body"] for one in service.records() if one["body"].get("rpc", "").endswith("/Search")]
    assert [(one["code"], one["actor"]["account"]) for one in found] == [("INVALID_ARGUMENT", "u-1001")] * 2


async def test_floods_of_health_checks_stay_small(service: Service) -> None:
    """However many there are: one record."""
    async with grpc.aio.insecure_channel(str(service.callers), [("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await asyncio.gather(*(stub.Check(health_pb2.HealthCheckRequest()) for _ in range(100)))
    await ended(service, 100)

    await service.calls.flush()

    assert [one["count"] for one in counted(service)] == [100]


def bodies_of(data: Path, by: Opener) -> list[dict[str, Any]]:
    """The bodies of all records of a log."""
    stored = segments.Reader(data / "audit").records()
    found = [by.open(index, one) for index, one in enumerate(stored)]
    return [json.loads(one)["body"] for one in found if isinstance(one, bytes)]


def broken(done: int, last: int) -> None:
    """Fails when it is told how far it is."""
    raise ZeroDivisionError


async def test_commands_without_the_service_are_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after, with who ran it; one that fails says so; while the service runs nothing is done."""
    async with serving(tmp_path / "remit") as service:
        config = service.config
        service.add("plan", "the plan of sales", allow(SALES))
        service.sync()
        with pytest.raises(StartError, match="open by"):
            rebuild_index(config, lambda done, last: None)
    monkeypatch.setenv("SUDO_UID", "1234")
    provider, key = open_provider(config.keys), AuditKey.load(config.keys.audit)

    rebuild_index(config, lambda done, last: None)
    with pytest.raises(ZeroDivisionError):
        rebuild_index(config, broken)

    found = bodies_of(config.data, audit_keys.opener(config.keys.store, provider, key))
    commands = [one for one in found if one.get("event") == "command"]
    assert [(one["command"], one["outcome"]) for one in commands] == [
        ("index rebuild", "begun"),
        ("index rebuild", "done"),
        ("index rebuild", "begun"),
        ("index rebuild", "ZeroDivisionError"),
    ]
    assert {(one["os_uid"], one["sudo_uid"]) for one in commands} == {(os.getuid(), 1234)}


async def test_a_command_without_its_record_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be written stops it before it begins."""
    async with serving(tmp_path / "remit") as service:
        config = service.config
    folder = open_folder(config.data)
    keys, catalog = open_stores(folder, config.keys.store, open_provider(config.keys), datetime.now(UTC))
    monkeypatch.setattr(Bodies, "seal", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    done = False
    try:
        with (
            pytest.raises(StartError, match="No space left"),
            offline.recorded(folder, keys, AuditKey.load(config.keys.audit), "index rebuild"),
        ):
            done = True
    finally:
        catalog.close()
        keys.close()
        folder.close()
    assert not done
