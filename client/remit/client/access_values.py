"""What questions about access return: plain frozen values, as in `values`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from remit.client.values import Document, Freshness, Grant, HeldPrincipal


class AccessReason(Enum):
    """Why a document may be read, or not."""

    ALLOWED = "allowed"
    DENY_RULE = "deny rule"
    NO_RULE = "no rule"
    INCOMPLETE_REALM = "incomplete realm"
    UNKNOWN_RULES = "unknown rules"
    STALE = "stale"
    NO_TEXT = "no text"


@dataclass(frozen=True, slots=True)
class AccessRemedy:
    """What would open a clause: without all of `leave`, with one of `hold_one_of`. more: how many others would do."""

    leave: tuple[str, ...]
    hold_one_of: tuple[str, ...]
    more: int


@dataclass(frozen=True, slots=True)
class ClauseVerdict:
    """How one clause took a person. clause: a container's place, or `own`. rule: its number, None when none decided.

    remedies: each alone opens the clause; only for administrators.
    """

    clause: str
    scope: str
    passed: bool
    reason: AccessReason
    rule: int | None
    rules: int
    principal: str
    path: tuple[str, ...]
    rule_expires_at: datetime | None
    detail: str
    remedies: tuple[AccessRemedy, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision about a person and a document, clause by clause, with when each fact was verified."""

    allowed: bool
    reason: AccessReason
    detail: str
    clauses: tuple[ClauseVerdict, ...]
    permissions_verified_at: datetime | None
    max_permissions_age: timedelta | None
    principals_resolved_at: datetime
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class AccessChecks:
    """Which documents may be read, in the order asked. False says nothing of whether the document exists."""

    readable: Mapping[str, bool]
    response_id: str
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class ExplainedDocument:
    """A document that you may read, and why."""

    document: Document
    explanation: Explanation
    response_id: str
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """Documents that you may read. next_page_token: empty after the last page."""

    documents: tuple[Document, ...]
    next_page_token: str
    response_id: str
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class User:
    """A person whom an administrator asked about.

    left_out: directories that could not say what they hold, and `source:<name>` for groups that a source has itself.
    """

    directory: str
    account: str
    display_name: str
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DocumentPlace:
    """A document as administrators may know it: where it stands, never what is in it."""

    document_id: str
    source: str
    location: str


@dataclass(frozen=True, slots=True)
class ResolvedUser:
    """Everything that somebody holds.

    left_out: who could not say, with the reason. resolved_at: when the oldest of the answers was asked for.
    expires_at: until when it would count, were nothing to change.
    """

    user: User
    principals: tuple[HeldPrincipal, ...]
    roles: tuple[str, ...]
    complete_realms: tuple[str, ...]
    left_out: Mapping[str, str]
    resolved_at: datetime
    expires_at: datetime
    response_id: str


@dataclass(frozen=True, slots=True)
class UserChecks:
    """Which documents somebody may read."""

    user: User
    readable: Mapping[str, bool]
    response_id: str
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class ExplainedAccess:
    """Why somebody may read a document, or not."""

    user: User
    document: DocumentPlace
    explanation: Explanation
    response_id: str


@dataclass(frozen=True, slots=True)
class PlacePage:
    """Documents that somebody may read. next_page_token: empty after the last page."""

    user: User
    documents: tuple[DocumentPlace, ...]
    next_page_token: str
    response_id: str
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class AccessRule:
    """A rule of a clause. principals: at most 50, and `more` counts the others. expires_at: None for never."""

    allow: bool
    principals: tuple[str, ...]
    more: int
    expires_at: datetime | None
    in_force: bool


@dataclass(frozen=True, slots=True)
class AccessClause:
    """A clause that must let a reader through. clause: a container's place, or `own`."""

    clause: str
    scope: str
    rules: tuple[AccessRule, ...]


@dataclass(frozen=True, slots=True)
class DocumentReader:
    """Somebody who may read a document, and by what: one grant a clause, outermost first."""

    user: User
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class DocumentReaders:
    """Who may read a document. withheld: why nobody may, ALLOWED when nothing stands against it.

    clauses: the rules. readers: the people of the directories in `listed`; those of `not_listed` cannot be named.
    more_readers: how many others there are. unresolved: people of whom a directory could not say now what they hold.
    """

    document: DocumentPlace
    withheld: AccessReason
    detail: str
    clauses: tuple[AccessClause, ...]
    readers: tuple[DocumentReader, ...]
    more_readers: int
    unresolved: int
    listed: tuple[str, ...]
    not_listed: tuple[str, ...]
    permissions_verified_at: datetime | None
    response_id: str


@dataclass(frozen=True, slots=True)
class AccessGrant:
    """A row for recertification: what somebody who holds a principal may read of a source.

    opens: documents that the principal opens, with nothing beside it but classes that everybody holds.
    named: documents with an allow rule for it, in any clause. last_used_at: None when no answer was ever based on it.
    """

    source: str
    principal: str
    is_class: bool
    opens: int
    named: int
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class AccessGrantPage:
    """Rows for recertification. next_page_token: empty after the last page."""

    grants: tuple[AccessGrant, ...]
    next_page_token: str
    response_id: str


@dataclass(frozen=True, slots=True)
class AccessEffect:
    """What a change would do to one person. lost, gained: how many documents, with at most 20 of each as examples."""

    user: User
    lost: int
    gained: int
    lost_examples: tuple[DocumentPlace, ...]
    gained_examples: tuple[DocumentPlace, ...]


@dataclass(frozen=True, slots=True)
class AccessPreview:
    """What would change. exact: False when a directory cannot say everything; then it is the least that would change.

    principals_lost, principals_gained: of the person, for a change of groups.
    """

    effects: tuple[AccessEffect, ...]
    exact: bool
    principals_lost: tuple[str, ...]
    principals_gained: tuple[str, ...]
    listed: tuple[str, ...]
    not_listed: tuple[str, ...]
    response_id: str
