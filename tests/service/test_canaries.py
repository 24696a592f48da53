"""Canaries: one in any answer withholds the answer and stops its source durably, and its alert is never lost."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from remit.client import NotFoundError
from remit.v1 import retrieval_pb2, standing_pb2

from acl.model import Unknown
from service import audit_copies
from service.alerts import Alerter, Syslog, Webhook, places
from service.api.gate import documents
from service.api.server import ADMINISTRATOR_SERVICES, CALLER_SERVICES
from service.audit import AuditLog, Kind
from service.audit.standing import Stop, cleared_record, stopped_record
from service.errors import StartError
from service.sections.audit import AuditSettings, WebhookAlert
from tests.service.harness import COMPANY, FINANCE, SALES, Service, allow, serving
from tests.service.test_audit_reading import KEY
from tests.support.audit_bodies import BODIES, opened

SECRET = b"a secret of sixteen or more"
STOP = Stop("company", "a-1", "canary", "r-1", "d-1", "2026-01-01T00:00:00.000000Z")


async def outcome(service: Service, method: str, **fields: Any) -> str:
    """How a call of alice ends."""
    kinds: dict[str, Callable[..., Message]] = {
        "Search": retrieval_pb2.SearchRequest,
        "GetDocument": retrieval_pb2.GetDocumentRequest,
        "BatchGetChunks": retrieval_pb2.BatchGetChunksRequest,
    }
    request = kinds[method](**fields)
    return (await service.call(f"RetrievalService/{method}", request, token=service.token("alice"))).code


@pytest.mark.parametrize("how", ["Search", "GetDocument", "BatchGetChunks"])
async def test_a_canary_is_given_by_no_method_and_stops_its_source(tmp_path: Path, how: str) -> None:
    """Nothing leaves, no other document of the source does from then on, a restart ends nothing; a person does."""
    async with serving(tmp_path / "remit", canaries=["ca*"]) as service:
        service.add("plan", "the plan of sales", allow(SALES))
        service.add("canary", "the plan that nobody may read", allow(SALES))  # the rules are wrong
        service.sync()
        ids = service.document_ids()
        asked: dict[str, Callable[[str], dict[str, Any]]] = {
            "Search": lambda name: {"query": "plan"},
            "GetDocument": lambda name: {"document_id": ids[name]},
            "BatchGetChunks": lambda name: {"chunk_ids": service.chunk_ids(name)},
        }
        if how != "Search":
            assert await outcome(service, how, **asked[how]("plan")) == "OK", "the neighbour is read until then"

        assert await outcome(service, how, **asked[how]("canary")) == "UNAVAILABLE"

        assert await outcome(service, "GetDocument", document_id=ids["plan"]) == "NOT_FOUND"
        assert (await service.client("alice").search("plan")).hits == ()
        (call,) = [one["body"] for one in service.records() if one["body"].get("detail") == "CanaryError"]
        assert (call["reason"], call["returned"]) == ("SEARCH_UNAVAILABLE", [])
        (stop,) = [one["body"] for one in service.records() if one["class"] == "standing"]
        assert (stop["event"], stop["source"], stop["document_id"]) == ("source stopped", COMPANY, ids["canary"])
        assert stop["response_id"] == call["response_id"]

    async with serving(tmp_path / "remit") as service:
        service.add("plan", "the plan of sales", allow(SALES))
        service.add("canary", "the plan that nobody may read", allow(FINANCE))
        service.sync()
        assert (await service.client("alice").search("plan")).hits == ()
        listed = await service.call("StandingService/ListStoppedSources", token=service.token("adam"), request=b"")
        found = standing_pb2.ListStoppedSourcesResponse.FromString(listed.message).sources
        assert [(one.source, one.document_id) for one in found] == [(COMPANY, ids["canary"])]

        request = standing_pb2.ClearSourceRequest(name=COMPANY, why="the share's rules are mended")
        assert (await service.call("StandingService/ClearSource", request, token=service.token("alice"))).code != "OK"
        assert (await service.client("alice").search("plan")).hits == ()
        assert (await service.call("StandingService/ClearSource", request, token=service.token("olga"))).code == "OK"

        assert len((await service.client("alice").search("plan")).hits) == 1
        said = [one["body"] for one in service.records() if one["body"].get("event") == "source cleared"]
        assert [(one["by"], one["why"]) for one in said] == [("u-1003", "the share's rules are mended")]
        assert (await service.call("StandingService/ClearSource", request, token=service.token("olga"))).code == (
            "NOT_FOUND"
        )


async def test_a_canary_that_nobody_is_given_harms_nobody(tmp_path: Path) -> None:
    """As long as the rules hold nothing happens, whoever asks for it."""
    async with serving(tmp_path / "remit", canaries=["ca*"]) as service:
        service.add("plan", "the plan of sales", allow(SALES))
        service.add("canary", "the plan that nobody may read", allow(FINANCE))
        service.add("canary-too", "another plan", Unknown("not understood"))
        service.sync()

        assert len((await service.client("alice").search("plan")).hits) == 1
        with pytest.raises(NotFoundError):
            await service.client("alice").get_document(service.document_ids()["canary"])

        assert service.stops.sources() == frozenset()


async def test_no_other_answer_is_released_while_the_record_is_written(tmp_path: Path) -> None:
    """From the moment that it is seen every document of the source is withheld, before anything is durable."""
    async with serving(tmp_path / "remit", canaries=["canary"]) as service:
        service.add("plan", "the plan of sales", allow(SALES))
        service.add("canary", "the plan that nobody may read", allow(SALES))
        service.sync()
        (document,) = documents(retrieval_pb2.DocumentInfo(source=COMPANY, location="canary", document_id="d"))

        service.stops.stop(document, "r")

        with pytest.raises(NotFoundError):
            await service.client("alice").get_document(service.document_ids()["plan"])


def test_every_message_of_the_api_is_looked_through() -> None:
    """A document anywhere in an answer is found: in hits, in passages, on its own; elsewhere there are none."""
    info = retrieval_pb2.DocumentInfo(document_id="d", source="s", location="l")
    chunk = retrieval_pb2.Chunk(document=info)

    assert list(documents(retrieval_pb2.SearchResponse(hits=[retrieval_pb2.Hit(chunk=chunk)] * 2))) == [info] * 2
    assert list(documents(retrieval_pb2.GetDocumentResponse(document=info, chunks=[chunk]))) == [info] * 2
    assert list(documents(retrieval_pb2.BatchGetChunksResponse(chunks=[chunk]))) == [info]
    assert list(documents(retrieval_pb2.SearchResponse())) == []
    assert list(documents(standing_pb2.ListLegalHoldsResponse(holds=[standing_pb2.LegalHold()]))) == []
    assert {one.name for one in (*CALLER_SERVICES, *ADMINISTRATOR_SERVICES)} >= {"StandingService"}


# --- alerts ---


class Received:
    """A webhook that takes what it is given, after as many refusals as a test wants."""

    def __init__(self, refusals: int = 0) -> None:
        self.messages: list[tuple[dict[str, Any], str, bytes]] = []
        self.refusals = refusals
        received = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if received.refusals > 0:
                    received.refusals -= 1
                    self.send_response(503)
                else:
                    received.messages.append((json.loads(body), self.headers["Remit-Signature"], body))
                    self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Nothing is printed."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts?key=hidden"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def webhook() -> Iterator[Received]:
    """A webhook that takes everything."""
    found = Received()
    yield found
    found.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    """A log."""
    found = AuditLog(tmp_path / "log", KEY.signer, BODIES)
    yield found
    found.close()


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def delivered(log: AuditLog, folder: Path) -> list[dict[str, Any]]:
    """The records that say that a place was told."""
    found = [json.loads(one)["body"] for one in opened(folder / "log")]
    return [one for one in found if one.get("event") == "alert delivered"]


def test_an_alert_is_signed_and_its_time_is_recorded(log: AuditLog, webhook: Received, tmp_path: Path) -> None:
    """The webhook can check who sent it; it names ids alone; the record says how long it took."""
    alerter = Alerter(log, Webhook(webhook.url, SECRET), tmp_path / "position")
    log.append_blocking(stopped_record(STOP))
    until(lambda: delivered(log, tmp_path))
    alerter.close()

    ((message, signature, body),) = webhook.messages
    at, _, mark = signature.removeprefix("t=").partition(",v1=")
    assert hmac.compare_digest(mark, hmac.new(SECRET, f"{at}.".encode() + body, hashlib.sha256).hexdigest())
    assert abs(int(at) - time.time()) < 60
    assert (message["id"], message["severity"], message["source"]) == ("a-1", "critical", "company")
    (said,) = delivered(log, tmp_path)
    assert said["waited_us"] > 0
    assert "hidden" not in said["place"], "an address may hold a secret"


def test_an_alert_outlives_a_restart_and_refusals_and_comes_once(log: AuditLog, tmp_path: Path) -> None:
    """Refused, then the service ends; after the next start it is told, and not again after the one after that."""
    webhook = Received(refusals=1_000)
    first = Alerter(log, Webhook(webhook.url, SECRET), tmp_path / "position")
    log.append_blocking(stopped_record(STOP))
    until(lambda: webhook.refusals < 1_000)
    first.close()
    webhook.refusals = 0

    for _ in range(2):
        again = Alerter(log, Webhook(webhook.url, SECRET), tmp_path / "position")
        until(lambda: webhook.messages)
        time.sleep(0.5)
        again.close()

    assert [one[0]["id"] for one in webhook.messages] == ["a-1"]
    webhook.close()


def test_a_new_place_is_told_what_still_stands(log: AuditLog, webhook: Received, tmp_path: Path) -> None:
    """Not what somebody has long cleared."""
    log.append_blocking(stopped_record(STOP))
    log.append_blocking(cleared_record(STOP, "olga", "understood"))
    log.append_blocking(stopped_record(Stop("other", "a-2", "canary", "r-2", "d-2", STOP.happened_at)))

    alerter = Alerter(log, Webhook(webhook.url, SECRET), tmp_path / "position")
    until(lambda: webhook.messages)
    alerter.close()

    assert [one[0]["id"] for one in webhook.messages] == ["a-2"]


def test_an_alert_of_what_was_cleared_meanwhile_is_told(log: AuditLog, tmp_path: Path) -> None:
    """A place that took nothing when its first alert came is told when it does, whatever was cleared until then."""
    webhook = Received(refusals=1_000)
    alerter = Alerter(log, Webhook(webhook.url, SECRET), tmp_path / "position")
    until(lambda: (tmp_path / "position").exists())
    log.append_blocking(stopped_record(STOP))
    until(lambda: webhook.refusals < 1_000)
    log.append_blocking(cleared_record(STOP, "olga", "understood"))
    webhook.refusals = 0

    until(lambda: webhook.messages)
    alerter.close()

    assert [one[0]["id"] for one in webhook.messages] == ["a-1"]
    webhook.close()


def test_addresses_that_differ_in_their_query_are_told_each(log: AuditLog, tmp_path: Path) -> None:
    """What one was told is no word on the other, though both have one name in messages, which holds no query."""
    one, other = Received(), Received(refusals=1_000)
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "secret").chmod(0o600)
    alerts = tuple(WebhookAlert(found.url, tmp_path / "secret", None) for found in (one, other))
    log.append_blocking(stopped_record(STOP))

    for told in (1, 2):
        # No reader: nothing but alerts is asked for.
        close = audit_copies.start(log, None, tmp_path, AuditSettings(alerts=alerts), "0")  # type: ignore[arg-type]
        until(lambda told=told: len(delivered(log, tmp_path)) == told and other.refusals < 1_000)  # type: ignore[misc]
        close()
        other.refusals = 0

    assert [len(found.messages) for found in (one, other)] == [1, 1]
    for found in (one, other):
        found.close()


def test_a_place_that_is_not_there_holds_nothing_up(log: AuditLog, tmp_path: Path) -> None:
    """Nobody listens: records go on, and the end does not wait."""
    alerter = Alerter(log, Webhook("http://127.0.0.1:9/", SECRET), tmp_path / "position")
    log.append_blocking(stopped_record(STOP))
    for _ in range(50):
        log.append_blocking(cleared_record(STOP, "olga", "x"))
    began = time.monotonic()
    alerter.close()

    assert time.monotonic() - began < 5
    assert not (tmp_path / "position").exists()


def test_syslog_gets_the_highest_severity(tmp_path: Path) -> None:
    """Facility authpriv, severity alert, the alert as JSON."""
    path = tmp_path / "log.socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(10)
        Syslog(path).tell(b'{"id":"a-1"}')
        message = server.recv(4096).decode()

    assert message.startswith("<81>1 ")
    assert message.endswith('alert - {"id":"a-1"}')


def test_a_secret_that_is_missing_open_or_short_is_a_start_error(tmp_path: Path) -> None:
    """One sentence with the file; a good one is read."""
    path = tmp_path / "secret"
    asked = [WebhookAlert("https://a.example/", path, None)]
    with pytest.raises(StartError, match="does not exist"):
        places(asked)
    path.write_bytes(SECRET)
    path.chmod(0o644)
    with pytest.raises(StartError, match="chmod 0600"):
        places(asked)
    path.chmod(0o600)
    assert places(asked)[0].name == "webhook https://a.example/"
    path.write_text("short")
    with pytest.raises(StartError, match="less than 16"):
        places(asked)


async def test_from_the_canary_to_the_notice(tmp_path: Path, webhook: Received) -> None:
    """The whole way: a search meets a canary, the alert comes, and the log says how long that took."""
    async with serving(tmp_path / "remit", canaries=["canary"]) as service:
        service.add("canary", "the plan that nobody may read", allow(SALES))
        service.sync()
        alerter = Alerter(
            service.audit,
            Webhook(webhook.url, SECRET),
            tmp_path / "position",
            lambda: service.clock() + timedelta(seconds=2),
        )
        assert await outcome(service, "Search", query="plan") == "UNAVAILABLE"
        until(lambda: any(one["body"].get("event") == "alert delivered" for one in service.records()))
        alerter.close()
        (said,) = [one for one in service.records() if one["body"].get("event") == "alert delivered"]

    assert said["class"] == Kind.CONTROL.value
    assert said["body"]["waited_us"] == 2_000_000
    assert webhook.messages[0][0]["response_id"]
