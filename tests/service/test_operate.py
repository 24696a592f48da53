"""A served folder as an operator lives with it: read by itself, early after a change, reloaded, and removed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.service.test_cli import ENVIRONMENT, Running, lay_out

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SOON_S = 60.0


@dataclass(frozen=True)
class Served(Running):
    """A running service with its process."""

    process: subprocess.Popen[bytes]

    def hits(self, person: str) -> set[str]:
        """What somebody finds."""
        found = self.json("search", "lighthouse", "--as", person)
        assert isinstance(found, dict)
        return {hit["chunk"]["document"]["location"] for hit in found["hits"]}

    def logged(self, event: str) -> list[dict[str, object]]:
        """What the service's log has of one kind."""
        lines = [line for line in (self.folder / "log").read_text().splitlines() if line.startswith("{")]
        return [one for one in map(json.loads, lines) if one["event"] == event]

    def edit(self, old: str, new: str) -> None:
        """Edit `remit.yaml`."""
        text = (self.folder / "remit.yaml").read_text()
        assert old in text
        (self.folder / "remit.yaml").write_text(text.replace(old, new))


def until(met: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + SOON_S
    while not met():
        assert time.monotonic() < ends, what
        time.sleep(0.1)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A folder that is read once an hour, and that nobody told to be read."""
    lay_out(tmp_path)
    settings = tmp_path / "remit.yaml"
    text = settings.read_text()
    with socket.socket() as one, socket.socket() as other:
        for name, taken in (("callers", one), ("administrators", other)):
            taken.bind(("127.0.0.1", 0))
            text = text.replace(f"{name}: 127.0.0.1:0", f"{name}: 127.0.0.1:{taken.getsockname()[1]}")
    settings.write_text(text.replace("ancestors_above_root: trust}", "ancestors_above_root: trust, every: 1h}"))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--json"],
            cwd=tmp_path,
            env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), (tmp_path / "log").read_text()
        yield Served(tmp_path, process)
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0, (tmp_path / "log").read_text()
        process.stdout.close()


def test_a_day_with_a_source(served: Served) -> None:
    """Read by schedule; a revocation noticed within seconds although the next run is an hour away; reloaded by SIGHUP
    and by command; removed on the next query and purged.
    """
    # By schedule: nobody has started a run.
    until(lambda: len(served.logged("sync_finished")) > 0, "the schedule starts the first run")
    until(lambda: len(served.logged("source_watched")) > 0, "the folder is watched")
    assert served.hits("bob") == {"news.txt"}

    # A change of rules is noticed, and a run verifies it.
    (served.folder / "company/news.txt").chmod(0o600)
    until(lambda: served.hits("bob") == set(), "what was closed is closed long before the next hour")
    (served.folder / "company/news.txt").chmod(0o644)
    until(lambda: served.hits("bob") == {"news.txt"}, "what was opened is opened by a run, too")

    # A mistake changes nothing, and says so; what is right is in force without a restart.
    served.edit("every: 1h", "every: soon")
    assert served.run("config", "check").returncode == 2
    served.process.send_signal(signal.SIGHUP)
    until(lambda: len(served.logged("settings_refused")) == 1, "the mistake is said")
    served.edit("every: soon", "every: 30m")
    assert served.hits("bob") == {"news.txt"}
    served.process.send_signal(signal.SIGHUP)
    until(lambda: len(served.logged("settings_changed")) == 1, "it is in force")
    again = served.json("config", "reload", "--as", "alice")
    assert isinstance(again, dict)
    assert (again["in_force"], again["changed"]) == (True, [])

    # Removed: nothing is found by anybody, and everything goes.
    gone = served.run("source", "remove", "company", "--yes", "--wait", "--as", "alice")
    assert gone.returncode == 0, gone.stderr
    assert served.hits("alice") == set()
    assert len(served.logged("source_purged")) == 1
    assert served.run("source", "sync", "company", "--as", "alice").returncode == 1
    text = (served.folder / "remit.yaml").read_text()
    (served.folder / "remit.yaml").write_text(text[: text.rindex("\nsources:")] + "\nsources: []\n")
    assert served.run("config", "reload", "--as", "alice").returncode == 0
    assert served.json("source", "list", "--as", "alice") == []
