"""The scopes of one source by number: what they are called, where they lie, and what they ask."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

import numpy as np

from acl.changes import ScopeDrop, ScopePut
from acl.compiled.clauses import Clauses
from acl.compiled.columns import Flags
from acl.compiled.containment import TOP, Containment
from acl.model import Clause, ScopeId, Unknown
from acl.scopes import ScopeRow


class Containers:
    """A scope that was only named so far has a number, too, and clause 0, so that it is opened to nobody."""

    def __init__(self, clauses: Clauses) -> None:
        self._clauses = clauses
        self._tree = Containment()
        self._nodes: dict[ScopeId, int] = {}
        self._ids: list[ScopeId] = [ScopeId("")]
        self._labels: list[str] = [""]
        self._clause = array("I", (0,))
        self._unknown: dict[int, str] = {}

    def __len__(self) -> int:
        """How many scopes have a number."""
        return len(self._ids) - 1

    @property
    def held(self) -> int:
        """How many of them are put, understood or not."""
        return int(np.count_nonzero(self._clause)) + len(self._unknown)

    def node(self, scope_id: ScopeId | None) -> int:
        """The number of a scope; TOP for none."""
        if scope_id is None:
            return TOP
        node = self._nodes.get(scope_id)
        if node is None:
            node = self._nodes[scope_id] = self._tree.add()
            self._ids.append(scope_id)
            self._labels.append("")
            self._clause.append(0)
        return node

    def id(self, node: int) -> ScopeId | None:
        """The scope that has a number; None for TOP."""
        return None if node == TOP else self._ids[node]

    def open(self, passed: Flags) -> Flags:
        """Which scopes are open to somebody whom some clauses let through, by number.

        passed: by number of the clause.
        """
        return self._tree.open(passed.take(np.frombuffer(self._clause, np.uint32)))

    def row(self, scope_id: ScopeId) -> ScopeRow | None:
        """A scope as it was put; None for one that is not known."""
        node = self._nodes.get(scope_id, TOP)
        clause: Clause | Unknown
        if self._clause[node]:
            clause = self._clauses.get(self._clause[node])
        elif node in self._unknown:
            clause = Unknown(self._unknown[node])
        else:
            return None
        return ScopeRow(scope_id, self.id(self._tree.parent[node]), clause, self._labels[node])

    def put(
        self, changes: Iterable[ScopePut | ScopeDrop], number_of: Callable[[Clause], int]
    ) -> tuple[list[int], list[int]]:
        """Bring scopes to the state that the changes name. Returns the clauses that are used now and that were before.

        number_of: gives a clause its number.
        """
        begun: list[int] = []
        ended: list[int] = []
        for change in changes:
            node = self.node(change.id)
            number, parent, self._labels[node] = 0, TOP, ""
            self._unknown.pop(node, None)
            if isinstance(change, ScopePut):
                self._labels[node] = change.label
                parent = self.node(change.parent)
                if isinstance(change.clause, Unknown):
                    self._unknown[node] = change.clause.reason
                else:
                    number = number_of(change.clause)
            self._tree.place(node, parent)
            begun.append(number)
            ended.append(self._clause[node])
            self._clause[node] = number
        return begun, ended
