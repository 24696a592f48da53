"""Removing a source: withheld at once, purged to its end whatever happens on the way, its name free and empty."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from remit.v1 import source_pb2
from sqlalchemy import func, select

from connectors.base import Connector
from connectors.media_types import UNKNOWN
from service.audit.record import Record
from service.configuration import Configuration
from service.errors import NotFoundError
from service.settings import load
from service.stores import schema
from service.stores.errors import FencedError
from service.stores.records import Removal, RunState
from service.sync.removal import Removals
from tests.service.harness import COMPANY, SALES, Service, serving
from tests.service.harness import allow as allow_principal
from tests.service.sync_support import SOURCE, World, allow, open_world
from tests.service.test_settings import GOOD

# Whatever names a source, today's tables and tomorrow's: all but the sources themselves, and what tells an index to
# forget.
TABLES = [
    schema.chunks,
    *(one for one in schema.metadata.sorted_tables if "source" in one.c and one.name not in ("sources", "changes")),
]
OTHERS = GOOD.replace("name: company", "name: others")


class Crash(BaseException):
    """The process is gone."""


class Removed:
    """A world with a source of 25 documents, and what removes it."""

    def __init__(self, world: World, file: Path) -> None:
        self.world = world
        self.records: list[dict[str, object]] = []
        self.configuration = Configuration(load(file), lambda one, base: cast(Connector, world.source))
        self.configuration.withhold(world.catalog.removals())
        self.removals = Removals(world.catalog, self.configuration, self.record, lambda: None, batch=10)

    def record(self, record: Record) -> None:
        self.records.append(json.loads(record.body))

    def left(self) -> dict[str, int]:
        """How much of the source is in each table, and how many keys."""
        with self.world.catalog._readers.begin() as connection:
            rows = {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES}
        return rows | {"keys": len(self.world.keys.documents(SOURCE)), "own": SOURCE in self.world.keys._source_keys}


@contextmanager
def opened(folder: Path, settings: str = GOOD) -> Iterator[Removed]:
    """Open the world again, or for the first time."""
    folder.mkdir(exist_ok=True)
    file = folder / "remit.yaml"
    file.write_text(settings)
    with open_world(folder / "world") as world:
        yield Removed(world, file)


def fill(world: World) -> None:
    """25 documents of two people, one of them without text."""
    for number in range(24):
        world.add(f"{number}.txt", f"text {number}", allow(1, 2))
    world.add("image.png", "no text", allow(1), media_type=UNKNOWN)
    world.sync()


EMPTY = {**{table.name: 0 for table in TABLES}, "keys": 0, "own": False}


def test_a_removed_source_is_purged_with_its_keys_and_on_record(tmp_path: Path) -> None:
    """Nothing of it is left in any table or in the key store; both records say how much there was."""
    with opened(tmp_path) as removed:
        fill(removed.world)
        assert set(removed.world.readable(1)) > {"0.txt", "23.txt"}

        removed.removals.remove(SOURCE)
        removed.removals.settle()

        assert removed.left() == EMPTY
        assert removed.world.readable(1) == {}
        assert removed.records == [
            {"event": "source_removed", "source": SOURCE, "documents": 24},
            {"event": "source_purged", "source": SOURCE, "documents": 25},
        ]
        assert removed.world.catalog.removals() == {SOURCE: Removal.PURGED}


def test_from_the_mark_on_nothing_of_the_source_is_read_or_written(tmp_path: Path) -> None:
    """Before a single document is purged: it is out of the settings in force, and a run from before may not write."""
    with opened(tmp_path) as removed:
        fill(removed.world)
        run = removed.world.engine.open(SOURCE)

        removed.removals.remove(SOURCE)

        assert removed.left()["documents"] == 25
        assert removed.configuration.settings.sources == ()
        with pytest.raises(NotFoundError):
            removed.configuration.connect(SOURCE)
        assert run.execute().state is RunState.FAILED
        with pytest.raises(FencedError), removed.world.catalog.writer(SOURCE, run._opening.fence):
            pass
        removed.removals.settle()
        assert removed.left() == EMPTY


def test_removing_twice_is_once_and_what_never_was_is_not_found(tmp_path: Path) -> None:
    """One record of the removal; the name of nothing removes nothing."""
    with opened(tmp_path) as removed:
        fill(removed.world)

        with pytest.raises(NotFoundError):
            removed.removals.remove("nothing")
        removed.removals.remove(SOURCE)
        removed.removals.remove(SOURCE)

        assert len(removed.records) == 1


def test_a_crash_at_every_commit_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash at commit number n, for every n: withheld when it is opened again, and purged to the end.

    Opening again reads everything that is left, as the service does when it starts.
    """
    crashes = 0
    for number in range(100):
        folder = tmp_path / str(number)
        with opened(folder) as removed:
            fill(removed.world)
            removed.removals.remove(SOURCE)
            crashed = _crash_at(removed, number, monkeypatch)
        if not crashed:
            break
        crashes += 1
        with opened(folder) as again:
            assert again.configuration.settings.sources == ()
            with again.world.catalog.reader() as reader:
                reader.changes_since(0)
                reader.sources()
                reader.text_feed(0, 1000)
            again.removals.settle()
            assert again.left() == EMPTY, number

    assert crashes >= 8, "the control: there were commits to crash at"


def _crash_at(removed: Removed, number: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Purge, and crash before commit `number` of catalog and key store together."""
    left = [number]

    def counted(real: object) -> object:
        @contextmanager
        def write(*args: object) -> Iterator[object]:
            with real(*args) as connection:  # type: ignore[operator]  # the store's own method
                yield connection
                left[0] -= 1
                if left[0] < 0:
                    raise Crash

        return write

    with monkeypatch.context() as patched:
        patched.setattr(removed.world.catalog, "_write", counted(removed.world.catalog._write))
        patched.setattr(removed.world.keys, "write", counted(removed.world.keys.write))
        try:
            removed.removals.settle()
        except Crash:
            return True
    return False


def test_kill_minus_nine_in_the_middle_goes_on(tmp_path: Path) -> None:
    """A process that is killed while it purges leaves something, and the next one takes it to the end."""
    with opened(tmp_path) as removed:
        fill(removed.world)
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.service.sync_support import SOURCE\n"
        "from tests.service.test_removal import opened\n"
        "with opened(Path(sys.argv[1])) as removed:\n"
        "    def committed() -> None:\n"
        "        print('committed', flush=True)\n"
        "        time.sleep(60)\n"
        "    removed.removals._on_commit = committed\n"
        "    removed.removals.remove(SOURCE)\n"
        "    removed.removals.settle()\n"
    )
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
        cwd=root,
    )
    assert child.stdout is not None
    assert any(line.strip() == b"committed" for line in child.stdout)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)

    with opened(tmp_path) as again:
        assert 0 < again.left()["documents"] < 25
        assert again.configuration.settings.sources == ()
        again.removals.settle()
        assert again.left() == EMPTY


def test_closing_ends_after_a_batch_and_the_next_start_goes_on(tmp_path: Path) -> None:
    """A service that ends does not wait for a million documents."""
    with opened(tmp_path) as removed:
        fill(removed.world)
        removed.removals.remove(SOURCE)
        removed.removals._on_commit = removed.removals.close
        removed.removals.settle()
        assert removed.left()["documents"] == 15

    with opened(tmp_path) as again:
        purged = threading.Event()
        again.removals._record = lambda record: purged.set()
        again.removals.start()
        assert purged.wait(60), "the thread goes on by itself"
        again.removals.close()
        assert again.left() == EMPTY


def test_the_name_is_free_once_the_settings_do_not_name_it_and_shows_nothing_of_the_old(tmp_path: Path) -> None:
    """Until then it stays removed, across restarts; then a source of another kind has it, with its own content."""
    with opened(tmp_path) as removed:
        fill(removed.world)
        removed.removals.remove(SOURCE)
        removed.removals.settle()
    with opened(tmp_path) as still_named:
        still_named.removals.settle()
        assert still_named.configuration.settings.sources == ()
        assert still_named.world.catalog.removals() == {SOURCE: Removal.PURGED}

    with opened(tmp_path, OTHERS) as taken_out:
        taken_out.removals.settle()
        assert taken_out.world.catalog.removals() == {}
        world = taken_out.world
        world.catalog.add_source(SOURCE, "another kind")
        world.source.documents.clear()
        world.add("new.txt", "new text", allow(2))
        assert world.sync().counts.stored == 1
        assert world.readable(1) == {}
        assert set(world.readable(2)) == {"new.txt"}
        with world.catalog.reader() as reader:
            assert len(reader.runs(SOURCE, 100)) == 1


def test_a_name_cannot_come_back_while_it_is_being_purged(tmp_path: Path) -> None:
    """Taken out and put in again before all is gone: refused with its place; once all is gone, accepted."""
    with opened(tmp_path) as removed:
        fill(removed.world)
        file = tmp_path / "remit.yaml"
        removed.removals.remove(SOURCE)
        file.write_text(OTHERS)
        assert removed.configuration.reload().problems == ()
        file.write_text(GOOD)

        refused = removed.configuration.reload()

        assert "was removed and is still being purged" in refused.problems[0]
        assert "remit.yaml:" in refused.problems[0]
        removed.removals.settle()
        assert removed.configuration.reload().problems == ()
        assert [one.name for one in removed.configuration.settings.sources] == [SOURCE]


# --- in a whole service ---


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with one document for Sales."""
    async with serving(tmp_path / "remit") as running:
        running.add("plan", "the plan of sales", allow_principal(SALES))
        running.sync()
        yield running


async def test_a_removed_source_is_gone_on_the_next_query(service: Service) -> None:
    """Before anything is purged: no hit, no document by its id, no run; and the calls are on record."""
    document = service.document_ids()["plan"]

    async def hits() -> int:
        async with service.client("alice") as client:
            return len((await client.search("plan")).hits)

    assert await hits() == 1
    request = source_pb2.RemoveSourceRequest(name=COMPANY)
    outcome = await service.call("SourceService/RemoveSource", request, token=service.token("olga"))
    answer = source_pb2.RemoveSourceResponse.FromString(outcome.message)

    assert answer.source.removal == source_pb2.REMOVAL_STATE_PURGING
    assert answer.source.documents == 1
    assert await hits() == 0
    async with service.client("alice") as client:
        with pytest.raises(Exception, match="does not exist"):
            await client.get_document(document)
    bodies = [one["body"] for one in service.records()]
    assert [body["documents"] for body in bodies if body.get("event") == "source_removed"] == [1]
    assert [body["target"] for body in bodies if str(body.get("rpc", "")).endswith("/RemoveSource")] == [COMPANY]
