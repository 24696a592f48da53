"""Every call has its record, however it ended; floods have a count; and what a record holds is all that it should."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from remit.v1 import access_pb2, audit_pb2, retrieval_pb2, source_pb2

from acl.model import Unknown
from service.api.floods import SINGLE, Floods
from service.audit import AuditKey
from service.keys.envelope import UnsealError
from tests.service.harness import COMPANY, EPOCH, FINANCE, SALES, Service, allow, serving

CALLS = 10_000


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with two documents for Sales and one for Finance."""
    async with serving(tmp_path / "remit") as running:
        running.add("sales", "the plan of sales", allow(SALES))
        running.add("more", "another plan of sales", allow(SALES))
        running.add("finance", "the plan of finance", allow(FINANCE))
        running.sync()
        yield running


def records(service: Service) -> list[dict[str, Any]]:
    """Every record of the log so far."""
    return service.records()


def bodies(service: Service, event: str = "") -> list[dict[str, Any]]:
    """The bodies of calls, or of one kind of event."""
    found = [one["body"] for one in records(service)]
    return [body for body in found if (body.get("event") == event if event else "rpc" in body)]


def counted(service: Service) -> Counter[tuple[str, str]]:
    """How many calls of each method ended how, by the log."""
    found: Counter[tuple[str, str]] = Counter()
    for body in bodies(service):
        found[body["rpc"], body["code"]] += 1
    for body in bodies(service, "calls_refused"):
        for what, count in body["calls"].items():
            found[what.partition(" ")[0], "UNAUTHENTICATED"] += count
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_ten_thousand_calls_have_ten_thousand_records(service: Service) -> None:
    """Answers, refusals, nonsense, strangers and impatience, mixed: what the client counted is what the log holds."""
    document = service.document_ids()["sales"]
    alice, olga, adam = (service.token(name) for name in ("alice", "olga", "adam"))
    search = retrieval_pb2.SearchRequest(query="plan", limit=2)
    kinds: list[tuple[str, Any, str | None]] = [
        ("RetrievalService/Search", search, alice),
        ("RetrievalService/Search", retrieval_pb2.SearchRequest(query=""), alice),
        ("RetrievalService/Search", search, "x.y.z"),
        ("RetrievalService/Search", search, None),
        ("RetrievalService/GetDocument", retrieval_pb2.GetDocumentRequest(document_id=document), alice),
        ("RetrievalService/GetDocument", retrieval_pb2.GetDocumentRequest(document_id="nowhere"), alice),
        ("RetrievalService/BatchGetChunks", b"\xff\xff", alice),
        ("AccessService/GetCaller", access_pb2.GetCallerRequest(), alice),
        ("SourceService/ListSources", source_pb2.ListSourcesRequest(), olga),
        ("SourceService/ListSources", source_pb2.ListSourcesRequest(), alice),
        ("SourceService/GetSource", source_pb2.GetSourceRequest(name="nowhere"), olga),
        ("SourceService/GetSource", source_pb2.GetSourceRequest(name=COMPANY), olga),
        ("AuditService/GetCheckpoint", audit_pb2.GetCheckpointRequest(), adam),
        ("AuditService/GetAuditRecord", audit_pb2.GetAuditRecordRequest(response_id="nothing"), adam),
    ]
    drawn = random.Random(7)
    plan = iter([drawn.choice(kinds) for _ in range(CALLS)])
    seen: Counter[tuple[str, str]] = Counter()

    async def client() -> None:
        for method, request, token in plan:
            outcome = await service.call(method, request, token=token, timeout_s=60)
            seen[f"remit.v1.{method}", outcome.code] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(48):
            group.create_task(client())
    await service.calls.flush()

    found = counted(service)
    assert sum(found.values()) == sum(seen.values()) == CALLS
    assert found == seen
    assert {"OK", "INVALID_ARGUMENT", "UNAUTHENTICATED", "NOT_FOUND", "PERMISSION_DENIED"} <= {c for _, c in found}
    ids = [body["response_id"] for body in bodies(service)]
    assert len(set(ids)) == len(ids)


async def test_a_call_that_was_given_up_has_its_record(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller hangs up while the search runs: the log says that it was asked, by whom, and that nothing left."""
    began = asyncio.Event()
    loop = asyncio.get_running_loop()
    core = service.retrieval_core
    real = core.search
    hold = threading.Event()

    def slow(*args: Any) -> Any:
        loop.call_soon_threadsafe(began.set)
        hold.wait(20)
        return real(*args)

    monkeypatch.setattr(core, "search", slow)
    async with service.client("alice") as client:
        call = asyncio.create_task(client.search("plan"))
        await began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        for _ in range(2000):
            if bodies(service):
                break
            await asyncio.sleep(0.01)
    hold.set()

    (body,) = bodies(service)
    assert (body["code"], body["reason"], body["actor"]["account"]) == ("CANCELLED", "CANCELLED", "u-1001")
    assert body["returned"] == []


async def test_strangers_in_a_flood_are_counted(service: Service) -> None:
    """A second's first refusals have records of their own, the rest one record with their number; others none of it."""
    request = retrieval_pb2.SearchRequest(query="plan")
    for _ in range(SINGLE + 15):
        await service.call("RetrievalService/Search", request, token="x.y.z")
    for _ in range(5):
        await service.call("AccessService/GetCaller", access_pb2.GetCallerRequest())
    await service.call("RetrievalService/Search", request, token=service.token("alice"))
    await service.calls.flush()
    await service.calls.flush()

    assert Counter(body["code"] for body in bodies(service)) == {"UNAUTHENTICATED": SINGLE, "OK": 1}
    (flood,) = bodies(service, "calls_refused")
    assert flood["count"] == 20
    assert sorted(flood["calls"].values()) == [5, 15]
    assert flood["peer"] == "ipv4:127.0.0.1"
    service.clock.advance(timedelta(seconds=1))
    await service.call("RetrievalService/Search", request)
    assert sum(body["code"] == "UNAUTHENTICATED" for body in bodies(service)) == SINGLE + 1


def test_a_flood_from_everywhere_stays_small() -> None:
    """Addresses beyond a thousand share one count, and every call is in a record or in a count."""
    floods = Floods("UNAUTHENTICATED")
    single = sum(not floods.counted(f"ipv4:10.0.{n // 250}.{n % 250}:7", f"m {n}", EPOCH) for n in range(1500))

    made = floods.take()
    bodies = [json.loads(one.body) for one in made]
    assert single == 1000
    assert [body["peer"] for body in bodies] == ["others"]
    assert bodies[0]["count"] == 500
    assert len(bodies[0]["calls"]) <= 201
    assert floods.take() == []
    assert not floods.counted("ipv6:[::1]:7", "m", EPOCH)


def test_one_machine_with_many_addresses_is_one() -> None:
    """A machine has all addresses of an IPv6 network: it gets the records of one, and a neighbour its own."""
    floods = Floods("UNAUTHENTICATED")

    single = sum(not floods.counted(f"ipv6:%5B2001:db8::{n:x}%5D:7", "m", EPOCH) for n in range(500))

    assert single == SINGLE
    assert not floods.counted("ipv6:%5B2001:db8:0:1::1%5D:7", "m", EPOCH)
    (made,) = floods.take()
    assert json.loads(made.body)["peer"] == "ipv6:2001:db8::/64"


async def test_the_record_of_a_search_holds_all_that_it_rests_on(service: Service) -> None:
    """Passages with version, hash, span, rank, ACL, clause and rule; principals, their age; epochs, model, counts."""
    async with service.client("alice") as client:
        answer = await client.search("plan", limit=1)

    (body,) = bodies(service)
    (passage,) = body["returned"]
    hit = answer.hits[0]
    assert passage["chunk_id"] == hit.chunk.chunk_id
    assert passage["content_sha256"] == hit.chunk.content_sha256.hex()
    assert passage["span"] == [hit.chunk.start, hit.chunk.end]
    assert (passage["rank"], passage["version"]) == (1, str(hit.chunk.document.version))
    assert passage["matches"][-1] == {"clause": "own", "rule": 0, "principal": "posix:corp:gid-20101"}
    assert {"acl_id", "source", "document_id", "score_e6"} <= passage.keys()
    assert body["authority"].keys() == {
        "principals_sha256",
        "principals",
        "complete_realms",
        "resolution_age_us",
        "roles",
    }
    assert body["epochs"].keys() == {COMPANY}
    assert body["query"]["model"] == service.embedder.digest
    assert body["candidates"] == 2
    assert body["actor"].keys() == {"issuer", "subject", "token_id", "directory", "account"}


async def test_what_was_withheld_is_counted_by_reason(service: Service) -> None:
    """Candidates of a broken index that may not be read, or whose rules are unknown: counted, and never named."""
    service.add("unknown", "the plan of nobody", allow(SALES))
    service.sync()
    service.add("unknown", "the plan of nobody", Unknown("a sentence that names /secret/place"))
    service.sync()
    service.index.propose_all = True  # type: ignore[attr-defined]

    async with service.client("alice") as client:
        answer = await client.search("plan", limit=10)

    (body,) = bodies(service)
    assert len(answer.hits) == 2
    assert body["withheld"] == {"denied": 1, "unknown": 1}
    assert "secret" not in json.dumps(body)


async def test_a_stale_source_is_named_in_the_record(service: Service) -> None:
    """Rules that were not verified in time withhold the source, and the record says that they did."""
    service.clock.advance(timedelta(hours=25))
    async with service.client("alice") as client:
        answer = await client.search("plan")

    (body,) = bodies(service)
    assert [one.withheld for one in answer.freshness.sources] == [True] * len(answer.freshness.sources)
    assert body["returned"] == []
    assert body.get("stale_sources", []) == [one.source for one in answer.freshness.sources]


# --- the texts of queries ---


async def test_a_querys_text_is_sealed_and_opens_for_its_own_role_only(service: Service) -> None:
    """Not in the log in the clear; an auditor does not get it, a content auditor does, and both are on record."""
    async with service.client("alice") as client:
        answer = await client.search("a most peculiar plan, é")
    request = audit_pb2.GetQueryTextRequest(response_id=answer.response_id)

    refused = await service.call("AuditService/GetQueryText", request, token=service.token("adam"))
    opened = await service.call("AuditService/GetQueryText", request, token=service.token("carla"))

    assert refused.code == "PERMISSION_DENIED"
    assert audit_pb2.GetQueryTextResponse.FromString(opened.message).query == "a most peculiar plan, é"
    files = b"".join(p.read_bytes() for p in (service.config.data / "audit").rglob("*") if p.is_file())
    assert b"peculiar" not in files
    readings = [one["body"] for one in records(service) if one["class"] == "audit"]
    assert [(one["code"], one["actor"]["account"], one.get("target", "")) for one in readings] == [
        ("PERMISSION_DENIED", "u-1004", ""),
        ("OK", "u-1005", answer.response_id),
    ]


async def test_texts_of_queries_are_left_out_where_the_settings_say_so(tmp_path: Path) -> None:
    """`query_text: none`: the digest stays, the text is nowhere."""
    async with serving(tmp_path / "remit") as first:
        config = first.folder / "remit.yaml"
    config.write_text(config.read_text() + "audit: {query_text: none}\n")
    async with serving(tmp_path / "remit") as service:
        async with service.client("alice") as client:
            answer = await client.search("plan")
        request = audit_pb2.GetQueryTextRequest(response_id=answer.response_id)
        outcome = await service.call("AuditService/GetQueryText", request, token=service.token("carla"))
        body = bodies(service)[0]

    assert outcome.code == "NOT_FOUND"
    assert "sealed" not in body["query"]
    assert len(body["query"]["hmac_sha256"]) == 64


def test_a_sealed_query_opens_for_its_own_answer_only(tmp_path: Path) -> None:
    """Moved to another record, changed, or under another key: refused."""
    key, other = (AuditKey.create(tmp_path / name) for name in ("a", "b"))
    sealed = key.seal_query("secret", "r-1")

    assert key.open_query(sealed, "r-1") == "secret"
    assert AuditKey.load(tmp_path / "a").open_query(sealed, "r-1") == "secret"
    for opened_by, text, response_id in (
        (key, sealed, "r-2"),
        (other, sealed, "r-1"),
        (key, "?", "r-1"),
        (key, "", "r-1"),
    ):
        with pytest.raises(UnsealError):
            opened_by.open_query(text, response_id)
