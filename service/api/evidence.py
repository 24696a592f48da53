"""From a call to its record in the audit log: what is written down of each kind of answer, and of every refusal.

Query texts become digests and are sealed here. How records are made durable is left to `service.audit`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import structlog
from google.protobuf.message import Message
from remit.v1 import access_pb2, audit_pb2, custody_pb2, retrieval_pb2, review_pb2, source_pb2, standing_pb2

from acl.decide import Allowed
from service.access.checks import Checked
from service.api.arrivals import Arrivals
from service.api.floods import Floods
from service.api.methods import METHODS
from service.api.status import Failure
from service.api.wrapper import GIVEN_UP, Entry
from service.audit.call import About, Actor, Asked, Authority, Call, Pass, Returned, Sought, passes, principals_digest
from service.audit.key import AuditKey
from service.audit.record import Kind, Record
from service.authn import TokenRefusedError
from service.errors import AuditUnavailableError
from service.identity.callers import Current
from service.limits import RateLimitedError
from service.search.engine import Answer, Query, Trace
from service.search.reading import Passage

log = structlog.get_logger()

_ARRIVALS_EVERY: Final = 60
_LONGEST_TARGET: Final = 256
_PASSAGES_A_RECORD: Final = 1000
"""A document of more passages has several records, because one record has a largest size."""

_KINDS: Final = {
    "remit.v1.RetrievalService": Kind.QUERY,
    "remit.v1.AccessService": Kind.ACCESS,
    "remit.v1.ReviewService": Kind.ACCESS,
    "remit.v1.SourceService": Kind.ADMIN,
    "remit.v1.AuditService": Kind.AUDIT,
    "remit.v1.CustodyService": Kind.ADMIN,
    "remit.v1.IndexService": Kind.ADMIN,
    "remit.v1.StandingService": Kind.ADMIN,
}
# A result of a control is one, however it came into the log.
_KIND_OF_METHOD: Final = {"remit.v1.AuditService/RecordProof": Kind.CONTROL}


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


@dataclass(frozen=True, slots=True)
class CheckEvidence:
    """Documents that were asked about. about: somebody else was, who is the answer's caller."""

    answer: Checked
    about: bool = False


@dataclass(frozen=True, slots=True)
class HeldEvidence:
    """Somebody else was resolved, to say what they hold."""

    current: Current


class Log(Protocol):
    """What keeps records: `service.audit.log.AuditLog`."""

    async def append(self, record: Record) -> object:
        """Return once the record is durable. Raises AuditUnavailableError."""


class LoggedCalls:
    """Writes every call to the audit log. clock: for the latency of calls. keep_queries: seal the texts of queries.

    `summarize` runs beside it, and `flush` ends it.
    """

    def __init__(
        self,
        log: Log,
        key: AuditKey,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        keep_queries: bool = True,
    ) -> None:
        self._log = log
        self._key = key
        self._clock = clock
        self._keep_queries = keep_queries
        self._floods = {reason: Floods(reason) for reason in ("UNAUTHENTICATED", "RATE_LIMITED", "DRAINING")}
        self.arrivals = Arrivals(METHODS, clock)

    async def summarize(self, every_s: float = 1.0) -> None:
        """Record floods again and again, and every sixty times the calls of no method. Runs until it is cancelled."""
        while True:
            for _ in range(_ARRIVALS_EVERY):
                await asyncio.sleep(every_s)
                await self._write(self._flooded())
            await self._write(self.arrivals.take())

    async def flush(self) -> None:
        """Record what was counted so far."""
        await self._write([*self._flooded(), *self.arrivals.take()])

    def _flooded(self) -> list[Record]:
        return [record for floods in self._floods.values() for record in floods.take()]

    async def _write(self, counted: Iterable[Record]) -> None:
        for one in counted:
            try:
                await self._log.append(one)
            except AuditUnavailableError:
                # Nothing is answered any more, and the calls that were counted were told nothing.
                log.error("audit_flood_unrecorded")

    async def record(self, entry: Entry) -> None:
        """See `service.api.wrapper.Auditor`."""
        floods = self._floods.get(entry.reason)
        if floods is not None and entry.caller is None:
            who = "" if entry.subject is None else entry.subject.subject
            what = " ".join(part for part in (entry.rpc, _detail(entry.error), who) if part)
            if floods.counted(entry.peer, what, entry.received_at):
                return
        made = self._call(entry)
        if len(made.returned) <= _PASSAGES_A_RECORD:
            await self._log.append(made.record())
            return
        # Every part is durable before the answer leaves; they share the response's id, and the ranks go on.
        for start in range(0, len(made.returned), _PASSAGES_A_RECORD):
            part = made.returned[start : start + _PASSAGES_A_RECORD]
            await self._log.append(replace(made, returned=part).record())

    def _call(self, entry: Entry) -> Call:
        kind = _KIND_OF_METHOD.get(entry.rpc) or _KINDS[entry.rpc.partition("/")[0]]
        if entry.subject is not None and entry.subject.on_behalf is not None:
            kind = Kind.ON_BEHALF
        caller, decided_at, answer = entry.caller, entry.received_at, None
        if isinstance(entry.evidence, SearchEvidence | ReadingEvidence):
            answer = entry.evidence.answer
            caller, decided_at = answer.caller, answer.decided_at
        checks = entry.evidence if isinstance(entry.evidence, CheckEvidence) else None
        if checks is not None and not checks.about:
            caller, decided_at = checks.answer.caller, checks.answer.decided_at
        facts = answer if answer is not None else None if checks is None else checks.answer.facts
        return Call(
            kind=kind,
            rpc=entry.rpc,
            response_id=entry.request_id,
            code=code_of(entry.reason),
            latency=max(self._clock() - entry.received_at, timedelta(0)),
            peer=entry.peer,
            reason=entry.reason,
            detail=_detail(entry.error),
            target=_target(entry.request),
            conditions=_conditions(entry.request),
            actor=_actor(entry),
            authority=None
            if caller is None
            else Authority.of(
                caller.resolved.caller, decided_at, caller.resolved.roles, caller.resolved.groups_verified_at
            ),
            asked=self._asked(entry),
            returned=() if answer is None else _returned(answer),
            about=_about(entry.evidence),
            checked=() if checks is None else checks.answer.checked,
            epochs={} if facts is None else facts.epochs,
            withheld={} if answer is None else answer.withheld,
            stale=() if facts is None else tuple(s.source for s in facts.freshness.sources if s.withheld),
            candidates=None if answer is None else answer.candidates,
            sought=None if answer is None or answer.trace is None else _sought(answer.trace),
        )

    def _asked(self, entry: Entry) -> Asked | None:
        evidence = entry.evidence
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
            mode=query.mode.value,
            sealed=self._key.seal_query(query.text, entry.request_id) if self._keep_queries else "",
            exact=query.exact,
            approximate=query.approximate,
        )


def code_of(reason: str) -> str:
    """The name of the status."""
    if reason == GIVEN_UP:
        return GIVEN_UP
    return Failure(reason).code.name if reason else "OK"


def _detail(error: Exception | None) -> str:
    """A constant word: never an error's message, which may name what the log must not hold."""
    match error:
        case None:
            return ""
        case TokenRefusedError(why=why):
            return why
        case RateLimitedError(limit=limit):
            return limit
        case _:
            return type(error).__name__


def _target(request: Message | None) -> str:
    """What a call was about, as it was asked, found or not."""
    if isinstance(request, retrieval_pb2.SearchRequest):
        return ""  # most calls are: nothing else needs to be asked of them
    match request:
        case (
            retrieval_pb2.GetDocumentRequest()
            | custody_pb2.ShredDocumentRequest()
            | access_pb2.ExplainAccessRequest()
            | review_pb2.ExplainUserAccessRequest()
            | review_pb2.ListReadersRequest()
        ):
            target = request.document_id
        case custody_pb2.ShredSourceRequest() | standing_pb2.ClearSourceRequest():
            target = request.name
        case custody_pb2.RequestShreddingRequest() | custody_pb2.ApproveShreddingRequest():
            target = request.target.document_id or request.target.source
        case custody_pb2.WithdrawShreddingRequest():
            target = request.request_id
        case standing_pb2.LiftLegalHoldRequest():
            target = request.hold_id
        case custody_pb2.CreateBackupRequest():
            target = request.folder
        case source_pb2.GetSourceRequest() | source_pb2.CheckSourceRequest() | source_pb2.StartSyncRequest():
            target = request.name
        case source_pb2.ListHoldsRequest():
            target = request.name
        case source_pb2.ApproveHoldRequest() | source_pb2.RejectHoldRequest():
            target = request.hold_id
        case source_pb2.ListSyncRunsRequest() | source_pb2.RemoveSourceRequest():
            target = request.name
        case source_pb2.GetSyncRunRequest() | source_pb2.WatchSyncRunRequest() | source_pb2.CancelSyncRunRequest():
            target = request.run_id
        case audit_pb2.GetAuditRecordRequest() | audit_pb2.GetQueryTextRequest():
            target = request.response_id
        case audit_pb2.GetInclusionProofRequest():
            target = str(request.index)
        case audit_pb2.GetConsistencyProofRequest():
            target = str(request.first_size)
        case _:
            target = ""
    return target[:_LONGEST_TARGET]


def _conditions(request: Message | None) -> dict[str, str]:
    """What a reading of the audit log asked for, whom a question named, or what was approved: only what was set."""
    match request:
        case (
            review_pb2.CheckUserAccessRequest()
            | review_pb2.ExplainUserAccessRequest()
            | review_pb2.ListUserDocumentsRequest()
            | review_pb2.ResolveUserRequest()
        ):
            named = {"user": request.user.user, "directory": request.user.directory}
            return {name: value[:_LONGEST_TARGET] for name, value in named.items() if value}
        case review_pb2.PreviewChangeRequest():
            return _supposed(request)
        case review_pb2.ListGrantsRequest() | review_pb2.ListDocumentsRequest():
            # Not the text that was looked for: it is part of a place.
            return {"sources": " ".join(request.sources)[:_LONGEST_TARGET]} if request.sources else {}
        case custody_pb2.ApproveShreddingRequest():
            return {"request_id": request.request_id[:_LONGEST_TARGET]}
        case audit_pb2.ListAuditRecordsRequest():
            given = {"document_id": request.document_id, "person": request.person}
        case audit_pb2.ExportAuditRecordsRequest():
            given = {"first_index": str(request.first_index), "follow": "true" if request.follow else ""}
        case audit_pb2.RecordProofRequest():
            return {
                "proof": request.proof[:_LONGEST_TARGET],
                "result": audit_pb2.ProofResult.Name(request.result).removeprefix("PROOF_RESULT_").lower()
                if request.result in audit_pb2.ProofResult.values()
                else str(request.result),
                "report_sha256": request.report_sha256[:32].hex(),
                "checks": str(request.checks),
                "failed": str(request.failed),
            }
        case _:
            return {}
    for name in ("start_time", "end_time"):
        if request.HasField(name):
            given[name] = f"{getattr(request, name).seconds}"
    return {name: value[:_LONGEST_TARGET] for name, value in given.items() if value}


def _supposed(request: review_pb2.PreviewChangeRequest) -> dict[str, str]:
    change, clause = request.membership, request.clause
    given = {
        "user": change.user.user,
        "directory": change.user.directory,
        "joins" if change.join else "leaves": change.group,
        "document_id": clause.document_id,
        "scope": clause.scope,
        "revoke": " ".join(clause.revoke),
        "allow": " ".join(clause.allow),
        "deny": " ".join(clause.deny),
    }
    return {name: value[:_LONGEST_TARGET] for name, value in given.items() if value}


def _actor(entry: Entry) -> Actor | None:
    subject = entry.subject
    if subject is None:
        return None
    account = "" if entry.caller is None else entry.caller.resolved.resolution.account_id
    acting = subject.acting.actors if subject.acting is not None else ()
    if subject.on_behalf is not None:
        acting = (f"service-account:{subject.on_behalf.name}",)
    return Actor(subject.issuer, subject.subject, subject.token_id, subject.directory, account, acting)


def _about(evidence: object) -> About | None:
    match evidence:
        case CheckEvidence(answer, about=True):
            current = answer.caller
        case HeldEvidence(current):
            pass
        case _:
            return None
    found = current.resolved
    return About(current.subject.directory, found.resolution.account_id, principals_digest(found.caller.principals))


def _returned(answer: Answer) -> tuple[Returned, ...]:
    scores: tuple[float | None, ...] = answer.scores or (None,) * len(answer.passages)
    known: dict[int, tuple[Allowed, tuple[Pass, ...]]] = {}
    found = []
    for rank, (passage, score) in enumerate(zip(answer.passages, scores, strict=True), 1):
        # All were decided in one snapshot, in which an ACL's id names one ACL: what was allowed alike is written once.
        same = known.get(passage.acl_id)
        if same is None or same[0] != passage.allowed:
            same = known[passage.acl_id] = (passage.allowed, passes(passage.acl, passage.allowed))
        found.append(_passage(rank, passage, score, same[1]))
    return tuple(found)


def _sought(trace: Trace) -> Sought:
    return Sought(
        trace.path,
        trace.why,
        trace.permitted,
        trace.scored,
        trace.survivors,
        trace.rounds,
        dense_only=trace.dense_only,
        reranked=trace.reranked,
        not_reranked=trace.not_reranked,
    )


def _passage(rank: int, passage: Passage, score: float | None, matches: tuple[Pass, ...]) -> Returned:
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
        matches=matches,
        score_e6=None if score is None else round(score * 1_000_000),
    )
