"""Who may read what, asked by administrators and auditors about anybody: people are named, and nothing has any text.

Who may ask is `service.api.methods`' business. A person who is asked about is resolved anew, as if they called now with
a token of their own, so that the answer is what the next call of theirs would get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from acl.principal import Principal
from connectors.directories.base import DirectoryError, Findable, Watched
from service.authn import Subject
from service.callers import Callers, Current
from service.checks import Checked, Checks, Explained, Page
from service.errors import DirectoryUnavailableError, NotFoundError, UnauthenticatedError
from service.identity import Identity

_FOR: Final = timedelta(minutes=1)
"""How long what was resolved for a question may be used: longer than any question takes."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who was named. directory: empty for the first that is configured. user: a login name or an immutable id."""

    user: str
    directory: str = ""


class People:
    """Finds the people that administrators name. attributes: by directory, in their order, what an id is called."""

    def __init__(
        self,
        identity: Identity,
        callers: Callers,
        attributes: Mapping[str, str],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._identity = identity
        self._callers = callers
        self._attributes = dict(attributes)
        self._now = now

    def resolve(self, person: Person) -> Current:
        """Return what the person holds now. Blocking.

        Raises NotFoundError for somebody who has no enabled account, and DirectoryUnavailableError.
        """
        name = person.directory or next(iter(self._attributes))
        directory = self._identity.directory(name)
        if directory is None or name not in self._attributes:
            raise NotFoundError("there is no such directory", what="directory")
        try:
            found = directory.find(person.user) if isinstance(directory, Findable) else None
        except DirectoryError as err:
            raise DirectoryUnavailableError(err.detail) from err
        value = found or person.user
        attribute = self._attributes[name]
        subject = Subject("", value, name, attribute, value, self._now() + _FOR, "")
        try:
            return self._callers.resolve_again(subject)
        except UnauthenticatedError as err:
            raise NotFoundError("no enabled account has this name or id", what="user") from err

    def paths(self, current: Current) -> Mapping[Principal, tuple[str, ...]]:
        """How the person holds each principal, with the names of groups where their directory can say them."""
        paths, subject = current.resolved.resolution.paths, current.subject
        directory = self._identity.directory(subject.directory)
        if not isinstance(directory, Watched):
            return paths
        try:
            return {**paths, **directory.explain(subject.attribute, subject.value).paths}
        except DirectoryError:
            return paths  # the ids are there, and the decision does not rest on names


class Review:
    """Answers about people. Everything blocks."""

    def __init__(self, people: People, checks: Checks) -> None:
        self._people = people
        self._checks = checks

    def check(self, person: Person, document_ids: Sequence[str]) -> Checked:
        """Return for each document whether the person may read it now."""
        return self._checks.check(self._people.resolve(person), document_ids)

    def explain(self, person: Person, document_id: str) -> Explained:
        """Return why the person may read a document, or not. Raises NotFoundError."""
        found = self._checks.explain_anyway(self._people.resolve(person), document_id)
        paths = self._people.paths(found.answer.caller)
        return replace(found, explanation=replace(found.explanation, paths=paths))

    def page(self, person: Person, sources: frozenset[str], first: int, limit: int) -> Page:
        """Return documents that the person may read, from a position on."""
        return self._checks.page(self._people.resolve(person), sources, first, limit)
