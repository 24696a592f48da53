"""Who may read what, asked by administrators and auditors about anybody: people are named, and nothing has any text.

Who may ask is `service.api.methods`' business. A person who is asked about is resolved anew, as if they called now with
a token of their own, so that the answer is what the next call of theirs would get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from acl.errors import InvalidValueError
from acl.model import Caller
from acl.principal import Principal
from connectors.directories.base import DirectoryError, Findable, Listed, UnknownGroupError, Watched
from service.access.checks import Checked, Checks, Explained, Page, Places
from service.authn import Subject
from service.errors import DirectoryUnavailableError, NotFoundError, UnauthenticatedError
from service.identity.callers import Callers, Current
from service.identity.resolver import Identity

_MOST_PEOPLE: Final = 10_000
_FOR: Final = timedelta(minutes=1)
"""How long what was resolved for a question may be used: longer than any question takes."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who was named. directory: empty for the first that is configured. user: a login name or an immutable id."""

    user: str
    directory: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A person with the way to each principal."""

    current: Current
    paths: Mapping[Principal, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Supposed:
    """A person as they are, and as they would be. exact: everything that depends on the change is in `then`."""

    current: Current
    then: Caller
    exact: bool


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
        try:
            return self._callers.resolve_again(self._subject(name, found or person.user))
        except UnauthenticatedError as err:
            raise NotFoundError("no enabled account has this name or id", what="user") from err

    def everybody(self) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
        """Return the accounts of each directory that lists its people, and the names of the others.

        One with more than 10,000 people, and one that does not answer, are among the others.
        """
        listed: dict[str, tuple[str, ...]] = {}
        for name in self._attributes:
            directory = self._identity.directory(name)
            if not isinstance(directory, Listed):
                continue
            try:
                accounts = directory.accounts()
            except DirectoryError:
                continue
            if len(accounts) <= _MOST_PEOPLE:
                listed[name] = accounts
        return listed, tuple(name for name in self._attributes if name not in listed)

    def each(self, listed: Mapping[str, Iterable[str]]) -> Iterator[Current | None]:
        """Resolve everybody, one by one; None for somebody whose own directory cannot say now what they hold.

        Whoever was disabled meanwhile is left out.
        """
        for name, accounts in listed.items():
            for account in accounts:
                try:
                    found = self._callers.resolve(self._subject(name, account))
                except UnauthenticatedError:
                    continue
                except DirectoryUnavailableError:
                    yield None
                    continue
                yield found

    def supposed(self, person: Person, group: str, *, member: bool) -> Supposed:
        """Return what the person would hold in a group, or without it.

        Raises NotFoundError for the person, and for a group that there is none of, or which is held only indirectly.
        """
        current = self.resolve(person)
        subject, caller = current.subject, current.resolved.caller
        directory = self._identity.directory(subject.directory)
        if isinstance(directory, Listed):
            try:
                now = directory.resolve(subject.attribute, subject.value).principals
                then = directory.supposed(subject.attribute, subject.value, group, member=member).principals
            except UnknownGroupError as err:
                raise NotFoundError(err.detail, what="group") from err
            except DirectoryError as err:
                raise DirectoryUnavailableError(err.detail) from err
            return Supposed(current, self._identity.supposing(current.resolved, now - then, then - now), True)
        try:
            principal = Principal.parse(group)
        except InvalidValueError as err:
            raise NotFoundError("a group of this directory is named by its token", what="group") from err
        if (principal in caller.principals) is member:
            raise NotFoundError("the person holds the group already, or does not hold it", what="group")
        change: list[list[Principal]] = [[], [principal]] if member else [[principal], []]
        return Supposed(current, self._identity.supposing(current.resolved, *change), False)

    def _subject(self, directory: str, value: str) -> Subject:
        return Subject("", value, directory, self._attributes[directory], value, self._now() + _FOR, "")

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

    def resolve(self, person: Person) -> Held:
        """Return everything that the person holds now. Raises NotFoundError."""
        current = self._people.resolve(person)
        return Held(current, self._people.paths(current))

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

    def places(self, location: str, sources: Callable[[str], bool], first: int, limit: int) -> Places:
        """Return documents by where they stand, from a position on."""
        return self._checks.places(location, sources, first, limit)
