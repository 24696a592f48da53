"""The values of the access model: rules, clauses, scopes, ACLs and callers.

Empty means nobody, absence is never permission, and a value that would say otherwise cannot be built.
`acl/README.md` is the normative text. Stored forms are `acl.normalize`'s, rows of scopes `acl.scopes`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from types import MappingProxyType
from typing import Final, NewType

from acl.errors import InvalidValueError
from acl.principal import Principal, Realm

AclId = NewType("AclId", int)
"""An interned pair of scope and own clause. Never reused. 0 is nobody."""

ScopeId = NewType("ScopeId", str)
"""A container's immutable id within all sources. Never a path."""

NEVER: Final = datetime.max.replace(tzinfo=UTC)
"""The expiry of a rule without one: later than every moment that `decide` can be asked about."""

MAX_RULES: Final = 4096
"""A longer clause is not understood: its ACL is unknown."""

MAX_PRINCIPALS: Final = 100_000
"""A clause that names more, over all its rules, is not understood."""

MAX_DEPTH: Final = 256
"""A scope with more around it is not understood."""


class Effect(Enum):
    """What a matching rule says."""

    ALLOW = "allow"
    DENY = "deny"


def instant(moment: datetime, what: str) -> datetime:
    """Return `moment` in UTC. `what` names it in the error.

    Two times of one zone are compared by the clock on the wall, which shows one hour twice every autumn: hence UTC.
    Raises InvalidValueError for a time without a zone, or one that UTC cannot express.
    """
    if type(moment) is not datetime:
        raise InvalidValueError(f"{what} is not a time")
    if moment.tzinfo is UTC:
        return moment
    if moment.utcoffset() is None:
        raise InvalidValueError(f"{what} has no time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as err:
        raise InvalidValueError(f"{what} lies outside the years 1 to 9999") from err


@dataclass(frozen=True, slots=True)
class Rule:
    """An effect for any of some principals, until it expires.

    A rule is in force while `at < expires_at`. Times are kept in UTC.
    """

    effect: Effect
    principals: frozenset[Principal]
    expires_at: datetime = NEVER

    def __post_init__(self) -> None:
        if type(self.effect) is not Effect:
            raise InvalidValueError("a rule's effect is neither allow nor deny")
        if not _all_principals(self.principals):
            raise InvalidValueError("a rule's principals are not a frozenset of principals")
        if not self.principals:
            raise InvalidValueError("a rule names no principal")
        object.__setattr__(self, "expires_at", instant(self.expires_at, "a rule's expiry"))


@dataclass(frozen=True, slots=True)
class Clause:
    """Ordered rules; the first in force that names a principal of the caller decides, and none denies.

    realms: every realm that a rule names, in force or not.
    """

    rules: tuple[Rule, ...]
    realms: frozenset[Realm] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if type(self.rules) is not tuple or not all(type(rule) is Rule for rule in self.rules):
            raise InvalidValueError("a clause is not a tuple of rules")
        if len(self.rules) > MAX_RULES:
            raise InvalidValueError(f"a clause has {len(self.rules)} rules, more than {MAX_RULES}")
        named = sum(len(rule.principals) for rule in self.rules)
        if named > MAX_PRINCIPALS:
            raise InvalidValueError(f"a clause names {named} principals, more than {MAX_PRINCIPALS}")
        object.__setattr__(self, "realms", frozenset([p.realm for rule in self.rules for p in rule.principals]))


NOBODY: Final = Clause(())
"""The clause that lets nobody through."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """What stands where rules could not be read or understood. Nobody passes; the reason is for the report."""

    reason: str


def clause_of(rules: Iterable[Rule]) -> Clause | Unknown:
    """Build a clause from rules that came from outside: too many of them are unknown rather than an error."""
    try:
        return Clause(tuple(rules))
    except InvalidValueError as err:
        return Unknown(str(err))


@dataclass(frozen=True, slots=True)
class Scope:
    """A container that the source consults at access time, with its clause and the container around it.

    Built of values from the root down, so a cycle cannot exist here; see `acl.scopes` for rows that may hold one.
    depth: how many scopes are around it.
    """

    id: ScopeId
    parent: Scope | None
    clause: Clause
    label: str = ""
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not _is_name(self.id):
            raise InvalidValueError("a scope has no id")
        if self.parent is not None and type(self.parent) is not Scope:
            raise InvalidValueError(f"scope `{self.id}` has a parent that is not a scope")
        if type(self.clause) is not Clause:
            raise InvalidValueError(f"scope `{self.id}` has no clause")
        depth = 0 if self.parent is None else self.parent.depth + 1
        if depth > MAX_DEPTH:
            raise InvalidValueError(f"scope `{self.id}` lies deeper than {MAX_DEPTH} scopes")
        object.__setattr__(self, "depth", depth)

    def chain(self) -> Iterator[Scope]:
        """This scope and those around it, outermost first."""
        found: list[Scope] = []
        here: Scope | None = self
        while here is not None:
            found.append(here)
            here = here.parent
        return reversed(found)


@dataclass(frozen=True, slots=True)
class Acl:
    """Who may read a document: its own clause AND the clause of every scope around it."""

    scope: Scope | None
    own: Clause

    def __post_init__(self) -> None:
        if self.scope is not None and type(self.scope) is not Scope:
            raise InvalidValueError("an ACL's scope is not a scope")
        if type(self.own) is not Clause:
            raise InvalidValueError("an ACL has no clause of its own")

    def clauses(self) -> tuple[Clause, ...]:
        """Every clause that must let a caller through, the outermost scope's first, its own last."""
        return (*(scope.clause for scope in self.scope.chain()), self.own) if self.scope is not None else (self.own,)


class AclState(Enum):
    """The four states of a stored ACL, never confused. Reports use them; `decide` does not."""

    RESTRICTED = "restricted"
    CLASS_WIDE = "class-wide"
    NOBODY = "nobody"
    UNKNOWN = "unknown"


def state_of(acl: Acl | Unknown) -> AclState:
    """The state of an ACL, without regard to expiry.

    Class-wide: every clause names a class in an allow rule. Nobody: some clause has no allow rule at all.
    """
    if isinstance(acl, Unknown):
        return AclState.UNKNOWN
    granted = [[p for rule in c.rules if rule.effect is Effect.ALLOW for p in rule.principals] for c in acl.clauses()]
    if not all(granted):
        return AclState.NOBODY
    if all(any(p.is_class for p in principals) for principals in granted):
        return AclState.CLASS_WIDE
    return AclState.RESTRICTED


@dataclass(frozen=True, slots=True)
class Caller:
    """A subject with every principal it holds, as resolved at one moment.

    complete: the realms whose principals are known in full; a clause that names another realm denies.
    expires_at: past it the resolution must not be used. Times are kept in UTC.
    doubtful: further principals that the subject may hold or not, until somebody decided: nothing is allowed by them,
    and what denies one denies the caller. None of them is in `principals`.
    ids, doubtful_ids: the same by realm, for `readable`, which looks thousands of them up within a request.
    """

    subject: str
    principals: frozenset[Principal]
    complete: frozenset[Realm]
    resolved_at: datetime
    expires_at: datetime
    doubtful: frozenset[Principal] = frozenset()
    ids: Mapping[Realm, frozenset[str]] = field(init=False, compare=False, repr=False)
    doubtful_ids: Mapping[Realm, frozenset[str]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not _is_name(self.subject):
            raise InvalidValueError("a caller has no subject")
        if not _all_principals(self.principals):
            raise InvalidValueError("a caller's principals are not a frozenset of principals")
        if not _all_principals(self.doubtful):
            raise InvalidValueError("a caller's doubtful principals are not a frozenset of principals")
        if type(self.complete) is not frozenset or not all(isinstance(name, str) for name in self.complete):
            raise InvalidValueError("a caller's complete realms are not a frozenset of realms")
        object.__setattr__(self, "resolved_at", instant(self.resolved_at, "a caller's resolution"))
        object.__setattr__(self, "expires_at", instant(self.expires_at, "a caller's expiry"))
        object.__setattr__(self, "doubtful", self.doubtful - self.principals)
        object.__setattr__(self, "ids", _by_realm(self.principals))
        object.__setattr__(self, "doubtful_ids", _by_realm(self.doubtful))


def _by_realm(principals: frozenset[Principal]) -> Mapping[Realm, frozenset[str]]:
    ids: dict[Realm, list[str]] = {}
    for where, name in principals:
        ids.setdefault(where, []).append(name)
    return MappingProxyType({where: frozenset(names) for where, names in ids.items()})


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _all_principals(values: object) -> bool:
    return type(values) is frozenset and all(type(value) is Principal for value in values)
