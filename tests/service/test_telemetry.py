"""The log: what may stand in it; no query, passage, token or list of groups reaches it or an error."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
from pathlib import Path

import pytest
import structlog
from remit.v1 import retrieval_pb2

import service as package
from connectors.base import Upsert
from service import telemetry
from service.errors import SearchUnavailableError
from tests.service.harness import ALICE, COMPANY, PEOPLE, allow, serving

CANARY = "Quetzalcoatlus7f3a91"
LOGGERS = {"log", "_log"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def test_only_listed_keys_short_and_simple_values_pass() -> None:
    """The rest is counted, so that it is noticed, and not shown."""
    stream = io.StringIO()

    with telemetry.logging_to(stream):
        structlog.get_logger().info(
            "happened", source="company", seen=3, query=CANARY, groups=[CANARY], detail=CANARY * 50, records=[CANARY]
        )

    line = json.loads(stream.getvalue())
    assert line["source"] == "company"
    assert line["seen"] == 3
    assert line["dropped"] == 3
    assert line["detail"] == f"{len(CANARY) * 50} characters"
    assert CANARY not in stream.getvalue()


def test_what_a_library_says_is_not_repeated() -> None:
    """Its words may quote a document: the log says who and where, and what kind of error."""
    stream = io.StringIO()

    with telemetry.logging_to(stream):
        try:
            raise ValueError(CANARY)
        except ValueError:
            logging.getLogger("some.library").exception("while parsing %s", CANARY)

    line = json.loads(stream.getvalue())
    assert (line["event"], line["library"], line["error"]) == ("library_complained", "some.library", "ValueError")
    assert CANARY not in stream.getvalue()


def test_every_line_of_the_code_logs_listed_keys_and_a_constant_event() -> None:
    """A key that is not listed would be dropped where it is needed: list it, after asking what may stand in it."""
    calls = 0
    for path in Path(package.__file__ or "").parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=level)) if (
                    name in LOGGERS and level in LEVELS
                ):
                    calls += 1
                    where = f"{path.name}:{node.lineno}"
                    assert len(node.args) == 1, where
                    assert isinstance(node.args[0], ast.Constant), where
                    assert {one.arg for one in node.keywords} <= telemetry.ALLOWED, where
    assert calls >= 10, "the control: the calls are found"


async def test_no_query_passage_token_or_group_reaches_a_log_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that succeed, are refused and break, and syncs that fail, all with the canary in everything they handle."""
    stream = io.StringIO()
    outcomes = []
    with telemetry.logging_to(stream):
        async with serving(tmp_path) as service:
            service.people(PEOPLE.replace("id: sales", f"id: {CANARY}").replace("[sales]", f"[{CANARY}]"))
            service.add(f"{CANARY}.txt", f"# {CANARY}\n\nabout {CANARY}", allow(ALICE))
            service.sync()
            tokens = {"good": service.token("alice"), "forged": f"{CANARY}.{CANARY}.{CANARY}"}
            search = retrieval_pb2.SearchRequest(query=f"what is {CANARY}", limit=3)

            async def ask(token: str) -> None:
                outcomes.append(await service.call("RetrievalService/Search", search, token=tokens[token]))

            await ask("good")
            found = outcomes[0].parsed(retrieval_pb2.SearchResponse)
            assert CANARY in str(found), "the control: what is asked for and returned holds it"
            await ask("forged")
            outcomes.append(
                await service.call(
                    "RetrievalService/GetDocument",
                    retrieval_pb2.GetDocumentRequest(document_id=CANARY),
                    token=tokens["good"],
                )
            )

            def broken(*args: object) -> object:
                raise RuntimeError(f"cannot do {CANARY} with {args}")

            def unavailable(*args: object) -> object:
                raise SearchUnavailableError(f"cannot do {CANARY} with {args}")

            for failure in (broken, unavailable):
                with monkeypatch.context() as patched:
                    patched.setattr(service.embedder, "embed", failure)
                    await ask("good")
            with monkeypatch.context() as patched:
                patched.setattr(service.directory, "resolve", broken)
                await ask("good")

            def fail(upsert: Upsert) -> None:
                raise RuntimeError(f"{CANARY} {upsert}")

            service.add(f"other-{CANARY}.txt", f"more of {CANARY}", allow(ALICE))
            service.source.faults.during_read = fail
            await asyncio.get_running_loop().run_in_executor(None, service.engine.run, COMPANY)

    log = stream.getvalue()
    assert {"request_failed", "sync_failed", "sync_finished"} <= {json.loads(one)["event"] for one in log.splitlines()}
    assert [one.code for one in outcomes] == [
        "OK",
        "UNAUTHENTICATED",
        "NOT_FOUND",
        "INTERNAL",
        "UNAVAILABLE",
        "INTERNAL",
    ]
    for form in (CANARY, CANARY.lower(), tokens["good"], tokens["good"].split(".")[1]):
        assert form not in log
        for outcome in outcomes[1:]:
            assert form not in str((outcome.code, outcome.details, outcome.message, outcome.trailing))
