"""Revocation: a canary is granted and found; then the right is taken away at the source or in the directory, and the
time is measured until the person is refused, for every kind of change.

The clock starts before the change is made and stops at the first refusal. A run over the source is part of it: with an
operator's token one is started at once, without it the schedule decides, as it would for a real change.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from remit.client import SearchMode, SyncRunningError

from connectors.directories.static_file import read_people
from service import facl
from service.errors import StartError
from service.prove.areas import Area, find
from service.prove.deployment import Deployment
from service.prove.ground import PREFIX, Canary, Ground, root_of, word
from service.prove.report import Check, Part, Result, claim
from service.settings import Settings

_POLL_S: Final = 0.05
_FRESH_GID: Final = 2_000_000_000


@dataclass(frozen=True, slots=True)
class _Way:
    """One kind of change. prepare: plant. revoke: take the right away. runs: whether a run has to bring it in."""

    name: str
    prepare: Callable[[], Canary]
    revoke: Callable[[Canary], None]
    runs: bool = True


def prove(there: Deployment, allow: str, person: str, rounds: int, limit_s: float) -> Part:
    """All ways, `rounds` times each. limit_s: a right that lasts longer failed. Raises StartError."""
    area = find(allow, there.documents())
    configured, root = root_of(there.settings, area.source)
    ground = Ground(root)
    checks: list[Check] = []
    rows: list[dict[str, object]] = []
    first = len(there.asked)
    try:
        like = _neighbour(there, area)
        for way in _ways(there, area, ground, like, person, str(configured.options["id_domain"])):
            checks_of_way, row = _measure(there, area, way, rounds, limit_s)
            checks += checks_of_way
            rows.append(row)
    finally:
        ground.clear()
        there.sync(area.source)
    return Part("revocation", checks, {"ways": rows}, there.asked[first:])


def _neighbour(there: Deployment, area: Area) -> str:
    """A document in the area that the person reads: its rights are what is granted."""
    for start in range(0, len(area.documents), 100):
        part = area.documents[start : start + 100]
        readable = there.person.check_access([one.document_id for one in part]).readable
        for one in part:
            if readable[one.document_id]:
                return one.location
    raise StartError(f"the person reads nothing in `{area}`, so nothing can be taken away there")


def _ways(there: Deployment, area: Area, ground: Ground, like: str, person: str, id_domain: str) -> Iterator[_Way]:
    folder = like.rpartition("/")[0]
    root = ground.root

    def plant() -> Canary:
        return ground.plant(folder, like)

    yield _Way("chmod: the mode closes the file", plant, lambda c: (root / c.location).chmod(0o600))
    yield _Way("setfacl: the file's list loses its entries", plant, lambda c: facl.allow_only(root / c.location, []))
    yield from _by_group_of_file(there, ground, folder, like, id_domain)
    closed = ground.folder(folder, None)
    yield _Way("move: the file goes into a closed folder", plant, lambda c: ground.moved(c, closed))
    yield _Way("delete: the file is gone", plant, lambda c: (root / c.location).unlink())

    def in_folder() -> Canary:
        return ground.plant(ground.folder(folder, folder), like)

    yield _Way("folder: the folder around it is closed", in_folder, lambda c: (root / c.location).parent.chmod(0o700))
    yield from _by_membership(there.settings, ground, folder, like, person, id_domain)


def _by_group_of_file(there: Deployment, ground: Ground, folder: str, like: str, id_domain: str) -> Iterator[_Way]:
    """By the owning group, where the person holds one by number."""
    held = [p.token.rpartition("-")[2] for p in there.person.get_caller().principals if f":{id_domain}:gid-" in p.token]
    if not held:
        return

    def plant() -> Canary:
        made = ground.plant(folder, like)
        path = ground.root / made.location
        _bare(path, 0o640)
        os.chown(path, -1, int(held[0]))
        return made

    # Number 1 is a group of the system that no directory gives to people.
    yield _Way("chgrp: the file gets another group", plant, lambda c: os.chown(ground.root / c.location, -1, 1))


def _bare(path: Path, mode: int) -> None:
    """A mode without a list."""
    with suppress(OSError):
        os.removexattr(path, facl.XATTR)
    path.chmod(mode)


def _by_membership(
    settings: Settings, ground: Ground, folder: str, like: str, person: str, id_domain: str
) -> Iterator[_Way]:
    """By a group of a static directory that is new, has a number of its own, and goes with the end of the round."""
    for one in settings.directories:
        if one.kind != "static":
            continue
        path = settings.base / str(one.options["path"]) if "path" in one.options else None
        if path is None or not path.is_file():
            continue
        before = path.read_bytes()
        people = read_people(before, path.name)
        if not any(user.name == person for user in people.users.values()):
            continue

        def join(path: Path = path, before: bytes = before) -> Canary:
            made = ground.plant(folder, like)
            gid = _FRESH_GID + int.from_bytes(os.urandom(3))
            facl.allow_only(ground.root / made.location, [facl.group(gid, "r--")])
            data = yaml.safe_load(before)
            name = f"{PREFIX}{word()}"
            data["groups"] = [*data.get("groups", ()), {"id": name, "gid": gid}]
            for user in data["users"]:
                if user["name"] == person:
                    user["groups"] = [*user.get("groups", ()), name]
            _replace(path, yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode())
            return made

        def leave(canary: Canary, path: Path = path, before: bytes = before) -> None:
            _replace(path, before)

        yield _Way("group: the person leaves a group of the directory", join, leave, runs=False)
        if path.read_bytes() != before:
            _replace(path, before)


def _replace(path: Path, data: bytes) -> None:
    """Put other bytes into a file at once, with its owner and mode."""
    status = path.stat()
    fresh = path.with_name(f".{path.name}.{PREFIX}new")
    fresh.write_bytes(data)
    fresh.chmod(status.st_mode & 0o777)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(fresh, status.st_uid, status.st_gid)
    fresh.replace(path)


def _measure(
    there: Deployment, area: Area, way: _Way, rounds: int, limit_s: float
) -> tuple[list[Check], dict[str, object]]:
    times: list[float] = []
    late = after = 0
    try:
        for _ in range(rounds):
            with _granted(there, area, way, limit_s) as (canary, document_id):
                began = time.perf_counter()
                way.revoke(canary)
                if not _refused(there, area.source, document_id, began, limit_s, runs=way.runs):
                    late += 1
                    continue
                times.append(time.perf_counter() - began)
                result = there.person.search(canary.word, limit=10, mode=SearchMode.KEYWORD)
                there.asked.append(result.response_id)
                after += any(hit.chunk.document.document_id == document_id for hit in result.hits)
    except (PermissionError, StartError) as err:
        why = err.strerror if isinstance(err, PermissionError) else str(err)
        return [Check(way.name, Result.NOT_RUN, f"it could not be tried: {why}")], {"way": way.name, "rounds": 0}
    numbers = {"p50_s": _percentile(times, 0.5), "p95_s": _percentile(times, 0.95), "max_s": max(times, default=None)}
    said = (
        ""
        if not times
        else ", ".join(f"{name[:-2]} {value:.2f} s" for name, value in numbers.items() if value is not None)
    )
    detail = (
        f"{len(times)} of {rounds} were refused in time: {said}"
        if times
        else f"none of {rounds} within {limit_s:.0f} s"
    )
    if after:
        detail += f"; {after} were found by a search afterwards"
    facts: dict[str, object] = {k: None if v is None else round(v, 4) for k, v in numbers.items()}
    row = {"way": way.name, "rounds": len(times), **facts, "times_s": [round(t, 4) for t in times]}
    return [claim(way.name, late == 0 and after == 0 and bool(times), detail, **facts)], row


def _percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so many are not above."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


@contextmanager
def _granted(there: Deployment, area: Area, way: _Way, limit_s: float) -> Iterator[tuple[Canary, str]]:
    """A canary that the person is given. Raises StartError when it never is: then nothing can be taken away."""
    canary = way.prepare()
    there.sync(area.source)
    place = there.located(area.source, canary.location, wait_s=max(limit_s, 60.0))
    until = time.monotonic() + max(limit_s, 60.0)
    while not there.reads(place.document_id):
        if time.monotonic() > until:
            raise StartError("the canary was granted and the person was never given it")
        time.sleep(_POLL_S)
    yield canary, place.document_id


def _refused(there: Deployment, source: str, document_id: str, began: float, limit_s: float, *, runs: bool) -> bool:
    """Ask until the person is refused; False past the limit."""
    asked_for = 0.0
    while there.reads(document_id):
        if time.perf_counter() - began > limit_s:
            return False
        if runs and there.operator is not None and time.monotonic() - asked_for > 1.0:
            asked_for = time.monotonic()
            try:
                there.operator.start_sync(source)
            except SyncRunningError:
                # A run that began before the change may miss it: another follows.
                asked_for = 0.0
        time.sleep(_POLL_S)
    return True
