"""Loads the worlds and turns their rules into values. What drives the worlds is elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from acl.closure import Memberships
from acl.dialects.ntfs import file_clauses, named_in
from acl.dialects.posix import directory_clause, file_clause
from acl.model import NEVER, Caller, Clause, Effect, Rule, ScopeId, Unknown, clause_of
from acl.principal import Principal, Realm
from acl.scopes import ScopeRow
from tests.acl.descriptors import Entry, descriptor
from tests.acl.posix_acls import acl

START = datetime(2030, 1, 1, tzinfo=UTC)
_RIGHTS = {"FULL": 0x1F01FF, "READ": 0x120089, "WRITE": 0x120116, "DATA": 0x1, "REST": 0x120088, "GENERIC": 0x80000000}
_KINDS = {"allow": 0, "deny": 1, "conditional-allow": 0x09, "conditional-deny": 0x0A}


@dataclass(frozen=True)
class Step:
    """A state of a world, and its answers. documents: by name, where it lies and its own clause."""

    at: datetime
    scopes: tuple[ScopeRow, ...]
    documents: Mapping[str, tuple[ScopeId | None, Clause | Unknown]]
    callers: Mapping[str, Caller]
    reads: Mapping[str, frozenset[str]]
    why: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class World:
    """A world from its first state to its last."""

    name: str
    mistake: str
    steps: tuple[Step, ...]


def worlds() -> Iterator[World]:
    """Every world of every file beside this one."""
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        for raw in yaml.safe_load(path.read_text()):
            yield _world(raw)


def _world(raw: dict[str, Any]) -> World:
    known = {"world", "mistake", "at", "memberships", "people", "folders", "documents", "reads", "why", "then"}
    assert set(raw) <= known, (raw["world"], set(raw) - known)
    state: dict[str, Any] = {key: dict(raw.get(key, {})) for key in ("memberships", "people", "folders", "documents")}
    state["at"] = raw.get("at", START)
    steps = [_step(state, raw)]
    for change in raw.get("then", []):
        assert set(change) <= (known - {"world", "mistake", "then"}) | {"drop"}, (raw["world"], set(change))
        for key in ("memberships", "people", "folders", "documents"):
            state[key] = {**state[key], **change.get(key, {})}
            for name in change.get("drop", []):
                state[key].pop(name, None)
        state["at"] = change.get("at", state["at"])
        steps.append(_step(state, change))
    return World(raw["world"], raw["mistake"], tuple(steps))


def _step(state: dict[str, Any], raw: dict[str, Any]) -> Step:
    scopes: list[ScopeRow] = []
    documents: dict[str, tuple[ScopeId | None, Clause | Unknown]] = {}
    for name, folder in state["folders"].items():
        place, clause = _placed(folder, name, scopes, directory=True)
        scopes.append(ScopeRow(ScopeId(name), place, clause, name))
    for name, document in state["documents"].items():
        documents[name] = _placed(document, name, scopes, directory=False)
    clauses = [*(row.clause for row in scopes), *(own for _, own in documents.values())]
    realms = {realm for clause in clauses if isinstance(clause, Clause) for realm in clause.realms}
    memberships = Memberships(
        {Principal.parse(m): [Principal.parse(g) for g in groups] for m, groups in state["memberships"].items()}
    )
    callers = {name: _caller(name, person, memberships, realms) for name, person in state["people"].items()}
    reads = {name: frozenset(found) for name, found in raw["reads"].items()}
    assert reads.keys() == callers.keys(), (raw.get("world"), reads.keys() ^ callers.keys())
    assert all(found <= documents.keys() for found in reads.values()), raw.get("world")
    return Step(_moment(state["at"]), tuple(scopes), documents, callers, reads, raw.get("why", {}))


def _placed(
    raw: Mapping[str, Any], name: str, scopes: list[ScopeRow], *, directory: bool
) -> tuple[ScopeId | None, Clause | Unknown]:
    """Where something lies, and its own clause. What makes several clauses gets a scope for each but the last."""
    place = ScopeId(raw["in"]) if raw.get("in") is not None else None
    found = _clauses(raw, name, directory=directory)
    if isinstance(found, Unknown):
        return place, found
    for number, clause in enumerate(found[:-1]):
        scopes.append(ScopeRow(ScopeId(f"{name} #{number}"), place, clause))
        place = scopes[-1].id
    return place, found[-1]


def _moment(value: Any) -> datetime:
    assert isinstance(value, datetime), value
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def _caller(name: str, raw: Mapping[str, Any], memberships: Memberships, realms: set[Realm]) -> Caller:
    held = [Principal.parse(token) for token in raw.get("holds", [])]
    if "uid" in raw:
        where = Realm(f"posix:{raw.get('domain', 'corp')}")
        ids = [f"uid-{raw['uid']}", *(f"gid-{gid}" for gid in (raw["gid"], *raw.get("groups", []))), "other"]
        held += [Principal(where, name) for name in ids]
    everything = frozenset(realms | {principal.realm for principal in held})
    found = memberships.closure(held, everything - {Realm(realm) for realm in raw.get("incomplete", [])})
    return Caller(name, found.principals, found.complete, START, START + timedelta(days=3650))


def _clauses(raw: Mapping[str, Any], name: str, *, directory: bool) -> tuple[Clause, ...] | Unknown:
    found: Clause | Unknown
    match {key: value for key, value in raw.items() if key != "in"}:
        case {"rules": rules, **rest} if not rest:
            found = clause_of(map(_rule, rules))
        case {"unknown": why, **rest} if not rest:
            found = Unknown(why)
        case {"posix": posix, **rest} if not rest:
            found = _posix(posix, directory)
        case {"ntfs": ntfs, **rest} if not rest:
            return _ntfs(ntfs)
        case other:
            raise AssertionError(f"{name}: {other}")
    return found if isinstance(found, Unknown) else (found,)


def _rule(text: str) -> Rule:
    effect, *words = text.split()
    until = NEVER
    if "until" in words:
        place = words.index("until")
        until = datetime.fromisoformat(words[place + 1])
        del words[place : place + 2]
    return Rule(Effect(effect), frozenset(map(Principal.parse, words)), until)


def _bits(text: str) -> int:
    return sum(bit for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if letter in text)


def _posix(raw: Mapping[str, Any], directory: bool) -> Clause | Unknown:
    mode = int(str(raw["mode"]), 8)
    entries = None
    if {"users", "groups", "mask"} & set(raw):
        bits = raw.get("mask", "rwx")
        group = _bits(raw["group_bits"]) if "group_bits" in raw else mode >> 3 & 7
        mode = mode & 0o707 | _bits(bits) << 3
        users = [(uid, _bits(perm)) for uid, perm in raw.get("users", {}).items()]
        groups = [(gid, _bits(perm)) for gid, perm in raw.get("groups", {}).items()]
        entries = acl(mode >> 6, group, mode & 7, users=users, groups=groups, mask=_bits(bits))
    if "bytes" in raw:
        entries = bytes.fromhex(raw["bytes"])
    translate = directory_clause if directory else file_clause
    return translate(mode, raw["owner"], raw["group"], entries, raw.get("domain", "corp"))


def _ntfs(raw: Mapping[str, Any]) -> tuple[Clause, ...] | Unknown:
    entries: list[Entry] | None = None
    if raw["entries"] is not None:
        entries = []
        for text in raw["entries"]:
            kind, rights, who, *flags = text.split()
            bits = 0x08 if "inherit-only" in flags else 0x10 if "inherited" in flags else 0
            entries.append((_KINDS[kind], bits, _RIGHTS[rights], who))
    data = descriptor(entries, raw.get("owner", "S-1-5-21-1-2-3-500"), present=raw.get("present", True))
    if "cut" in raw:
        data = data[: -raw["cut"]]
    found = file_clauses(data, named_in(Realm("ad")))
    return found if isinstance(found, Unknown) else found.clauses
