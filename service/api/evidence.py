"""From a call to its record in the audit log: what is written down of each kind of answer, and of every refusal.

Query texts become digests here. How records are made durable is left to `service.audit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from google.protobuf.message import Message
from remit.v1 import retrieval_pb2, source_pb2

from service.api.status import Failure
from service.api.wrapper import Entry
from service.audit.key import AuditKey
from service.audit.record import Actor, Asked, Authority, Call, Kind, Record, Returned, Sought, passes
from service.authn import TokenRefusedError
from service.reading import Passage
from service.search import Answer, Query

_LONGEST_TARGET: Final = 256
_PASSAGES_A_RECORD: Final = 1000
"""A document of more passages has several records, because one record has a largest size."""

_KINDS: Final = {
    "remit.v1.RetrievalService": Kind.QUERY,
    "remit.v1.AccessService": Kind.ACCESS,
    "remit.v1.SourceService": Kind.ADMIN,
}


@dataclass(frozen=True, slots=True)
class SearchEvidence:
    """A search that was answered. model: the digest of the model that embedded the query."""

    query: Query
    model: str
    explain: bool
    answer: Answer


@dataclass(frozen=True, slots=True)
class ReadingEvidence:
    """A document or passages that were read."""

    answer: Answer


class Log(Protocol):
    """What keeps records: `service.audit.log.AuditLog`."""

    async def append(self, record: Record) -> object:
        """Return once the record is durable. Raises AuditUnavailableError."""


class LoggedCalls:
    """Writes every call to the audit log. clock: for the latency of calls."""

    def __init__(self, log: Log, key: AuditKey, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._log = log
        self._key = key
        self._clock = clock

    async def record(self, entry: Entry) -> None:
        """See `service.api.wrapper.Auditor`."""
        made = self._call(entry)
        # Every part is durable before the answer leaves; they share the response's id, and the ranks go on.
        for start in range(0, max(len(made.returned), 1), _PASSAGES_A_RECORD):
            part = made.returned[start : start + _PASSAGES_A_RECORD]
            await self._log.append(replace(made, returned=part).record())

    def _call(self, entry: Entry) -> Call:
        kind = _KINDS[entry.rpc.partition("/")[0]]
        caller, decided_at, answer = entry.caller, entry.received_at, None
        if isinstance(entry.evidence, SearchEvidence | ReadingEvidence):
            answer = entry.evidence.answer
            caller, decided_at = answer.caller, answer.decided_at
        return Call(
            kind=kind,
            rpc=entry.rpc,
            response_id=entry.request_id,
            code=Failure(entry.reason).code.name if entry.reason else "OK",
            latency=max(self._clock() - entry.received_at, timedelta(0)),
            peer=entry.peer,
            reason=entry.reason,
            detail=_detail(entry.error),
            target=_target(entry.request),
            actor=_actor(entry),
            authority=None
            if caller is None
            else Authority.of(caller.resolved.caller, decided_at, caller.resolved.roles),
            asked=self._asked(entry.evidence),
            returned=() if answer is None else _returned(answer),
            epochs={} if answer is None else answer.epochs,
            withheld={} if answer is None else answer.withheld,
            candidates=None if answer is None else answer.candidates,
            sought=None if answer is None or answer.trace is None else Sought(**asdict(answer.trace)),
        )

    def _asked(self, evidence: object) -> Asked | None:
        if not isinstance(evidence, SearchEvidence):
            return None
        query = evidence.query
        return Asked(
            digest=self._key.query_digest(query.text),
            length=len(query.text),
            limit=query.limit,
            model=evidence.model,
            sources=tuple(sorted(query.sources)),
            explain=evidence.explain,
            exact=query.exact,
            mode=query.mode.value,
        )


def _detail(error: Exception | None) -> str:
    """A constant word: never an error's message, which may name what the log must not hold."""
    match error:
        case None:
            return ""
        case TokenRefusedError(why=why):
            return why
        case _:
            return type(error).__name__


def _target(request: Message | None) -> str:
    """What a call was about, as it was asked, found or not."""
    match request:
        case retrieval_pb2.GetDocumentRequest():
            target = request.document_id
        case source_pb2.GetSourceRequest() | source_pb2.CheckSourceRequest() | source_pb2.StartSyncRequest():
            target = request.name
        case source_pb2.GetSyncRunRequest() | source_pb2.WatchSyncRunRequest():
            target = request.run_id
        case _:
            target = ""
    return target[:_LONGEST_TARGET]


def _actor(entry: Entry) -> Actor | None:
    subject = entry.subject
    if subject is None:
        return None
    account = "" if entry.caller is None else entry.caller.resolved.resolution.account_id
    return Actor(subject.issuer, subject.subject, subject.token_id, subject.directory, account)


def _returned(answer: Answer) -> tuple[Returned, ...]:
    scores: tuple[float | None, ...] = answer.scores or (None,) * len(answer.passages)
    return tuple(
        _passage(rank, passage, score)
        for rank, (passage, score) in enumerate(zip(answer.passages, scores, strict=True), 1)
    )


def _passage(rank: int, passage: Passage, score: float | None) -> Returned:
    return Returned(
        rank=rank,
        source=passage.document.source,
        document_id=passage.document.document_id,
        version=str(passage.document.version),
        chunk_id=passage.chunk_id,
        content_sha256=passage.content_sha256.hex(),
        start=passage.start,
        end=passage.end,
        acl_id=passage.acl_id,
        matches=passes(passage.acl, passage.allowed),
        score_e6=None if score is None else round(score * 1_000_000),
    )
