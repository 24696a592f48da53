"""From messages to values. Protobuf goes no further than here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from remit.client import values
from remit.v1 import access_pb2, common_pb2, custody_pb2, retrieval_pb2, source_pb2, standing_pb2


def search(message: retrieval_pb2.SearchResponse) -> values.SearchResult:
    """Read the answer to a search."""
    hits = tuple(
        values.Hit(
            rank=hit.rank,
            score=hit.score,
            chunk=_chunk(hit.chunk),
            grants=tuple(values.Grant(g.clause, g.principal, tuple(g.path)) for g in hit.grants),
        )
        for hit in message.hits
    )
    return values.SearchResult(
        hits, message.response_id, freshness(message.freshness), message.dense_only, message.not_reranked
    )


def document(message: retrieval_pb2.GetDocumentResponse) -> values.DocumentText:
    """Read a document."""
    return values.DocumentText(
        document=document_info(message.document),
        chunks=tuple(_chunk(chunk) for chunk in message.chunks),
        response_id=message.response_id,
        freshness=freshness(message.freshness),
    )


def chunks(message: retrieval_pb2.BatchGetChunksResponse) -> values.Chunks:
    """Read passages."""
    found = tuple(_chunk(chunk) for chunk in message.chunks)
    return values.Chunks(found, message.response_id, freshness(message.freshness))


def caller(message: access_pb2.GetCallerResponse) -> values.Caller:
    """Read who the caller is."""
    return values.Caller(
        subject=message.subject,
        display_name=message.display_name,
        principals=tuple(values.HeldPrincipal(held.token, tuple(held.path)) for held in message.principals),
        roles=tuple(message.roles),
        complete_realms=tuple(message.complete_realms),
        freshness=freshness(message.freshness),
        expires_at=moment(message.expires_at),
        response_id=message.response_id,
    )


def source(message: source_pb2.Source) -> values.Source:
    """Read a source."""
    verified = message.permissions_verified_at if message.HasField("permissions_verified_at") else None
    return values.Source(
        name=message.name,
        kind=message.kind,
        documents=message.documents,
        chunks=message.chunks,
        quarantined=message.quarantined,
        permissions_verified_at=None if verified is None else moment(verified),
        max_permissions_age=_duration(message.max_permissions_age),
        latest_run=run(message.latest_run) if message.HasField("latest_run") else None,
        next_run_at=moment(message.next_run_at) if message.HasField("next_run_at") else None,
        waits_for_a_person=message.waits_for_a_person,
        content_verified_at=moment(message.content_verified_at) if message.HasField("content_verified_at") else None,
        max_content_age=_duration(message.max_content_age),
        removal=_REMOVALS.get(message.removal),
    )


_REMOVALS = {
    source_pb2.REMOVAL_STATE_PURGING: values.Removal.PURGING,
    source_pb2.REMOVAL_STATE_PURGED: values.Removal.PURGED,
}

_STATES = {
    source_pb2.SYNC_STATE_RUNNING: values.SyncState.RUNNING,
    source_pb2.SYNC_STATE_SUCCEEDED: values.SyncState.SUCCEEDED,
    source_pb2.SYNC_STATE_FAILED: values.SyncState.FAILED,
    source_pb2.SYNC_STATE_CANCELLED: values.SyncState.CANCELLED,
}


def run(message: source_pb2.SyncRun) -> values.SyncRun:
    """Read a run."""
    counts = message.counts
    return values.SyncRun(
        run_id=message.run_id,
        source=message.source,
        state=_STATES[message.state],
        started_at=moment(message.started_at),
        ended_at=moment(message.ended_at) if message.HasField("ended_at") else None,
        counts=values.SyncCounts(
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
        problems=tuple(values.SyncProblem(p.location, p.reason, p.detail) for p in message.problems),
        failure=message.failure,
        sync_pass=_PASSES[message.sync_pass],
        resumed=message.resumed,
        progress=_progress(message.progress) if message.HasField("progress") else None,
    )


_PHASES = {
    source_pb2.SYNC_PHASE_CONNECTING: values.SyncPhase.CONNECTING,
    source_pb2.SYNC_PHASE_READING: values.SyncPhase.READING,
    source_pb2.SYNC_PHASE_STORING: values.SyncPhase.STORING,
    source_pb2.SYNC_PHASE_FINISHING: values.SyncPhase.FINISHING,
}


def _progress(message: source_pb2.SyncProgress) -> values.SyncProgress:
    return values.SyncProgress(
        phase=_PHASES[message.phase],
        expected_documents=message.expected_documents,
        documents_per_second=message.documents_per_second,
        time_left=_duration(message.time_left) if message.HasField("time_left") else None,
    )


PASSES = {
    values.SyncPass.CONTENT: source_pb2.SYNC_PASS_CONTENT,
    values.SyncPass.PERMISSIONS: source_pb2.SYNC_PASS_PERMISSIONS,
}
_PASSES = {number: one for one, number in PASSES.items()}
_HOLD_KINDS = {
    source_pb2.HOLD_KIND_WIDENING: values.HoldKind.WIDENING,
    source_pb2.HOLD_KIND_PURGE: values.HoldKind.PURGE,
    source_pb2.HOLD_KIND_MEMBERS: values.HoldKind.MEMBERS,
}
_HOLD_STATES = {
    source_pb2.HOLD_STATE_WAITING: values.HoldState.WAITING,
    source_pb2.HOLD_STATE_APPROVED: values.HoldState.APPROVED,
    source_pb2.HOLD_STATE_REJECTED: values.HoldState.REJECTED,
}


def hold(message: source_pb2.Hold) -> values.Hold:
    """Read what the circuit breaker holds."""
    return values.Hold(
        hold_id=message.hold_id,
        source=message.source,
        kind=_HOLD_KINDS[message.kind],
        state=_HOLD_STATES[message.state],
        documents=message.documents,
        total=message.total,
        run_id=message.run_id,
        listed_at=moment(message.listed_at),
        decided_by=message.decided_by,
        decided_at=moment(message.decided_at) if message.HasField("decided_at") else None,
        groups=tuple(
            values.HeldGroup(one.group, one.name, one.joining, one.leaving, one.documents, tuple(one.examples))
            for one in message.groups
        ),
        more_groups=message.more_groups,
    )


_SEVERITIES = {
    source_pb2.SEVERITY_INFO: values.Severity.INFO,
    source_pb2.SEVERITY_WARNING: values.Severity.WARNING,
    source_pb2.SEVERITY_ERROR: values.Severity.ERROR,
}


def check(message: source_pb2.CheckSourceResponse) -> values.Check:
    """Read what a check found."""
    found = tuple(values.CheckFinding(_SEVERITIES[finding.severity], finding.text) for finding in message.findings)
    return values.Check(message.ready, found)


def reload(message: source_pb2.ReloadSettingsResponse) -> values.Reload:
    """Read how a reload went."""
    return values.Reload(
        message.in_force,
        tuple(message.problems),
        tuple(message.changed),
        message.before_sha256,
        message.after_sha256,
    )


def key_status(message: custody_pb2.GetKeyStatusResponse) -> values.KeyStatus:
    """Read how all keys stand."""
    return values.KeyStatus(
        key_encryption_key=message.key_encryption_key,
        provider=message.provider,
        older_source_keys=message.older_source_keys,
        sources=tuple(
            values.SourceKeys(
                source=one.source,
                documents=one.documents,
                behind=one.behind,
                generations=one.generations,
                made_at=moment(one.made_at),
                wraps=one.wraps,
                seals=one.seals,
                most_seals=one.most_seals,
            )
            for one in message.sources
        ),
        backups=_backups(message.backups),
        index_rebuild_pending=message.index_rebuild_pending,
        shred_approvals=message.shred_approvals,
    )


def certificate(message: custody_pb2.ShredCertificate) -> values.ShredCertificate:
    """Read a certificate."""
    return values.ShredCertificate(
        response_id=message.response_id,
        source=message.source,
        document_id=message.document_id,
        documents=message.documents,
        shredded_at=moment(message.shredded_at),
        backups=_backups(message.backups),
        index_rebuild_pending=message.index_rebuild_pending,
        same_content=message.same_content,
        requested_by=message.requested_by,
        approved_by=message.approved_by,
    )


def shred_request(message: custody_pb2.ShredRequest) -> values.ShredRequest:
    """Read a request for shredding."""
    return values.ShredRequest(
        request_id=message.request_id,
        document_id=message.target.document_id,
        source=message.target.source,
        requested_by=message.requested_by,
        requested_at=moment(message.requested_at),
        expires_at=moment(message.expires_at),
    )


def legal_hold(message: standing_pb2.LegalHold) -> values.LegalHold:
    """Read a legal hold."""
    return values.LegalHold(
        hold_id=message.hold_id,
        placed_by=message.placed_by,
        placed_at=moment(message.placed_at),
        why=message.why,
        classes=tuple(message.classes),
        from_day=message.from_day,
        to_day=message.to_day,
        document_id=message.document_id,
        person=message.person,
    )


def stopped(message: standing_pb2.StoppedSource) -> values.StoppedSource:
    """Read a source that is stopped."""
    return values.StoppedSource(
        source=message.source,
        alert_id=message.alert_id,
        happened_at=moment(message.happened_at),
        response_id=message.response_id,
        document_id=message.document_id,
    )


def backup(message: custody_pb2.CreateBackupResponse) -> values.BackupMade:
    """Read what was backed up."""
    return values.BackupMade(message.backup_id, moment(message.made_at), message.files, message.size_bytes)


def _backups(messages: Iterable[custody_pb2.KeyStoreBackup]) -> tuple[values.KeyStoreBackup, ...]:
    return tuple(values.KeyStoreBackup(one.backup_id, moment(one.made_at), one.folder) for one in messages)


def _chunk(message: retrieval_pb2.Chunk) -> values.Chunk:
    return values.Chunk(
        chunk_id=message.chunk_id,
        document=document_info(message.document),
        text=message.text,
        headings=tuple(message.headings),
        start=message.span.start,
        end=message.span.end,
        content_sha256=message.content_sha256,
    )


def document_info(message: retrieval_pb2.DocumentInfo) -> values.Document:
    """Read what is known of a document."""
    return values.Document(
        document_id=message.document_id,
        source=message.source,
        title=message.title,
        location=message.location,
        media_type=message.media_type,
        version=message.version,
        modified_at=moment(message.modified_at),
    )


def freshness(message: common_pb2.Freshness) -> values.Freshness:
    """Read how fresh an answer is."""
    return values.Freshness(
        principals_resolved_at=moment(message.principals_resolved_at),
        sources=tuple(
            values.SourceFreshness(
                source=one.source,
                permissions_age=_duration(one.permissions_age) if one.HasField("permissions_age") else None,
                withheld=one.withheld,
            )
            for one in message.sources
        ),
        principals_incomplete=message.principals_incomplete,
    )


def moment(message: Timestamp) -> datetime:
    """Read a moment, in UTC."""
    return message.ToDatetime(UTC)


def _duration(message: Duration) -> timedelta:
    return message.ToTimedelta()
