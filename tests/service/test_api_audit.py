"""AuditService over gRPC: pages, proofs and exports for auditors, each reading on record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from remit.v1 import audit_pb2, audit_pb2_grpc

from service.audit import Verifier
from service.audit.checkpoint import Checkpoint
from service.audit.merkle import leaf_hash, verify_consistency, verify_inclusion
from tests.service.harness import PEOPLE, SALES, Outcome, Service, allow, serving

TWO_AUDITORS = PEOPLE.replace("groups: [operators]}", "groups: [auditors]}")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with one document, and twelve searches by Alice."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.sync()
        async with running.client("alice") as client:
            for _ in range(12):
                await client.search("plan")
        yield running


async def listed(service: Service, request: audit_pb2.ListAuditRecordsRequest, by: str = "adam") -> Outcome:
    """One page."""
    return await service.call("AuditService/ListAuditRecords", request, token=service.token(by))


def read(outcome: Outcome) -> audit_pb2.ListAuditRecordsResponse:
    """The page that came back."""
    assert outcome.code == "OK", outcome
    return audit_pb2.ListAuditRecordsResponse.FromString(outcome.message)


async def test_pages_join_to_the_whole_list(service: Service) -> None:
    """Newest first, the pages hold every record once, whatever is written meanwhile; so do they oldest first."""
    for oldest_first in (False, True):
        request = audit_pb2.ListAuditRecordsRequest(
            page_size=5, oldest_first=oldest_first, classes=[audit_pb2.AUDIT_CLASS_QUERY]
        )
        found: list[int] = []
        while True:
            page = read(await listed(service, request))
            found += [one.index for one in page.records]
            assert all(leaf_hash(one.data) == one.leaf_hash for one in page.records)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert found == sorted(found, reverse=not oldest_first)
        assert len(set(found)) == len(found) == 12


async def test_a_page_token_is_good_for_its_caller_and_its_request_alone(service: Service) -> None:
    """Another auditor, another list, another method of making it: refused; another size of page: accepted."""
    service.people(TWO_AUDITORS)
    request = audit_pb2.ListAuditRecordsRequest(page_size=2, person="u-1001")
    token = read(await listed(service, request)).next_page_token
    request.page_token = token
    changed = f"{token[:5]}{'B' if token[5] == 'A' else 'A'}{token[6:]}"  # not its end, where a bit may say nothing

    assert len(read(await listed(service, request)).records) == 2
    request.page_size = 3
    assert len(read(await listed(service, request)).records) == 3
    others = [
        audit_pb2.ListAuditRecordsRequest(page_size=2, page_token=token),
        audit_pb2.ListAuditRecordsRequest(page_size=2, page_token=token, person="u-1002"),
        audit_pb2.ListAuditRecordsRequest(page_size=2, page_token=token, person="u-1001", oldest_first=True),
        audit_pb2.ListAuditRecordsRequest(page_size=2, page_token=changed, person="u-1001"),
        audit_pb2.ListAuditRecordsRequest(page_size=2, page_token="7", person="u-1001"),
        audit_pb2.ListAuditRecordsRequest(page_size=2, page_token="é" * 2000, person="u-1001"),
    ]
    outcomes = [await listed(service, other) for other in others] + [await listed(service, request, by="olga")]
    assert {outcome.code for outcome in outcomes} == {"INVALID_ARGUMENT"}
    assert all(b"page_token" in dict(outcome.trailing)["grpc-status-details-bin"] for outcome in outcomes)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("GetAuditRecord", audit_pb2.GetAuditRecordRequest(), "response_id"),
        ("ListAuditRecords", audit_pb2.ListAuditRecordsRequest(page_size=-1), "page_size"),
        ("ListAuditRecords", audit_pb2.ListAuditRecordsRequest(page_size=1001), "page_size"),
        ("ListAuditRecords", audit_pb2.ListAuditRecordsRequest(person="x" * 257), "person"),
        ("ListAuditRecords", audit_pb2.ListAuditRecordsRequest(classes=[audit_pb2.AUDIT_CLASS_UNSPECIFIED]), "classes"),
        ("ListAuditRecords", audit_pb2.ListAuditRecordsRequest.FromString(b"\x1a\x01\x63"), "classes"),
        ("ListAuditRecords", audit_pb2.ListAuditRecordsRequest(start_time=Timestamp(seconds=2**60)), "start_time"),
        ("ExportAuditRecords", audit_pb2.ExportAuditRecordsRequest(first_index=-1), "first_index"),
        (
            "ExportAuditRecords",
            audit_pb2.ExportAuditRecordsRequest(follow=True, end_time=Timestamp(seconds=1)),
            "end_time",
        ),
        ("GetInclusionProof", audit_pb2.GetInclusionProofRequest(index=-1), "index"),
        ("GetConsistencyProof", audit_pb2.GetConsistencyProofRequest(first_size=0), "first_size"),
    ],
)
async def test_what_is_outside_its_range_is_named(
    service: Service,
    method: str,
    request_: audit_pb2.GetAuditRecordRequest,
    field: str,
) -> None:
    """INVALID_ARGUMENT with the field."""
    outcome = await service.call(f"AuditService/{method}", request_, token=service.token("adam"))

    assert outcome.code == "INVALID_ARGUMENT"
    assert field.encode() in dict(outcome.trailing)["grpc-status-details-bin"]


async def test_proofs_lead_to_the_signed_checkpoint(service: Service) -> None:
    """Inclusion and consistency verify with nothing but the public key; beyond the log there is nothing."""
    token = service.token("adam")
    key = Verifier.parse((service.folder / "keys" / "audit.pub").read_text())
    early = audit_pb2.GetCheckpointResponse.FromString(
        (await service.call("AuditService/GetCheckpoint", audit_pb2.GetCheckpointRequest(), token=token)).message
    )
    kept = Checkpoint.open(early.checkpoint, key)
    included = audit_pb2.GetInclusionProofResponse.FromString(
        (
            await service.call(
                "AuditService/GetInclusionProof", audit_pb2.GetInclusionProofRequest(index=7), token=token
            )
        ).message
    )
    grown = audit_pb2.GetConsistencyProofResponse.FromString(
        (
            await service.call(
                "AuditService/GetConsistencyProof",
                audit_pb2.GetConsistencyProofRequest(first_size=kept.size),
                token=token,
            )
        ).message
    )

    now = Checkpoint.open(included.checkpoint, key)
    assert verify_inclusion(7, now.size, included.leaf_hash, list(included.hashes), now.root)
    later = Checkpoint.open(grown.checkpoint, key)
    assert verify_consistency(kept.size, later.size, kept.root, later.root, list(grown.hashes))
    for method, request in (
        ("GetInclusionProof", audit_pb2.GetInclusionProofRequest(index=10_000)),
        ("GetConsistencyProof", audit_pb2.GetConsistencyProofRequest(first_size=10_000)),
    ):
        assert (await service.call(f"AuditService/{method}", request, token=token)).code == "NOT_FOUND"


async def test_reading_the_log_is_on_record_with_what_was_asked(service: Service) -> None:
    """By whom, for what; refused readings too."""
    await listed(service, audit_pb2.ListAuditRecordsRequest(document_id="d-7", start_time=Timestamp(seconds=5)))
    await listed(service, audit_pb2.ListAuditRecordsRequest(person="u-1002"), by="olga")
    request = audit_pb2.ListAuditRecordsRequest(classes=[audit_pb2.AUDIT_CLASS_AUDIT])
    page = read(await listed(service, request))

    refused, read_ = (json.loads(one.data)["body"] for one in page.records)
    assert (read_["code"], read_["actor"]["account"]) == ("OK", "u-1004")
    assert read_["conditions"] == {"document_id": "d-7", "start_time": "5"}
    assert (refused["reason"], refused["actor"]["account"]) == ("ROLE_REQUIRED", "u-1003")


async def test_an_export_that_follows_sends_what_is_written_later(service: Service) -> None:
    """Its header covers the record of the call itself; a search made meanwhile arrives."""
    channel = grpc.aio.insecure_channel(str(service.administrators), [("grpc.enable_http_proxy", 0)])
    stub = audit_pb2_grpc.AuditServiceStub(channel)
    metadata = (("authorization", f"Bearer {service.token('adam')}"),)
    stream = stub.ExportAuditRecords(
        audit_pb2.ExportAuditRecordsRequest(first_index=2**62, follow=True), metadata=metadata, timeout=60
    )
    parts = aiter(stream)
    header = (await anext(parts)).header
    async with service.client("alice") as client:
        answer = await client.search("plan")
    async with asyncio.timeout(20):
        (one,) = (await anext(parts)).records.records
    stream.cancel()
    await channel.close()

    assert header.first_index == header.stop_index == one.index
    assert json.loads(one.data)["body"]["response_id"] == answer.response_id
