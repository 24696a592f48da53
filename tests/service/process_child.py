"""The child that test_process.py talks to."""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from pathlib import Path

from service.process import Answer, Refusal, serve


def echo(params: dict[str, object], blobs: list[bytes]) -> Answer:
    return params, blobs


def refuse(params: dict[str, object], blobs: list[bytes]) -> Answer:
    raise Refusal("no", f"not `{params['what']}`")


def crash(params: dict[str, object], blobs: list[bytes]) -> Answer:
    os.kill(os.getpid(), int(str(params["signal"])))
    return {}, ()


def fail(params: dict[str, object], blobs: list[bytes]) -> Answer:
    raise RuntimeError(str(params["text"]))


def hang(params: dict[str, object], blobs: list[bytes]) -> Answer:
    time.sleep(3600)
    return {}, ()


def state(params: dict[str, object], blobs: list[bytes]) -> Answer:
    """What this process holds that it might have inherited."""
    fds = {
        fd: str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in range(256) if os.path.lexists(f"/proc/self/fd/{fd}")
    }
    return {
        "pid": os.getpid(),
        "argv": Path("/proc/self/cmdline").read_bytes().split(b"\0").__repr__(),
        "environment": dict(os.environ),
        "fds": fds,
        "ignores_interrupt": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "path": sys.path,
    }, ()


def garbage(params: dict[str, object], blobs: list[bytes]) -> Answer:
    """Write what is not a frame to the stream, as a child that was taken over might."""
    data = {
        "huge header": struct.pack(">I", 2**32 - 1),
        "not json": struct.pack(">I", 3) + b"...",
        "deep json": struct.pack(">I", 500_000) + b"[" * 500_000,
        "huge blob": struct.pack(">I", 30) + b'{"blobs": [900000000000000]   }',
        "negative blob": struct.pack(">I", 15) + b'{"blobs": [-1]}',
        "no result": struct.pack(">I", 13) + b'{"blobs": []}',
    }[str(params["kind"])]
    for fd in range(3, 64):
        if os.path.lexists(f"/proc/self/fd/{fd}") and "socket" in str(Path(f"/proc/self/fd/{fd}").readlink()):
            os.write(fd, data)
    time.sleep(3600)
    return {}, ()


def prepare() -> None:
    if "--refuse" in sys.argv:
        raise Refusal("unfit", "this child does not want to")
    if "--fail" in sys.argv:
        raise RuntimeError(" ".join(("the", "text", "of", "a", "document")))


if __name__ == "__main__":
    handlers = {f.__name__: f for f in (echo, refuse, crash, fail, hang, state, garbage)}
    serve(handlers, prepare=prepare)
