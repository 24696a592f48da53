"""Shredding by two persons: who may ask and approve, what a request holds for, and that nothing else is shredded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from remit.client import (
    InvalidRequestError,
    NotFoundError,
    SecondPersonError,
    ShredCertificate,
    ShredRequest,
    SyncRunningError,
)

from acl.principal import Principal, realm
from connectors.directories.base import Resolution
from service import errors
from service.audit import find
from service.authn import Subject
from service.authn.certificates import ISSUER
from service.authn.subject import Acting
from service.identity.callers import Current
from service.identity.resolver import Resolved
from service.identity.roles import KEY_ADMIN
from service.keys.tables import shred_requests
from service.upkeep.approvals import Approvals, Target
from tests.service.harness import ALICE, COMPANY, Service, allow, serving
from tests.service.test_shred import custody, titles


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Two documents, and two persons for a shredding."""
    async with serving(tmp_path, shred_approvals=2) as running:
        running.add("one", "the plan of one", allow(ALICE))
        running.add("two", "the plan of two", allow(ALICE))
        running.sync()
        yield running


async def ask(service: Service, by: str = "kim", **target: str) -> ShredRequest:
    """Ask for a shredding."""
    return await custody(service, lambda admin: admin.request_shredding(**target), by)


async def approve(service: Service, asked: ShredRequest, by: str = "kai", **target: str) -> ShredCertificate:
    """Approve it."""
    return await custody(service, lambda admin: admin.approve_shredding(asked.request_id, **target), by)


async def test_two_persons_shred_what_one_asked_for(service: Service) -> None:
    """Nothing happens before the second one; the certificate and the log name both; a request is used once."""
    one = service.document_ids()["one"]
    asked = await ask(service, "kim", document_id=one)
    assert await titles(service) == {"one", "two"}
    assert await custody(service, lambda admin: admin.list_shred_requests()) == (asked,)

    done = await approve(service, asked, "kai", document_id=one)

    assert await titles(service) == {"two"}
    assert (done.document_id, done.documents) == (one, 1)
    assert (done.requested_by, done.approved_by) == ("people/u-1008", "people/u-1006")
    assert await custody(service, lambda admin: admin.list_shred_requests()) == ()
    with pytest.raises(NotFoundError):
        await approve(service, asked, "kai", document_id=one)
    for record_id, rpc, account in (
        (asked.request_id, "RequestShredding", "u-1008"),
        (done.response_id, "ApproveShredding", "u-1006"),
    ):
        found = find(service.config.data / "audit", record_id, service.audit.bodies)
        assert found is not None
        body = found.record["body"]
        assert isinstance(body, dict)
        assert (body["rpc"], body["target"]) == (f"remit.v1.CustodyService/{rpc}", one)
        assert account in str(body["actor"])
    assert asked.request_id in str(body)


async def test_a_whole_source_takes_two_persons_too(service: Service) -> None:
    """Asked for and approved by name."""
    asked = await ask(service, "kim", source=COMPANY)
    assert (asked.source, asked.document_id) == (COMPANY, "")

    done = await approve(service, asked, "kai", source=COMPANY)

    assert (done.source, done.documents) == (COMPANY, 2)
    assert await titles(service) == set()


async def test_one_person_alone_shreds_nothing(service: Service) -> None:
    """Neither at once nor by approving what they asked for; then somebody else does."""
    one = service.document_ids()["one"]
    for work in (
        lambda admin: admin.shred_document(one),
        lambda admin: admin.shred_source(COMPANY),
    ):
        with pytest.raises(SecondPersonError):
            await custody(service, work, "kai")
    asked = await ask(service, "kai", document_id=one)
    with pytest.raises(SecondPersonError):
        await approve(service, asked, "kai", document_id=one)
    assert await titles(service) == {"one", "two"}

    await approve(service, asked, "kim", document_id=one)

    assert await titles(service) == {"two"}


async def test_a_request_ends_by_itself(service: Service) -> None:
    """After its time nobody can approve it; a moment before, somebody can."""
    ids = service.document_ids()
    asked = {name: await ask(service, "kim", document_id=ids[name]) for name in ("one", "two")}
    assert asked["one"].expires_at - asked["one"].requested_at == timedelta(days=1)
    service.clock.advance(timedelta(days=1) - timedelta(seconds=30))
    service.sync()
    await approve(service, asked["one"], "kai", document_id=ids["one"])
    service.clock.advance(timedelta(seconds=30))

    with pytest.raises(NotFoundError):
        await approve(service, asked["two"], "kai", document_id=ids["two"])

    assert await custody(service, lambda admin: admin.list_shred_requests()) == ()
    assert set(service.document_ids()) >= {"two"}


async def test_what_is_approved_is_what_was_asked_for(service: Service) -> None:
    """Another document, its source, or a row that was changed in the store: nothing is shredded."""
    ids = service.document_ids()
    asked = await ask(service, "kim", document_id=ids["one"])
    others: tuple[dict[str, str], ...] = ({"document_id": ids["two"]}, {"source": COMPANY}, {"document_id": ""})
    for other in others:
        with pytest.raises(InvalidRequestError):
            await approve(service, asked, "kai", **other)
    for change in (
        {"document": ids["two"]},
        {"document": ""},
        {"accounts": "[]"},
        {"requested_by": "people/u-1001"},
        {"expires_at": asked.expires_at + timedelta(days=365)},
    ):
        with service.keys.write() as connection:
            before = connection.execute(shred_requests.select()).one()
            connection.execute(shred_requests.update().values(change))
        for name in ("one", "two"):
            with pytest.raises(NotFoundError):
                await approve(service, asked, "kai", document_id=ids[name])
        assert await custody(service, lambda admin: admin.list_shred_requests()) == ()
        with service.keys.write() as connection:
            connection.execute(shred_requests.update().values(before._asdict()))
    assert await titles(service) == {"one", "two"}

    await approve(service, asked, "kai", document_id=ids["one"])

    assert await titles(service) == {"two"}


async def test_a_run_that_is_under_way_leaves_the_request_open(service: Service) -> None:
    """Once it has ended the same approval goes through."""
    one = service.document_ids()["one"]
    asked = await ask(service, "kim", document_id=one)
    opening = service.catalog.open_run(COMPANY, service.clock())
    with pytest.raises(SyncRunningError):
        await approve(service, asked, "kai", document_id=one)
    with service.catalog.reader() as reader:
        assert reader.running(COMPANY) == opening.run.run_id
    service.sync()

    await approve(service, asked, "kai", document_id=one)

    assert await titles(service) == {"two"}


async def test_a_request_can_be_withdrawn_and_nothing_unknown_requested(service: Service) -> None:
    """By whoever administers keys; what does not exist cannot be asked for."""
    one = service.document_ids()["one"]
    asked = await ask(service, "kim", document_id=one)
    await custody(service, lambda admin: admin.withdraw_shredding(asked.request_id), "kai")

    for work in (
        lambda admin: admin.approve_shredding(asked.request_id, document_id=one),
        lambda admin: admin.withdraw_shredding(asked.request_id),
        lambda admin: admin.request_shredding(document_id="none"),
        lambda admin: admin.request_shredding(source="none"),
    ):
        with pytest.raises(NotFoundError):
            await custody(service, work, "kai")
    assert await titles(service) == {"one", "two"}


def person(name: str, *more: Principal, left_out: str = "", issuer: str = "https://i", acting: bool = False) -> Current:
    """A key administrator with accounts beside their own."""
    from tests.service.harness import EPOCH

    own = Principal(realm("static", "people"), f"user-{name}")
    group = Principal(realm("static", "people"), "group-key-admins")
    everybody = Principal(realm("static", "people"), "members")
    paths = {own: (name,), everybody: (name,), group: (name, "key-admins"), **dict.fromkeys(more, (name,))}
    resolution = Resolution(name, name, frozenset(paths), paths, frozenset(), EPOCH)
    from acl.model import Caller

    caller = Caller(f"people/{name}", frozenset(paths), frozenset(), EPOCH, EPOCH + timedelta(minutes=1))
    missing = {left_out: "does not answer"} if left_out else {}
    resolved = Resolved(caller, resolution, frozenset({KEY_ADMIN}), missing)
    subject = Subject(issuer, name, "people", "id", name, EPOCH + timedelta(hours=1), "t")
    if acting:
        subject = replace(subject, acting=Acting(("assistant",), frozenset()))
    return Current(subject, resolved, 0)


@pytest.fixture
def approvals(service: Service) -> Approvals:
    return service.approvals


async def test_the_same_person_under_two_names_is_one(service: Service, approvals: Approvals) -> None:
    """An account that both hold makes them one, whatever they are called; a group that both are in does not."""
    one = Target(service.document_ids()["one"], "")
    shared = Principal(realm("ad"), "S-1-5-21-1-2-3-1104")
    approvals.request(one, person("anna", shared), "r-1")

    for same in (person("anna"), person("a.nna", shared), person("anna", left_out="corp")):
        with pytest.raises(errors.SecondPersonError):
            approvals.approve("r-1", one, same)
    assert await titles(service) == {"one", "two"}
    other = Principal(realm("ad"), "S-1-5-21-1-2-3-1105")
    assert approvals.approve("r-1", one, person("berta", other)).approved_by == "people/berta"
    assert await titles(service) == {"two"}


async def test_a_program_is_no_person(service: Service, approvals: Approvals) -> None:
    """A service account by its certificate, and an application that acts for somebody: neither asks nor approves."""
    one = Target(service.document_ids()["one"], "")
    programs = (person("svc-1", issuer=ISSUER), person("anna", acting=True), person("anna", left_out="corp"))
    for program in programs:
        with pytest.raises(errors.SecondPersonError):
            approvals.request(one, program, "r-0")
    approvals.request(one, person("anna"), "r-1")
    for program in programs:
        with pytest.raises(errors.SecondPersonError):
            approvals.approve("r-1", one, program)

    approvals.approve("r-1", one, person("berta"))

    assert await titles(service) == {"two"}
