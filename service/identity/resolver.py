"""From a subject to a caller: everything that the person holds now, in every realm that can be resolved.

1. The directory of the subject's own issuer is asked first: whom it does not know or cannot tell about is refused.
2. Links lead from there to the same person's accounts in other directories, by immutable facts, or by a mail address
   where the settings say who manages it. An account that is disabled, unknown or found twice there holds nothing there.
3. A realm is complete when every directory that could hold principals of it was asked about this person and answered
   in full. A directory that cannot be reached never means "no groups": its realms are incomplete, every clause that
   names them denies, and the answer says what was left out.
4. Groups that sources have themselves are added last, with everybody's groups of directories as possible members. Roles
   are not theirs to give.
5. The caller ends with its credential, and before any answer that it rests on is older than its directory allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Final, Protocol

from acl.model import Caller
from acl.principal import Principal, Realm
from connectors.base import of_source, own_realm
from connectors.directories import base as directories
from connectors.directories import mail
from service import condition
from service.authn import Subject
from service.errors import DirectoryUnavailableError, UnauthenticatedError
from service.identity.directories import Link
from service.identity.lookups import Keeping, Kept, Lookups
from service.identity.roles import Roles
from service.identity.source_groups import Joined, NoGroups

MAX_RESOLUTION_AGE: Final = timedelta(seconds=60)
"""How long what a directory said may be used where its settings say nothing else."""

_INCOMPLETE_FOR_S: Final = 1.0
_MOST_JOINED: Final = 50_000


@dataclass(frozen=True, slots=True)
class Resolved:
    """A subject with all it holds.

    resolution: what the directories said together, with the path to each principal.
    left_out: directories that could not say what this person holds, each with the reason, for operators.
    sources_left_out: likewise sources whose own groups are not known now.
    groups_verified_at: when the oldest pass began over groups of sources that the caller holds, None without any.
    as_of: a change of the catalog that is certainly not newer than any of the directories' answers.
    """

    caller: Caller
    resolution: directories.Resolution
    roles: frozenset[str]
    left_out: Mapping[str, str] = field(default_factory=dict)
    as_of: int = 0
    sources_left_out: Mapping[str, str] = field(default_factory=dict)
    groups_verified_at: datetime | None = None

    @property
    def unsaid(self) -> Mapping[str, str]:
        """Everybody who could not say what the subject holds, with the reason; sources by the realm of their groups."""
        return {**self.left_out, **{own_realm(name): why for name, why in self.sources_left_out.items()}}

    @property
    def incomplete(self) -> bool:
        """Whether somebody could not say what the subject holds."""
        return bool(self.left_out or self.sources_left_out)


class Groups(Protocol):
    """Groups that sources have themselves: `service.identity.source_groups.SourceGroups`."""

    def settled(self) -> int | None:
        """Return a number that stays the same as long as no group changed; None: nobody can tell at the moment."""

    def join(self, held: Mapping[Principal, tuple[str, ...]], complete: frozenset[Realm]) -> Joined:
        """Return what somebody belongs to in sources who holds `held` in directories."""


@dataclass(frozen=True, slots=True)
class _Joined:
    """A caller made of kept answers, as long as none of them changes."""

    resolved: Resolved
    epochs: tuple[int | None, ...]
    until: float


class Identity:
    """Resolves subjects. Blocking, and as safe for threads as its directories are."""

    def __init__(
        self,
        sources: Mapping[str, directories.Directory],
        roles: Roles,
        *,
        links: Iterable[Link] = (),
        keeping: Mapping[str, Keeping] | None = None,
        groups: Groups | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """sources: the configured directories by name. keeping: by name, how long their answers are used.

        groups: those that sources have themselves, None: no source has any.
        """
        keeping = keeping or {}
        self._groups: Final[Groups] = groups if groups is not None else NoGroups()
        self._lookups: Final = {
            name: Lookups(directory, keeping.get(name, Keeping(max_age=MAX_RESOLUTION_AGE)), clock=clock)
            for name, directory in sources.items()
        }
        self._watched: Final = tuple(one for one in self._lookups.values() if one.keeps)
        self._links: dict[str, list[Link]] = {}
        for link in links:
            self._links.setdefault(link.source, []).append(link)
        self._roles: Final = roles
        self._now: Final = now
        self._clock: Final = clock
        self._joined: dict[tuple[str, str, str], _Joined] = {}
        self._lock: Final = Lock()

    def directory(self, name: str) -> directories.Directory | None:
        """Return a directory by its name, None when none is configured under it."""
        found = self._lookups.get(name)
        return None if found is None else found.directory

    def failures(self) -> dict[str, condition.Failure]:
        """By directory, what says why it does not answer."""
        return {name: condition.of(one) for name, one in self._lookups.items()}

    def exhausted(self, name: str) -> condition.Failure:
        """Return what says why nobody can be resolved in a directory: it has not answered for too long."""
        lookups = self._lookups[name]
        return lambda: lookups.exhausted

    def supposing(self, resolved: Resolved, lost: Iterable[Principal], gained: Iterable[Principal]) -> Caller:
        """Return what somebody would hold without some principals of directories and with others: for reports alone.

        What they then belong to in sources is worked out anew.
        """
        held = {one: way for one, way in resolved.resolution.paths.items() if not of_source(one.realm)}
        for one in lost:
            held.pop(one, None)
        held.update((one, ("supposed",)) for one in gained if one not in held)
        joined = self._groups.join(held, resolved.caller.complete)
        return replace(resolved.caller, principals=frozenset([*held, *joined.paths]), doubtful=joined.doubtful)

    def start(self) -> None:
        """Begin to follow what changes in the directories."""
        for lookups in self._watched:
            lookups.start()

    def close(self) -> None:
        """Stop following, and close the directories."""
        for lookups in self._lookups.values():
            lookups.close()

    def resolve(self, subject: Subject, *, mark: Callable[[], int] = lambda: 0, need: int = 0) -> Resolved:
        """Return the caller that the subject is now.

        mark: the latest change of the catalog. need: answers from before this change of it are not enough.
        Raises UnauthenticatedError for an account that is unknown, ambiguous or disabled, and
        DirectoryUnavailableError when its own directory cannot tell.
        """
        key = (subject.directory, subject.attribute, subject.value)
        joined = self._joined.get(key)
        if joined is not None and self._holds(joined, need):
            return self._within(joined.resolved, subject)
        epochs = self._epochs()
        parts, left_out = self._parts(subject, mark, need)
        resolved = self._join(subject, parts, left_out)
        if all(self._lookups[name].keeps for name in (*parts, *left_out)):
            self._keep(key, resolved, epochs, parts)
        return self._within(resolved, subject)

    # --- one answer after another ---

    def _parts(self, subject: Subject, mark: Callable[[], int], need: int) -> tuple[dict[str, Kept], dict[str, str]]:
        """The person's accounts by directory, the subject's own first, and the directories that could not say."""
        own = self._lookups.get(subject.directory)
        if own is None:
            raise DirectoryUnavailableError(f"there is no directory `{subject.directory}`")
        try:
            parts = {subject.directory: own.resolve(subject.attribute, subject.value, mark=mark, need=need)}
        except directories.UnknownSubjectError as err:
            raise UnauthenticatedError(err.detail) from err
        except directories.DirectoryUnavailableError as err:
            raise DirectoryUnavailableError(err.detail) from err
        if (wrong := self._wrong_time(subject.directory, parts[subject.directory])) is not None:
            raise DirectoryUnavailableError(wrong)
        left_out: dict[str, str] = {}
        while doubtful := self._follow(subject, parts, left_out, mark, need):
            # What was reached through an account that may be somebody else's is dropped with it: once more without it.
            left_out |= doubtful
            parts = {subject.directory: parts[subject.directory]}
        return parts, left_out

    def _follow(
        self,
        subject: Subject,
        parts: dict[str, Kept],
        left_out: Mapping[str, str],
        mark: Callable[[], int],
        need: int,
    ) -> dict[str, str]:
        """Add the person's accounts in other directories, but for those left out. Return more to leave out, and why."""
        doubtful: dict[str, str] = {}
        queue = [subject.directory]
        for source in queue:
            for link in self._links.get(source, ()):
                fact = _fact(link, source, parts[source].resolution)
                if fact is None or link.target == subject.directory or link.target in left_out:
                    continue
                try:
                    found = self._lookups[link.target].resolve(link.attribute, fact, mark=mark, need=need)
                    if link.fact == mail.MAIL:
                        self._require_mutual(link, fact, parts[source], found, mark, need)
                except directories.UnknownSubjectError:
                    continue
                except directories.DirectoryUnavailableError as err:
                    doubtful[link.target] = err.detail
                    continue
                if (wrong := self._wrong_time(link.target, found)) is not None:
                    doubtful[link.target] = wrong
                elif link.target not in parts:
                    parts[link.target] = found
                    queue.append(link.target)
                elif parts[link.target].resolution.account_id != found.resolution.account_id:
                    # Two links that lead to two accounts: one of them is somebody else's.
                    doubtful[link.target] = f"the links of this person lead to two accounts of `{link.target}`"
        return doubtful

    def _require_mutual(
        self, link: Link, address: str, here: Kept, there: Kept, mark: Callable[[], int], need: int
    ) -> None:
        """Raise UnknownSubjectError unless an address is one account's on both sides, and counts on both."""
        back = self._lookups[link.source].resolve(link.fact, address, mark=mark, need=need)
        same = back.resolution.account_id == here.resolution.account_id
        if not same or _fact(link, link.target, there.resolution) != address:
            raise directories.UnknownSubjectError("the address is not the same one person's in both directories")

    def _join(self, subject: Subject, parts: Mapping[str, Kept], left_out: Mapping[str, str]) -> Resolved:
        own = parts[subject.directory].resolution
        paths: dict[Principal, tuple[str, ...]] = {}
        for part in parts.values():
            for principal, path in part.resolution.paths.items():
                paths.setdefault(principal, path)
        unsure = self._not_asked(parts, left_out)
        roles = self._roles.of(paths, unsure) if left_out else self._roles.of(paths)
        joined = self._groups.join(paths, self._complete(parts))
        paths.update(joined.paths)
        complete = joined.complete
        if len(parts) == 1 and complete == own.complete and not joined.paths:
            together = own
        else:
            together = replace(
                own,
                principals=frozenset(paths),
                paths=paths,
                complete=complete,
                resolved_at=min(part.resolution.resolved_at for part in parts.values()),
            )
        ends = [part.resolution.resolved_at + self._lookups[name].keeping.max_age for name, part in parts.items()]
        caller = Caller(
            # With its directory, so that equal ids of two directories are two callers.
            subject=f"{subject.directory}/{own.account_id}",
            principals=together.principals,
            complete=complete,
            resolved_at=together.resolved_at,
            expires_at=min(ends) if joined.until is None else min(*ends, joined.until),
            doubtful=joined.doubtful,
        )
        # Groups of sources are as of now, which is later than every one of these.
        as_of = min(part.as_of for part in parts.values())
        return Resolved(caller, together, roles, dict(left_out), as_of, joined.left_out, joined.verified_at)

    def _not_asked(self, parts: Mapping[str, Kept], left_out: Mapping[str, str]) -> Callable[[Realm], bool]:
        """Whether principals of a realm may be held besides: by directories left out, and those behind them alone."""
        names = list(left_out)
        for name in names:
            names += [one.target for one in self._links.get(name, ()) if one.target not in (*names, *parts)]
        silent = [self._lookups[name].directory for name in names]
        return lambda realm: any(directory.feeds(realm) for directory in silent)

    def _complete(self, parts: Mapping[str, Kept]) -> frozenset[Realm]:
        said = {name: part.resolution.complete for name, part in parts.items()}
        return frozenset(
            realm
            for realm in frozenset().union(*said.values())
            if all(
                realm in said.get(name, ()) or not lookups.directory.feeds(realm)
                for name, lookups in self._lookups.items()
            )
        )

    def _wrong_time(self, name: str, found: Kept) -> str | None:
        """Why this answer is of another time than now, if it is."""
        now, at = self._now(), found.resolution.resolved_at
        if at > now:
            return f"directory `{name}` answered as of a time that is still to come"
        max_age = self._lookups[name].keeping.max_age
        if now - at >= max_age:
            age = (now - at).total_seconds()
            return f"the answer of directory `{name}` is {age:.0f} s old, of at most {max_age.total_seconds():.0f} s"
        return None

    # --- callers that are kept ---

    def _within(self, resolved: Resolved, subject: Subject) -> Resolved:
        """The caller, ending no later than the credential."""
        if self._now() >= subject.expires_at:
            raise UnauthenticatedError("the credential expired meanwhile")
        if subject.expires_at >= resolved.caller.expires_at:
            return resolved
        return replace(resolved, caller=replace(resolved.caller, expires_at=subject.expires_at))

    def _holds(self, joined: _Joined, need: int) -> bool:
        return (
            joined.resolved.as_of >= need
            and self._clock() < joined.until
            and self._now() < joined.resolved.caller.expires_at
            and joined.epochs[0] is not None
            and self._epochs() == joined.epochs
        )

    def _epochs(self) -> tuple[int | None, ...]:
        return (self._groups.settled(), self._roles.epoch, *[one.epoch for one in self._watched])

    def _keep(
        self, key: tuple[str, str, str], resolved: Resolved, epochs: tuple[int | None, ...], parts: Mapping[str, Kept]
    ) -> None:
        until = min(
            part.asked_at + self._lookups[name].keeping.keep_for.total_seconds() for name, part in parts.items()
        )
        if resolved.left_out:
            # Long enough that everybody does not wait for the same directory, short enough to notice that it is back.
            until = min(until, self._clock() + _INCOMPLETE_FOR_S)
        with self._lock:
            if len(self._joined) >= _MOST_JOINED:
                self._joined.clear()
            self._joined[key] = _Joined(resolved, epochs, until)


def _fact(link: Link, directory: str, account: directories.Resolution) -> str | None:
    """What an account of one of a link's directories may be found by in the other, if it counts.

    An address counts within the link's domains, where the directory gives it out or vouches for it.
    """
    if link.fact != mail.MAIL:
        return account.facts.get(link.fact)
    address = account.facts.get(mail.MAIL)
    if address is None or mail.domain_of(address) not in link.domains:
        return None
    return address if directory == link.managed_by or mail.VERIFIED in account.facts else None
