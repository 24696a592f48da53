"""The values that the catalog gives out. Sealed fields are opened by `service.stores.sealing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import NewType

from acl.changes import Change
from acl.model import AclId

Sealed = NewType("Sealed", bytes)
"""A value under its document's or its source's key."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document that exists, as its row stands.

    acl_id: 0 when its rules are not understood; the reason is `quarantine`, sealed, which is set exactly then.
    version: counts changes of the stored text, from 1; 0 when none was stored yet.
    row_start, row_stop: the rows of its chunks, half open; equal when no text is stored or it is withheld.
    text_problem: why there is no text, a constant word such as `encrypted`; empty otherwise.
    permissions_seq, text_seq: the change at which the rules and the text were last written. Text is written only under
    rules that are committed already and that the source confirmed while the text was read.
    text_at: when the text was stored.
    """

    ordinal: int
    document_id: str
    source: str
    acl_id: AclId
    quarantine: Sealed | None
    version: int
    row_start: int
    row_stop: int
    title: Sealed
    location: Sealed
    media_type: str
    modified_at: datetime
    text_problem: str
    permissions_seq: int
    text_seq: int
    text_at: datetime | None


@dataclass(frozen=True, slots=True)
class AclUse:
    """How many documents with a text have one ACL."""

    source: str
    acl_id: AclId
    documents: int


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A passage of a document's current text.

    row: its number in the vector index, never used again. chunk_id: stable until the document's text changes.
    start, end: code points in the extracted text.
    """

    row: int
    chunk_id: str
    ordinal: int
    source: str
    document_id: str
    version: int
    position: int
    start: int
    end: int
    body: Sealed


@dataclass(frozen=True, slots=True)
class Text:
    """An opened chunk. `content_sha256` is of `text` in UTF-8, and was checked."""

    text: str
    headings: tuple[str, ...]
    content_sha256: bytes


@dataclass(frozen=True, slots=True)
class AccessChange:
    """One entry of the change log with the full value that it has at the reader's snapshot."""

    seq: int
    source: str
    value: Change


class SyncPass(Enum):
    """What a run verifies. Each pass has a clock of its own; a complete run of the first renews both.

    CONTENT: rules and texts. PERMISSIONS: rules alone; no content is read, and what is new waits for the other.
    """

    CONTENT = "content"
    PERMISSIONS = "permissions"


@dataclass(frozen=True, slots=True)
class PassClock:
    """When the latest complete run of a pass began, the first part of it if it was interrupted, and how long it took.

    took: the time from the run's beginning to its end, of a run that was not interrupted; zero when none is known.
    """

    verified_at: datetime
    took: timedelta


class Removal(Enum):
    """How far the removal of a source is. PURGED: nothing of it is left but its name."""

    PURGING = "purging"
    PURGED = "purged"


class RunState(Enum):
    """Where a run stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Recovery(Enum):
    """What a run that failed waits for.

    RETRY: it may succeed later by itself. PERSON: it cannot until somebody acts. RESUME: the service ended.
    """

    RETRY = "retry"
    PERSON = "person"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a run left out. `reason` is a constant word; `detail` is for people."""

    location: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run counted; see `SyncCounts` in the API for each."""

    seen: int = 0
    stored: int = 0
    unchanged: int = 0
    permissions_changed: int = 0
    skipped: int = 0
    removed: int = 0
    chunks: int = 0
    scopes: int = 0
    remaining: int = 0


class Phase(Enum):
    """What a run is doing. READING: it walks, and stores beside that. STORING: the walk is over."""

    CONNECTING = "connecting"
    READING = "reading"
    STORING = "storing"
    FINISHING = "finishing"


@dataclass(frozen=True, slots=True)
class Live:
    """What is known of a run only while it goes on.

    expected: how many documents the source had before. rate: documents dealt with a second, lately. time_left: an
    estimate, None without ground for one.
    """

    phase: Phase
    expected: int
    rate: float = field(compare=False)
    time_left: timedelta | None = field(compare=False)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as it was last written. `problems`: the last, at most 20, the newest last. `failure`: for people.

    recovery: of a run that failed. retry_after: how long the source asked to be left alone; None when it did not.
    live: of a run under way, as it is watched; never written down.
    resumed: it goes on from the checkpoint of one that was interrupted.
    """

    run_id: str
    source: str
    state: RunState
    started_at: datetime
    ended_at: datetime | None
    counts: Counts
    problems: tuple[Problem, ...] = field(default=())
    failure: str = ""
    recovery: Recovery = Recovery.RETRY
    retry_after: timedelta | None = None
    live: Live | None = None
    sync_pass: SyncPass = SyncPass.CONTENT
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A source with what it holds.

    permissions_verified_at: when the walk of the latest complete run began, of either pass; None before the first.
    clocks: of each pass that was ever complete.
    documents: those that can be served; chunks: their passages; quarantined: those that nobody reads because their
    rules are not understood.
    """

    name: str
    kind: str
    permissions_verified_at: datetime | None
    documents: int
    chunks: int
    quarantined: int
    latest_run: StoredRun | None
    clocks: Mapping[SyncPass, PassClock] = field(default_factory=dict)
