"""From messages to values. Protobuf goes no further than here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from remit.client import audit_values, key_values, source_values, values
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


def source(message: source_pb2.Source) -> source_values.Source:
    """Read a source."""
    verified = message.permissions_verified_at if message.HasField("permissions_verified_at") else None
    return source_values.Source(
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
    source_pb2.REMOVAL_STATE_PURGING: source_values.Removal.PURGING,
    source_pb2.REMOVAL_STATE_PURGED: source_values.Removal.PURGED,
}

_STATES = {
    source_pb2.SYNC_STATE_RUNNING: source_values.SyncState.RUNNING,
    source_pb2.SYNC_STATE_SUCCEEDED: source_values.SyncState.SUCCEEDED,
    source_pb2.SYNC_STATE_FAILED: source_values.SyncState.FAILED,
    source_pb2.SYNC_STATE_CANCELLED: source_values.SyncState.CANCELLED,
}


def run(message: source_pb2.SyncRun) -> source_values.SyncRun:
    """Read a run."""
    counts = message.counts
    return source_values.SyncRun(
        run_id=message.run_id,
        source=message.source,
        state=_STATES[message.state],
        started_at=moment(message.started_at),
        ended_at=moment(message.ended_at) if message.HasField("ended_at") else None,
        counts=source_values.SyncCounts(
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
        problems=tuple(source_values.SyncProblem(p.location, p.reason, p.detail) for p in message.problems),
        failure=message.failure,
        sync_pass=_PASSES[message.sync_pass],
        resumed=message.resumed,
        progress=_progress(message.progress) if message.HasField("progress") else None,
    )


_PHASES = {
    source_pb2.SYNC_PHASE_CONNECTING: source_values.SyncPhase.CONNECTING,
    source_pb2.SYNC_PHASE_READING: source_values.SyncPhase.READING,
    source_pb2.SYNC_PHASE_STORING: source_values.SyncPhase.STORING,
    source_pb2.SYNC_PHASE_FINISHING: source_values.SyncPhase.FINISHING,
}


def _progress(message: source_pb2.SyncProgress) -> source_values.SyncProgress:
    return source_values.SyncProgress(
        phase=_PHASES[message.phase],
        expected_documents=message.expected_documents,
        documents_per_second=message.documents_per_second,
        time_left=_duration(message.time_left) if message.HasField("time_left") else None,
    )


PASSES = {
    source_values.SyncPass.CONTENT: source_pb2.SYNC_PASS_CONTENT,
    source_values.SyncPass.PERMISSIONS: source_pb2.SYNC_PASS_PERMISSIONS,
}
_PASSES = {number: one for one, number in PASSES.items()}
_HOLD_KINDS = {
    source_pb2.HOLD_KIND_WIDENING: source_values.HoldKind.WIDENING,
    source_pb2.HOLD_KIND_PURGE: source_values.HoldKind.PURGE,
    source_pb2.HOLD_KIND_MEMBERS: source_values.HoldKind.MEMBERS,
}
_HOLD_STATES = {
    source_pb2.HOLD_STATE_WAITING: source_values.HoldState.WAITING,
    source_pb2.HOLD_STATE_APPROVED: source_values.HoldState.APPROVED,
    source_pb2.HOLD_STATE_REJECTED: source_values.HoldState.REJECTED,
}


def hold(message: source_pb2.Hold) -> source_values.Hold:
    """Read what the circuit breaker holds."""
    return source_values.Hold(
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
            source_values.HeldGroup(one.group, one.name, one.joining, one.leaving, one.documents, tuple(one.examples))
            for one in message.groups
        ),
        more_groups=message.more_groups,
    )


_SEVERITIES = {
    source_pb2.SEVERITY_INFO: source_values.Severity.INFO,
    source_pb2.SEVERITY_WARNING: source_values.Severity.WARNING,
    source_pb2.SEVERITY_ERROR: source_values.Severity.ERROR,
}


def check(message: source_pb2.CheckSourceResponse) -> source_values.Check:
    """Read what a check found."""
    found = tuple(
        source_values.CheckFinding(_SEVERITIES[finding.severity], finding.text) for finding in message.findings
    )
    return source_values.Check(message.ready, found)


def reload(message: source_pb2.ReloadSettingsResponse) -> source_values.Reload:
    """Read how a reload went."""
    return source_values.Reload(
        message.in_force,
        tuple(message.problems),
        tuple(message.changed),
        message.before_sha256,
        message.after_sha256,
    )


def key_status(message: custody_pb2.GetKeyStatusResponse) -> key_values.KeyStatus:
    """Read how all keys stand."""
    return key_values.KeyStatus(
        key_encryption_key=message.key_encryption_key,
        provider=message.provider,
        older_source_keys=message.older_source_keys,
        sources=tuple(
            key_values.SourceKeys(
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


def certificate(message: custody_pb2.ShredCertificate) -> key_values.ShredCertificate:
    """Read a certificate."""
    return key_values.ShredCertificate(
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


def shred_request(message: custody_pb2.ShredRequest) -> key_values.ShredRequest:
    """Read a request for shredding."""
    return key_values.ShredRequest(
        request_id=message.request_id,
        document_id=message.target.document_id,
        source=message.target.source,
        requested_by=message.requested_by,
        requested_at=moment(message.requested_at),
        expires_at=moment(message.expires_at),
    )


def legal_hold(message: standing_pb2.LegalHold) -> audit_values.LegalHold:
    """Read a legal hold."""
    return audit_values.LegalHold(
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


def stopped(message: standing_pb2.StoppedSource) -> audit_values.StoppedSource:
    """Read a source that is stopped."""
    return audit_values.StoppedSource(
        source=message.source,
        alert_id=message.alert_id,
        happened_at=moment(message.happened_at),
        response_id=message.response_id,
        document_id=message.document_id,
    )


def backup(message: custody_pb2.CreateBackupResponse) -> key_values.BackupMade:
    """Read what was backed up."""
    return key_values.BackupMade(message.backup_id, moment(message.made_at), message.files, message.size_bytes)


def _backups(messages: Iterable[custody_pb2.KeyStoreBackup]) -> tuple[key_values.KeyStoreBackup, ...]:
    return tuple(key_values.KeyStoreBackup(one.backup_id, moment(one.made_at), one.folder) for one in messages)


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
