"""Whether somebody may read documents, which ones, and why: the decision of `service.search.reading` without any text.

A caller asks about itself here; who may ask about somebody else is left to `service.access.review`. Towards a caller,
hidden and absent documents take the same path and look alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from itertools import islice
from typing import Final

import structlog
from pyroaring import AbstractBitMap

from acl.decide import Allowed, Denied, Reason, decide
from acl.model import Unknown
from acl.principal import Principal
from acl.trace import Step, trace
from service.access.index import Access, Snapshot
from service.errors import NotFoundError, RemitError
from service.identity.callers import Current
from service.keys.envelope import UnsealError
from service.search.engine import Facts, facts_of
from service.search.reading import DocumentView, NewerTextError, Resolve, permit, resolved, view
from service.stores.records import StoredDocument
from service.stores.sealing import Sealing

log = structlog.get_logger()

_BATCH: Final = 200
_LOOKED: Final = 2000


class TraceDiffersError(RemitError):
    """A defect: the trace of a decision is not that of the decision. Nothing is explained then."""


class Why(Enum):
    """Why a document may be read, or not."""

    ALLOWED = "allowed"
    DENY_RULE = "deny rule"
    NO_RULE = "no rule"
    INCOMPLETE_REALM = "incomplete realm"
    UNKNOWN_RULES = "unknown rules"
    STALE = "stale"
    NO_TEXT = "no text"


_WHY: Final[Mapping[Reason, Why]] = {
    Reason.DENY_RULE: Why.DENY_RULE,
    Reason.NO_RULE: Why.NO_RULE,
    Reason.INCOMPLETE_REALM: Why.INCOMPLETE_REALM,
    Reason.UNKNOWN: Why.UNKNOWN_RULES,
}


def why(verdict: Allowed | Denied) -> tuple[Why, str]:
    """The reason of a decision, and what it is about."""
    return (_WHY[verdict.reason], verdict.detail) if isinstance(verdict, Denied) else (Why.ALLOWED, "")


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision about one document with every clause.

    steps: of the rules as they stand, also when they are too old to be decided on; empty when they are not understood.
    paths: how the person holds each principal. permissions_verified_at: None when they never were.
    max_permissions_age: None for a source that is not configured any more.
    """

    allowed: bool
    reason: Why
    detail: str
    steps: tuple[Step, ...]
    paths: Mapping[Principal, tuple[str, ...]]
    permissions_verified_at: datetime | None
    max_permissions_age: timedelta | None
    principals_resolved_at: datetime
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """How a document stands, whoever asks. withheld: ALLOWED when nothing keeps it from everybody.

    view: None when what is known of it cannot be opened.
    """

    stored: StoredDocument
    view: DocumentView | None
    withheld: Why
    detail: str
    permissions_verified_at: datetime | None
    max_permissions_age: timedelta | None


@dataclass(frozen=True, slots=True)
class Checked:
    """Which documents somebody may read: one for each that was asked about or found, in order.

    caller: as it was decided on, which may be later than the call's.
    """

    caller: Current
    decided_at: datetime
    facts: Facts
    checked: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Documents that may be read. following: where the next page begins, None after the last."""

    answer: Checked
    documents: tuple[DocumentView, ...]
    following: int | None


@dataclass(frozen=True, slots=True)
class Places:
    """Documents, whoever may read them. following: where the next page begins, None after the last."""

    documents: tuple[DocumentView, ...]
    following: int | None


@dataclass(frozen=True, slots=True)
class Explained:
    """A document and why it may be read, or not."""

    answer: Checked
    standing: Standing
    explanation: Explanation


class Checks:
    """Answers for one catalog. Thread-safe."""

    def __init__(self, access: Access, sealing: Sealing, callers: Resolve) -> None:
        self._access = access
        self._sealing = sealing
        self._callers = callers

    def check(self, caller: Current, document_ids: Sequence[str]) -> Checked:
        """Return for each document whether the caller may read it now; what does not exist cannot be read."""

        def work(current: Current, again: bool) -> Checked:
            with self._access.snapshot() as snapshot:
                stored = snapshot.reader.documents_by_id(set(document_ids))
                absent = len(set(document_ids)) - len(stored)
                permits = permit(snapshot, [*stored.values(), *([None] * absent)], current, again=again)
                facts = facts_of(snapshot, current, frozenset())
            readable = {one.document_id for one in stored.values() if one.ordinal in permits}
            return Checked(current, snapshot.at, facts, tuple((one, one in readable) for one in document_ids))

        return resolved(self._callers, caller, work)

    def page(self, caller: Current, sources: frozenset[str], first: int, limit: int) -> Page:
        """Return documents that the caller may read, from the ordinal `first` on. No sources: all."""

        def work(current: Current, again: bool) -> Page:
            within = sources if current.subject.acting is None else current.subject.acting.within(sources)
            found: list[StoredDocument] = []
            with self._access.snapshot() as snapshot:
                proposed = _proposed(snapshot, current, within)
                facts = facts_of(snapshot, current, sources)
                rest = proposed.iter_equal_or_larger(first)
                while len(found) <= limit and (ordinals := list(islice(rest, _BATCH))):
                    documents = snapshot.reader.documents(ordinals)
                    permits = permit(snapshot, [documents.get(one) for one in ordinals], current, again=again)
                    found += [permits[one].document for one in ordinals if one in permits]
            following = found[limit].ordinal if len(found) > limit else None
            views = tuple(opened for one in found[:limit] if (opened := self._view(one)) is not None)
            checked = tuple((one.document_id, True) for one in views)
            return Page(Checked(current, snapshot.at, facts, checked), views, following)

        return resolved(self._callers, caller, work)

    def explain(self, caller: Current, document_id: str) -> Explained:
        """Return why the caller may read a document.

        Raises NotFoundError when it does not exist or may not be read: nothing says which.
        """

        def work(current: Current, again: bool) -> Explained:
            with self._access.snapshot() as snapshot:
                stored = snapshot.reader.document_by_id(document_id)
                permits = permit(snapshot, [stored], current, again=again)
                facts = facts_of(snapshot, current, frozenset())
                if stored is None or stored.ordinal not in permits:
                    raise NotFoundError("the document does not exist or may not be read")
                return self._explained(snapshot, stored, current, facts)

        return resolved(self._callers, caller, work)

    def explain_anyway(self, person: Current, document_id: str) -> Explained:
        """Return why somebody may read a document, or not: for administrators alone.

        Raises NotFoundError when there is no such document.
        """

        def work(current: Current, again: bool) -> Explained:
            with self._access.snapshot() as snapshot:
                stored = snapshot.reader.document_by_id(document_id)
                if stored is None:
                    raise NotFoundError("there is no such document", what="document")
                if snapshot.newest(stored, snapshot.acl(stored)) > current.as_of and not again:
                    raise NewerTextError("a text or a rule is newer than the person's groups")
                return self._explained(snapshot, stored, current, facts_of(snapshot, current, frozenset()))

        return resolved(self._callers, person, work)

    def places(self, location: str, sources: Callable[[str], bool], first: int, limit: int) -> Places:
        """Return documents by where they stand, from the ordinal `first` on: for administrators alone.

        At most a few thousand are looked at, so that nobody waits for a long search of others.
        """
        with self._access.snapshot() as snapshot:
            snapshot.release()
            # Of others none is looked at, or how many pages there are would say how much they have.
            told = [name for name in snapshot.reader.clocks() if sources(name)]
            looked = snapshot.reader.documents_from(first, _LOOKED + 1, told)
        found: list[DocumentView] = []
        for stored in looked[:_LOOKED]:
            opened = self._view(stored)
            if opened is not None and location in opened.location:
                if len(found) == limit:
                    return Places(tuple(found), stored.ordinal)
                found.append(opened)
        return Places(tuple(found), looked[_LOOKED].ordinal if len(looked) > _LOOKED else None)

    def standing(self, snapshot: Snapshot, stored: StoredDocument) -> Standing:
        """Return what keeps a document from everybody, if anything does: for administrators alone."""
        acl, rules = snapshot.acl(stored), snapshot.rules(stored)
        withheld, detail = Why.ALLOWED, ""
        if isinstance(acl, Unknown):
            if acl.reason == "stale":
                withheld = Why.STALE
            else:
                withheld = Why.UNKNOWN_RULES if isinstance(rules, Unknown) else Why.NO_TEXT
            detail = self._detail(stored, withheld, rules.reason if isinstance(rules, Unknown) else "")
        age = snapshot.age(stored.source)
        return Standing(
            stored=stored,
            view=self._view(stored),
            withheld=withheld,
            detail=detail,
            permissions_verified_at=None if age is None or age.age is None else snapshot.at - age.age,
            max_permissions_age=self._access.limit_of(stored.source),
        )

    def _explained(self, snapshot: Snapshot, stored: StoredDocument, current: Current, facts: Facts) -> Explained:
        caller, at = current.resolved.caller, snapshot.at
        decision = decide(snapshot.acl(stored), caller, at)
        traced = trace(snapshot.acl(stored), caller, at)
        if traced.decision != decision:
            raise TraceDiffersError("the trace of a decision differs from the decision")
        standing = self.standing(snapshot, stored)
        reason, detail = why(decision)
        steps = traced.steps
        if standing.withheld is not Why.ALLOWED:
            reason, detail = standing.withheld, standing.detail
            steps = trace(snapshot.rules(stored), caller, at).steps
        allowed = isinstance(decision, Allowed)
        return Explained(
            Checked(current, at, facts, ((stored.document_id, allowed),)),
            standing,
            Explanation(
                allowed=allowed,
                reason=reason,
                detail=detail,
                steps=steps,
                paths=current.resolved.resolution.paths,
                permissions_verified_at=standing.permissions_verified_at,
                max_permissions_age=standing.max_permissions_age,
                principals_resolved_at=caller.resolved_at,
                decided_at=at,
            ),
        )

    def _detail(self, stored: StoredDocument, reason: Why, said: str) -> str:
        match reason:
            case Why.STALE:
                configured = self._access.limit_of(stored.source) is not None
                return "" if configured else f"source `{stored.source}` is not configured"
            case Why.NO_TEXT:
                return stored.text_problem
            case _:
                try:
                    return self._sealing.quarantine(stored) or said
                except UnsealError:
                    return said

    def _view(self, stored: StoredDocument) -> DocumentView | None:
        try:
            return view(self._sealing, stored)
        except UnsealError as err:
            log.error("document_unreadable", document_id=stored.document_id, detail=str(err))
            return None


def _proposed(snapshot: Snapshot, current: Current, sources: frozenset[str]) -> AbstractBitMap:
    """The ordinals that `acl.readable` proposes; whoever names the caller must be able to read them, too."""
    found: AbstractBitMap = snapshot.permitted(current.resolved.caller, sources).documents
    return found if current.actor is None else found & snapshot.permitted(current.actor, sources).documents
