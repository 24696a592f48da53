"""Who is calling, together with how much of the catalog was known before the question was asked.

The second number lets `service.search.engine` notice a text that is newer than the caller's groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from acl.model import Caller
from service.authn import Subject, TokenRefusedError
from service.authn.subject import OnBehalf
from service.errors import DirectoryUnavailableError
from service.identity.resolver import Resolved


class Resolver(Protocol):
    """What resolves a subject: `service.identity.resolver.Identity`."""

    def resolve(self, subject: Subject, *, mark: Callable[[], int], need: int) -> Resolved:
        """Return the caller with everything it holds, from answers that began after the change `need`."""


@dataclass(frozen=True, slots=True)
class Current:
    """A resolved caller.

    as_of: a change of the catalog that is certainly not newer than the resolution.
    actor: the service that named the caller; what it may not read itself, nobody gets through it. None without one.
    incomplete: somebody could not say what the caller holds, or what the service does.
    """

    subject: Subject
    resolved: Resolved
    as_of: int
    actor: Caller | None = None
    actor_incomplete: bool = False

    @property
    def incomplete(self) -> bool:
        """See the class."""
        return self.resolved.incomplete or self.actor_incomplete


class Callers:
    """latest: the catalog's latest change, as `Access.latest` says."""

    def __init__(self, resolver: Resolver, latest: Callable[[], int]) -> None:
        self._resolver = resolver
        self._latest = latest

    def resolve(self, subject: Subject) -> Current:
        """Resolve a subject. Blocking. Raises UnauthenticatedError and DirectoryUnavailableError."""
        return self._resolve(subject, 0)

    def resolve_again(self, subject: Subject) -> Current:
        """Resolve a subject from answers that are newer than everything that the catalog holds now."""
        return self._resolve(subject, self._latest())

    def _resolve(self, subject: Subject, need: int) -> Current:
        # The number is taken before each question: a text stored during a resolution counts as newer than it.
        resolved = self._resolver.resolve(subject, mark=self._latest, need=need)
        if subject.acts_itself:
            return Current(subject, resolved, resolved.as_of)
        # Whoever acts for somebody administers nothing in their name.
        resolved = replace(resolved, roles=frozenset())
        if subject.on_behalf is None:
            return Current(subject, resolved, resolved.as_of)
        _check_named(resolved, subject.on_behalf)
        actor = self._resolver.resolve(subject.on_behalf.service, mark=self._latest, need=need)
        # A text that is newer than the groups of either is newer than the pair.
        return Current(subject, resolved, min(resolved.as_of, actor.as_of), actor.caller, actor.incomplete)


def _check_named(person: Resolved, by: OnBehalf) -> None:
    """Raise TokenRefusedError unless the service may name this person, DirectoryUnavailableError if nobody can tell."""
    if person.left_out and by.never:
        # A group that may not be named could be in the directory that did not answer.
        left_out = ", ".join(f"`{name}`" for name in sorted(person.left_out))
        raise DirectoryUnavailableError(f"directory {left_out} does not say whether this person may be named")
    if person.caller.principals & by.never:
        raise TokenRefusedError("privileged person")
    if not person.caller.principals & by.groups:
        raise TokenRefusedError("person of another group")
