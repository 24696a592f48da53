"""Between protobuf messages and the service's values, both ways. Pure: no I/O, no clock.

Whatever a request holds is checked here against what the `.proto` files document, and refused with its field's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from remit.v1 import access_pb2, common_pb2, custody_pb2, retrieval_pb2, source_pb2

from acl.principal import Principal
from connectors.base import Finding, Level
from service.access.index import SourceAge
from service.api.sources import SourceState
from service.configuration import Reloaded
from service.errors import InvalidRequestError
from service.identity.callers import Current
from service.search.engine import Answer, Freshness, Mode, Query
from service.search.reading import DocumentView, Passage
from service.stores.records import Live, Phase, Removal, RunState, StoredRun, SyncPass
from service.upkeep.approvals import Target

MAX_QUERY_BYTES: Final = 8192
MAX_LIMIT: Final = 100
DEFAULT_LIMIT: Final = 10
MAX_SOURCES: Final = 32
MAX_ID_BYTES: Final = 64
MAX_CHUNKS: Final = 100
MAX_NAME_BYTES: Final = 256
MAX_PATH_BYTES: Final = 4096

_MODES: Final[Mapping[int, Mode]] = {
    retrieval_pb2.SEARCH_MODE_UNSPECIFIED: Mode.HYBRID,
    retrieval_pb2.SEARCH_MODE_HYBRID: Mode.HYBRID,
    retrieval_pb2.SEARCH_MODE_DENSE: Mode.DENSE,
    retrieval_pb2.SEARCH_MODE_KEYWORD: Mode.KEYWORD,
}


# --- requests ---


def query(request: retrieval_pb2.SearchRequest) -> Query:
    """Read a search. Raises InvalidRequestError, as all of these do."""
    size = len(request.query.encode())
    if size > MAX_QUERY_BYTES:
        raise InvalidRequestError("query", f"the query has {size} bytes, more than {MAX_QUERY_BYTES}")
    if not request.query.strip():
        raise InvalidRequestError("query", "the query is empty")
    if not 0 <= request.limit <= MAX_LIMIT:
        raise InvalidRequestError("limit", f"the limit is {request.limit}, expected 1 to {MAX_LIMIT}")
    if len(request.sources) > MAX_SOURCES:
        raise InvalidRequestError("sources", f"{len(request.sources)} sources, more than {MAX_SOURCES}")
    mode = _MODES.get(request.mode)
    if mode is None:
        raise InvalidRequestError("mode", f"there is no search mode {request.mode}")
    if request.exact and request.approximate:
        raise InvalidRequestError("approximate", "a search is exact or approximate, not both")
    return Query(
        request.query,
        request.limit or DEFAULT_LIMIT,
        frozenset(request.sources),
        request.exact,
        mode,
        request.approximate,
    )


def document_id(request: retrieval_pb2.GetDocumentRequest) -> str:
    """Read the id of a document."""
    return text("document_id", request.document_id, MAX_ID_BYTES)


def shredded_document(request: custody_pb2.ShredDocumentRequest) -> str:
    """Read the id of a document to shred."""
    return text("document_id", request.document_id, MAX_ID_BYTES)


def shred_target(message: custody_pb2.ShredTarget) -> Target:
    """Read what is to be shredded: a document or a source."""
    match message.WhichOneof("target"):
        case "document_id":
            return Target(text("target", message.document_id, MAX_ID_BYTES), "")
        case "source":
            return Target("", name("target", message.source))
        case _:
            raise InvalidRequestError("target", "neither a document nor a source is named")


def request_id(value: str) -> str:
    """Read the id of a request for shredding."""
    return text("request_id", value, MAX_ID_BYTES)


def chunk_ids(request: retrieval_pb2.BatchGetChunksRequest) -> tuple[str, ...]:
    """Read the ids of passages."""
    if not 1 <= len(request.chunk_ids) <= MAX_CHUNKS:
        raise InvalidRequestError("chunk_ids", f"{len(request.chunk_ids)} ids, expected 1 to {MAX_CHUNKS}")
    return tuple(text("chunk_ids", one, MAX_ID_BYTES) for one in request.chunk_ids)


def path(field: str, value: str) -> str:
    """Read a path on this machine."""
    found = text(field, value, MAX_PATH_BYTES)
    if "\0" in found:
        raise InvalidRequestError(field, "a path holds no zero byte")
    return found


def name(field: str, value: str) -> str:
    """Read a source's name or a run's id."""
    return text(field, value, MAX_NAME_BYTES)


def text(field: str, value: str, most: int) -> str:
    """Read a text that is not empty."""
    if not 1 <= len(value.encode()) <= most:
        raise InvalidRequestError(field, f"{len(value.encode())} bytes, expected 1 to {most}")
    return value


# --- answers about documents ---


def search_response(answer: Answer, response_id: str, *, explain: bool) -> retrieval_pb2.SearchResponse:
    """Write the answer to a search."""
    paths = answer.caller.resolved.resolution.paths
    hits = [
        retrieval_pb2.Hit(
            rank=rank, score=score, chunk=chunk(passage), grants=_grants(passage, paths) if explain else []
        )
        for rank, (passage, score) in enumerate(zip(answer.passages, answer.scores, strict=True), 1)
    ]
    return retrieval_pb2.SearchResponse(
        hits=hits,
        response_id=response_id,
        freshness=freshness(answer.freshness),
        dense_only=answer.dense_only,
        not_reranked=answer.not_reranked,
    )


def document_response(answer: Answer, response_id: str) -> retrieval_pb2.GetDocumentResponse:
    """Write a whole document."""
    return retrieval_pb2.GetDocumentResponse(
        document=document(answer.document),
        chunks=[chunk(passage) for passage in answer.passages],
        response_id=response_id,
        freshness=freshness(answer.freshness),
    )


def chunks_response(answer: Answer, response_id: str) -> retrieval_pb2.BatchGetChunksResponse:
    """Write passages."""
    return retrieval_pb2.BatchGetChunksResponse(
        chunks=[chunk(passage) for passage in answer.passages],
        response_id=response_id,
        freshness=freshness(answer.freshness),
    )


def chunk(passage: Passage) -> retrieval_pb2.Chunk:
    """Write one passage."""
    return retrieval_pb2.Chunk(
        chunk_id=passage.chunk_id,
        document=document(passage.document),
        text=passage.text,
        headings=passage.headings,
        span=retrieval_pb2.Span(start=passage.start, end=passage.end),
        content_sha256=passage.content_sha256,
    )


def document(view: DocumentView) -> retrieval_pb2.DocumentInfo:
    """Write what is known of a document."""
    return retrieval_pb2.DocumentInfo(
        document_id=view.document_id,
        source=view.source,
        title=view.title,
        location=view.location,
        media_type=view.media_type,
        version=str(view.version),
        modified_at=moment(view.modified_at),
    )


def _grants(passage: Passage, paths: Mapping[Principal, tuple[str, ...]]) -> list[retrieval_pb2.Grant]:
    return [
        retrieval_pb2.Grant(clause=match.clause, principal=match.principal.token, path=paths.get(match.principal, ()))
        for match in passage.allowed.matches
    ]


def freshness(value: Freshness) -> common_pb2.Freshness:
    """Write how fresh an answer is."""
    return common_pb2.Freshness(
        principals_resolved_at=moment(value.principals_resolved_at),
        sources=[_age(age) for age in value.sources],
        principals_incomplete=value.principals_incomplete,
    )


def _age(value: SourceAge) -> common_pb2.SourceFreshness:
    age = None if value.age is None else duration(value.age)
    return common_pb2.SourceFreshness(source=value.source, permissions_age=age, withheld=value.withheld)


# --- answers about callers and sources ---


def caller_response(caller: Current, fresh: Freshness, response_id: str) -> access_pb2.GetCallerResponse:
    """Write who the caller is."""
    resolution = caller.resolved.resolution
    held = sorted(caller.resolved.caller.principals, key=lambda principal: principal.token)
    return access_pb2.GetCallerResponse(
        subject=resolution.account_id,
        display_name=resolution.display_name,
        principals=[
            access_pb2.HeldPrincipal(token=principal.token, path=resolution.paths.get(principal, ()))
            for principal in held
        ],
        roles=sorted(caller.resolved.roles),
        complete_realms=sorted(caller.resolved.caller.complete),
        freshness=freshness(fresh),
        expires_at=moment(caller.subject.expires_at),
        response_id=response_id,
    )


def source(state: SourceState) -> source_pb2.Source:
    """Write one source."""
    stored = state.stored
    content = stored.clocks.get(SyncPass.CONTENT)
    return source_pb2.Source(
        name=stored.name,
        kind=stored.kind,
        documents=stored.documents,
        chunks=stored.chunks,
        quarantined=stored.quarantined,
        permissions_verified_at=_optional(stored.permissions_verified_at),
        max_permissions_age=duration(state.max_permissions_age),
        latest_run=None if stored.latest_run is None else run(stored.latest_run),
        next_run_at=_optional(state.next_run_at),
        waits_for_a_person=state.waits_for_a_person,
        content_verified_at=_optional(content.verified_at if content is not None else None),
        max_content_age=duration(state.max_content_age),
        removal=_REMOVALS[state.removal],
    )


_REMOVALS: Final = {
    None: source_pb2.REMOVAL_STATE_UNSPECIFIED,
    Removal.PURGING: source_pb2.REMOVAL_STATE_PURGING,
    Removal.PURGED: source_pb2.REMOVAL_STATE_PURGED,
}

_PASSES: Final = {
    SyncPass.CONTENT: source_pb2.SYNC_PASS_CONTENT,
    SyncPass.PERMISSIONS: source_pb2.SYNC_PASS_PERMISSIONS,
}


def sync_pass(field: str, value: source_pb2.SyncPass.ValueType) -> SyncPass:
    """Read which pass is meant; unset is the whole."""
    match value:
        case source_pb2.SYNC_PASS_UNSPECIFIED | source_pb2.SYNC_PASS_CONTENT:
            return SyncPass.CONTENT
        case source_pb2.SYNC_PASS_PERMISSIONS:
            return SyncPass.PERMISSIONS
        case _:
            raise InvalidRequestError(field, "no pass is known by this number")


_RUN_STATES: Final = {
    RunState.RUNNING: source_pb2.SYNC_STATE_RUNNING,
    RunState.SUCCEEDED: source_pb2.SYNC_STATE_SUCCEEDED,
    RunState.FAILED: source_pb2.SYNC_STATE_FAILED,
    RunState.CANCELLED: source_pb2.SYNC_STATE_CANCELLED,
}


def run(value: StoredRun) -> source_pb2.SyncRun:
    """Write one run."""
    counts = value.counts
    return source_pb2.SyncRun(
        run_id=value.run_id,
        source=value.source,
        state=_RUN_STATES[value.state],
        started_at=moment(value.started_at),
        ended_at=_optional(value.ended_at),
        counts=source_pb2.SyncCounts(
            seen=counts.seen,
            stored=counts.stored,
            unchanged=counts.unchanged,
            permissions_changed=counts.permissions_changed,
            skipped=counts.skipped,
            removed=counts.removed,
            chunks=counts.chunks,
            scopes=counts.scopes,
            remaining=counts.remaining,
        ),
        problems=[
            source_pb2.SyncProblem(location=problem.location, reason=problem.reason, detail=problem.detail)
            for problem in value.problems
        ],
        failure=value.failure,
        sync_pass=_PASSES[value.sync_pass],
        resumed=value.resumed,
        progress=None if value.live is None else _progress(value.live),
    )


_PHASES: Final = {
    Phase.CONNECTING: source_pb2.SYNC_PHASE_CONNECTING,
    Phase.READING: source_pb2.SYNC_PHASE_READING,
    Phase.STORING: source_pb2.SYNC_PHASE_STORING,
    Phase.FINISHING: source_pb2.SYNC_PHASE_FINISHING,
}


def _progress(live: Live) -> source_pb2.SyncProgress:
    return source_pb2.SyncProgress(
        phase=_PHASES[live.phase],
        expected_documents=live.expected,
        documents_per_second=live.rate,
        time_left=None if live.time_left is None else duration(live.time_left),
    )


_SEVERITIES: Final = {
    Level.INFO: source_pb2.SEVERITY_INFO,
    Level.WARNING: source_pb2.SEVERITY_WARNING,
    Level.ERROR: source_pb2.SEVERITY_ERROR,
}


def check_response(findings: Iterable[Finding]) -> source_pb2.CheckSourceResponse:
    """Write what a check found, the worst first."""
    ordered = sorted(findings, key=lambda finding: -_SEVERITIES[finding.level])
    return source_pb2.CheckSourceResponse(
        ready=all(finding.level is not Level.ERROR for finding in ordered),
        findings=[
            source_pb2.CheckFinding(severity=_SEVERITIES[finding.level], text=finding.text) for finding in ordered
        ],
    )


def reload_response(value: Reloaded) -> source_pb2.ReloadSettingsResponse:
    """Write how a reload ended."""
    return source_pb2.ReloadSettingsResponse(
        in_force=not value.problems,
        problems=value.problems,
        changed=value.changed,
        before_sha256=bytes.fromhex(value.before),
        after_sha256=bytes.fromhex(value.after),
    )


# --- times ---


def moment(value: datetime) -> Timestamp:
    """Write a moment; it has a time zone."""
    written = Timestamp()
    written.FromDatetime(value)
    return written


def _optional(value: datetime | None) -> Timestamp | None:
    return None if value is None else moment(value)


def duration(value: timedelta) -> Duration:
    """Write a length of time."""
    written = Duration()
    written.FromTimedelta(value)
    return written
