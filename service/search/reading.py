"""The one way from the catalog to a passage: decide on the current rules, then open exactly what was decided on.

Search, GetDocument and BatchGetChunks all read through this module and have no other way to a text: `open_passages`
takes permits, and only `permit` makes them. Hidden and absent documents take the same path and look alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

import structlog

from acl.decide import Allowed, decide
from acl.errors import CallerExpiredError
from acl.model import Acl, AclId, Unknown
from service.access.index import Snapshot
from service.authn import Subject
from service.errors import RemitError, UnauthenticatedError
from service.identity.callers import Current
from service.keys.envelope import UnsealError
from service.stores.records import StoredChunk, StoredDocument
from service.stores.sealing import DocumentSeal, Sealing

log = structlog.get_logger()

T = TypeVar("T")


class NewerTextError(RemitError):
    """What may be read, or by which rules, is newer than the caller's groups: resolve them again, then decide again."""


class Resolve(Protocol):
    """What resolves a subject again: `service.identity.callers.Callers`."""

    def resolve_again(self, subject: Subject) -> Current:
        """Return the caller as it stands now, from answers that are newer than what the catalog holds."""


def resolved(callers: Resolve, caller: Current, work: Callable[[Current, bool], T]) -> T:
    """Do `work`, and once more with the caller resolved again when the first resolution was too old.

    work: gets the caller, and whether it was resolved again. Raises UnauthenticatedError and what `work` raises.
    """
    try:
        return work(caller, False)
    except (NewerTextError, CallerExpiredError):
        current = callers.resolve_again(caller.subject)
    try:
        return work(current, True)
    except CallerExpiredError as err:
        raise UnauthenticatedError("the caller expired during the call") from err


@dataclass(frozen=True, slots=True)
class Permit:
    """A document with the decision by which the caller may read it."""

    document: StoredDocument
    acl: Acl
    allowed: Allowed


@dataclass(frozen=True, slots=True)
class DocumentView:
    """What is known of a document without its text."""

    document_id: str
    source: str
    title: str
    location: str
    media_type: str
    version: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Passage:
    """An opened chunk of a document that the caller may read, with why. start, end: code points."""

    chunk_id: str
    row: int
    document: DocumentView
    text: str
    headings: tuple[str, ...]
    start: int
    end: int
    content_sha256: bytes
    acl_id: AclId
    acl: Acl
    allowed: Allowed


def permit(
    snapshot: Snapshot, documents: Iterable[StoredDocument | None], caller: Current, *, again: bool
) -> dict[int, Permit]:
    """Decide on documents as they stand, None for one that does not exist; return permits by ordinal.

    again: the caller was already resolved again for this request: what is newer still is withheld.
    Raises NewerTextError otherwise, and CallerExpiredError.
    """
    found: dict[int, Permit] = {}
    for document in documents:
        acl = snapshot.acl(document)
        decision = decide(acl, caller.resolved.caller, snapshot.at)
        # Whatever the first decision was: a service learns nothing of the person's by how long it takes.
        actor_may = _actor_may(snapshot, acl, caller)
        if document is None or isinstance(acl, Unknown) or not isinstance(decision, Allowed):
            continue
        # Whoever acts for the caller reaches only its own sources: then the document is as absent as a hidden one.
        if caller.subject.acting is not None and document.source not in caller.subject.acting.sources:
            continue
        if not actor_may:
            continue
        # The "new enemy": somebody leaves a group, then a secret is added that only its members may read, or one is
        # opened to them. Groups that were resolved before text and rules were stored must not open it.
        if snapshot.newest(document, acl) > caller.as_of:
            if not again:
                raise NewerTextError("a text or a rule is newer than the caller's groups")
            continue
        found[document.ordinal] = Permit(document, acl, decision)
    return found


def stand_in(snapshot: Snapshot, documents: Iterable[StoredDocument], caller: Current) -> None:
    """Do the work of `permit` for documents that nobody asked for, so that it took place. Grants nothing."""
    for document in documents:
        acl = snapshot.acl(document)
        decide(acl, caller.resolved.caller, snapshot.at)
        _actor_may(snapshot, acl, caller)


def _actor_may(snapshot: Snapshot, acl: Acl | Unknown, caller: Current) -> bool:
    """Whether the service that named the caller may read it itself; true when nobody named the caller."""
    return caller.actor is None or isinstance(decide(acl, caller.actor, snapshot.at), Allowed)


def refusals(snapshot: Snapshot, documents: Iterable[StoredDocument], caller: Current) -> dict[int, str]:
    """Why documents that have no permit have none, by ordinal, for the audit log and nobody else."""
    found: dict[int, str] = {}
    for document in documents:
        acl = snapshot.acl(document)
        if isinstance(acl, Unknown):
            # Other reasons are sentences for a report, and may name a place.
            found[document.ordinal] = acl.reason if acl.reason in ("stale", "no text") else "unknown"
        else:
            decision = decide(acl, caller.resolved.caller, snapshot.at)
            both = isinstance(decision, Allowed) and _actor_may(snapshot, acl, caller)
            found[document.ordinal] = "newer text" if both else "denied"
    return found


def open_passages(sealing: Sealing, permits: Mapping[int, Permit], chunks: Iterable[StoredChunk]) -> Iterator[Passage]:
    """Open, one by one, those chunks that belong to a permitted document's decided version, in their order.

    A passage that does not open, or does not have its hash, is left out and logged: it is withheld from everybody.
    """
    opened: dict[int, tuple[DocumentSeal, DocumentView] | None] = {}
    for chunk in chunks:
        granted = permits.get(chunk.ordinal)
        if granted is None:
            continue
        document = granted.document
        if chunk.version != document.version or not document.row_start <= chunk.row < document.row_stop:
            continue
        try:
            if chunk.ordinal not in opened:
                seal = sealing.of(document)
                opened[chunk.ordinal] = (seal, _view(seal, document))
            known = opened[chunk.ordinal]
            if known is None:
                continue
            text = known[0].text(chunk)
        except UnsealError as err:
            opened.setdefault(chunk.ordinal, None)
            log.error("passage_unreadable", document_id=document.document_id, chunk_id=chunk.chunk_id, detail=str(err))
            continue
        yield Passage(
            chunk_id=chunk.chunk_id,
            row=chunk.row,
            document=known[1],
            text=text.text,
            headings=text.headings,
            start=chunk.start,
            end=chunk.end,
            content_sha256=text.content_sha256,
            acl_id=document.acl_id,
            acl=granted.acl,
            allowed=granted.allowed,
        )


def view(sealing: Sealing, document: StoredDocument) -> DocumentView:
    """Open what is known of a document that the caller may read. Raises UnsealError."""
    return _view(sealing.of(document), document)


def _view(seal: DocumentSeal, document: StoredDocument) -> DocumentView:
    return DocumentView(
        document_id=document.document_id,
        source=document.source,
        title=seal.title(document),
        location=seal.location(document),
        media_type=document.media_type,
        version=document.version,
        modified_at=document.modified_at,
    )
