"""Child processes: one program each, spoken to in frames over a socket pair.

Responsible for starting a child, asking it one thing at a time, ending it when it takes too long, and starting it again
at the next call. What the frames mean is left to the modules on both ends, their form to `frames`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from service.deadline import DeadlinePassedError, remaining
from service.errors import UnavailableError
from service.frames import Blob, receive, send

Answer = tuple[Mapping[str, object], Sequence[Blob]]
Handler = Callable[[dict[str, object], list[bytes]], Answer]

_MAX_REQUEST_BYTES = 2**31
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
# What a child gets of the parent's environment: where libraries and devices are found. Never credentials.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TZ", "TMPDIR", "CUDA_VISIBLE_DEVICES", "PYTHONDONTWRITEBYTECODE")


class ChildError(UnavailableError):
    """Root of what a call to a child raises."""


class ChildCrashedError(ChildError):
    """The child ended, or sent what is not a frame. `returncode` is negative for a signal, None when unknown."""

    def __init__(self, message: str, returncode: int | None) -> None:
        super().__init__(message)
        self.returncode = returncode


class ChildTimeoutError(ChildError):
    """No answer in time. The child was killed."""


class ChildRefusedError(ChildError):
    """The child answered with an error; `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Refusal(Exception):
    """Raised by a handler in the child to answer with an error: the parent gets ChildRefusedError, the child lives."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Child:
    """A child process `python -m <module>` that runs `serve`. Thread-safe; one call at a time.

    It starts at `start()` or at the first call, and again at the first call after it ended for whatever reason.

    args: go into the child's argument list, which every user of the machine can read: no secrets.
    name: for messages, such as `extraction`.
    env: added to the few variables that a child gets.
    start_timeout_s: how long it may take until it is ready, imports included.
    max_answer_bytes: more than this in one answer counts as a crash.
    """

    def __init__(
        self,
        module: str,
        *,
        args: Sequence[str] = (),
        name: str,
        call_timeout_s: float,
        start_timeout_s: float = 120.0,
        max_answer_bytes: int = 512 * 2**20,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command = [sys.executable, "-P", "-m", module, *args]
        self._env = dict(env or {})
        self._call_timeout_s = call_timeout_s
        self._start_timeout_s = start_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._lock = threading.Lock()  # held for a call
        self._starting = threading.Lock()  # INVARIANT: no process is started once `_closed` is set
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether the process runs now."""
        process = self._process
        return process is not None and process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the child and wait until it is ready. Does nothing when it runs.

        Raises ChildRefusedError when its preparation refused, ChildCrashedError, ChildTimeoutError.
        """
        with self._lock:
            self._ensure_started()

    def call(
        self,
        method: str,
        params: Mapping[str, object],
        blobs: Sequence[Blob] = (),
        *,
        timeout_s: float | None = None,
    ) -> tuple[dict[str, object], list[bytes]]:
        """Ask the child and wait for its answer.

        timeout_s: from the moment that the child is ready and free, sending included.
        Raises ChildRefusedError, ChildCrashedError, ChildTimeoutError (the child is killed), and DeadlinePassedError
        when its turn does not come before the call ends that is worked for (the child is left alone).
        """
        with self._turn():
            stream = self._ensure_started()
            deadline = time.monotonic() + (self._call_timeout_s if timeout_s is None else timeout_s)
            header = {"method": method, "params": params}
            answer, received = self._exchange(stream, (header, blobs), deadline)
            refused = answer.get("refused")
            if isinstance(refused, dict):
                raise ChildRefusedError(str(refused.get("code")), str(refused.get("message")))
            result = answer.get("result")
            if not isinstance(result, dict):
                raise self._crashed("sent an answer without a result")
            return result, received

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for one's turn, and no longer than somebody waits for the answer. Raises DeadlinePassedError."""
        left = remaining()
        if not self._lock.acquire(timeout=-1 if left is None else left):
            raise DeadlinePassedError(f"the {self.name} process was busy until the deadline")
        try:
            yield
        finally:
            self._lock.release()

    def stop(self) -> None:
        """End the child once it is free; the next call starts another."""
        with self._lock:
            self._end()

    def close(self, grace_s: float = 5.0) -> None:
        """End the child; a call under way has `grace_s` to finish. Later calls raise ChildCrashedError."""
        with self._starting:
            self._closed = True
        if self._lock.acquire(timeout=grace_s):
            try:
                self._end()
            finally:
                self._lock.release()
        else:
            process = self._process
            if process is not None:
                process.kill()  # the call under way sees the end of the stream, reaps, and raises

    def _ensure_started(self) -> socket.socket:
        """Return the stream to a running, ready child. Called with the lock held."""
        if self._closed:
            raise ChildCrashedError(f"the {self.name} process was closed", None)
        if self._socket is not None and self.alive:
            return self._socket
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._spawn(theirs)
            except BaseException:
                ours.close()
                raise
        self._socket = ours
        greeting, _ = self._exchange(ours, None, time.monotonic() + self._start_timeout_s)
        refused = greeting.get("refused")
        if isinstance(refused, dict):
            self._end()
            raise ChildRefusedError(str(refused.get("code")), str(refused.get("message")))
        return ours

    def _spawn(self, stream: socket.socket) -> subprocess.Popen[bytes]:
        with self._starting:
            if self._closed:  # since the call began
                raise ChildCrashedError(f"the {self.name} process was closed", None)
            try:
                return _spawner.submit(_spawn, self._command, stream, self._env).result()
            except OSError as err:
                raise ChildCrashedError(f"the {self.name} process did not start: {err.strerror}", None) from err

    def _exchange(
        self, stream: socket.socket, request: tuple[Mapping[str, object], Sequence[Blob]] | None, deadline: float
    ) -> tuple[dict[str, object], list[bytes]]:
        """Send, receive, and leave either a stream between two frames or no child."""
        try:
            if request is not None:
                send(stream, request[0], request[1], deadline)
            return receive(stream, deadline, self._max_answer_bytes)
        except TimeoutError as err:
            self._kill()
            raise ChildTimeoutError(f"the {self.name} process took too long and was ended") from err
        except (OSError, EOFError) as err:
            raise self._crashed("ended") from err
        except (ValueError, RecursionError) as err:
            self._kill()
            raise self._crashed("sent what is not a frame") from err
        except BaseException:
            self._kill()  # interrupted within a frame: what follows would be read as something else
            raise

    def _crashed(self, what: str) -> ChildCrashedError:
        """Reap the child and say how it ended."""
        process = self._process
        returncode: int | None = None
        if process is not None:
            try:
                returncode = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                returncode = process.wait()
        self._end()
        how = "" if returncode is None else f" ({_ending(returncode)})"
        return ChildCrashedError(f"the {self.name} process {what}{how}", returncode)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._end()

    def _end(self) -> None:
        """Close the stream, which ends the child, and reap it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        process = self._process
        if process is None:
            return
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve(handlers: Mapping[str, Handler], *, prepare: Callable[[], None] | None = None) -> NoReturn:
    """Answer the parent's calls until it goes away. The main function of a child module; never returns.

    prepare: runs before the parent's `start()` returns; a Refusal from it is what `start()` raises.
    A handler that raises anything but Refusal ends the process: nobody knows what state it is in.
    The process ends without running exit handlers, so what must be saved needs a call of its own.
    """
    stream = _take_over()
    try:
        if prepare is not None:
            prepare()
    except Refusal as refusal:
        send(stream, {"refused": {"code": refusal.code, "message": str(refusal)}}, (), None)
        os._exit(0)
    except BaseException as err:  # noqa: BLE001  top of a process
        _die(err)
    send(stream, {"ready": True}, (), None)
    while True:
        try:
            header, blobs = receive(stream, None, _MAX_REQUEST_BYTES)
        except (OSError, EOFError):
            os._exit(0)
        try:
            params = header["params"]
            if not isinstance(params, dict):
                raise TypeError("params")
            result, answer = handlers[str(header["method"])](params, blobs)
            reply: dict[str, object] = {"result": dict(result)}
        except Refusal as refusal:
            reply, answer = {"refused": {"code": refusal.code, "message": str(refusal)}}, ()
        except BaseException as err:  # noqa: BLE001  top of a process; a panic in Rust is no Exception
            _die(err)
        try:
            send(stream, reply, answer, None)
        except OSError:
            os._exit(0)


def _die(err: BaseException) -> NoReturn:
    """Say where it happened, never the message: it may hold a document's text."""
    where = "".join(traceback.format_tb(err.__traceback__))
    with contextlib.suppress(OSError):
        os.write(2, f"{where}{type(err).__name__}\n".encode())
    os._exit(70)


def _take_over() -> socket.socket:
    """Turn this process into a child: the stream off standard input, signals, limits, an end with the parent."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when a child ends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    stream = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    # PDEATHSIG misses a parent that died before the line above, so the stream is watched as well.
    threading.Thread(target=_watch, args=(stream.fileno(),), daemon=True).start()
    return stream


def _watch(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    while not poll.poll():
        pass
    os._exit(0)


# PDEATHSIG fires when the *thread* that started a child ends, not the process (prctl(2)): children are started by a
# thread that lives as long as the interpreter, so that a worker thread may start one and go away.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


def _spawn(command: list[str], stream: socket.socket, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    # The child imports what the parent would import, and nothing from the folder that it happens to start in (-P).
    env |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if Path(path).is_absolute())}
    env |= {"PYTHONUTF8": "1", "LC_ALL": "C.UTF-8", **extra}
    # Standard output is standard error: a library that prints must not reach a command's output.
    return subprocess.Popen(command, stdin=stream.fileno(), stdout=2, env=env, close_fds=True, start_new_session=True)


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
