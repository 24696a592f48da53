"""One user at a time of what a machine has once, such as Samba's fixed ports: across test runs and their workers."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def machine_lock(name: str, wait_s: float = 100) -> Iterator[None]:
    """Hold the lock of this name.

    Raises TimeoutError, which names who holds it: before pytest's own limit, which could not.
    """
    path = Path(tempfile.gettempdir()) / f"remit-{name}.lock"
    with path.open("a+") as lock:
        ends = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= ends:
                    raise TimeoutError(f"{path} is held by {path.read_text() or 'somebody'}") from None
                time.sleep(0.1)
        lock.truncate(0)
        lock.write(f"process {os.getpid()}: {os.environ.get('PYTEST_CURRENT_TEST', 'no test')}")
        lock.flush()
        yield
