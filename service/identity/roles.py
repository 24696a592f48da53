"""Who may administer: roles bound to principals in the settings, and nothing more. A role never opens a document.

Which method asks for which role is `service.api.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from acl.principal import Principal, Realm

OPERATOR: Final = "operator"
ACCESS_ADMIN: Final = "access-admin"
KEY_ADMIN: Final = "key-admin"
AUDITOR: Final = "auditor"
CONTENT_AUDITOR: Final = "audit-reader-content"
SOURCE_OWNER: Final = "source-owner"

NAMES: Final = (OPERATOR, ACCESS_ADMIN, KEY_ADMIN, AUDITOR, CONTENT_AUDITOR, SOURCE_OWNER)

_AUDITING: Final = frozenset({AUDITOR, CONTENT_AUDITOR})
_OF_ALL_SOURCES: Final = frozenset({OPERATOR, ACCESS_ADMIN})


def owner_of(source: str) -> str:
    """The role of the owner of one source: a source-owner owns sources by name, never all."""
    return f"{SOURCE_OWNER}:{source}"


def kind(role: str) -> str:
    """The role's name, without the source that it may be about."""
    return role.partition(":")[0]


def separated(one: str, other: str) -> bool:
    """Whether nobody may hold both: who audits changes nothing, and who changes something does not audit it."""
    return (kind(one) in _AUDITING) != (kind(other) in _AUDITING)


def sees(roles: Iterable[str], source: str) -> bool:
    """Whether somebody with these roles may be told of a source."""
    held = frozenset(roles)
    return bool(held & _OF_ALL_SOURCES) or owner_of(source) in held


class Roles:
    """The bindings. A role that is bound to nobody is nobody's. epoch: changes with them."""

    def __init__(self, bindings: Mapping[str, frozenset[Principal]]) -> None:
        self.epoch = 0
        self._bindings = dict(bindings)

    def use(self, bindings: Mapping[str, frozenset[Principal]]) -> None:
        """Hold by other bindings from now on. Called from one thread at a time."""
        # Before the epoch: who sees the new epoch has the new bindings, and what was kept under the old one is dropped.
        self._bindings = dict(bindings)
        self.epoch += 1

    def of(
        self, principals: Iterable[Principal], unsure: Callable[[Realm], bool] = lambda realm: False
    ) -> frozenset[str]:
        """The roles of somebody who holds these principals.

        Somebody who holds two that are separated, by different groups, has none of the two: which one was meant is
        not ours to say. Nor has somebody a role who may hold one that is separated from it.
        unsure: whether other principals of a realm may be held too, because a directory does not say.
        """
        held, bindings = frozenset(principals), self._bindings
        found = frozenset(role for role, bound in bindings.items() if bound & held)
        possible = found | {role for role, bound in bindings.items() if any(unsure(one.realm) for one in bound)}
        return frozenset(role for role in found if not any(separated(role, other) for other in possible))
