"""The demo as a newcomer runs it. It checks its own claims; here is checked that it does, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from service.demo.layout import LayoutError, lay_out
from tests.support.needs import need

TIMEOUT_S = 240.0
PARTS = (
    "Files, a server, a sync",
    "One question, two people",
    "The rules are the file system's own",
    "What you may not see does not exist",
    "Taken away is gone on the next question",
    "Nothing left unrecorded",
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for everything the demo writes, on a file system that has access control lists."""
    try:
        lay_out().remove()
    except LayoutError as err:
        need(False, f"the demo cannot run here: {err}")
    yield tmp_path
    for process in _left(tmp_path):
        process.kill()


# Where the tests themselves run in the background, the shell has switched Ctrl-C off for all that they start.
_STOPPABLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("service.demo", run_name="__main__", alter_sys=True)
"""


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo as a child, its output in a pipe, in a session of its own like a shell's job."""
    environment = {**os.environ, "TMPDIR": str(folder), "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-c", _STOPPABLE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def _left(folder: Path) -> list[psutil.Process]:
    """The processes that run with something in `folder`: the server, and what the server started."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if str(folder) in words or process.environ().get("TMPDIR", "").startswith(str(folder)):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does. Fails after a long time, never early."""
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_demo_holds_every_claim(folder: Path) -> None:
    """The demo runs through all its parts, plain and narrow into a pipe, and leaves no process and no file."""
    demo = _start(folder)

    out, err = demo.communicate(timeout=TIMEOUT_S)

    assert (demo.returncode, err) == (0, ""), out + err
    places = [out.find(part) for part in PARTS]
    assert -1 not in places
    assert places == sorted(places)
    assert re.search(r"All \d\d claims held, in \d+ seconds\.", out)
    assert "bob › fin-emea › finance" in out
    assert re.search(r"hidden and absent are one answer", out)
    assert re.search(r"gone on the next question: \d+ ms", out)
    assert re.search(r"the verifier finds it: record \d+", out)
    assert "\x1b" not in out
    assert max(len(line) for line in out.splitlines()) <= 100
    assert _left(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_stopped_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    """Ctrl-C, or a polite kill, while the server runs ends server and children and removes the files."""
    demo = _start(folder)
    _until(lambda: len(_left(folder)) >= 4, "the demo did not start a server with its children")

    demo.send_signal(number)
    out, err = demo.communicate(timeout=TIMEOUT_S)

    assert demo.returncode == 130, out + err
    assert "Traceback" not in err
    _until(lambda: _left(folder) == [], "something still runs")
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_demo_leaves_nothing_running(folder: Path) -> None:
    """When the demo is killed without a chance to answer, its server ends by itself."""
    demo = _start(folder)
    _until(lambda: len(_left(folder)) >= 4, "the demo did not start a server with its children")

    demo.kill()
    demo.communicate(timeout=TIMEOUT_S)

    _until(lambda: _left(folder) == [], "the server outlived the demo")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kept_demo_can_be_used_and_stopped(folder: Path) -> None:
    """With --keep the server stays, the client that is printed works as it stands, and the line to stop it stops it."""
    demo = _start(folder, "--keep")
    # The server has the pipe's other end no more than anybody else: the output ends with the demo.
    out, err = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 0, out + err
    assert _left(folder) != []

    client = out[out.index("from subprocess import") :]
    stop = re.search(r"^ *(kill \d+ && .* rm -r .*)$", out, re.MULTILINE)
    answered = subprocess.run([sys.executable, "-c", client], capture_output=True, text=True, timeout=60, check=False)
    assert stop is not None
    subprocess.run(stop[1], shell=True, check=True, timeout=60)

    assert answered.returncode == 0, answered.stderr
    assert len(client.splitlines()) <= 10
    assert "Finance/EMEA/q3-2025-margin-review.pdf" in answered.stdout
    _until(lambda: _left(folder) == [], "the server did not stop")
    assert list(folder.iterdir()) == []
