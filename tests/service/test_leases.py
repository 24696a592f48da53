"""Leases: told of half-way, told of when they are over, and refused by the check when their pass takes too long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from service.errors import AuditUnavailableError
from service.settings import Settings, SourceSettings, load
from service.stores.records import PassClock, SyncPass
from service.sync import leases
from service.sync.leases import LeaseAlert, LeaseWatch
from service.sync.records import lease_record
from tests.service.sync_support import EPOCH, SOURCE, World, allow, open_world
from tests.service.test_settings import GOOD

HOUR = timedelta(hours=1)


def source(permissions: timedelta = 24 * HOUR, content: timedelta = 240 * HOUR) -> SourceSettings:
    """A source with these leases."""
    places = {"max_permissions_age": "remit.yaml:31: sources[0].max_permissions_age"}
    return SourceSettings(SOURCE, "memory", permissions, {}, max_content_age=content, places=places)


class Named:
    """Settings with one source."""

    def __init__(self, one: SourceSettings) -> None:
        self.sources = (one,)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        opened.add("a.txt", "text", allow(1))
        opened.sync()
        yield opened


def watch(world: World, told: list[LeaseAlert]) -> LeaseWatch:
    """A watch over the world's clock."""
    return LeaseWatch(world.catalog, lambda: cast(Settings, Named(source())), told.append, lambda: world.clock.time)


def test_each_lease_is_told_of_half_way_and_when_it_is_over_and_not_again(world: World) -> None:
    """Once for each renewal: the log has an event, the audit log a record."""
    told: list[LeaseAlert] = []
    looking = watch(world, told)
    with capture_logs() as logs:
        for hours in (0, 11, 12, 13, 24, 25, 26):
            world.clock.time = EPOCH + hours * HOUR + timedelta(seconds=5)
            looking.look()
    assert [(one.sync_pass, one.over) for one in told] == [
        (SyncPass.PERMISSIONS, False),
        (SyncPass.PERMISSIONS, True),
    ]
    assert [one["event"] for one in logs] == ["lease_half_over", "lease_over"]
    assert b'"event":"lease_over"' in lease_record(told[1]).body

    world.sync(SyncPass.PERMISSIONS)
    looking.look()
    world.clock.time += 13 * HOUR
    looking.look()
    assert [one.over for one in told[2:]] == [False]


def test_what_could_not_be_recorded_is_told_again(world: World) -> None:
    """An alert that has no record was not told."""
    told: list[LeaseAlert] = []
    broken = True

    def tell(alert: LeaseAlert) -> None:
        if broken:
            raise AuditUnavailableError("the disk is full")
        told.append(alert)

    looking = LeaseWatch(world.catalog, lambda: cast(Settings, Named(source())), tell, lambda: world.clock.time)
    world.clock.time += 13 * HOUR
    looking.look()
    broken = False
    looking.look()
    assert len(told) == 1


@pytest.mark.parametrize(
    ("took", "complaints"),
    [
        ({}, 0),
        ({SyncPass.CONTENT: 12 * HOUR}, 0),
        ({SyncPass.CONTENT: 13 * HOUR}, 1),
        ({SyncPass.CONTENT: 13 * HOUR, SyncPass.PERMISSIONS: HOUR}, 0),
        ({SyncPass.CONTENT: HOUR, SyncPass.PERMISSIONS: 13 * HOUR}, 1),
        ({SyncPass.CONTENT: 121 * HOUR, SyncPass.PERMISSIONS: HOUR}, 1),
    ],
    ids=str,
)
def test_a_lease_shorter_than_twice_its_pass_is_a_mistake(took: dict[SyncPass, timedelta], complaints: int) -> None:
    """Permissions are renewed by the shorter pass, if it was ever run; what was not measured is not complained of."""
    clocks = {SOURCE: {one: PassClock(EPOCH, duration) for one, duration in took.items()}}
    found = leases.too_short([source()], clocks)
    assert len(found) == complaints
    if complaints and SyncPass.PERMISSIONS not in took:
        assert found[0].startswith("remit.yaml:31: sources[0].max_permissions_age: ")
        assert "at least `93600s`" in found[0]


def test_measured_durations_are_read_beside_a_running_service(world: World, tmp_path: Path) -> None:
    """`remit config check` reads them from the catalog's file, and nothing where there is none yet."""
    with world.catalog.reader() as reader:
        clocks = reader.clocks()
    assert leases.measured(world.folder.catalog) == clocks
    assert clocks[SOURCE][SyncPass.CONTENT].took > timedelta(0)
    assert leases.measured(tmp_path / "none.sqlite") == {}


def test_the_settings_name_both_leases_and_both_shares(tmp_path: Path) -> None:
    """With defaults that hold something back."""
    path = tmp_path / "remit.yaml"
    path.write_text(GOOD)
    one = load(path).sources[0]
    shares = (one.max_widening, one.max_joining, one.max_purge)
    assert (one.max_content_age, shares) == (timedelta(days=30), (0.2, 0.2, 0.2))
    for given, wanted in (("max_widening: 0.5", 0.5), ("max_widening: 0.1\n    max_joining: 1", 1.0)):
        path.write_text(GOOD.replace("    kind: ", f"    {given}\n    kind: ", 1))
        assert load(path).sources[0].max_joining == wanted, "as rules, unless it is set"
