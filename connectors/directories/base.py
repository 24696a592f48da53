"""Where people and groups come from. A directory answers one question: who is this, and what do they belong to?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from acl.principal import Principal, Realm


class DirectoryError(Exception):
    """Root. `detail` is for operators, never for callers."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class DirectoryUnavailableError(DirectoryError):
    """The directory cannot be read in full: nothing about anybody is known."""


class UnknownSubjectError(DirectoryError):
    """No enabled account, or more than one, has this attribute: nobody."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """An enabled account with everything it belongs to, as of `resolved_at`.

    paths: for each principal how the account holds it, as names from the account on: ("alice", "fin-emea", "finance").
    complete: the realms for which `principals` is all there is.
    """

    account_id: str
    display_name: str
    principals: frozenset[Principal]
    paths: Mapping[Principal, tuple[str, ...]]
    complete: frozenset[Realm]
    resolved_at: datetime


class Directory(Protocol):
    """A source of accounts and groups."""

    name: str

    def resolve(self, attribute: str, value: str) -> Resolution:
        """Return the one enabled account whose immutable `attribute` equals `value` exactly.

        Raises UnknownSubjectError (none, several, or disabled) and DirectoryUnavailableError.
        """
