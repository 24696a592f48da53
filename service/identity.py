"""From a subject to a caller: everything that the account holds now, from the directory that its issuer is bound to.

A directory that cannot be read in full answers nothing; it never means "no groups". Only the directory of the
subject's own issuer is asked: principals of other realms come with linking, and until then their clauses deny.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from acl.model import Caller
from connectors.directories import base as directories
from service.authn import Subject
from service.errors import DirectoryUnavailableError, UnauthenticatedError
from service.roles import Roles

MAX_RESOLUTION_AGE: Final = timedelta(seconds=60)
"""How long what a directory said may be used: the bound on noticing that somebody lost a group."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A subject with all it holds. resolution: what the directory said, with the path to each principal."""

    caller: Caller
    resolution: directories.Resolution
    roles: frozenset[str]


class Identity:
    """Resolves subjects. Blocking, and as safe for threads as its directories are."""

    def __init__(
        self,
        sources: Mapping[str, directories.Directory],
        roles: Roles,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """sources: the configured directories by name."""
        self._directories = dict(sources)
        self._roles = roles
        self._now = now

    def resolve(self, subject: Subject) -> Resolved:
        """Return the caller that the subject is now.

        The caller is valid until the credential is not, and at most MAX_RESOLUTION_AGE after its resolution.
        Raises UnauthenticatedError for an account that is unknown, ambiguous or disabled, and
        DirectoryUnavailableError when its directory cannot tell.
        """
        directory = self._directories.get(subject.directory)
        if directory is None:
            raise DirectoryUnavailableError(f"there is no directory `{subject.directory}`")
        try:
            found = directory.resolve(subject.attribute, subject.value)
        except directories.UnknownSubjectError as err:
            raise UnauthenticatedError(err.detail) from err
        except directories.DirectoryUnavailableError as err:
            raise DirectoryUnavailableError(err.detail) from err
        now = self._now()
        if not now - MAX_RESOLUTION_AGE < found.resolved_at <= now:
            raise DirectoryUnavailableError(f"directory `{subject.directory}` answered as of another time than now")
        if now >= subject.expires_at:
            raise UnauthenticatedError("the credential expired meanwhile")
        caller = Caller(
            # With its directory, so that equal ids of two directories are two callers.
            subject=f"{subject.directory}/{found.account_id}",
            principals=found.principals,
            complete=found.complete,
            resolved_at=found.resolved_at,
            expires_at=min(subject.expires_at, found.resolved_at + MAX_RESOLUTION_AGE),
        )
        return Resolved(caller, found, self._roles.of(found.principals))
