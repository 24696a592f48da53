"""The offline checker: every passage that was returned and every decision that was told, held against all states.

It reads the file of a history and nothing else, and decides by the slow evaluator of `tests.acl.reference`, which
shares no code with the service.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from tests.acl.reference import PlainClause, may_read
from tests.soak.world import REALM

_AUDIENCE: PlainClause = [("allow", [(REALM, "members")], None)]


@dataclass
class Verdict:
    """decisions: passages and probes that were checked. leaks: what no combination of states allowed, the first few.

    denied: probes that were told `no` where every combination allowed: withheld for a while, and no leak.
    """

    decisions: int = 0
    passages: int = 0
    allowed: int = 0
    denied: int = 0
    leaks: int = 0
    examples: list[str] = field(default_factory=list)


class Checker:
    """world: as `World.everything` says."""

    def __init__(self, world: dict[str, Any]) -> None:
        self._parents: dict[str, str | None] = world["parents"]
        self._of = {kind: {n: _Line(v) for n, v in world[kind].items()} for kind in ("documents", "scopes", "people")}
        self._known: dict[tuple[Any, ...], bool] = {}

    def possible(self, person: str, document: str, began: float, ended: float) -> Iterator[tuple[int | None, bool]]:
        """Every version of the text that may have been there, with what may have been decided about it."""
        if document not in self._of["documents"]:
            yield None, False
            return
        holdings = self._of["people"][person].within(began, ended)
        for value in self._of["documents"][document].within(began, ended):
            if value is None:
                yield None, False
                continue
            lines = [self._of["scopes"][name].within(began, ended) for name in self._chain(value["scope"])]
            for held, *clauses in product(holdings, *lines, [value["rules"]]):
                yield value["text"], self._reads(held, clauses)

    def _chain(self, scope: str | None) -> list[str]:
        found = []
        while scope is not None:
            found.append(scope)
            scope = self._parents[scope]
        return found

    def _reads(self, held: list[str], clauses: list[Any]) -> bool:
        key = (id(held), *(id(one) for one in clauses))  # values live as long as the checker, each in one place
        if key not in self._known:
            plain: list[PlainClause] = [
                [(e, [(REALM, n) for n in names], None) for e, names in rules] for rules in clauses
            ]
            self._known[key] = may_read([_AUDIENCE, *plain], [(REALM, one) for one in held], [REALM], 0.0)
        return self._known[key]


class _Line:
    """The states of one thing, in their order."""

    def __init__(self, versions: list[list[Any]]) -> None:
        self._values = [value for value, _, _ in versions]
        self._began = [began for _, began, _ in versions]
        # Each lasts until the next one has settled.
        self._ended = [settled for _, _, settled in versions[1:]] + [float("inf")]

    def within(self, began: float, ended: float) -> list[Any]:
        """Those that may have been in force at some moment between."""
        last = bisect_right(self._began, ended)
        return [self._values[n] for n in range(last) if self._ended[n] >= began]


def check(history: Path) -> Verdict:
    """Check a whole file: its last line is the world, every other one a call."""
    with history.open() as file:
        lines = file.readlines()
    checker, verdict = Checker(json.loads(lines[-1])["world"]), Verdict()
    for line in lines[:-1]:
        seen = json.loads(line)
        person, began, ended = seen["person"], seen["began"], seen["ended"]
        for document, text in seen.get("passages", ()):
            verdict.decisions += 1
            verdict.passages += 1
            if not any(
                reads and version == text for version, reads in checker.possible(person, document, began, ended)
            ):
                _leak(verdict, f"{person} got text {text} of {document}")
        for document, told in seen.get("probes", {}).items():
            verdict.decisions += 1
            verdict.allowed += told
            possible = {reads for _, reads in checker.possible(person, document, began, ended)}
            if told and True not in possible:
                _leak(verdict, f"{person} may read {document}, it says")
            verdict.denied += not told and possible == {True}
    return verdict


def _leak(verdict: Verdict, what: str) -> None:
    verdict.leaks += 1
    if len(verdict.examples) < 5:
        verdict.examples.append(what)
