"""What it costs to know who is asking, and how long it takes until a change at the directory counts.

Against a Samba domain controller and an OpenLDAP server on this machine, which it starts itself (as root), and over a
graph of memberships in memory. Cold: the directory is asked. Cached: its answer is kept. Revocation: from the change at
the directory, with the default settings, until `Identity` no longer lets the person pass: a search decides on that.
Of a source's own groups, from the change at the source, with a run that begins then: a schedule adds its interval.
Warm-up: one question.

    python -m benchmarks.bench_directories
"""

from __future__ import annotations

import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psutil

from acl.closure import Memberships
from acl.principal import Principal, Realm
from benchmarks.report import Report
from connectors.base import own_realm
from connectors.directories.active_directory import ActiveDirectory
from connectors.directories.base import Watched
from connectors.directories.ldap import Ldap
from connectors.directories.ldap_client import Endpoint, LdapAccess
from connectors.directories.sids import sid_text
from connectors.secret import FileSecret
from service.authn import Subject
from service.errors import UnauthenticatedError
from service.identity.directories import DirectorySettings
from service.identity.lookups import Keeping
from service.identity.resolver import Identity
from service.identity.roles import Roles
from service.identity.source_groups import SourceGroups
from tests.service.sync_support import SOURCE, open_world
from tests.support import samba, slapd

SEED: Final = 20261125
PEOPLE: Final = 1_000
GROUPS: Final = 200
TRIALS: Final = 5
_DEFAULT: Final = DirectorySettings("x", "active_directory", {}, keep_for=timedelta(seconds=15))
KEEPING: Final = Keeping(_DEFAULT.keep_for, _DEFAULT.max_age, _DEFAULT.poll_every)


def main() -> None:
    """Measure, print and write the report."""
    report = Report("directories", SEED)
    closure(report)
    with tempfile.TemporaryDirectory() as folder:
        source_groups(report, Path(folder))
        with samba.running_domain() as domain:
            active_directory(report, domain, Path(folder))
        with slapd.running_slapd() as server:
            ldap(report, server, Path(folder))
    print(report.write())


def closure(report: Report) -> None:
    """Everybody's groups in a graph of 100,000 users and 20,000 groups that nest, circles included."""
    chance = random.Random(SEED)
    realm = Realm("ldap:bench")
    gc.collect()
    before = psutil.Process().memory_info().rss
    groups = [Principal(realm, f"group-{number}") for number in range(20_000)]
    held: dict[Principal, list[Principal]] = {}
    for number, group in enumerate(groups):
        # Mostly upwards in a tree of departments, with one edge in a hundred anywhere, which makes circles.
        above = [groups[number // 5]] if number else []
        held[group] = above + ([chance.choice(groups)] if chance.random() < 0.01 else [])
    users = [Principal(realm, f"user-{number}") for number in range(100_000)]
    for user in users:
        held[user] = chance.sample(groups, 8)
    memberships = Memberships(held)
    del held
    gc.collect()
    report.add("closure_graph_mb", (psutil.Process().memory_info().rss - before) / 2**20, "MB", "<= 200")
    complete = frozenset({realm})
    times, sizes = [], []
    for user in chance.sample(users, 2_000):
        started = time.perf_counter()
        found = memberships.closure([user], complete)
        times.append((time.perf_counter() - started) * 1e3)
        sizes.append(len(found.via))
    report.add("closure_p50_ms", statistics.median(times), "ms", "<= 1", len(times))
    report.add("closure_p99_ms", _share(times, 0.99), "ms", n=len(times))
    report.add("closure_principals_p50", statistics.median(sizes), "principals", n=len(sizes))


def source_groups(report: Report, folder: Path) -> None:
    """100,000 people in 20,000 groups that a source has itself, of which one loses a member now and then."""
    chance = random.Random(SEED)
    own, people = own_realm(SOURCE), Realm("static:people")
    groups = [Principal(own, f"group-{number}") for number in range(20_000)]
    users = [Principal(people, f"user-{number}") for number in range(100_000)]
    inside: dict[Principal, set[Principal]] = {group: set() for group in groups}
    for number, group in enumerate(groups[1:], 1):
        inside[groups[number // 5]].add(group)
    for user in users:
        for group in chance.sample(groups, 8):
            inside[group].add(user)
    with open_world(folder) as world:
        world.source.groups = inside
        report.add("source_groups_first_pass_s", _timed(world.sync), "s")
        report.add("source_groups_unchanged_pass_s", _timed(world.sync), "s")
        gc.collect()
        before = psutil.Process().memory_info().rss
        joined = SourceGroups(world.catalog, {SOURCE: timedelta(days=1)}, lambda: world.clock.time)
        held = {users[0]: ("user-0",)}
        report.add("source_groups_load_s", _timed(lambda: joined.join(held, frozenset({people}))), "s")
        gc.collect()
        report.add("source_groups_mb", (psutil.Process().memory_info().rss - before) / 2**20, "MB", "<= 200")
        times = [
            _timed(lambda user=user: joined.join({user: ("x",)}, frozenset({people}))) * 1e3  # type: ignore[misc]
            for user in chance.sample(users, 2_000)
        ]
        report.add("source_closure_p50_ms", statistics.median(times), "ms", "<= 1", len(times))
        whole, after_commit = [], []
        for user in chance.sample(users, 4 * TRIALS):
            # A group without groups inside: who is taken out of it is in it by no other way.
            group = next(one for one in groups[5_000:] if user in inside[one])
            assert group in joined.join({user: ("x",)}, frozenset({people})).paths
            inside[group].discard(user)
            started = time.perf_counter()
            world.sync()
            committed = time.perf_counter()
            assert group not in joined.join({user: ("x",)}, frozenset({people})).paths
            whole.append(time.perf_counter() - started)
            after_commit.append((time.perf_counter() - committed) * 1e3)
    report.add("revocation_p50_s_source", statistics.median(whole), "s", n=len(whole))
    report.add("revocation_p95_s_source", _share(whole, 0.95), "s", n=len(whole))
    report.add("revocation_max_s_source", max(whole), "s", n=len(whole))
    report.add("revocation_after_commit_max_ms_source", max(after_commit), "ms", n=len(after_commit))


def active_directory(report: Report, domain: samba.SambaDomain, folder: Path) -> None:
    """1,000 accounts in 200 nested groups."""
    chance = random.Random(SEED)
    unit = domain.unit("bench")
    people = [domain.user(unit, f"p{number}") for number in range(PEOPLE)]
    groups = [domain.group(unit, f"g{number}", kind=samba.UNIVERSAL) for number in range(GROUPS)]
    for number, group in enumerate(groups):
        nested = [groups[above] for above in (number * 2 + 1, number * 2 + 2) if above < GROUPS]
        domain.set_members(group, add=nested + chance.sample(people, 40))
    sids = [sid_text(domain.raw(dn, "objectSid")["objectSid"][0]) for dn in people]

    directory = ActiveDirectory("corp", _access(folder, domain.ca, domain.admin, samba.PASSWORD, domain.address, 636))
    trips = _count_reads(directory)
    directory.resolve("objectSid", sids[0])
    trips.clear()
    cold = [_timed(lambda sid=sid: directory.resolve("objectSid", sid)) * 1e3 for sid in sids[:500]]  # type: ignore[misc]
    report.add("ad_resolve_cold_p50_ms", statistics.median(cold), "ms", "<= 10", len(cold))
    report.add("ad_resolve_cold_p95_ms", _share(cold, 0.95), "ms", n=len(cold))
    report.add("ad_resolve_round_trips", len(trips) / len(cold), "round trips", "<= 1", len(cold))
    held = [len(directory.resolve("objectSid", sid).principals) for sid in sids[:100]]
    report.add("ad_principals_p50", statistics.median(held), "principals", n=len(held))

    identity = Identity({"corp": directory}, Roles({}), keeping={"corp": KEEPING})
    trips.clear()
    errors, took = _at_once(lambda number: identity.resolve(_subject("objectSid", sids[number])))
    report.add("concurrent_cold_errors", errors, "errors", "<= 0", PEOPLE)
    report.add("concurrent_cold_s", took, "s", n=PEOPLE)
    report.add("concurrent_cold_lookups_each", len(trips) / PEOPLE, "lookups", "<= 1", PEOPLE)
    trips.clear()
    fresh = Identity({"corp": directory}, Roles({}), keeping={"corp": KEEPING})
    errors, _ = _at_once(lambda number: fresh.resolve(_subject("objectSid", sids[0])))
    report.add("concurrent_same_caller_lookups", len(trips), "lookups", "<= 1", PEOPLE)
    cached = []
    subject = _subject("objectSid", sids[0])
    fresh.resolve(subject)
    for _ in range(20_000):
        started = time.perf_counter()
        fresh.resolve(subject)
        cached.append((time.perf_counter() - started) * 1e6)
    report.add("resolve_cached_p50_us", statistics.median(cached), "us", "<= 20", len(cached))

    def sid(dn: str) -> str:
        return sid_text(domain.raw(dn, "objectSid")["objectSid"][0])

    def person(trial: int, change: str) -> tuple[str, Principal, Callable[[], None]]:
        user = domain.user(unit, f"r{trial}-{change}")
        inner = domain.group(unit, f"ri{trial}-{change}", [user])
        outer = domain.group(unit, f"ro{trial}-{change}", [inner])
        act = {
            "leave": lambda: domain.set_members(inner, remove=[user]),
            "nested": lambda: domain.set_members(outer, remove=[inner]),
            "disable": lambda: domain.disable(user),
            "delete": lambda: domain.delete(user),
        }
        return sid(user), Principal(Realm("ad"), sid(outer)), act[change]

    revocation(report, directory, "active_directory", "objectSid", person)


def ldap(report: Report, server: slapd.Slapd, folder: Path) -> None:
    """A few accounts in nested groups."""
    unit = server.unit("bench")
    directory = Ldap(
        "unix",
        _access(folder, server.ca, slapd.READER, slapd.PASSWORD, "127.0.0.1", server.ldaps),
        base=slapd.SUFFIX,
    )
    users = [server.user(unit, f"p{number}") for number in range(100)]
    lower = [server.group(unit, f"l{number}", *users[number * 10 : number * 10 + 10]) for number in range(10)]
    server.group(unit, "upper", *lower)
    uuids = [server.uuid(dn) for dn in users]
    directory.resolve("entryUUID", uuids[0])
    cold = [_timed(lambda one=one: directory.resolve("entryUUID", one)) * 1e3 for one in uuids]  # type: ignore[misc]
    report.add("ldap_resolve_cold_p50_ms", statistics.median(cold), "ms", n=len(cold))

    def person(trial: int, change: str) -> tuple[str, Principal, Callable[[], None]]:
        user = server.user(unit, f"r{trial}-{change}")
        inner = server.group(unit, f"ri{trial}-{change}", user, slapd.ADMIN)
        outer = server.group(unit, f"ro{trial}-{change}", inner, slapd.ADMIN)
        act = {
            "leave": lambda: server.change(inner, "member", remove=user),
            "nested": lambda: server.change(outer, "member", remove=inner),
            "disable": lambda: server.change(user, "pwdAccountLockedTime", replace="000001010000Z"),
            "delete": lambda: server.delete(user),
        }
        return server.uuid(user), Principal(Realm("ldap:unix"), f"group-{server.uuid(outer)}"), act[change]

    revocation(report, directory, "ldap", "entryUUID", person)


def revocation(
    report: Report,
    directory: Watched,
    name: str,
    attribute: str,
    person: Callable[[int, str], tuple[str, Principal, Callable[[], None]]],
) -> None:
    """Four changes, five times each, at moments that do not depend on when the directory is polled."""
    chance = random.Random(SEED)
    identity = Identity({"corp": directory}, Roles({}), keeping={"corp": KEEPING})
    identity.start()
    every = []
    for change in ("leave", "nested", "disable", "delete"):
        times = []
        for trial in range(TRIALS):
            value, group, act = person(trial, change)
            subject = _subject(attribute, value)
            time.sleep(KEEPING.poll_every.total_seconds() * (1 + chance.random()))
            assert group in identity.resolve(subject).caller.principals
            act()
            started = time.perf_counter()
            while _holds(identity, subject, group):
                time.sleep(0.02)
            times.append(time.perf_counter() - started)
        every += times
        report.add(f"revocation_max_s_{name}_{change}", max(times), "s", n=len(times))
    identity.close()
    bound = KEEPING.keep_for.total_seconds()
    report.add(f"revocation_p50_s_{name}", statistics.median(every), "s", n=len(every))
    report.add(f"revocation_p95_s_{name}", _share(every, 0.95), "s", f"<= {bound:.0f}", len(every))
    report.add(f"revocation_max_s_{name}", max(every), "s", f"<= {bound:.0f}", len(every))


def _holds(identity: Identity, subject: Subject, group: Principal) -> bool:
    try:
        return group in identity.resolve(subject).caller.principals
    except UnauthenticatedError:
        return False


def _at_once(work: Callable[[int], object]) -> tuple[int, float]:
    """Run it for everybody in a thread each. Return how many failed, and the seconds that all took together."""

    def failed(number: int) -> bool:
        try:
            work(number)
        except Exception:  # noqa: BLE001  counted, whatever it is
            return True
        return False

    started = time.perf_counter()
    with ThreadPoolExecutor(PEOPLE) as pool:
        errors = sum(pool.map(failed, range(PEOPLE)))
    return errors, time.perf_counter() - started


def _count_reads(directory: ActiveDirectory) -> list[str]:
    """A list that grows with each question to the server."""
    asked: list[str] = []
    read = directory._client.read

    def counted(dn: str, attributes: Sequence[str], **options: object) -> object:
        asked.append(dn)
        return read(dn, attributes, **options)  # type: ignore[arg-type]

    directory._client.read = counted  # type: ignore[method-assign,assignment]
    return asked


def _access(folder: Path, ca: Path, bind: str, password: str, host: str, port: int) -> LdapAccess:
    file = folder / f"password-{port}"
    file.touch(0o600)
    file.write_text(password)
    return LdapAccess((Endpoint(host, port, False),), ca, bind, FileSecret(file))


def _subject(attribute: str, value: str) -> Subject:
    return Subject("https://i", value, "corp", attribute, value, datetime.now(UTC) + timedelta(hours=1), "t")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _share(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    main()
