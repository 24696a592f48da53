"""The world of a soak: a feed and a directory that change all the time, and every state they ever had with its times.

A state may have been in force from the moment before it was written until the end of the first successful run (for the
directory: the moment) that brought the next one. Within a search several states of a document, of the containers around
it and of somebody's groups may have been; the law is that one combination of them allowed what was returned.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

REALM: Final = "static:people"
WORDS: Final = (
    *(
        "plan",
        "budget",
        "merger",
        "report",
        "quarter",
        "berlin",
        "holiday",
        "helios",
        "margin",
        "offer",
        "contract",
        "audit",
        "payroll",
        "drawing",
    ),
    *(
        "sensor",
        "invoice",
        "travel",
        "claim",
        "patent",
        "lease",
        "roadmap",
        "incident",
        "supplier",
        "tender",
        "forecast",
        "pension",
        "warranty",
    ),
    *("license", "survey", "memo"),
)
FOREVER: Final = float("inf")
_NESTINGS: Final = 6
"""Of the groups: with many more everybody would be in all of them."""
_FEWER: Final = 10
"""So many documents may be missing for a while."""
Rules = list[list[Any]]
"""Ordered: an effect, and the principals it is about."""


@dataclass
class Version:
    """A value, written at `began`; what was before it was gone for good at `settled`."""

    value: Any
    began: float
    settled: float = FOREVER


@dataclass
class Timeline:
    """Everything that was, by name: of documents, scopes and people."""

    versions: dict[str, list[Version]] = field(default_factory=dict)
    open: list[Version] = field(default_factory=list)

    def put(self, name: str, value: Any, at: float) -> None:
        """A new value, not yet settled."""
        made = Version(value, at)
        self.versions.setdefault(name, []).append(made)
        self.open.append(made)

    def settle(self, before: float, at: float) -> None:
        """What was written before a run began was in force when it had ended."""
        for one in self.open:
            if one.began <= before:
                one.settled = at
        self.open = [one for one in self.open if one.settled == FOREVER]


class World:
    """folder: where the feed and the directory are. seed: of all that changes.

    Everything in it changes, and it does not grow: as many documents as at the start, about, and people with as many
    groups, drawn anew. What grows in a service meanwhile is the service's.
    """

    def __init__(self, folder: Path, seed: int, *, people: int = 50, documents: int = 400, scopes: int = 12) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.groups = [f"g{n}" for n in range(16)]
        self.people = [f"p{n}" for n in range(people)]
        self.documents, self.scopes, self.holders = Timeline(), Timeline(), Timeline()
        self.parents: dict[str, str | None] = {}
        self._member: dict[str, set[str]] = {}
        self._nested: dict[str, set[str]] = {group: set() for group in self.groups}
        self._texts = 0
        self._size = documents
        self.there: list[str] = []
        """The documents that exist now."""
        for number in range(scopes):
            name = f"s{number}"
            self.parents[name] = f"s{self.random.randrange(number)}" if number > 2 else None
            self.scopes.put(name, self._rules(wide=True), 0.0)
        for _ in range(documents):
            self._new_document(0.0)
        for person in self.people:
            self._member[person] = self._some_groups()
        for _ in range(_NESTINGS):
            self._nest()
        self._hold(0.0)
        self.write_feed()
        self.write_people()

    def _rules(self, *, wide: bool = False) -> Rules:
        draw = self.random
        rules: Rules = []
        for _ in range(draw.randint(1, 3)):
            names = [f"group-{g}" for g in draw.sample(self.groups, draw.randint(1, 3))]
            if draw.random() < 0.2:
                names.append(f"user-{draw.choice(self.people)}")
            rules.append(["allow" if draw.random() < 0.75 else "deny", names])
        if draw.random() < (0.7 if wide else 0.15):
            rules.append(["allow", ["members"]])
        return rules

    def _some_groups(self) -> set[str]:
        return set(self.random.sample(self.groups, self.random.randint(0, 4)))

    def _nest(self) -> None:
        one, other = self.random.sample(self.groups, 2)
        self._nested[one].add(other)

    def _new_document(self, at: float) -> None:
        name = f"d{len(self.documents.versions)}"  # an id is never used again
        self.there.append(name)
        self._document(name, at)

    def _document(self, name: str, at: float) -> None:
        draw = self.random
        self._texts += 1
        words = " ".join(draw.choices(WORDS, k=draw.randint(3, 9)))
        scope = None if draw.random() < 0.1 else f"s{draw.randrange(len(self.parents))}"
        before = self.documents.versions.get(name)
        if before and before[-1].value is not None:
            scope = before[-1].value["scope"]  # a move is another thing, and withheld for a while
        self.documents.put(name, {"scope": scope, "rules": self._rules(), "text": self._texts, "words": words}, at)

    def _hold(self, at: float) -> None:
        for person, groups in self._member.items():
            held = sorted({*(f"group-{g}" for g in self._closure(groups)), f"user-{person}", "members"})
            versions = self.holders.versions.get(person)
            if versions is None or versions[-1].value != held:
                self.holders.put(person, held, at)

    def _closure(self, groups: set[str]) -> set[str]:
        found, waiting = set[str](), [*groups]
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                waiting += self._nested[one]
        return found

    @property
    def held(self) -> float:
        """How many principals somebody holds, on average."""
        return sum(len(versions[-1].value) for versions in self.holders.versions.values()) / len(self.people)

    # --- changes ---

    def churn_rules(self) -> None:
        """Some documents and sometimes a container get other rules, texts, come or go."""
        draw, at = self.random, time.monotonic()
        for name in draw.sample(self.there, draw.randint(2, 12)):
            match draw.choice(["rules", "rules", "rules", "text", "gone"]):
                case "rules":
                    now = self.documents.versions[name][-1].value
                    self.documents.put(name, now | {"rules": self._rules()}, at)
                case "gone":
                    self.documents.put(name, None, at)
                    self.there.remove(name)
                case _:
                    self._document(name, at)
        while len(self.there) < self._size - draw.randint(0, _FEWER):
            self._new_document(at)
        if draw.random() < 0.5:
            self.scopes.put(draw.choice(list(self.parents)), self._rules(wide=True), at)
        self.write_feed()

    def churn_groups(self) -> None:
        """Somebody joins and leaves; sometimes a group is nested in another, and one no longer."""
        draw, at = self.random, time.monotonic()
        for person in draw.sample(self.people, draw.randint(1, 5)):
            self._member[person] = self._some_groups()
        if draw.random() < 0.4:
            one = draw.choice([group for group, around in self._nested.items() if around])
            self._nested[one].remove(draw.choice(sorted(self._nested[one])))
            while sum(map(len, self._nested.values())) < _NESTINGS:
                self._nest()
        self._hold(at)
        self.write_people()
        self.holders.settle(at, time.monotonic())

    # --- files ---

    def write_feed(self) -> None:
        """As an exporter should: beside its place, then there."""
        lines: list[dict[str, Any]] = [
            {"kind": "feed", "version": 1, "exported_at": datetime.now(UTC).isoformat()},
            *(
                {"kind": "scope", "id": name, "location": name, "rules": _written(self.scopes.versions[name][-1].value)}
                | ({"parent": parent} if parent is not None else {})
                for name, parent in self.parents.items()
            ),
        ]
        for name in self.there:
            value = self.documents.versions[name][-1].value
            lines.append(
                {
                    "kind": "document",
                    "id": name,
                    "title": name,
                    "location": name,
                    "media_type": "text/plain",
                    "modified_at": "2026-01-01T00:00:00Z",
                    "rules": _written(value["rules"]),
                    "text": f"{value['words']} version{value['text']}x",
                }
                | ({"scope": value["scope"]} if value["scope"] is not None else {})
            )
        lines.append({"kind": "end", "scopes": len(self.parents), "documents": len(self.there)})
        _replace(self.folder / "feed.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines).encode())

    def break_feed(self) -> None:
        """An export that was cut: a run over it fails and changes nothing."""
        whole = (self.folder / "feed.jsonl").read_bytes()
        _replace(self.folder / "feed.jsonl", whole[: len(whole) * 2 // 3])

    def write_people(self) -> None:
        """The directory file; besides the people of the soak an operator, an auditor and who decides."""
        data = {
            "version": 1,
            "users": [
                *({"id": p, "name": p, "groups": sorted(self._member[p])} for p in self.people),
                {"id": "olga", "name": "olga", "groups": ["operators"]},
                {"id": "adam", "name": "adam", "groups": ["auditors"]},
                {"id": "ada", "name": "ada", "groups": ["access-admins"]},
            ],
            "groups": [
                *({"id": g, "member_of": sorted(self._nested[g])} for g in self.groups),
                {"id": "operators"},
                {"id": "auditors"},
                {"id": "access-admins"},
            ],
        }
        _replace(self.folder / "people.yaml", yaml.safe_dump(data).encode())

    def everything(self) -> dict[str, Any]:
        """All states with their times, for the file of the history."""

        def of(timeline: Timeline) -> dict[str, list[tuple[Any, float, float]]]:
            return {n: [(v.value, v.began, v.settled) for v in versions] for n, versions in timeline.versions.items()}

        return {
            "parents": self.parents,
            "documents": of(self.documents),
            "scopes": of(self.scopes),
            "people": of(self.holders),
        }


def _written(rules: Rules) -> list[dict[str, Any]]:
    return [{"effect": effect, "principals": [f"{REALM}:{name}" for name in names]} for effect, names in rules]


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    os.replace(fresh, path)  # noqa: PTH105  in one step, as exporters should
