"""Who is calling, together with how much of the catalog was known before the question was asked.

The second number lets `service.search` notice a text that is newer than the caller's groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from service.authn import Subject
from service.identity import Resolved


class Resolver(Protocol):
    """What resolves a subject: `service.identity.Identity`."""

    def resolve(self, subject: Subject) -> Resolved:
        """Return the caller with everything it holds now."""


@dataclass(frozen=True, slots=True)
class Current:
    """A resolved caller. `as_of`: a change of the catalog that is certainly not newer than the resolution."""

    subject: Subject
    resolved: Resolved
    as_of: int


class Callers:
    """latest: the catalog's latest change, as `Access.latest` says."""

    def __init__(self, resolver: Resolver, latest: Callable[[], int]) -> None:
        self._resolver = resolver
        self._latest = latest

    def resolve(self, subject: Subject) -> Current:
        """Resolve a subject. Blocking. Raises UnauthenticatedError and DirectoryUnavailableError."""
        # The number is taken first: a text stored during the resolution counts as newer than it.
        as_of = self._latest()
        return Current(subject, _narrowed(subject, self._resolver.resolve(subject)), as_of)


def _narrowed(subject: Subject, resolved: Resolved) -> Resolved:
    """Whoever acts for somebody administers nothing in their name."""
    return resolved if subject.acting is None else replace(resolved, roles=frozenset())
