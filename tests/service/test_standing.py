"""Holds, expiries and what clients are shown of them, through the API and on the screen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message
from remit.client import AdminClient, AuditorClient, InvalidRequestError
from remit.v1 import audit_pb2, standing_pb2

from service.audit import Period, Received, remit_audit_verify, verify_stretch
from service.audit import export as exports
from service.audit.ocsf import event
from service.audit.retention import Retention
from service.cli.audit_screen import kind_of, plain, print_answer, print_records
from tests.service.harness import SALES, Service, allow, serving

T = TypeVar("T")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with one document and one search that was answered."""
    async with serving(tmp_path / "remit") as running:
        running.add("plan", "the plan of sales", allow(SALES))
        running.sync()
        await running.client("alice").search("plan")
        yield running


async def admin(service: Service, name: str, work: Callable[[AdminClient], T]) -> T:
    """Do something as an administrator."""

    def run() -> T:
        with AdminClient(
            str(service.administrators), token=lambda: service.token(name), insecure_loopback=True
        ) as client:
            return work(client)

    return await asyncio.get_running_loop().run_in_executor(None, run)


async def auditor(service: Service, work: Callable[[AuditorClient], T]) -> T:
    """Do something as adam, who audits."""

    def run() -> T:
        with AuditorClient(
            str(service.administrators), token=lambda: service.token("adam"), insecure_loopback=True
        ) as client:
            return work(client)

    return await asyncio.get_running_loop().run_in_executor(None, run)


def expire(service: Service) -> None:
    """Let everything expire that 500 days from now would."""
    then = service.clock() + timedelta(days=5000)
    # The log's days are those of the machine's clock.
    Retention(service.audit, service.retention._reader, service.config.audit.kept, now=lambda: then).sweep()


async def test_a_hold_is_placed_listed_and_lifted_with_who_and_why(service: Service) -> None:
    """By a key administrator; an auditor sees it; the log says all of it, and what was asked."""
    placed = await admin(
        service,
        "kai",
        lambda one: one.place_legal_hold("a case", classes=["query"], from_day="2026-01-01", person="u-1001"),
    )
    assert (placed.placed_by, placed.why, placed.classes, placed.person) == ("u-1006", "a case", ("query",), "u-1001")
    assert await admin(service, "adam", lambda one: one.list_legal_holds()) == (placed,)

    await admin(service, "kai", lambda one: one.lift_legal_hold(placed.hold_id, "settled"))

    assert await admin(service, "kai", lambda one: one.list_legal_holds()) == ()
    standing = [one["body"] for one in service.records() if one["class"] == "standing"]
    assert [(one["event"], one["by"], one["why"]) for one in standing] == [
        ("hold placed", "u-1006", "a case"),
        ("hold lifted", "u-1006", "settled"),
    ]
    calls = [one["body"] for one in service.records() if one["body"].get("rpc", "").endswith("LiftLegalHold")]
    assert [(one["target"], one["actor"]["account"]) for one in calls] == [(placed.hold_id, "u-1006")]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "why"),
        ({"why": "  "}, "why"),
        ({"why": "x" * 1025}, "why"),
        ({"why": "x", "classes": ["queries"]}, "classes"),
        ({"why": "x", "classes": ["query"] * 17}, "classes"),
        ({"why": "x", "from_day": "yesterday"}, "from_day"),
        ({"why": "x", "from_day": "2026-02-02", "to_day": "2026-02-01"}, "to_day"),
        ({"why": "x", "person": "p" * 257}, "person"),
    ],
)
async def test_a_hold_that_makes_no_sense_is_refused(service: Service, fields: dict[str, Any], field: str) -> None:
    """With the field's name; nothing is held then."""
    request: Message = standing_pb2.PlaceLegalHoldRequest(**fields)
    outcome = await service.call("StandingService/PlaceLegalHold", request, token=service.token("kai"))

    assert outcome.code == "INVALID_ARGUMENT"
    assert any(field.encode() in value for _, value in outcome.trailing if isinstance(value, bytes))
    assert service.retention.holds == ()


async def test_what_expired_says_so_wherever_it_is_asked_for(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """List, show, query text, verification and export; what is new is shown as ever."""
    response = next(one["body"]["response_id"] for one in service.records() if one["class"] == "query")
    expire(service)

    page = await auditor(service, lambda one: one.list_audit_records(page_size=100))
    shown = await auditor(service, lambda one: one.get_audit_record(response))
    gone = [one for one in page.records if one.expired is not None]
    assert {kind_of(one) for one in gone} >= {"query", "control"}
    assert {one.data for one in gone} == {b""}
    assert shown[0].expired is not None
    assert plain(shown[0]) == {"expired": {"class": "query", "day": shown[0].expired.day.isoformat()}}
    print_answer(shown)
    print_records(page.records)
    text = capsys.readouterr().out
    assert f"record {shown[0].index} (leaf" in text
    assert text.count("expired by retention") >= len(gone)
    query = await service.call("AuditService/GetQueryText", _asks(response), token=service.token("carla"))
    assert query.code == "NOT_FOUND"

    def take(one: AuditorClient) -> bool:
        with one.export_audit_records() as (header, records), exports.draft(tmp_path / "export") as draft:
            kept = list(records)
            draft.write(header, kept)
        key = service.audit._signer.verifier
        received = [
            Received(
                each.data,
                each.leaf_hash,
                None if each.expired is None else Period(each.expired.record_class, each.expired.day),
            )
            for each in kept
        ]
        report = verify_stretch(header.checkpoint, received, key)
        assert report.expired == len(gone)
        assert not verify_stretch(header.checkpoint, received[:-1], key).ok
        unsaid = [one if b"bodies expired" not in one.data else Received(one.data, bytes(32)) for one in received]
        assert not verify_stretch(header.checkpoint, unsaid, key).ok
        return report.ok

    assert await auditor(service, take)
    result = remit_audit_verify.verify(tmp_path / "export", (service.folder / "keys" / "audit.pub").read_text())
    assert (result.problem, result.expired) == (None, len(gone))
    listed = await auditor(service, lambda one: one.list_audit_records(classes=["standing"]))
    assert [one.record["body"]["event"] for one in listed.records] == ["bodies expired"]


def _asks(response_id: str) -> Message:
    return audit_pb2.GetQueryTextRequest(response_id=response_id)


async def test_a_hold_without_a_reason_never_leaves_the_client(service: Service) -> None:
    """The client says which field."""
    with pytest.raises(InvalidRequestError):
        await admin(service, "kai", lambda one: one.place_legal_hold(""))


def test_a_stop_is_a_critical_finding_for_a_siem() -> None:
    """OCSF class 2004 with the alert's id; a hold is an API activity like others."""
    body = {"event": "source stopped", "alert_id": "a-1", "response_id": "r-1", "source": "s"}
    record = {"class": "standing", "index": 7, "time": "2026-01-01T00:00:00.000000Z", "body": body}

    found = event(record, "remit-audit/x", "1")

    assert (found["class_uid"], found["severity_id"], found["type_uid"]) == (2004, 5, 200401)
    assert json.dumps(found["finding_info"]).startswith('{"uid": "a-1"')
    assert event({**record, "body": {"event": "hold placed"}}, "x", "1")["class_uid"] == 6003
