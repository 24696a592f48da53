"""Answers that go on: what somebody may be told is asked again before every message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from remit.v1 import audit_pb2

from tests.service.harness import PEOPLE, SALES, Service, allow, serving

_FOLLOW = audit_pb2.ExportAuditRecordsRequest(first_index=2**62, follow=True)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with one document."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.sync()
        yield running


async def _ask(service: Service) -> None:
    """Something that the log has a record of."""
    async with service.client("alice") as alice:
        await alice.search("plan")


async def _after(service: Service, people: str) -> str:
    """Follow the log as an auditor, change the directory to `people`; return how many records came, or how it ended."""
    metadata = [("authorization", f"Bearer {service.token('adam')}")]
    async with grpc.aio.insecure_channel(str(service.administrators), [("grpc.enable_http_proxy", 0)]) as channel:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            "/remit.v1.AuditService/ExportAuditRecords"
        )
        stream = method(_FOLLOW.SerializeToString(), metadata=metadata, timeout=20)
        assert await stream.read()  # the header
        await _ask(service)
        assert await stream.read()
        service.people(people)
        await _ask(service)
        try:
            data = await stream.read()
            assert isinstance(data, bytes)
            return f"{len(audit_pb2.ExportAuditRecordsResponse.FromString(data).records.records)} record"
        except grpc.aio.AioRpcError as err:
            return err.code().name


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        (("groups: [auditors]", "groups: [operators]"), "PERMISSION_DENIED"),
        (("name: adam,", "name: adam, enabled: false,"), "UNAUTHENTICATED"),
        (("display_name: Adam Audit, groups", "display_name: Adam Addit, groups"), "1 record"),
    ],
)
async def test_who_may_not_read_the_log_any_more_is_sent_no_more_of_it(
    service: Service, change: tuple[str, str], ends: str
) -> None:
    """An export that follows ends when the role or the account is gone, and not when something else changed."""
    assert change[0] in PEOPLE

    assert await _after(service, PEOPLE.replace(*change)) == ends
