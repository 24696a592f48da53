"""What a walk sent, put together as the catalog would."""

from __future__ import annotations

from collections.abc import Mapping

from acl.model import Acl, Scope, ScopeId, Unknown
from connectors.base import ScopeChange, Upsert


def acl_of(document: Upsert, scopes: Mapping[ScopeId, ScopeChange]) -> Acl | Unknown:
    """The ACL of a document as it was sent."""
    chain: list[ScopeChange] = []
    here = document.scope
    while here is not None:
        chain.append(scopes[here])
        here = scopes[here].parent
    scope: Scope | None = None
    for change in reversed(chain):
        if isinstance(change.clause, Unknown):
            return change.clause
        scope = Scope(change.id, scope, change.clause)
    return document.own if isinstance(document.own, Unknown) else Acl(scope, document.own)
