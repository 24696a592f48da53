"""Child processes: whatever a child does, the parent gets an error in time and the next call works."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.process import Child, ChildCrashedError, ChildRefusedError, ChildTimeoutError

MODULE = "tests.service.process_child"


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child(MODULE, name="test", call_timeout_s=60)
    yield child
    child.close()


def wait_for_end(pid: int) -> None:
    """Wait until the process is gone; fails after 30 s."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended, _, _ = select.select([fd], [], [], 30)
        assert ended, "the process still runs"
    finally:
        os.close(fd)


def test_call_returns_what_the_child_answers(child: Child) -> None:
    """Parameters and blobs arrive unchanged, and the answer comes back."""
    result, blobs = child.call("echo", {"text": "grüße", "number": 1}, [b"", b"one", memoryview(b"two")])

    assert result == {"text": "grüße", "number": 1}
    assert blobs == [b"", b"one", b"two"]


def test_big_blobs_pass(child: Child) -> None:
    """Blobs far over the socket's buffer pass in both directions."""
    big = os.urandom(1 << 20) * 24

    _, blobs = child.call("echo", {}, [big, big])

    assert blobs == [big, big]


def test_answer_over_the_limit_is_a_crash() -> None:
    """A child cannot make the parent hold more than was agreed; within it, the same call works."""
    child = Child(MODULE, name="test", call_timeout_s=60, max_answer_bytes=100_000)
    try:
        with pytest.raises(ChildCrashedError, match="not a frame"):
            child.call("echo", {}, [bytes(200_000)])

        assert child.call("echo", {}, [bytes(50_000)])[1] == [bytes(50_000)]
    finally:
        child.close()


def test_refusal_leaves_the_child_running(child: Child) -> None:
    """An error that the child answers is told with its code, and the same process answers the next call."""
    before, _ = child.call("state", {})

    with pytest.raises(ChildRefusedError, match="not `this`") as caught:
        child.call("refuse", {"what": "this"})

    after, _ = child.call("state", {})
    assert caught.value.code == "no"
    assert before["pid"] == after["pid"]


def test_next_call_after_a_crash_works(child: Child) -> None:
    """A killed child is reported with its signal and replaced at the next call."""
    with pytest.raises(ChildCrashedError, match="SIGKILL") as caught:
        child.call("crash", {"signal": signal.SIGKILL})

    assert caught.value.returncode == -signal.SIGKILL
    assert not child.alive
    assert child.call("echo", {"a": 1})[0] == {"a": 1}
    assert child.alive


def test_child_that_died_between_calls_is_replaced(child: Child) -> None:
    """A child that is killed while it waits costs no call."""
    child.start()
    pid = child.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)

    assert child.call("echo", {"a": 1})[0] == {"a": 1}


def test_unexpected_error_ends_the_child_without_its_message(child: Child, capfd: pytest.CaptureFixture[str]) -> None:
    """A bug in a handler ends the child; standard error names the place and never the message."""
    with pytest.raises(ChildCrashedError) as caught:
        child.call("fail", {"text": "the text of a document"})

    captured = capfd.readouterr().err
    assert caught.value.returncode == 70
    assert "RuntimeError" in captured
    assert "process_child.py" in captured
    assert "the text of a document" not in captured
    assert child.call("echo", {})[0] == {}


def test_timeout_kills_and_the_next_call_works(child: Child) -> None:
    """A call that takes too long ends with the child; the next one gets a new child."""
    child.start()
    pid = child.pid
    assert pid is not None

    with pytest.raises(ChildTimeoutError):
        child.call("hang", {}, timeout_s=0.05)

    wait_for_end(pid)
    assert child.call("echo", {"a": 1})[0] == {"a": 1}


@pytest.mark.parametrize("kind", ["huge header", "not json", "deep json", "huge blob", "negative blob", "no result"])
def test_what_is_not_a_frame_is_a_crash(child: Child, kind: str) -> None:
    """A child that sends garbage is ended, and costs neither memory nor the next call."""
    with pytest.raises(ChildCrashedError):
        child.call("garbage", {"kind": kind})

    assert child.call("echo", {"a": 1})[0] == {"a": 1}


def test_concurrent_callers_get_their_own_answers(child: Child) -> None:
    """Calls from many threads never mix, also when some of them are refused."""

    def ask(number: int) -> object:
        if number % 5 == 0:
            with pytest.raises(ChildRefusedError, match=f"`{number}`"):
                child.call("refuse", {"what": number})
        result, blobs = child.call("echo", {"n": number}, [b"%d" % number * 1000])
        assert blobs == [b"%d" % number * 1000]
        return result["n"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(100))) == list(range(100))


def test_child_outlives_the_thread_that_started_it(child: Child) -> None:
    """The kernel's parent-death signal belongs to a thread; a worker thread that ends takes no child with it."""
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    pid = child.pid

    for _ in range(20):
        child.call("echo", {})

    assert child.pid == pid


def test_start_raises_the_refusal_of_the_preparation() -> None:
    """A child that cannot do its work says why at start, and again at each call."""
    child = Child(MODULE, args=["--refuse"], name="test", call_timeout_s=60)

    with pytest.raises(ChildRefusedError, match="does not want to") as caught:
        child.start()
    with pytest.raises(ChildRefusedError):
        child.call("echo", {})

    assert caught.value.code == "unfit"
    assert not child.alive


@pytest.mark.parametrize(("module", "args"), [(MODULE, ["--fail"]), ("service.no_such_module", [])])
def test_child_that_ends_before_it_is_ready_is_a_crash(
    module: str, args: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """A child that dies while it starts is an error of `start`, not a hang."""
    child = Child(module, args=args, name="test", call_timeout_s=60)

    with pytest.raises(ChildCrashedError, match="the test process ended"):
        child.start()

    assert "the text of a document" not in capfd.readouterr().err


def test_closed_child_refuses_calls(child: Child) -> None:
    """After `close` nothing runs and nothing starts; closing twice is fine."""
    child.start()
    pid = child.pid
    assert pid is not None

    child.close()
    child.close()

    wait_for_end(pid)
    assert not child.alive
    with pytest.raises(ChildCrashedError, match="closed"):
        child.call("echo", {})


def test_stopped_child_is_replaced_at_the_next_call(child: Child) -> None:
    """`stop` ends the process and nothing else."""
    child.start()
    before = child.pid

    child.stop()

    assert not child.alive
    assert child.call("echo", {"a": 1})[0] == {"a": 1}
    assert child.pid != before


def test_close_ends_a_call_under_way(child: Child) -> None:
    """A shutdown does not wait for a call that hangs."""
    child.start()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(child.call, "hang", {})
        while not child._lock.locked():
            pass
        child.close(grace_s=0)

        with pytest.raises(ChildCrashedError):
            call.result(timeout=30)


def test_close_between_a_call_and_its_child_starts_no_other() -> None:
    """A call that finds its child gone because of `close` ends, and no process is started for it."""

    class ClosedMeanwhile(Child):
        @property
        def alive(self) -> bool:
            if self._lock.locked() and not self._closed:
                pid = self.pid
                assert pid is not None
                self.close(grace_s=0)
                wait_for_end(pid)
            return super().alive

    child = ClosedMeanwhile(MODULE, name="test", call_timeout_s=60)
    child.start()

    with pytest.raises(ChildCrashedError, match="closed"):
        child.call("echo", {})

    assert child.pid is None


def test_child_inherits_no_secrets(child: Child, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither environment, nor argument list, nor open files of the parent reach the child."""
    monkeypatch.setenv("REMIT_CANARY", "canary-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-1")
    secret = tmp_path / "canary-2"
    with secret.open("w") as file:
        os.set_inheritable(file.fileno(), True)

        held, _ = child.call("state", {})

    assert "canary-1" not in repr(held)
    assert "canary-2" not in repr(held)
    assert held["fds"]["0"] == os.devnull  # type: ignore[index]  # JSON
    assert held["ignores_interrupt"] is True


def test_child_imports_nothing_from_the_working_directory(
    child: Child, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder with a `service` package in it, in which somebody starts a command, does not run inside a child."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)

    assert child.call("echo", {"a": 1})[0] == {"a": 1}


def test_interrupt_in_a_terminal_is_left_to_the_parent(child: Child) -> None:
    """SIGINT and SIGTERM do not end a child: the parent does."""
    child.start()
    pid = child.pid
    assert pid is not None

    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)

    child.call("echo", {})
    assert child.pid == pid


@pytest.mark.parametrize("method", ["echo", "hang"])
def test_killed_parent_leaves_no_child(method: str) -> None:
    """After `kill -9` of the parent its child is gone, idle or at work."""
    program = (
        "import sys, threading\n"
        "from service.process import Child\n"
        f"child = Child({MODULE!r}, name='test', call_timeout_s=3600)\n"
        "child.start()\n"
        f"threading.Thread(target=child.call, args=({method!r}, {{}})).start()\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)  # it runs

        parent.kill()
        parent.wait()

    wait_for_end(pid)
