"""People who search, ask what they may read, and are asked about; everything that they are told is written down."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TextIO

import grpc
from remit.v1 import access_pb2, retrieval_pb2, review_pb2, source_pb2

from service import devissuer, settings
from tests.soak.server import Server
from tests.soak.world import WORDS

_TEXT: Final = re.compile(r"version(\d+)x")
_TIMEOUT_S: Final = 30.0
_TOKENS_S: Final = 600.0
_GONE: Final = 40
"""So many documents that are gone are asked about as well."""
_APPROVED: Final = 0.8
_MODES: Final = (
    retrieval_pb2.SEARCH_MODE_HYBRID,
    retrieval_pb2.SEARCH_MODE_DENSE,
    retrieval_pb2.SEARCH_MODE_KEYWORD,
)


@dataclass
class Told:
    """What happened: the file of the history, and what is counted beside it."""

    history: TextIO
    codes: Counter[str] = field(default_factory=Counter)
    decisions: int = 0
    latencies: list[tuple[float, float]] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    decided: Counter[str] = field(default_factory=Counter)
    served: dict[int, float] = field(default_factory=dict)
    """When a search in a mode was last answered."""

    def write(self, entry: dict[str, Any]) -> None:
        """One line."""
        self.history.write(f"{json.dumps(entry)}\n")


class Load:
    """Calls by anybody, each with its own token."""

    def __init__(self, server: Server, told: Told, seed: int) -> None:
        self._server = server
        self.told = told
        self._seed = seed
        self._config = settings.load(server.config)
        self._tokens: dict[str, tuple[str, float]] = {}
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 200),
                   ("grpc.initial_reconnect_backoff_ms", 100)]  # fmt: skip
        self._callers = grpc.aio.insecure_channel(server.callers, options)
        self._administrators = grpc.aio.insecure_channel(server.administrators, options)
        self.ids: dict[str, str] = {}

    async def close(self) -> None:
        """Close both connections."""
        await self._callers.close()
        await self._administrators.close()

    def _metadata(self, who: str) -> tuple[tuple[str, str], ...]:
        token, made = self._tokens.get(who, ("", 0.0))
        if not token or time.monotonic() - made > _TOKENS_S:
            token = devissuer.mint(self._config, who, lifetime=timedelta(hours=1))
            self._tokens[who] = token, time.monotonic()
        return (("authorization", f"Bearer {token}"),)

    async def call(
        self, who: str, method: str, request: Any, answer: Any, *, administrators: bool = False
    ) -> Any | None:
        """The answer, or None with its status counted."""
        channel = self._administrators if administrators else self._callers
        stub: Any = channel.unary_unary(
            f"/remit.v1.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            found = await stub(request, metadata=self._metadata(who), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as err:
            self.told.codes[err.code().name] += 1
            return None
        self.told.codes["OK"] += 1
        if hasattr(found, "response_id"):
            self.told.responses.append(found.response_id)
        return found

    async def searches(self, person: str, pause_s: float, ended: asyncio.Event) -> None:
        """Search again and again, and sometimes ask about a hundred documents."""
        draw = random.Random(f"{self._seed} {person}")
        while not ended.is_set():
            await asyncio.sleep(draw.expovariate(1 / pause_s))
            if draw.random() < 0.15 and self.ids:
                names = draw.sample(sorted(self.ids), min(100, len(self.ids)))
                request = access_pb2.CheckAccessRequest(document_ids=[self.ids[n] for n in names])
                await self._probe(person, names, "AccessService/CheckAccess", request, access_pb2.CheckAccessResponse)
            else:
                await self.search(person, " ".join(draw.sample(WORDS, 2)), draw.choice(_MODES))

    async def search(self, person: str, query: str, mode: retrieval_pb2.SearchMode.ValueType) -> bool:
        """One search, with what came back written down."""
        request = retrieval_pb2.SearchRequest(query=query, limit=20, mode=mode)
        began = time.monotonic()
        found = await self.call(person, "RetrievalService/Search", request, retrieval_pb2.SearchResponse)
        ended = time.monotonic()
        if found is None:
            return False
        self.told.latencies.append((ended, ended - began))
        self.told.served[mode] = ended
        passages = []
        for hit in found.hits:
            text = _TEXT.search(hit.chunk.text)
            passages.append((hit.chunk.document.location, int(text[1]) if text else -1))
        self.told.decisions += len(passages)
        self.told.write({"person": person, "began": began, "ended": ended, "passages": passages})
        return True

    async def probes(self, people: list[str], pause_s: float, ended: asyncio.Event) -> None:
        """An auditor asks about everybody in turns, a hundred documents at a time."""
        draw = random.Random(f"{self._seed} probes")
        while not ended.is_set():
            await asyncio.sleep(pause_s)
            if self.ids:
                person = draw.choice(people)
                names = draw.sample(sorted(self.ids), min(100, len(self.ids)))
                request = review_pb2.CheckUserAccessRequest(
                    user=review_pb2.UserRef(user=person), document_ids=[self.ids[n] for n in names]
                )
                await self._probe(
                    person, names, "ReviewService/CheckUserAccess", request, review_pb2.CheckUserAccessResponse, "adam"
                )

    async def _probe(
        self, person: str, names: list[str], method: str, request: Any, answer: Any, asker: str = ""
    ) -> None:
        began = time.monotonic()
        found = await self.call(asker or person, method, request, answer, administrators=bool(asker))
        ended = time.monotonic()
        if found is None:
            return
        probes = {name: check.readable for name, check in zip(names, found.checks, strict=True)}
        self.told.decisions += len(probes)
        self.told.write({"person": person, "began": began, "ended": ended, "probes": probes})

    async def sync(self) -> bool:
        """A run to its end, as the operator; whether it succeeded."""
        opened = await self.call(
            "olga", "SourceService/StartSync", source_pb2.StartSyncRequest(name="feed"), source_pb2.StartSyncResponse,
            administrators=True,
        )  # fmt: skip
        if opened is None:
            return False
        run = opened.run
        while run.state == source_pb2.SYNC_STATE_RUNNING:
            await asyncio.sleep(0.05)
            got = await self.call(
                "olga", "SourceService/GetSyncRun", source_pb2.GetSyncRunRequest(run_id=run.run_id),
                source_pb2.GetSyncRunResponse, administrators=True,
            )  # fmt: skip
            if got is None:
                return False
            run = got.run
        return bool(run.state == source_pb2.SYNC_STATE_SUCCEEDED)

    async def learn(self) -> None:
        """The ids of all documents, by their places, and of some that are gone: they are asked about, too."""
        token = ""
        found: dict[str, str] = {}
        while True:
            request = review_pb2.ListDocumentsRequest(page_size=1000, page_token=token)
            page = await self.call(
                "adam", "ReviewService/ListDocuments", request, review_pb2.ListDocumentsResponse, administrators=True
            )
            if page is None:
                return
            found.update({one.location: one.document_id for one in page.documents})
            token = page.next_page_token
            if not token:
                break
        gone = [(name, one) for name, one in self.ids.items() if name not in found]
        self.ids = dict(gone[-_GONE:]) | found

    async def decide(self, draw: random.Random) -> None:
        """Decide about what the circuit breaker holds, as somebody who may: without that nothing is opened any more."""
        held = await self.call(
            "ada", "SourceService/ListHolds", source_pb2.ListHoldsRequest(name="feed"), source_pb2.ListHoldsResponse,
            administrators=True,
        )  # fmt: skip
        for one in () if held is None else held.holds:
            if one.state != source_pb2.HOLD_STATE_WAITING:
                continue
            request: Any
            answer: Any
            if draw.random() < _APPROVED:
                request, answer = source_pb2.ApproveHoldRequest(hold_id=one.hold_id), source_pb2.ApproveHoldResponse
                method = "SourceService/ApproveHold"
            else:
                request, answer = source_pb2.RejectHoldRequest(hold_id=one.hold_id), source_pb2.RejectHoldResponse
                method = "SourceService/RejectHold"
            if await self.call("ada", method, request, answer, administrators=True) is not None:
                self.told.decided[method.partition("/")[2]] += 1

    async def until_answered(self, person: str, mode: retrieval_pb2.SearchMode.ValueType, since: float) -> float:
        """Seconds from `since` until a search in this mode is answered."""
        while True:
            if await self.search(person, "plan budget", mode):
                return time.monotonic() - since
            await asyncio.sleep(0.02)
