"""Settings that take the place of others while the service runs: all or none of them, and on record before."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import cast

import pytest
from remit.client import AdminClient
from remit.v1 import source_pb2

from connectors.base import Connector
from connectors.testing.hostile import MemorySource
from service.audit.record import Record
from service.configuration import Configuration
from service.errors import AuditUnavailableError, NotFoundError, StartError
from service.settings import Settings, SettingsError, SourceSettings, load
from service.telemetry import logging_to
from tests.service.harness import COMPANY, PEOPLE, SALES, Service, allow, serving
from tests.service.test_settings import GOOD

TWO = GOOD + "  - {name: second, kind: feed, path: ./feed.jsonl, every: 1h}\n"


class World:
    """A configuration over a file, with everything that it tells others."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "remit.yaml"
        self.file.write_text(GOOD)
        self.made: list[str] = []
        self.wrong: dict[str, str] = {}
        self.registered: list[str] = []
        self.records: list[dict[str, object]] = []
        self.told: list[Settings] = []
        self.refuse: Exception | None = None
        self.configuration = Configuration(load(self.file), self.make)
        self.configuration.follow(self.register, self.record, self.tell)
        self.first = self.configuration.settings

    def make(self, one: SourceSettings, base: Path) -> Connector:
        self.made.append(one.name)
        if one.name in self.wrong:
            raise SettingsError(self.wrong[one.name])
        return cast(Connector, MemorySource())

    def register(self, name: str, kind: str) -> None:
        self.registered.append(name)
        if isinstance(self.refuse, StartError):
            raise self.refuse

    def record(self, record: Record) -> None:
        if self.refuse is not None:
            raise self.refuse
        assert len(self.told) == len(self.records), "the record is durable before anything is in force"
        self.records.append(json.loads(record.body))

    def tell(self, settings: Settings) -> None:
        self.told.append(settings)

    def nothing_happened(self) -> bool:
        """Whether the first settings are in force, for everybody."""
        return self.configuration.settings is self.first and self.told == [] and self.records == []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_can_change_comes_into_force_as_a_whole_and_on_record(world: World) -> None:
    """A new source, another schedule, other roles and another limit; both digests and what differs are recorded."""
    text = TWO.replace("max_permissions_age: 12h", "max_permissions_age: 12h\n    every: 1h")
    text = text.replace("group:operators", "group:chiefs") + "limits: {max_document_mb: 5}\n"
    world.file.write_text(text)

    result = world.configuration.reload()

    assert result.problems == ()
    assert result.changed == ("limits", "roles", "sources.company", "sources.second")
    assert world.records == [
        {
            "event": "settings_changed",
            "before_sha256": sha256(GOOD.encode()).hexdigest(),
            "after_sha256": sha256(text.encode()).hexdigest(),
            "changed": list(result.changed),
        }
    ]
    (told,) = world.told
    assert world.configuration.settings is told
    assert told.sources[0].schedule is not None
    assert told.limits.max_document_bytes == 5 * 2**20
    assert world.registered == ["company", "second"]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("data: ./data", "data: ./elsewhere", "data"),
        ("127.0.0.1:7420", "127.0.0.1:7430", "listen"),
        ("./keys/remit.kek", "./keys/other.kek", "keys"),
        ("audience: remit", "audience: others", "issuers"),
        ("path: ./people.yaml", "path: ./others.yaml", "directories"),
        ("embedding: {kind: model}", "embedding: {kind: hash}", "embedding"),
        ("embedding: {kind: model}", "embedding: {kind: model}\nindex: {candidates: 50}", "index"),
        ("embedding: {kind: model}", "embedding: {kind: model}\naudit: {query_text: none}", "audit"),
    ],
)
def test_what_cannot_change_is_named_and_nothing_changes(world: World, old: str, new: str, key: str) -> None:
    """Also the source and the role beside it, which could: never half. Without it they are in force."""
    other = TWO.replace("group:operators", "group:chiefs")
    assert old in other
    world.file.write_text(other.replace(old, new))

    result = world.configuration.reload()

    assert len(result.problems) == 1
    assert f"`{key}` differs and cannot change while the service runs" in result.problems[0]
    assert world.nothing_happened()
    world.file.write_text(other)
    assert world.configuration.reload().problems == ()


def test_settings_with_mistakes_leave_the_former_ones_in_force(world: World) -> None:
    """Every mistake is said, with its place; so is a file that is gone."""
    world.file.write_text(TWO.replace("{kind: model}", "{kind: magic}").replace("every: 1h", "every: often"))
    wrong = world.configuration.reload()
    world.file.unlink()
    gone = world.configuration.reload()

    assert [problem.partition("remit.yaml:")[2].split(":")[0] for problem in wrong.problems] == ["20", "28"]
    assert "does not exist" in gone.problems[0]
    assert world.nothing_happened()


def test_a_source_that_cannot_be_made_refuses_all(world: World) -> None:
    """Wrong options of a new source, and a name whose kind is another now; the unchanged one is not made again."""
    world.file.write_text(TWO)
    world.wrong["second"] = "remit.yaml:28: sources[1].path: it is no path"
    refused = world.configuration.reload()
    world.file.write_text(GOOD.replace("kind: filesystem", "kind: feed"))
    other_kind = world.configuration.reload()

    assert refused.problems == ("remit.yaml:28: sources[1].path: it is no path",)
    assert "`company` is of kind `filesystem`: give it a new name" in other_kind.problems[0]
    assert world.made == ["second"]
    assert world.nothing_happened()


def test_what_else_is_wrong_with_settings_refuses_them(world: World) -> None:
    """Such as a lease that is shorter than its pass takes, as it was measured; without it they are in force."""
    world.file.write_text(TWO)
    wrong = ["remit.yaml:26: sources[0].max_permissions_age: `60s` is shorter than twice the 40s that the pass took"]
    world.configuration.follow(world.register, world.record, refuse=lambda settings: wrong)

    result = world.configuration.reload()

    assert result.problems == tuple(wrong)
    assert world.nothing_happened()
    wrong.clear()
    assert world.configuration.reload().problems == ()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (AuditUnavailableError("the disk is full"), "it cannot be written down"),
        (StartError("source `second` is stored as one of kind `sql`"), "stored as one of kind `sql`"),
    ],
)
def test_what_cannot_be_recorded_or_registered_is_not_in_force(world: World, error: Exception, says: str) -> None:
    """Nothing widens without a record; when it can be written, the same file is accepted."""
    world.file.write_text(TWO)
    world.refuse = error

    result = world.configuration.reload()

    assert says in result.problems[0]
    assert world.nothing_happened()
    world.refuse = None
    assert world.configuration.reload().problems == ()


def test_a_reload_of_the_same_settings_is_recorded_and_changes_nothing(world: World) -> None:
    """A comment is another file: its digest is on record, and nothing differs."""
    world.file.write_text(GOOD + "# a comment\n")

    result = world.configuration.reload()

    assert (result.changed, result.problems) == ((), ())
    assert world.records[0]["after_sha256"] == result.after != result.before


def test_a_refusal_is_said_loudly(world: World) -> None:
    """SIGHUP has nobody to answer to: the log says at level error that the former settings are in force."""
    stream = io.StringIO()
    world.file.write_text("version: 2\n")

    with logging_to(stream):
        world.configuration.reload()

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[-1]["event"] == "settings_refused"
    assert lines[-1]["level"] == "error"


def test_a_source_that_is_gone_is_not_connected_to(world: World) -> None:
    """Also by who asked for it before; the one that stays is."""
    world.file.write_text(TWO)
    world.configuration.reload()
    world.configuration.connect("second")
    world.file.write_text(GOOD)
    world.configuration.reload()

    with pytest.raises(NotFoundError):
        world.configuration.connect("second")
    world.configuration.connect("company")


# --- in a whole service ---


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with one document for Sales."""
    async with serving(tmp_path / "remit") as running:
        running.add("plan", "the plan of sales", allow(SALES))
        running.sync()
        yield running


def edit(service: Service, change: Callable[[str], str]) -> None:
    """Edit `remit.yaml`."""
    file = service.folder / "remit.yaml"
    file.write_text(change(file.read_text()))


async def reload(service: Service, person: str = "olga") -> source_pb2.ReloadSettingsResponse:
    """Have an operator reload the settings."""
    outcome = await service.call("SourceService/ReloadSettings", token=service.token(person))
    assert outcome.code == "OK", outcome
    return source_pb2.ReloadSettingsResponse.FromString(outcome.message)


async def hits(service: Service, person: str) -> int:
    """How much somebody finds."""
    async with service.client(person) as client:
        return len((await client.search("plan")).hits)


async def test_a_source_that_is_taken_out_is_withheld_on_the_next_query(service: Service) -> None:
    """And back with it, without reading it again: what is stored is as fresh as it is."""
    assert await hits(service, "alice") == 1
    source = f"sources:\n  - name: {COMPANY}\n    kind: memory\n    max_permissions_age: 24h\n"
    edit(service, lambda text: text.replace(source, "sources: []\n"))

    taken_out = await reload(service)

    assert taken_out.in_force, taken_out.problems
    assert list(taken_out.changed) == [f"sources.{COMPANY}"]
    assert await hits(service, "alice") == 0
    edit(service, lambda text: text.replace("sources: []\n", source))
    assert (await reload(service)).in_force
    assert await hits(service, "alice") == 1


async def test_a_shorter_limit_of_age_withholds_at_once(service: Service) -> None:
    """What was verified two hours ago is too old for a limit of one, and was not for one of 24."""
    service.clock.advance(timedelta(hours=2))
    assert await hits(service, "alice") == 1
    edit(service, lambda text: text.replace("max_permissions_age: 24h", "max_permissions_age: 1h"))

    await reload(service)

    assert await hits(service, "alice") == 0


async def test_roles_are_in_force_on_the_next_call(service: Service) -> None:
    """Who was made an operator is one, and who was one is none, although their groups were answered a moment ago."""
    assert (await service.call("SourceService/ListSources", token=service.token("alice"))).code == "PERMISSION_DENIED"
    edit(service, lambda text: text.replace("operator: [group:operators]", "operator: [group:sales]"))

    await reload(service)

    assert (await service.call("SourceService/ListSources", token=service.token("alice"))).code == "OK"
    assert (await service.call("SourceService/ListSources", token=service.token("olga"))).code == "PERMISSION_DENIED"


async def test_a_refused_reload_answers_with_every_problem_and_keeps_everything(service: Service) -> None:
    """The operator gets the sentences; roles and sources are as before."""
    edit(service, lambda text: text.replace("operator: [group:operators]", "operator: [group:nobody]"))
    edit(service, lambda text: text.replace("embedding: {kind: hash}", "embedding: {kind: magic}"))

    answer = await reload(service)

    assert not answer.in_force
    assert "embedding.kind: expected `model` or `hash`" in answer.problems[0]
    assert (await service.call("SourceService/ListSources", token=service.token("olga"))).code == "OK"


async def test_the_audit_log_has_both_digests_and_who_asked(service: Service) -> None:
    """The record of the change, and that of the call with its caller."""
    before = sha256((service.folder / "remit.yaml").read_bytes()).hexdigest()
    edit(service, lambda text: text + "# a comment\n")

    with AdminClient(str(service.administrators), token=service.token("olga"), insecure_loopback=True) as admin:
        answer = await asyncio.to_thread(admin.reload_settings)

    bodies = [one["body"] for one in service.records()]
    (change,) = [body for body in bodies if body.get("event") == "settings_changed"]
    (call,) = [body for body in bodies if body.get("rpc", "").endswith("/ReloadSettings")]
    assert (change["before_sha256"], answer.before_sha256.hex()) == (before, before)
    assert change["after_sha256"] == answer.after_sha256.hex() != before
    assert call["actor"]["account"] == "u-1003"
    assert PEOPLE.index("u-1003") > 0
