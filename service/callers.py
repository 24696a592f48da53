"""Who is calling, together with how much of the catalog was known before the question was asked.

The second number lets `service.search` notice a text that is newer than the caller's groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from acl.model import Caller
from service.authn import Subject, TokenRefusedError
from service.authn.subject import OnBehalf
from service.identity import Resolved


class Resolver(Protocol):
    """What resolves a subject: `service.identity.Identity`."""

    def resolve(self, subject: Subject) -> Resolved:
        """Return the caller with everything it holds now."""


@dataclass(frozen=True, slots=True)
class Current:
    """A resolved caller.

    as_of: a change of the catalog that is certainly not newer than the resolution.
    actor: the service that named the caller; what it may not read itself, nobody gets through it. None without one.
    """

    subject: Subject
    resolved: Resolved
    as_of: int
    actor: Caller | None = None


class Callers:
    """latest: the catalog's latest change, as `Access.latest` says."""

    def __init__(self, resolver: Resolver, latest: Callable[[], int]) -> None:
        self._resolver = resolver
        self._latest = latest

    def resolve(self, subject: Subject) -> Current:
        """Resolve a subject. Blocking. Raises UnauthenticatedError and DirectoryUnavailableError."""
        # The number is taken first: a text stored during the resolution counts as newer than it.
        as_of = self._latest()
        resolved = self._resolver.resolve(subject)
        if subject.acts_itself:
            return Current(subject, resolved, as_of)
        # Whoever acts for somebody administers nothing in their name.
        resolved = replace(resolved, roles=frozenset())
        if subject.on_behalf is None:
            return Current(subject, resolved, as_of)
        _check_named(resolved, subject.on_behalf)
        return Current(subject, resolved, as_of, self._resolver.resolve(subject.on_behalf.service).caller)


def _check_named(person: Resolved, by: OnBehalf) -> None:
    """Raise TokenRefusedError unless the service may name this person."""
    if person.caller.principals & by.never:
        raise TokenRefusedError("privileged person")
    if not person.caller.principals & by.groups:
        raise TokenRefusedError("person of another group")
