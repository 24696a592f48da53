"""Who may administer: roles bound to principals in the settings, and nothing more. A role never opens a document.

Which method asks for which role is `service.api.methods`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from acl.principal import Principal


class Roles:
    """The bindings. A role that is bound to nobody is nobody's."""

    def __init__(self, bindings: Mapping[str, frozenset[Principal]]) -> None:
        self._bindings = dict(bindings)

    def of(self, principals: Iterable[Principal]) -> frozenset[str]:
        """The roles of somebody who holds these principals."""
        held = frozenset(principals)
        return frozenset(role for role, bound in self._bindings.items() if bound & held)
