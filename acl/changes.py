"""What a change log tells `acl.readable`. Each change carries the full current value of what it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from acl.errors import InvalidValueError
from acl.model import AclId, Clause, ScopeId, Unknown

_IDS: Final = 1 << 28
# One less than 32 bits hold, so that they hold every sum of chunks.
_ROWS: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class ScopePut:
    """A container as it stands now. `parent` may dangle."""

    id: ScopeId
    parent: ScopeId | None
    clause: Clause | Unknown
    label: str = ""


@dataclass(frozen=True, slots=True)
class ScopeDrop:
    """A container that is gone. What still lies in it is unknown."""

    id: ScopeId


@dataclass(frozen=True, slots=True)
class AclPut:
    """An interned pair of scope and own clause. `scope` may dangle."""

    acl_id: AclId
    scope: ScopeId | None
    own: Clause | Unknown

    def __post_init__(self) -> None:
        if not 0 < self.acl_id < _IDS:
            raise InvalidValueError(f"an ACL cannot have the id {self.acl_id}: it goes from 1 to {_IDS - 1}")


@dataclass(frozen=True, slots=True)
class AclDrop:
    """A pair that is gone. Documents that still name it are nobody's."""

    acl_id: AclId


@dataclass(frozen=True, slots=True)
class DocumentPut:
    """A document's current ACL, 0 for nobody, and the rows of its chunks as half-open ranges, none empty, in order.

    A row is in one document at a time.
    """

    ordinal: int
    acl_id: AclId
    rows: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not 0 <= self.ordinal < _IDS or not 0 <= self.acl_id < _IDS:
            raise InvalidValueError(f"document {self.ordinal} or its ACL {self.acl_id} is not from 0 to {_IDS - 1}")
        last = 0
        for start, stop in self.rows:
            if not last <= start < stop <= _ROWS:
                raise InvalidValueError(f"document {self.ordinal} has rows that are empty, overlap or are out of order")
            last = stop


@dataclass(frozen=True, slots=True)
class DocumentDrop:
    """A document that is gone."""

    ordinal: int


Change = ScopePut | ScopeDrop | AclPut | AclDrop | DocumentPut | DocumentDrop
