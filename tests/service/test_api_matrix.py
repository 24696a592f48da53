"""Every method of the API against every kind of caller: who gets in, and that nobody else learns anything."""

from __future__ import annotations

import ast
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message
from remit.v1 import (
    access_pb2,
    audit_pb2,
    common_pb2,
    custody_pb2,
    index_pb2,
    retrieval_pb2,
    review_pb2,
    source_pb2,
    standing_pb2,
)

from service import devissuer
from service.api.methods import METHODS
from service.api.server import ADMINISTRATOR_SERVICES, CALLER_SERVICES
from service.api.status import _CODES
from service.sections.issuers import KeyFile
from tests.service.harness import COMPANY, FINANCE, PEOPLE, SALES, Outcome, Service, allow, serving

_ALICE = review_pb2.UserRef(user="alice")
_REQUESTS: dict[str, Message] = {
    "RetrievalService/Search": retrieval_pb2.SearchRequest(query="plan"),
    "RetrievalService/GetDocument": retrieval_pb2.GetDocumentRequest(document_id="x"),
    "RetrievalService/BatchGetChunks": retrieval_pb2.BatchGetChunksRequest(chunk_ids=["x"]),
    "AccessService/GetCaller": access_pb2.GetCallerRequest(),
    "AccessService/CheckAccess": access_pb2.CheckAccessRequest(document_ids=["x"]),
    "AccessService/ExplainAccess": access_pb2.ExplainAccessRequest(document_id="x"),
    "AccessService/ListReadableDocuments": access_pb2.ListReadableDocumentsRequest(),
    "ReviewService/CheckUserAccess": review_pb2.CheckUserAccessRequest(user=_ALICE, document_ids=["x"]),
    "ReviewService/ExplainUserAccess": review_pb2.ExplainUserAccessRequest(user=_ALICE, document_id="x"),
    "ReviewService/ListUserDocuments": review_pb2.ListUserDocumentsRequest(user=_ALICE),
    "ReviewService/ListDocuments": review_pb2.ListDocumentsRequest(),
    "ReviewService/ListReaders": review_pb2.ListReadersRequest(document_id="x"),
    "ReviewService/ListGrants": review_pb2.ListGrantsRequest(),
    "ReviewService/ResolveUser": review_pb2.ResolveUserRequest(user=_ALICE),
    "ReviewService/PreviewChange": review_pb2.PreviewChangeRequest(
        membership=review_pb2.MembershipChange(user=_ALICE, group="sales")
    ),
    "SourceService/ListSources": source_pb2.ListSourcesRequest(),
    "SourceService/GetSource": source_pb2.GetSourceRequest(name=COMPANY),
    "SourceService/CheckSource": source_pb2.CheckSourceRequest(name=COMPANY),
    "SourceService/StartSync": source_pb2.StartSyncRequest(name=COMPANY),
    "SourceService/GetSyncRun": source_pb2.GetSyncRunRequest(run_id="x"),
    "SourceService/WatchSyncRun": source_pb2.WatchSyncRunRequest(run_id="x"),
    "SourceService/ListSyncRuns": source_pb2.ListSyncRunsRequest(name=COMPANY),
    "SourceService/CancelSyncRun": source_pb2.CancelSyncRunRequest(run_id="x"),
    "SourceService/ReloadSettings": source_pb2.ReloadSettingsRequest(),
    "SourceService/ListHolds": source_pb2.ListHoldsRequest(),
    "SourceService/ApproveHold": source_pb2.ApproveHoldRequest(hold_id="x"),
    "SourceService/RejectHold": source_pb2.RejectHoldRequest(hold_id="x"),
    "IndexService/RebuildIndex": index_pb2.RebuildIndexRequest(),
    "SourceService/RemoveSource": source_pb2.RemoveSourceRequest(name="x"),
    "AuditService/GetAuditRecord": audit_pb2.GetAuditRecordRequest(response_id="x"),
    "AuditService/ListAuditRecords": audit_pb2.ListAuditRecordsRequest(),
    "AuditService/ExportAuditRecords": audit_pb2.ExportAuditRecordsRequest(),
    "AuditService/GetQueryText": audit_pb2.GetQueryTextRequest(response_id="x"),
    "AuditService/GetCheckpoint": audit_pb2.GetCheckpointRequest(),
    "AuditService/GetInclusionProof": audit_pb2.GetInclusionProofRequest(index=0),
    "AuditService/GetConsistencyProof": audit_pb2.GetConsistencyProofRequest(first_size=1),
    "StandingService/PlaceLegalHold": standing_pb2.PlaceLegalHoldRequest(why="a case"),
    "StandingService/ListLegalHolds": standing_pb2.ListLegalHoldsRequest(),
    "StandingService/LiftLegalHold": standing_pb2.LiftLegalHoldRequest(hold_id="x", why="settled"),
    "StandingService/ListStoppedSources": standing_pb2.ListStoppedSourcesRequest(),
    "StandingService/ClearSource": standing_pb2.ClearSourceRequest(name=COMPANY, why="understood"),
    "AuditService/RecordProof": audit_pb2.RecordProofRequest(
        proof="all", result=audit_pb2.PROOF_RESULT_PASSED, report_sha256=bytes(32), checks=1
    ),
    "CustodyService/GetKeyStatus": custody_pb2.GetKeyStatusRequest(),
    "CustodyService/RotateKeys": custody_pb2.RotateKeysRequest(),
    "CustodyService/RewrapKeys": custody_pb2.RewrapKeysRequest(limit=10),
    "CustodyService/ShredDocument": custody_pb2.ShredDocumentRequest(document_id="x"),
    "CustodyService/ShredSource": custody_pb2.ShredSourceRequest(name=COMPANY),
    "CustodyService/RequestShredding": custody_pb2.RequestShreddingRequest(
        target=custody_pb2.ShredTarget(source=COMPANY)
    ),
    "CustodyService/ListShredRequests": custody_pb2.ListShredRequestsRequest(),
    "CustodyService/ApproveShredding": custody_pb2.ApproveShreddingRequest(
        request_id="x", target=custody_pb2.ShredTarget(source=COMPANY)
    ),
    "CustodyService/WithdrawShredding": custody_pb2.WithdrawShreddingRequest(request_id="x"),
    "CustodyService/CreateBackup": custody_pb2.CreateBackupRequest(folder="here", keys_folder="there"),
}
# Who gets what. A new method fails the first test below until it has a row here.
_FOR_A_CALLER = {
    "RetrievalService/Search": "OK",
    "RetrievalService/GetDocument": "NOT_FOUND",
    "RetrievalService/BatchGetChunks": "OK",
    "AccessService/GetCaller": "OK",
    "AccessService/CheckAccess": "OK",
    "AccessService/ExplainAccess": "NOT_FOUND",
    "AccessService/ListReadableDocuments": "OK",
}
_FOR_AN_ACCESS_ADMIN = {
    **_FOR_A_CALLER,
    "ReviewService/CheckUserAccess": "OK",
    "ReviewService/ExplainUserAccess": "NOT_FOUND",
    "ReviewService/ListUserDocuments": "OK",
    "ReviewService/ListDocuments": "OK",
    "ReviewService/ListReaders": "NOT_FOUND",
    "ReviewService/ListGrants": "OK",
    "ReviewService/ResolveUser": "OK",
    "ReviewService/PreviewChange": "OK",
    "SourceService/ListSources": "OK",
    "SourceService/GetSource": "OK",
    "SourceService/GetSyncRun": "NOT_FOUND",
    "SourceService/WatchSyncRun": "NOT_FOUND",
    "SourceService/ListSyncRuns": "OK",
    "SourceService/ListHolds": "OK",
    "SourceService/ApproveHold": "NOT_FOUND",
    "SourceService/RejectHold": "NOT_FOUND",
    "StandingService/ListStoppedSources": "OK",
    "StandingService/ClearSource": "NOT_FOUND",
}
_FOR_AN_OPERATOR = {
    **_FOR_A_CALLER,
    "SourceService/ListSources": "OK",
    "SourceService/GetSource": "OK",
    "SourceService/CheckSource": "OK",
    "SourceService/StartSync": "OK",
    "SourceService/GetSyncRun": "NOT_FOUND",
    "SourceService/WatchSyncRun": "NOT_FOUND",
    "SourceService/ListSyncRuns": "OK",
    "SourceService/CancelSyncRun": "NOT_FOUND",
    "SourceService/ReloadSettings": "OK",
    "SourceService/ListHolds": "OK",
    "IndexService/RebuildIndex": "OK",
    "StandingService/ListStoppedSources": "OK",
    "StandingService/ClearSource": "NOT_FOUND",
    "SourceService/RemoveSource": "NOT_FOUND",
}
_FOR_AN_AUDITOR = {
    **_FOR_A_CALLER,
    **{method: code for method, code in _FOR_AN_ACCESS_ADMIN.items() if method.startswith("ReviewService/")},
    "AuditService/GetAuditRecord": "NOT_FOUND",
    "AuditService/ListAuditRecords": "OK",
    "AuditService/ExportAuditRecords": "OK",
    "AuditService/GetCheckpoint": "OK",
    "AuditService/GetInclusionProof": "OK",
    "AuditService/GetConsistencyProof": "OK",
    "StandingService/ListLegalHolds": "OK",
    "StandingService/ListStoppedSources": "OK",
    "AuditService/RecordProof": "OK",
}
_FOR_A_CONTENT_AUDITOR = {**_FOR_A_CALLER, "AuditService/GetQueryText": "NOT_FOUND"}
_FOR_A_KEY_ADMIN = {
    **_FOR_A_CALLER,
    "StandingService/PlaceLegalHold": "OK",
    "StandingService/ListLegalHolds": "OK",
    "StandingService/LiftLegalHold": "NOT_FOUND",
    "CustodyService/GetKeyStatus": "OK",
    "CustodyService/RotateKeys": "OK",
    "CustodyService/RewrapKeys": "OK",
    "CustodyService/ShredDocument": "NOT_FOUND",
    "CustodyService/ShredSource": "OK",
    "CustodyService/RequestShredding": "OK",
    "CustodyService/ListShredRequests": "OK",
    "CustodyService/ApproveShredding": "NOT_FOUND",
    "CustodyService/WithdrawShredding": "NOT_FOUND",
    "CustodyService/CreateBackup": "INVALID_ARGUMENT",
}
_FOR = {
    "alice": _FOR_A_CALLER,
    "olga": _FOR_AN_OPERATOR,
    "adam": _FOR_AN_AUDITOR,
    "carla": _FOR_A_CONTENT_AUDITOR,
    "kai": _FOR_A_KEY_ADMIN,
    "rita": _FOR_AN_ACCESS_ADMIN,
}


def described() -> Iterator[str]:
    """Every method of every service, from the descriptors."""
    for service in (*CALLER_SERVICES, *ADMINISTRATOR_SERVICES):
        for method in service.methods:
            yield f"{service.name}/{method.name}"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with one document for Sales and one for Finance."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("finance", "the plan of finance", allow(FINANCE))
        running.sync()
        yield running


def test_every_described_method_has_its_rows() -> None:
    """The tables here and in the service name exactly the methods of the `.proto` files."""
    files = [
        *(retrieval_pb2, access_pb2, review_pb2, source_pb2, audit_pb2, custody_pb2, index_pb2, standing_pb2),
        common_pb2,
    ]
    everything = {
        f"{service.name}/{method.name}"
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    assert everything == set(described()) == set(_REQUESTS) == {name for rows in _FOR.values() for name in rows}
    assert {f"remit.v1.{method}" for method in everything} == set(METHODS)


def test_every_reason_of_the_api_has_a_status() -> None:
    """No reason of the `.proto` file is without a code and a text, and none is sent that it does not document."""
    names = [value.name for value in common_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"].values]

    assert {name.removeprefix("ERROR_REASON_") for name in names} - {"UNSPECIFIED"} == set(_CODES)


def bad_tokens(service: Service) -> dict[str, str | None]:
    """Credentials that must not get in, by what is wrong with them."""
    good = service.token("alice")
    issuer = service.config.issuers[0]
    assert isinstance(issuer.keys, KeyFile)
    private = json.loads(devissuer.private_key_path(issuer.keys.path).read_text())
    key = jwt.PyJWK(private, algorithm="EdDSA").key
    header = {"typ": "at+jwt", "kid": private["kid"]}
    claims = jwt.decode(good, options={"verify_signature": False})

    def signed(by: Ed25519PrivateKey, **changes: object) -> str:
        return jwt.encode({**claims, **changes}, by, algorithm="EdDSA", headers=header)

    head, body, signature = good.split(".")
    return {
        "none": None,
        "empty": "",
        "garbage": "garbage",
        "forged": signed(Ed25519PrivateKey.generate()),
        "tampered": ".".join([head, body, signature[:-4] + ("AAAA" if not signature.endswith("AAAA") else "BBBB")]),
        "expired": devissuer.mint(service.config, "alice", at=service.clock() - timedelta(hours=2)),
        "audience": signed(key, aud="somebody else"),
        "issuer": signed(key, iss="https://elsewhere.example"),
        "nobody": signed(key, sub="u-9999"),
        "unsigned": jwt.encode(claims, "", algorithm="none", headers=header),
    }


@pytest.mark.parametrize("method", sorted(_REQUESTS))
async def test_no_bad_credential_gets_into_any_method_and_all_get_the_same_bytes(service: Service, method: str) -> None:
    """Whatever is wrong with a credential, the answer is the same, bytes of status and trailing metadata included."""
    outcomes: dict[str, Outcome] = {}
    for name, token in bad_tokens(service).items():
        outcomes[name] = await service.call(method, _REQUESTS[method], token=token)
    outcomes["malformed request"] = await service.call(method, b"\xff\xff\xff")
    two = [("authorization", f"Bearer {service.token('alice')}")] * 2
    outcomes["two credentials"] = await service.call(method, _REQUESTS[method], metadata=two)

    assert {outcome.code for outcome in outcomes.values()} == {"UNAUTHENTICATED"}, outcomes
    assert len(set(outcomes.values())) == 1
    by, expected = next((name, rows[method]) for name, rows in _FOR.items() if method in rows)
    assert (await service.call(method, _REQUESTS[method], token=service.token(by))).code == expected


@pytest.mark.parametrize("method", sorted(_REQUESTS))
async def test_roles_open_what_the_table_says_and_nothing_else(service: Service, method: str) -> None:
    """Without its role a method of the administrators is refused, whatever it was asked for; with it, it answers."""
    found = {name: await service.call(method, _REQUESTS[method], token=service.token(name)) for name in _FOR}
    malformed = await service.call(method, b"\xff\xff\xff", token=service.token("alice"))

    assert {name: outcome.code for name, outcome in found.items()} == {
        name: rows.get(method, "PERMISSION_DENIED") for name, rows in _FOR.items()
    }
    if method not in _FOR_A_CALLER:
        assert malformed == found["alice"]
    else:
        assert malformed.code == "INVALID_ARGUMENT"


async def test_a_lost_role_is_in_force_on_the_next_call(service: Service) -> None:
    """Roles follow the directory as everything does."""
    token = service.token("olga")
    assert (await service.call("SourceService/ListSources", token=token)).code == "OK"

    service.people(PEOPLE.replace("groups: [operators]", "groups: []"))

    assert (await service.call("SourceService/ListSources", token=token)).code == "PERMISSION_DENIED"


async def test_a_disabled_account_is_nobody(service: Service) -> None:
    """A valid token of a disabled account gets the answer of a forged one."""
    token = service.token("alice")
    forged = await service.call("AccessService/GetCaller", token="x.y.z")

    service.people(PEOPLE.replace("groups: [sales]}", "groups: [sales], enabled: false}"))

    assert await service.call("AccessService/GetCaller", token=token) == forged
    assert (await service.call("AccessService/GetCaller", token=service.token("bob"))).code == "OK"


async def test_an_unreadable_directory_answers_nobody(service: Service) -> None:
    """When the caller's groups cannot be known nothing is decided, and the reason says so."""
    token = service.token("alice")

    service.people("users: [")

    outcome = await service.call("RetrievalService/Search", _REQUESTS["RetrievalService/Search"], token=token)
    assert (outcome.code, b"DIRECTORY_UNAVAILABLE" in dict(outcome.trailing)["grpc-status-details-bin"]) == (
        "UNAVAILABLE",
        True,
    )


async def test_metadata_that_claims_to_be_somebody_else_changes_nothing(tmp_path: Path) -> None:
    """Only the credential says who is calling."""
    names = ["x-user", "x-forwarded-user", "remit-caller", "x-remit-subject", "on-behalf-of", "cookie", "x-role"]
    async with serving(tmp_path / "remit", new_id=lambda: "fixed") as service:
        service.add("sales", "the plan of sales", allow(SALES))
        service.add("finance", "the plan of finance", allow(FINANCE))
        service.sync()
        token = service.token("alice")
        for method in ("RetrievalService/Search", "AccessService/GetCaller"):
            plain = await service.call(method, _REQUESTS[method], token=token)

            for claim in ("bob", "u-1002", "operator", f"Bearer {service.token('bob')}"):
                metadata = [(name, claim) for name in names]
                assert await service.call(method, _REQUESTS[method], token=token, metadata=metadata) == plain

            assert plain.code == "OK"
            assert plain != await service.call(method, _REQUESTS[method], token=service.token("bob"))


async def test_hidden_and_absent_documents_are_the_same_bytes(service: Service) -> None:
    """Another's document, one that never was and one that is gone: same code, details and trailing metadata."""
    ids = service.document_ids()
    del service.source.documents["finance"]
    service.add("finance2", "the second plan of finance", allow(FINANCE))
    service.sync()
    hidden = service.document_ids()["finance2"]
    token = service.token("alice")

    async def get(document_id: str, by: str = token) -> Outcome:
        request = retrieval_pb2.GetDocumentRequest(document_id=document_id)
        return await service.call("RetrievalService/GetDocument", request, token=by)

    outcomes = [await get(one) for one in (hidden, "A" * len(hidden), "x", ids["finance"])]

    assert {outcome.code for outcome in outcomes} == {"NOT_FOUND"}
    assert len(set(outcomes)) == 1
    assert (await get(ids["sales"])).code == "OK"
    assert (await get(hidden, service.token("bob"))).code == "OK"


async def test_hidden_and_absent_passages_are_the_same_bytes(tmp_path: Path) -> None:
    """BatchGetChunks answers alike for another's passages and for ids that never were."""
    async with serving(tmp_path / "remit", new_id=lambda: "fixed") as service:
        service.add("sales", "the plan of sales", allow(SALES))
        service.add("finance", "the plan of finance", allow(FINANCE))
        service.sync()
        (mine,), (hidden,) = service.chunk_ids("sales"), service.chunk_ids("finance")

        async def get(*chunk_ids: str) -> Outcome:
            request = retrieval_pb2.BatchGetChunksRequest(chunk_ids=chunk_ids)
            return await service.call("RetrievalService/BatchGetChunks", request, token=service.token("alice"))

        assert await get(hidden) == await get("A" * len(hidden))
        assert await get(mine, hidden) == await get("A" * len(hidden), mine)
        assert len((await get(mine)).message) > len((await get(hidden)).message)


def test_abort_stands_in_the_wrapper_alone() -> None:
    """An abort that is not awaited answers OK with the data; so it has one place, and there it is awaited."""
    found: list[tuple[str, bool]] = []
    for path in sorted((Path(__file__).parents[2] / "service").rglob("*.py")):
        tree = ast.parse(path.read_text())
        awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr.startswith("abort")
            ):
                found.append((path.name, id(node) in awaited))

    assert found == [("wrapper.py", True)]


def test_handlers_touch_no_status_of_grpc() -> None:
    """Servicers neither import grpc nor set codes: they return or raise."""
    folder = Path(__file__).parents[2] / "service" / "api"

    for name in (
        "retrieval.py",
        "access.py",
        "review.py",
        "wire_access.py",
        "source.py",
        "audit.py",
        "custody.py",
        "pages.py",
        "wire.py",
        "evidence.py",
    ):
        text = (folder / name).read_text()
        assert "import grpc" not in text
        assert "set_code" not in text
