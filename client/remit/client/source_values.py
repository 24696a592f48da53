"""What calls about sources, their runs and the settings return: plain frozen values, as in `values`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum


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
