"""Where people and groups come from. A directory answers one question: who is this, and what do they belong to?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol, runtime_checkable

from acl.principal import Principal, Realm
from connectors.directories.mail import MAIL

ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = {
    "static": ("id", "uid"),
    "active_directory": ("objectSid", "objectGUID"),
    "ldap": ("entryUUID",),
    "entra": ("id",),
}
"""By kind of directory: what an issuer's claim may equal. Never a name, which can be given to somebody else."""

LINKED: Final[Mapping[str, tuple[str, ...]]] = {
    "static": ("id", "uid", MAIL),
    "active_directory": ("objectSid", "foreignSecurityPrincipal", MAIL),
    "ldap": ("entryUUID", "uidNumber", MAIL),
    "entra": ("id", "onPremisesSecurityIdentifier"),
}
"""By kind of directory: by what an account of another directory may be found in it. Mail: see `directories.mail`."""

FACTS: Final[Mapping[str, tuple[str, ...]]] = {
    "static": ("id", "uid", MAIL),
    "active_directory": ("objectSid", "objectGUID", "uidNumber", MAIL),
    "ldap": ("entryUUID", "uidNumber", MAIL),
    "entra": ("id", "onPremisesSecurityIdentifier"),
}
"""By kind of directory: what it says about its accounts that another directory may know too."""


class DirectoryError(Exception):
    """Root. `detail` is for operators, never for callers."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class DirectoryUnavailableError(DirectoryError):
    """The directory cannot be read in full: nothing about anybody is known."""


class BindRefusedError(DirectoryUnavailableError):
    """The directory does not accept the credential that is configured for it."""


class UnknownSubjectError(DirectoryError):
    """No enabled account, or more than one, has this attribute: nobody."""


class UnknownGroupError(DirectoryError):
    """There is no such group, or the account is not in it directly, or is already."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """An enabled account with everything it belongs to, as of `resolved_at`.

    paths: for each principal how the account holds it, as names from the account on: ("alice", "fin-emea", "finance").
    complete: the realms for which `principals` is all there is.
    resolved_at: when the question was asked, not when it was answered.
    facts: what never changes about the account and may find the same person in another directory, such as `objectSid`;
    and its mail address, which may change and is used only where an administrator says so.
    """

    account_id: str
    display_name: str
    principals: frozenset[Principal]
    paths: Mapping[Principal, tuple[str, ...]]
    complete: frozenset[Realm]
    resolved_at: datetime
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed in a directory since a position.

    position: where it is now; only the directory that gave it can read it. Empty: unknown, ask again from the start.
    everything: anybody may hold something else now. Otherwise only the accounts with these ids do.
    """

    position: str
    everything: bool
    accounts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found. good: nothing must be done about it."""

    what: str
    good: bool
    detail: str


class Directory(Protocol):
    """A source of accounts and groups. Blocking, and safe for several threads."""

    name: str

    def resolve(self, attribute: str, value: str) -> Resolution:
        """Return the one enabled account whose immutable `attribute` equals `value` exactly.

        By mail: whose one address is `value`, if no other account has it, enabled or not.

        Raises UnknownSubjectError (none, several, or disabled) and DirectoryUnavailableError.
        """

    def feeds(self, realm: Realm) -> bool:
        """True when accounts of this directory may hold principals of the realm, as far as is known.

        Somebody whom it could not resolve may then hold any of them: the realm is incomplete.
        """


@runtime_checkable
class Findable(Protocol):
    """A directory in which an administrator may name somebody as people do."""

    def find(self, login: str) -> str | None:
        """Return the id of the account called `login`: for an administrator's question, never for a decision.

        Raises DirectoryUnavailableError.
        """


@runtime_checkable
class Telling(Protocol):
    """A directory that knows by itself, and at once, whether it can answer."""

    def failure(self) -> str | None:
        """Return why nobody can be resolved now, None while all is well."""


@runtime_checkable
class Listed(Directory, Protocol):
    """A directory that can list its people, and say what somebody would hold in other groups: for reports alone."""

    def accounts(self) -> tuple[str, ...]:
        """Return the ids of all enabled accounts, by the first attribute that its kind has in `ATTRIBUTES`.

        Raises DirectoryUnavailableError.
        """

    def supposed(self, attribute: str, value: str, group: str, *, member: bool) -> Resolution:
        """Return what the account would hold as a direct member of a group, or without being one.

        group: its token or its id. Raises as `resolve` does, and UnknownGroupError: there is no such group, or the
        account is a direct member already, or is none.
        """


@runtime_checkable
class Watched(Directory, Protocol):
    """A directory that is asked over a network: it says what changed, so that its answers can be kept for a while."""

    def changes(self, position: str) -> Changes:
        """Return what changed since `position`; everything for an empty one. Raises DirectoryUnavailableError."""

    def check(self) -> list[Finding]:
        """Connect, and return what can be read there and what cannot. Raises DirectoryUnavailableError."""

    def explain(self, attribute: str, value: str) -> Resolution:
        """Return what `resolve` does, with the names of groups in the paths where they can be read. Slow."""

    def find(self, login: str) -> str | None:
        """Return the id of the account called `login`: for an administrator's question, never for a decision."""

    def close(self) -> None:
        """Close every connection."""


@runtime_checkable
class Domain(Directory, Protocol):
    """The directory of one Windows domain."""

    def domain_sid(self) -> str:
        """Return the domain's SID. Raises DirectoryUnavailableError."""
