"""What calls return: plain frozen values, without protobuf. Fields mean what the `.proto` files say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum


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
