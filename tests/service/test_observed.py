"""Metrics and traces: what they count, where they are served, and that no content and no name is in them."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from remit.v1 import access_pb2, retrieval_pb2, review_pb2

from acl.model import Unknown
from service.errors import StartError
from service.search.shadow import Measured
from service.sections.listeners import Address
from service.sections.observing import ObserveSettings
from service.settings import SettingsError, load
from service.traces import Traces, open_traces
from tests.service.harness import FINANCE, PEOPLE, SALES, Service, allow, serving
from tests.service.test_settings import GOOD

CANARY = "kestrel"


def scraped(service: Service) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample, by its name and the values of its labels."""
    text = generate_latest(service.metrics.registry).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def busy(service: Service) -> None:
    """Calls of every kind, with the canary in everything that a caller and a document can say."""
    service.people(PEOPLE.replace("Alice Ahlgren", f"{CANARY} Ahlgren").replace("{id: sales,", "{id: sales,"))
    service.add(f"{CANARY}-mine", f"# {CANARY}\n\nthe {CANARY} plan", allow(SALES))
    service.add(f"{CANARY}-theirs", f"the other {CANARY} plan", allow(FINANCE))
    service.add(f"{CANARY}-odd", f"the {CANARY} plan of nobody", Unknown(f"of the kind {CANARY}"))
    service.sync()
    alice, rita = service.token("alice"), service.token("rita")
    ids = service.document_ids()
    for query in (f"the {CANARY} plan", CANARY):
        request = retrieval_pb2.SearchRequest(query=query, explain=True)
        assert (await service.call("RetrievalService/Search", request, token=alice)).code == "OK"
    for document_id in (*ids.values(), CANARY):
        await service.call(
            "RetrievalService/GetDocument", retrieval_pb2.GetDocumentRequest(document_id=document_id), token=alice
        )
        asked = review_pb2.ExplainUserAccessRequest(user=review_pb2.UserRef(user=CANARY), document_id=document_id)
        await service.call("ReviewService/ExplainUserAccess", asked, token=rita)
    await service.call("AccessService/CheckAccess", access_pb2.CheckAccessRequest(document_ids=[CANARY]), token=alice)
    await service.call("RetrievalService/Search", CANARY.encode(), token=alice)
    await service.call("RetrievalService/Search", token=f"{CANARY}.{CANARY}.{CANARY}")
    await service.call("AccessService/GetCaller", token=alice, metadata=[("x-name", CANARY)])


async def test_no_metric_and_no_span_has_content_or_names(tmp_path: Path) -> None:
    """A word that stands in queries, texts, titles, places, names of people, ids and metadata stands in neither."""
    spans = InMemorySpanExporter()
    traces = Traces(SimpleSpanProcessor(spans))
    async with serving(tmp_path / "remit", traces=traces) as service:
        await busy(service)

        text = generate_latest(service.metrics.registry).decode()
        sent = "\n".join(str(one.to_json()) for one in spans.get_finished_spans())
        for shown in (text, sent):
            assert "remit.v1.RetrievalService/Search" in shown
            for secret in (CANARY, "u-1001", "alice", "Ahlgren", "gid-", "sales", *service.document_ids().values()):
                assert secret not in shown, secret
    traces.close()


async def test_calls_are_counted_by_how_they_ended(tmp_path: Path) -> None:
    """With their reason, refused ones too, and what was returned and left out, of all callers together."""
    async with serving(tmp_path / "remit") as service:
        await busy(service)
        found = scraped(service)

    search = "remit.v1.RetrievalService/Search"
    # Labels in the order of their names: code, reason, rpc.
    assert found["remit_calls_total", ("OK", "", search)] == 2
    assert found["remit_calls_total", ("INVALID_ARGUMENT", "INVALID_ARGUMENT", search)] == 1
    assert found["remit_calls_total", ("UNAUTHENTICATED", "UNAUTHENTICATED", search)] == 1
    assert found["remit_call_seconds_count", (search,)] == 4
    assert found["remit_passages_returned_total", ()] == 6
    assert found["remit_calls_under_way", ()] == 0
    assert found["remit_source_withheld", ("company",)] == 0
    assert found["remit_source_permissions_age_seconds", ("company",)] == 0
    assert found["remit_recall", ()] == 1.0
    assert found["remit_audit_records", ()] > 10
    assert found["remit_audit_index_behind", ()] >= 0


async def test_what_a_search_left_out_is_counted_by_reason_and_not_by_caller(tmp_path: Path) -> None:
    """Candidates that an index proposed wrongly; no label says of whom."""
    async with serving(tmp_path / "remit") as service:
        service.add("theirs", "the plan of finance", allow(FINANCE))
        service.sync()
        assert hasattr(service.index, "propose_all")
        service.index.propose_all = True
        request = retrieval_pb2.SearchRequest(query="plan", mode=retrieval_pb2.SEARCH_MODE_DENSE)
        outcome = await service.call("RetrievalService/Search", request, token=service.token("alice"))
        assert retrieval_pb2.SearchResponse.FromString(outcome.message).hits == []
        assert scraped(service)["remit_candidates_withheld_total", ("denied",)] >= 1


async def test_the_recall_of_live_searches_is_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the shadow measured it."""
    async with serving(tmp_path / "remit") as service:
        monkeypatch.setattr(service.shadow, "_measured", Measured(10, 100, 97))
        found = scraped(service)

    assert (found["remit_recall", ()], found["remit_recall_searches", ()]) == (0.97, 10)


async def test_metrics_are_served_where_they_were_told(tmp_path: Path) -> None:
    """In Prometheus' text; a port in use is one sentence; after closing nobody answers."""
    async with serving(tmp_path / "remit") as service:
        port, close = service.metrics.serve(Address("127.0.0.1", 0))
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            assert b"remit_audit_records" in answer.read()
        with pytest.raises(StartError, match=rf"cannot serve metrics on 127\.0\.0\.1:{port}"):
            service.metrics.serve(Address("127.0.0.1", port))
        close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """An OTLP collector that keeps what it is sent."""
    got: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's word
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", got
        server.shutdown()
        thread.join()


async def test_spans_go_to_the_collector_that_is_named_and_by_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: tuple[str, list[tuple[str, bytes]]]
) -> None:
    """What the environment would have of its own is not listened to: neither proxies nor names nor headers."""
    endpoint, got = collector
    for name, value in {
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
        "OTEL_RESOURCE_ATTRIBUTES": f"owner={CANARY}",
        "OTEL_SERVICE_NAME": CANARY,
    }.items():
        monkeypatch.setenv(name, value)
    traces = open_traces(endpoint)
    async with serving(tmp_path / "remit", traces=traces) as service:
        await service.call("AccessService/GetCaller", token=service.token("alice"))
    traces.close()

    assert [path for path, _ in got] == ["/v1/traces"]
    assert b"remit.v1.AccessService/GetCaller" in got[0][1]
    assert CANARY.encode() not in got[0][1]


def test_settings_of_observing(tmp_path: Path) -> None:
    """Off by default; metrics on loopback alone; an endpoint that is a URL without secrets in it."""
    path = tmp_path / "remit.yaml"
    path.write_text(GOOD)
    assert load(path).observe == ObserveSettings(None, "")
    path.write_text(GOOD + "observe: {metrics: 127.0.0.1:9464, traces: 'http://127.0.0.1:4318/v1/traces'}\n")
    assert load(path).observe == ObserveSettings(Address("127.0.0.1", 9464), "http://127.0.0.1:4318/v1/traces")
    for wrong, sentence in {
        "{metrics: 0.0.0.0:9464}": "expected a loopback address",
        "{traces: 'file:///etc'}": "an OTLP endpoint",
        "{traces: 'http://me:secret@host/'}": "an OTLP endpoint",
        "{logs: x}": "unknown key",
    }.items():
        path.write_text(GOOD + f"observe: {wrong}\n")
        with pytest.raises(SettingsError, match=sentence):
            load(path)
