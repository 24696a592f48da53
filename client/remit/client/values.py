"""What calls return: plain frozen values, without protobuf. Fields mean what the `.proto` files say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any


class SearchMode(Enum):
    """What passages are found by. DENSE: by meaning alone. KEYWORD: by words alone."""

    HYBRID = "hybrid"
    DENSE = "dense"
    KEYWORD = "keyword"


@dataclass(frozen=True, slots=True)
class SourceFreshness:
    """How fresh one source's rules are. permissions_age: None when they were never verified in full."""

    source: str
    permissions_age: timedelta | None
    withheld: bool


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh the permissions behind an answer are.

    principals_incomplete: a directory could not say what the caller holds there; what names its realm is withheld.
    """

    principals_resolved_at: datetime
    sources: tuple[SourceFreshness, ...]
    principals_incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """What is known of a document without its text. location: where it stands in its source, for people."""

    document_id: str
    source: str
    title: str
    location: str
    media_type: str
    version: str
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage. start, end: characters (code points) in the document's extracted text."""

    chunk_id: str
    document: Document
    text: str
    headings: tuple[str, ...]
    start: int
    end: int
    content_sha256: bytes


@dataclass(frozen=True, slots=True)
class Grant:
    """Why one clause let you through, and by which chain of groups you hold the principal."""

    clause: str
    principal: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage with its rank, from 1, and its cosine to the query. grants: only when asked to explain."""

    rank: int
    score: float
    chunk: Chunk
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The passages found, best first. response_id: names this answer in the audit log.

    dense_only: the service's index of words was down, and meaning alone found them.
    not_reranked: the service's reranker was down.
    """

    hits: tuple[Hit, ...]
    response_id: str
    freshness: Freshness
    dense_only: bool = False
    not_reranked: bool = False


@dataclass(frozen=True, slots=True)
class DocumentText:
    """A document with its text as passages in their order."""

    document: Document
    chunks: tuple[Chunk, ...]
    response_id: str
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class Chunks:
    """Passages in the order asked, without those that are absent or not readable."""

    chunks: tuple[Chunk, ...]
    response_id: str
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class HeldPrincipal:
    """A principal that you hold, and by which chain of groups."""

    token: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who the token proves you to be."""

    subject: str
    display_name: str
    principals: tuple[HeldPrincipal, ...]
    roles: tuple[str, ...]
    complete_realms: tuple[str, ...]
    freshness: Freshness
    expires_at: datetime
    response_id: str


class SyncState(Enum):
    """Where a run stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class SyncCounts:
    """What a run counted so far. remaining: 0 when it is not known yet."""

    seen: int
    stored: int
    unchanged: int
    permissions_changed: int
    skipped: int
    removed: int
    chunks: int
    scopes: int
    remaining: int


@dataclass(frozen=True, slots=True)
class SyncProblem:
    """Something that a run left out, and what to do about it."""

    location: str
    reason: str
    detail: str


class SyncPhase(Enum):
    """What a run is doing."""

    CONNECTING = "connecting"
    READING = "reading"
    STORING = "storing"
    FINISHING = "finishing"


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """How a run goes on. expected_documents: what the source had before. time_left: an estimate, None without ground
    for one.
    """

    phase: SyncPhase
    expected_documents: int
    documents_per_second: float
    time_left: timedelta | None


class SyncPass(Enum):
    """What a run verifies: rules and texts, or rules alone."""

    CONTENT = "content"
    PERMISSIONS = "permissions"


@dataclass(frozen=True, slots=True)
class Rebuild:
    """How far the making of new indexes is. part: `vectors` or `words`, empty at the end. done, total: of its feed.

    chunks: how many passages there are, at the end.
    """

    part: str
    done: int
    total: int
    chunks: int


@dataclass(frozen=True, slots=True)
class SyncRun:
    """A run over a source. failure: why it failed, for people; empty otherwise. progress: None once it has ended.

    resumed: it goes on from the checkpoint of one that was interrupted.
    """

    run_id: str
    source: str
    state: SyncState
    started_at: datetime
    ended_at: datetime | None
    counts: SyncCounts
    problems: tuple[SyncProblem, ...]
    failure: str
    progress: SyncProgress | None = None
    sync_pass: SyncPass = SyncPass.CONTENT
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class SyncRunPage:
    """Some runs over a source, the newest first, and the token of the next page; empty after the last."""

    runs: tuple[SyncRun, ...]
    next_page_token: str


class HoldKind(Enum):
    """What the circuit breaker holds: rules that would open more, the removal of documents, or members of the source's
    own groups who would read more.
    """

    WIDENING = "widening"
    PURGE = "purge"
    MEMBERS = "members"


class HoldState(Enum):
    """What was decided: an approved hold is applied by the next complete run, a rejected one stays."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class HeldGroup:
    """A group of a source of which members are held, with how many would join it and leave it.

    documents: how many that concerns. examples: some of the members, by their tokens.
    """

    group: str
    name: str
    joining: int
    leaving: int
    documents: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """Changes that the circuit breaker holds. decided_by, decided_at: empty while it waits.

    groups: of members that are held, the groups with the most of them. more_groups: how many others there are.
    """

    hold_id: str
    source: str
    kind: HoldKind
    state: HoldState
    documents: int
    total: int
    run_id: str
    listed_at: datetime
    decided_by: str
    decided_at: datetime | None
    groups: tuple[HeldGroup, ...] = ()
    more_groups: int = 0


class Removal(Enum):
    """How far the removal of a source is, which is withheld. PURGED: nothing is left but the name in the settings."""

    PURGING = "purging"
    PURGED = "purged"


@dataclass(frozen=True, slots=True)
class Source:
    """A configured use of a connector, with what is stored of it.

    next_run_at: None without a schedule, and while a run is under way. waits_for_a_person: the latest run failed by
    what only a person can mend. removal: None unless it was removed.
    """

    name: str
    kind: str
    documents: int
    chunks: int
    quarantined: int
    permissions_verified_at: datetime | None
    max_permissions_age: timedelta
    latest_run: SyncRun | None
    next_run_at: datetime | None = None
    waits_for_a_person: bool = False
    content_verified_at: datetime | None = None
    max_content_age: timedelta = timedelta(0)
    removal: Removal | None = None


@dataclass(frozen=True, slots=True)
class ExpiredBody:
    """What is known of a record whose body expired: its class and the day (UTC) on which it was written."""

    record_class: str
    day: date


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record of the audit log. data: its canonical form, exactly as it was hashed; `record` is what it says.

    expired: set when its body was destroyed after the time for which bodies are kept; then `data` is empty.
    """

    index: int
    data: bytes
    leaf_hash: bytes
    expired: ExpiredBody | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The record as JSON has it; `docs/audit.md` says what its members mean."""
        found: dict[str, Any] = json.loads(self.data)
        return found


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some records, and the token of the next page; empty after the last."""

    records: tuple[AuditRecord, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class ExportHeader:
    """What an exported stretch is held against; see `ExportHeader` in the API."""

    first_index: int
    stop_index: int
    checkpoint: bytes
    public_key: str
    before: tuple[bytes, ...]
    behind: tuple[bytes, ...]
    expiries: tuple[ProvenRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class ProvenRecord:
    """A record with the hashes that lead from it to the root of the export's checkpoint (RFC 9162, 2.1.3)."""

    record: AuditRecord
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A signed note, and the public key as the service has it: compare it with the one that you were given."""

    checkpoint: bytes
    public_key: str


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """A record's leaf with the hashes that lead to the root of a signed checkpoint (RFC 9162, 2.1.3)."""

    checkpoint: bytes
    index: int
    leaf_hash: bytes
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """The hashes that lead from a smaller tree to that of a signed checkpoint (RFC 9162, 2.1.4)."""

    checkpoint: bytes
    first_size: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LegalHold:
    """A legal hold on records of the audit log; see `LegalHold` in the API. Empty conditions hold for all."""

    hold_id: str
    placed_by: str
    placed_at: datetime
    why: str
    classes: tuple[str, ...]
    from_day: str
    to_day: str
    document_id: str
    person: str


@dataclass(frozen=True, slots=True)
class StoppedSource:
    """A source whose documents are withheld. response_id: the answer that was not given; document_id: the canary."""

    source: str
    alert_id: str
    happened_at: datetime
    response_id: str
    document_id: str


@dataclass(frozen=True, slots=True)
class KeyStoreBackup:
    """A copy of the key store: what was shredded since can be opened with it until it has expired."""

    backup_id: str
    made_at: datetime
    folder: str


@dataclass(frozen=True, slots=True)
class BackupMade:
    """A backup that was made."""

    backup_id: str
    made_at: datetime
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SourceKeys:
    """How the keys of one source stand.

    documents: keys of documents. behind: those under an older wrapping key.
    wraps, seals, most_seals: uses of the newest wrapping key, of the source's own, and of the document's with the most.
    """

    source: str
    documents: int
    behind: int
    generations: int
    made_at: datetime
    wraps: int
    seals: int
    most_seals: int


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """How all keys stand. older_source_keys: left behind by a rotation that was broken off.

    shred_approvals: how many persons a shredding takes.
    """

    key_encryption_key: str
    provider: str
    older_source_keys: int
    sources: tuple[SourceKeys, ...]
    backups: tuple[KeyStoreBackup, ...]
    index_rebuild_pending: bool
    shred_approvals: int


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation that was done. retired: ids of keys that only backups of the key store need."""

    key_encryption_key: str
    retired: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShredRequest:
    """A shredding that somebody else may approve: of a document, or where its id is empty of a whole source."""

    request_id: str
    document_id: str
    source: str
    requested_by: str
    requested_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ShredCertificate:
    """What a shredding did. backups and index_rebuild_pending: what must still happen until nothing can be read."""

    response_id: str
    source: str
    document_id: str
    documents: int
    shredded_at: datetime
    backups: tuple[KeyStoreBackup, ...]
    index_rebuild_pending: bool
    same_content: int
    requested_by: str
    approved_by: str


@dataclass(frozen=True, slots=True)
class Reload:
    """How reading the settings again went. problems: why those from before are still in force.

    before_sha256, after_sha256: of the files; after_sha256 is empty when the file is not one of settings.
    """

    in_force: bool
    problems: tuple[str, ...]
    changed: tuple[str, ...]
    before_sha256: bytes
    after_sha256: bytes


class Severity(Enum):
    """How bad a finding is. ERROR: no run can start."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """One thing that a check found."""

    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class Check:
    """What a check found, the worst first. ready: a run could start."""

    ready: bool
    findings: tuple[CheckFinding, ...]
