"""Roles: every method against every role, what is separated, and that a role opens no document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest
from remit.v1 import retrieval_pb2, source_pb2

from acl.principal import Principal, Realm
from service.api.methods import METHODS
from service.api.server import ADMINISTRATOR_SERVICES, CALLER_SERVICES
from service.identity import roles
from service.identity.roles import Roles
from service.settings import SettingsError, load
from tests.service.harness import COMPANY, FINANCE, SALES, Service, allow, serving
from tests.service.test_api_matrix import (
    _FOR_A_CALLER,
    _FOR_A_CONTENT_AUDITOR,
    _FOR_A_KEY_ADMIN,
    _FOR_AN_ACCESS_ADMIN,
    _FOR_AN_AUDITOR,
    _FOR_AN_OPERATOR,
    _REQUESTS,
)
from tests.service.test_settings import GOOD

EVERYBODY = frozenset({"", *roles.NAMES})
SOURCES = frozenset({"operator", "access-admin", "source-owner"})
DECIDING = frozenset({"access-admin", "source-owner"})
AUDITORS = frozenset({"auditor"})
REVIEWERS = frozenset({"access-admin", "auditor"})
KEY_ADMINS = frozenset({"key-admin"})

# Every method of the `.proto` files has a row here: who may call it; "" is a caller without any role.
TABLE: dict[str, frozenset[str]] = {
    "RetrievalService/Search": EVERYBODY,
    "RetrievalService/GetDocument": EVERYBODY,
    "RetrievalService/BatchGetChunks": EVERYBODY,
    "AccessService/GetCaller": EVERYBODY,
    "AccessService/CheckAccess": EVERYBODY,
    "AccessService/ExplainAccess": EVERYBODY,
    "AccessService/ListReadableDocuments": EVERYBODY,
    "ReviewService/CheckUserAccess": REVIEWERS,
    "ReviewService/ExplainUserAccess": REVIEWERS,
    "ReviewService/ListUserDocuments": REVIEWERS,
    "ReviewService/ListDocuments": REVIEWERS | {"source-owner"},
    "ReviewService/ListReaders": REVIEWERS,
    "ReviewService/ListGrants": REVIEWERS | {"source-owner"},
    "ReviewService/ResolveUser": REVIEWERS,
    "ReviewService/PreviewChange": REVIEWERS,
    "SourceService/ListSources": SOURCES,
    "SourceService/GetSource": SOURCES,
    "SourceService/CheckSource": frozenset({"operator", "source-owner"}),
    "SourceService/StartSync": frozenset({"operator"}),
    "SourceService/GetSyncRun": SOURCES,
    "SourceService/WatchSyncRun": SOURCES,
    "SourceService/ListSyncRuns": SOURCES,
    "SourceService/CancelSyncRun": frozenset({"operator", "source-owner"}),
    "SourceService/ReloadSettings": frozenset({"operator"}),
    "SourceService/ListHolds": SOURCES,
    "SourceService/ApproveHold": DECIDING,
    "SourceService/RejectHold": DECIDING,
    "IndexService/RebuildIndex": frozenset({"operator"}),
    "SourceService/RemoveSource": frozenset({"operator"}),
    "AuditService/GetAuditRecord": AUDITORS,
    "AuditService/ListAuditRecords": AUDITORS,
    "AuditService/ExportAuditRecords": AUDITORS,
    "AuditService/GetCheckpoint": AUDITORS,
    "AuditService/GetInclusionProof": AUDITORS,
    "AuditService/GetConsistencyProof": AUDITORS,
    "AuditService/RecordProof": AUDITORS,
    "AuditService/GetQueryText": frozenset({"audit-reader-content"}),
    "StandingService/PlaceLegalHold": KEY_ADMINS,
    "StandingService/ListLegalHolds": KEY_ADMINS | AUDITORS,
    "StandingService/LiftLegalHold": KEY_ADMINS,
    "StandingService/ListStoppedSources": frozenset({"operator", "access-admin", "auditor"}),
    "StandingService/ClearSource": frozenset({"operator", "access-admin"}),
    "CustodyService/GetKeyStatus": KEY_ADMINS,
    "CustodyService/RotateKeys": KEY_ADMINS,
    "CustodyService/RewrapKeys": KEY_ADMINS,
    "CustodyService/ShredDocument": KEY_ADMINS,
    "CustodyService/ShredSource": KEY_ADMINS,
    "CustodyService/RequestShredding": KEY_ADMINS,
    "CustodyService/ListShredRequests": KEY_ADMINS,
    "CustodyService/ApproveShredding": KEY_ADMINS,
    "CustodyService/WithdrawShredding": KEY_ADMINS,
    "CustodyService/CreateBackup": KEY_ADMINS,
}
ANSWERS = {
    **_FOR_AN_ACCESS_ADMIN,
    **_FOR_AN_OPERATOR,
    **_FOR_AN_AUDITOR,
    **_FOR_A_CONTENT_AUDITOR,
    **_FOR_A_KEY_ADMIN,
    **_FOR_A_CALLER,
}


def described() -> Iterator[str]:
    """Every method of every service, from the descriptors."""
    for service in (*CALLER_SERVICES, *ADMINISTRATOR_SERVICES):
        for method in service.methods:
            yield f"{service.name}/{method.name}"


def held(role: str) -> frozenset[str]:
    """The roles of somebody who has one of them, or none."""
    if role == roles.SOURCE_OWNER:
        return frozenset({roles.owner_of(COMPANY)})
    return frozenset({role} if role else ())


def test_every_method_has_a_row_and_the_service_keeps_to_it() -> None:
    """A method that is new in the `.proto` files fails here until somebody says who may call it."""
    assert set(TABLE) == set(described())
    for method, who in TABLE.items():
        assert {role for role in EVERYBODY if METHODS[f"remit.v1.{method}"].opens(held(role))} == who, method


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with one document for Sales and one for Finance."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", "the plan of finance", allow(FINANCE))
        running.sync()
        yield running


@pytest.mark.parametrize("role", sorted(EVERYBODY))
async def test_every_method_answers_the_roles_of_the_table_and_no_other(
    service: Service, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """Over the wire: an answer for those in the table, PERMISSION_DENIED for everybody else."""
    monkeypatch.setattr(Roles, "of", lambda self, principals: held(role))
    token = service.token("alice")

    for method, who in TABLE.items():
        outcome = await service.call(method, _REQUESTS[method], token=token)
        assert outcome.code == (ANSWERS[method] if role in who else "PERMISSION_DENIED"), method


@pytest.mark.parametrize("role", sorted(roles.NAMES))
async def test_no_role_opens_a_document(service: Service, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """Whatever somebody administers: they read what their groups let them read, and that they still read."""
    ids = service.document_ids()
    monkeypatch.setattr(Roles, "of", lambda self, principals: held(role))

    async def read(name: str) -> str:
        request = retrieval_pb2.GetDocumentRequest(document_id=ids[name])
        return (await service.call("RetrievalService/GetDocument", request, token=service.token("alice"))).code

    assert await read("finance") == "NOT_FOUND"
    assert await read("sales") == "OK"


async def test_the_owner_of_a_source_is_told_of_that_source_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's source and its runs do not exist for an owner: the same bytes as for what never was."""
    run = service.engine.run(COMPANY)
    token = service.token("alice")
    monkeypatch.setattr(Roles, "of", lambda self, principals: frozenset({roles.owner_of("another")}))

    named = {"run_id": run.run_id}
    hidden = [
        await service.call("SourceService/GetSource", source_pb2.GetSourceRequest(name=COMPANY), token=token),
        await service.call("SourceService/GetSource", source_pb2.GetSourceRequest(name="absent"), token=token),
        await service.call("SourceService/CheckSource", source_pb2.CheckSourceRequest(name=COMPANY), token=token),
        await service.call("SourceService/GetSyncRun", source_pb2.GetSyncRunRequest(**named), token=token),
        await service.call("SourceService/CancelSyncRun", source_pb2.CancelSyncRunRequest(**named), token=token),
        await service.call("SourceService/ListSyncRuns", source_pb2.ListSyncRunsRequest(name=COMPANY), token=token),
        await service.call(
            "SourceService/WatchSyncRun", source_pb2.WatchSyncRunRequest(run_id=run.run_id), token=token
        ),
    ]
    listed = await service.call("SourceService/ListSources", source_pb2.ListSourcesRequest(), token=token)
    assert {outcome.code for outcome in hidden} == {"NOT_FOUND"}
    assert len(set(hidden)) == 1
    assert source_pb2.ListSourcesResponse.FromString(listed.message).sources == []

    monkeypatch.setattr(Roles, "of", lambda self, principals: held("source-owner"))
    mine = await service.call("SourceService/ListSources", source_pb2.ListSourcesRequest(), token=token)
    got = await service.call("SourceService/GetSyncRun", source_pb2.GetSyncRunRequest(run_id=run.run_id), token=token)
    assert [one.name for one in source_pb2.ListSourcesResponse.FromString(mine.message).sources] == [COMPANY]
    assert got.code == "OK"


# --- bindings ---

PEOPLE = Realm("static:people")


def principal(group: str) -> Principal:
    """A group of the static directory."""
    return Principal(PEOPLE, f"group-{group}")


def test_nobody_is_an_auditor_and_something_else() -> None:
    """By two groups somebody would be both: then neither, while what is not separated stays.

    Reading records and opening the texts of queries are both auditing.
    """
    bound = Roles({name: frozenset({principal(name)}) for name in roles.NAMES if name != roles.SOURCE_OWNER})
    everything = {name: principal(name) for name in roles.NAMES if name != roles.SOURCE_OWNER}
    auditing = {"auditor", "audit-reader-content"}

    for one, other in combinations(everything, 2):
        expected = frozenset() if (one in auditing) != (other in auditing) else {one, other}
        assert bound.of({everything[one], everything[other]}) == expected
    for name, group in everything.items():
        assert bound.of({group}) == {name}
    owners = Roles({roles.owner_of(COMPANY): frozenset({principal("o")}), "auditor": frozenset({principal("a")})})
    assert owners.of({principal("o"), principal("a")}) == frozenset()
    assert owners.of({principal("o")}) == {roles.owner_of(COMPANY)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a `remit.yaml` with these roles."""
    before, _, rest = GOOD.partition("roles:\n")
    after = rest.partition("embedding:")[2]

    def _write(text: str) -> Path:
        path = tmp_path / "remit.yaml"
        path.write_text(f"{before}roles:\n{text}embedding:{after}")
        return path

    return _write


def test_every_role_is_bound_by_the_settings(write: Callable[[str], Path]) -> None:
    """Each by its name; the owners of a source stand under its name."""
    settings = load(
        write(
            "  operator: [group:a]\n  access-admin: [group:a, group:b]\n  key-admin: [group:c]\n  auditor: [group:d]\n"
            "  source-owner: {company: [group:e]}\n"
        )
    )

    assert settings.roles == {
        "operator": {principal("a")},
        "access-admin": {principal("a"), principal("b")},
        "key-admin": {principal("c")},
        "auditor": {principal("d")},
        "source-owner:company": {principal("e")},
    }


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("  operator: [group:a]\n  auditor: [group:b, group:a]\n", 19,
         "`static:people:group-a` has the role `operator` too, expected another group: who "),
        ("  auditor: [group:a]\n  key-admin: [group:a]\n", 19,
         "roles.key-admin[0]: `static:people:group-a` has the role `auditor`"),
        ("  auditor: [group:a]\n  source-owner: {company: [group:a]}\n", 19, "roles.source-owner.company[0]"),
        ("  source-owner: {others: [group:a]}\n", 18, "there is no source `others`"),
        ("  source-owner: [group:a]\n", 18, "roles.source-owner: expected a mapping"),
        ("  source-owner:company: [group:a]\n", 18, "unknown key"),
        ("  administrator: [group:a]\n", 18, "roles.administrator: unknown key"),
    ],
)  # fmt: skip
def test_bindings_that_join_what_is_separated_are_refused(
    write: Callable[[str], Path], text: str, line: int, sentence: str
) -> None:
    """At the start, with line and key, when one group has both; unknown roles and sources, too."""
    with pytest.raises(SettingsError) as caught:
        load(write(text))

    assert f"remit.yaml:{line}: " in str(caught.value)
    assert sentence in str(caught.value)
