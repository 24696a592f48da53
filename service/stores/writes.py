"""What a run hands to the writer, and what it remembers of stored documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acl.model import AclId, Clause, ScopeId, Unknown
from service.stores.holds import Held


@dataclass(frozen=True, slots=True)
class Former:
    """The rules that counted last of what nobody reads now: the container around it, and its clause by the digest."""

    around: ScopeId | None
    clause: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """What a run needs to know of a stored document.

    source_version: keyed hash of the version whose text was dealt with, None while that is still to do.
    facts: keyed hash of everything else that was sent but the rules.
    served: whether passages of it are stored. former: only of what is nobody's.
    """

    ordinal: int
    document_id: str
    acl_id: AclId
    scope: ScopeId | None
    source_version: bytes | None
    facts: bytes
    served: bool = False
    former: Former | None = None


@dataclass(frozen=True, slots=True)
class KnownScope:
    """What a run needs to know of a stored container.

    parent: as the source says, whatever is held in between. clause: the digest, None when it is not understood.
    facts: keyed hash of everything that was sent. former: only of what is not understood.
    """

    facts: bytes
    parent: ScopeId | None
    clause: bytes | None
    held: Held
    former: Former | None = None


@dataclass(frozen=True, slots=True)
class ScopeWrite:
    """A container to store. `facts`: keyed hash of all of it. The clauses that are held are stored already.

    former: what to remember of the rules that counted last, None to forget it.
    """

    id: ScopeId
    parent: ScopeId | None
    clause: Clause | Unknown
    label: str
    facts: bytes
    held: Held
    former: Former | None = None


@dataclass(frozen=True, slots=True)
class Withholding:
    """A document to take away from everybody. reason: for people. former: the rules that counted last."""

    known: Known
    reason: str
    facts: bytes
    former: Former | None


@dataclass(frozen=True, slots=True)
class DocumentWrite:
    """A document to store without its text. `quarantine`: why nobody reads it, set exactly when `acl_id` is 0.

    former: only with a quarantine.
    """

    known: Known | None
    native: bytes
    acl_id: AclId
    scope: ScopeId | None
    quarantine: str
    facts: bytes
    name: str
    location: str
    media_type: str
    modified_at: datetime
    former: Former | None = None


@dataclass(frozen=True, slots=True)
class PassageWrite:
    """A passage with its vector: float16 or float32, shape (dimension,)."""

    text: str
    headings: tuple[str, ...]
    start: int
    end: int
    vector: NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class TextWrite:
    """A document's new text, or why there is none: `problem`, a constant word, with no passages.

    source_version: None when it is to be tried again.
    title: as found in the document; empty when it has none, and the name stands in for it.
    content: keyed hash of what the text was made from; None with a problem.
    """

    document: Known
    source_version: bytes | None
    content: bytes | None
    name: str
    title: str
    passages: Sequence[PassageWrite]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FoundText:
    """The text of another document with the same content."""

    title: str
    passages: tuple[PassageWrite, ...]
