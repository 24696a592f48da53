"""What every connector speaks: a source's containers and documents with their rules, as a stream of changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol, runtime_checkable

from acl.errors import InvalidValueError
from acl.model import Clause, ScopeId, Unknown
from acl.principal import Principal, Realm, realm

Cursor = Mapping[str, object]
"""What a connector wants to find again at its next run: JSON values only, opaque to everybody else."""


@dataclass(frozen=True, slots=True)
class ScopeChange:
    """A container with the rules and the place that it has now. Sent before anything inside it.

    May be sent again, and must be when the source says something else of it at the end of the walk: see
    `Connector.changes`.

    complete: False when the container could not be listed in full, so that what was not seen in it is not gone.
    """

    id: ScopeId
    parent: ScopeId | None
    clause: Clause | Unknown
    location: str
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Upsert:
    """A document as it stands now.

    native_id: immutable within the source; one for each (container, name).
    version: changes whenever the content may have changed; an equal one is never read again.
    own: the document's own clause, or Unknown with the reason.
    location: where it stands, for people; may hold escapes for bytes that are not UTF-8.
    """

    native_id: str
    scope: ScopeId | None
    own: Clause | Unknown
    version: str
    name: str
    location: str
    media_type: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Skip:
    """Something that the walk met and cannot offer: listed with its reason, and withheld if it was known before.

    native_id: that of the document, or None when it has none, such as a FIFO.
    """

    native_id: str | None
    location: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Membership:
    """A group that the source itself has, with everybody who is directly in it: users and groups, of any realm.

    group: of the source's own realm, see `own_realm`. A source that says who is in a group of a directory is refused.
    members: all of them, or Unknown with the reason when they could not be read in full. Then nobody can tell who is
    not in the group, and every clause that names a group of this source denies.
    name: what people call it.
    """

    group: Principal
    members: frozenset[Principal] | Unknown
    name: str


@dataclass(frozen=True, slots=True)
class MembershipsEnd:
    """The groups end here, and what was not sent is gone. A source without groups of its own never sends it.

    unread: why some could not be read, empty when all were. Then none is gone, nobody knows which there are, and every
    clause that names a group of this source denies until a pass has read all.
    """

    unread: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything sent so far may be kept; the cursor finds this place again, for a connector that is `Resumable`."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class ScanComplete:
    """Everything that exists was sent: what was not seen is gone, except inside incomplete containers."""

    cursor: Cursor


Change = ScopeChange | Upsert | Skip | Membership | MembershipsEnd | Checkpoint | ScanComplete


def own_realm(source: str) -> Realm:
    """Return the realm of the groups that a source has itself. No directory has principals of it.

    source: its name in the configuration. Raises InvalidValueError for a name that no realm can have, such as none.
    """
    if not source:
        raise InvalidValueError("a source without a name has no groups of its own")
    return realm("source", source)


def of_source(where: Realm) -> bool:
    """Whether a realm is that of the groups of some source."""
    return where.startswith("source:")


class Level(Enum):
    """How bad a finding is: ERROR means that no run can start."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `check` found, for people."""

    level: Level
    text: str


class Connector(Protocol):
    """Reads one source. Blocking: each run has a thread of its own (docs/adr/0002)."""

    def check(self) -> list[Finding]:
        """Say what the credential can and cannot read. Stores nothing. Does not raise for what it can report."""

    def changes(self, cursor: Cursor | None) -> Iterator[Change]:
        """Walk the source. `cursor` is that of the last complete run, None at the first.

        A walk takes time, and what it sends was never true all at once. So before ScanComplete it looks again at the
        rules and the place of every container that it sent, and sends those again that differ, as unknown those that
        are no longer where they were. What was the same at both looks was so for everything sent in between.

        Groups of the source's own come first, each with all its members, and MembershipsEnd after the last.

        Raises RetriableError or FatalError; then nothing that was not seen is taken for deleted.
        """

    def read(self, document: Upsert, limit_bytes: int) -> bytes:
        """Return the content of exactly `document.version`, under exactly the rules that were sent.

        The ACL chain is read again around the content: when anything differs, raises SkippableError("changed"). So it
        does when this walk sent a container of the chain twice, differently.
        Raises SkippableError("too large") over `limit_bytes`.
        """

    def close(self) -> None:
        """Release what is held."""


@runtime_checkable
class DomainMember(Protocol):
    """A connector to a server that is a member of a Windows domain, whose rules name SIDs of that domain."""

    @property
    def domain_sid(self) -> str:
        """The domain's SID, such as `S-1-5-21-1-2-3`: groups of another domain's servers mean nothing here."""


@runtime_checkable
class Resumable(Protocol):
    """What a connector has besides `Connector` when it can go on where an interrupted walk sent a checkpoint."""

    def resumes(self, cursor: Cursor) -> bool:
        """Whether `changes(cursor)` goes on from this checkpoint. False: the walk begins anew, and nothing is lost.

        Such a walk sends every container again, first, and then the documents after the checkpoint. Those before it
        count as met: so answer True only where everything that exists now, and was not sent before, will be sent.
        Raises RetriableError or FatalError.
        """
