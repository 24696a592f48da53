"""What the circuit breaker holds, over the wire: who sees it, who decides, and that the audit log names the person."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.message import Message
from remit.v1 import source_pb2

from acl.principal import Principal
from connectors.base import own_realm
from service.identity import roles
from service.identity.roles import Roles
from tests.service.harness import COMPANY, FINANCE, SALES, Service, allow, serving

_DOCUMENTS = 30


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with thirty documents of Sales, which the source now gives to Finance as well."""
    async with serving(tmp_path / "remit") as running:
        for number in range(_DOCUMENTS):
            running.add(f"{number}", f"text {number}", allow(SALES))
        running.sync()
        for name, document in list(running.source.documents.items()):
            running.source.documents[name] = replace(document, own=allow(SALES, FINANCE))
        running.sync()
        yield running


async def held(service: Service, person: str = "rita", name: str = "") -> list[source_pb2.Hold]:
    """What somebody is told."""
    request = source_pb2.ListHoldsRequest(name=name)
    outcome = await service.call("SourceService/ListHolds", request, token=service.token(person))
    assert outcome.code == "OK", outcome
    return list(source_pb2.ListHoldsResponse.FromString(outcome.message).holds)


async def call(service: Service, method: str, request: Message, person: str) -> str:
    """How a call ends."""
    return (await service.call(f"SourceService/{method}", request, token=service.token(person))).code


async def test_a_person_approves_and_the_next_run_applies_it(service: Service) -> None:
    """Listed to who may see the source, with counts; decided by an access-admin, whose account is written down."""
    (hold,) = await held(service, "olga")
    assert (hold.source, hold.documents, hold.total) == (COMPANY, _DOCUMENTS, _DOCUMENTS)
    assert (hold.kind, hold.state) == (source_pb2.HOLD_KIND_WIDENING, source_pb2.HOLD_STATE_WAITING)
    assert not hold.HasField("decided_at")
    approve = source_pb2.ApproveHoldRequest(hold_id=hold.hold_id)

    assert await call(service, "ApproveHold", approve, "olga") == "PERMISSION_DENIED"
    assert await call(service, "ApproveHold", approve, "rita") == "OK"

    (decided,) = await held(service, name=COMPANY)
    assert (decided.state, decided.decided_by) == (source_pb2.HOLD_STATE_APPROVED, "u-1007")
    (record,) = [one["body"] for one in service.records() if one["body"].get("target") == hold.hold_id]
    assert record["rpc"].endswith("/ApproveHold")
    assert record["actor"]["account"] == "u-1007"
    service.sync()
    assert await held(service) == []
    assert await call(service, "ApproveHold", approve, "rita") == "NOT_FOUND"


async def test_what_is_rejected_is_shown_as_rejected(service: Service) -> None:
    """And is not asked again; the last word before a run counts."""
    (hold,) = await held(service)
    assert await call(service, "RejectHold", source_pb2.RejectHoldRequest(hold_id=hold.hold_id), "rita") == "OK"
    service.sync()
    (rejected,) = await held(service)
    assert (rejected.hold_id, rejected.state) == (hold.hold_id, source_pb2.HOLD_STATE_REJECTED)


async def test_the_owner_decides_about_the_own_source_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not about one that somebody else owns, be they an operator as well; that one does not exist for them."""
    (hold,) = await held(service)
    approve = source_pb2.ApproveHoldRequest(hold_id=hold.hold_id)
    reject = source_pb2.RejectHoldRequest(hold_id=hold.hold_id)
    for others in ({roles.owner_of("another")}, {roles.owner_of("another"), roles.OPERATOR}):
        monkeypatch.setattr(Roles, "of", lambda self, principals, others=others: frozenset(others))
        assert await call(service, "ApproveHold", approve, "alice") == "NOT_FOUND"
        assert await call(service, "RejectHold", reject, "alice") == "NOT_FOUND"
    monkeypatch.setattr(Roles, "of", lambda self, principals: frozenset({roles.owner_of("another")}))
    assert await held(service, "alice") == []
    assert await call(service, "ListHolds", source_pb2.ListHoldsRequest(name=COMPANY), "alice") == "NOT_FOUND"

    monkeypatch.setattr(Roles, "of", lambda self, principals: frozenset({roles.owner_of(COMPANY)}))
    assert len(await held(service, "alice")) == 1
    assert await call(service, "ApproveHold", approve, "alice") == "OK"


async def test_a_pass_can_be_named_and_an_unknown_one_is_refused(service: Service) -> None:
    """A pass for permissions is one to the end; a number that nobody knows names its field."""
    request = source_pb2.StartSyncRequest(name=COMPANY, sync_pass=source_pb2.SYNC_PASS_PERMISSIONS)
    outcome = await service.call("SourceService/StartSync", request, token=service.token("olga"))
    run = source_pb2.StartSyncResponse.FromString(outcome.message).run
    assert run.sync_pass == source_pb2.SYNC_PASS_PERMISSIONS
    for thread in service.sources.threads:
        thread.join(20)
    unknown = source_pb2.StartSyncRequest(name=COMPANY, sync_pass=9)  # type: ignore[arg-type]  # not of the enum
    assert await call(service, "StartSync", unknown, "olga") == "INVALID_ARGUMENT"


@pytest.mark.parametrize("method", ["ApproveHold", "RejectHold"])
async def test_nothing_is_decided_that_cannot_be_written_down(
    service: Service, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A word on a hold counts once its record is durable: with a log that fails, what waits goes on waiting."""
    (hold,) = await held(service)
    request = getattr(source_pb2, f"{method}Request")(hold_id=hold.hold_id)
    with monkeypatch.context() as failing:
        failing.setattr(service.audit, "_failure", "the disk is full")
        assert await call(service, method, request, "rita") == "UNAVAILABLE"
    assert [one.state for one in await held(service)] == [source_pb2.HOLD_STATE_WAITING]

    assert await call(service, method, request, "rita") == "OK"

    decided = [one["body"] for one in service.records() if one["body"].get("hold_id") == hold.hold_id]
    assert [(one["event"], one["by"]) for one in decided] == [
        ({"ApproveHold": "hold_approved", "RejectHold": "hold_rejected"}[method], "u-1007")
    ]


async def test_members_that_are_held_are_listed_with_their_groups(tmp_path: Path) -> None:
    """Finance joins a group of the source that reads thirty documents: whoever decides is told which, how many, who."""
    team = Principal(own_realm(COMPANY), "team")
    async with serving(tmp_path / "remit") as running:
        running.source.groups = {team: {SALES}}
        for number in range(_DOCUMENTS):
            running.add(f"{number}", f"text {number}", allow(team))
        running.sync()
        running.source.groups[team].add(FINANCE)
        running.sync()

        (hold,) = await held(running)

        assert (hold.kind, hold.documents, hold.more_groups) == (source_pb2.HOLD_KIND_MEMBERS, _DOCUMENTS, 0)
        (group,) = hold.groups
        assert (group.group, group.name, list(group.examples)) == (team.token, "team", [FINANCE.token])
        assert (group.joining, group.leaving, group.documents) == (1, 0, _DOCUMENTS)

        approve = source_pb2.ApproveHoldRequest(hold_id=hold.hold_id)
        assert await call(running, "ApproveHold", approve, "olga") == "PERMISSION_DENIED"
        assert await call(running, "ApproveHold", approve, "rita") == "OK"
        running.sync()
        assert await held(running) == []
