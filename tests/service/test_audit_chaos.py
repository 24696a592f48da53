"""No audit, no answer: the log breaks under load, and no answer is without its record."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.audit import AuditLog, Call, Kind, Signer, segments, verify
from service.errors import AuditUnavailableError
from tests.support.audit_bodies import BODIES
from tests.support.needs import need

SIGNER = Signer("remit-audit/test", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["kill", "full", "readonly", "error", "torn", "hang"])
def test_every_answer_has_its_record_whatever_breaks(fault: str) -> None:
    """Ten seeded rounds: a server under load breaks; answers have records, the tree verifies, nothing more leaves."""
    if fault == "full":
        need(os.geteuid() == 0, "a memory file system of its own size needs root")
    need(shutil.which("cc") is not None, "the disk that breaks is written in C: install the package `gcc`")
    done = subprocess.run(
        [sys.executable, "-m", "tests.service.audit_chaos", "--rounds", "10", "--fault", fault],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 of 10 rounds held" in done.stdout


def test_a_log_that_hangs_says_so_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk does not answer it refuses at once and gives a reason; when it answers again, so does the log."""
    log = AuditLog(tmp_path, SIGNER, BODIES, timeout_s=0.05)
    stuck, real = threading.Event(), os.fdatasync

    class Slow:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def fdatasync(self, handle: int) -> None:
            stuck.wait(20)
            real(handle)

    monkeypatch.setattr(segments, "os", Slow())
    entry = Call(Kind.QUERY, "x/Search", "r", "OK", timedelta(0)).record()
    with pytest.raises(AuditUnavailableError, match="within"):
        log.append_blocking(entry)
    until = time.monotonic() + 10
    while not log.failure and time.monotonic() < until:
        time.sleep(0.01)
    assert "hangs" in (log.failure or "")
    with pytest.raises(AuditUnavailableError, match="hangs"):
        log.append_blocking(entry)

    stuck.set()
    while log.failure and time.monotonic() < until:
        time.sleep(0.01)
    monkeypatch.undo()
    assert log.failure is None
    log.append_blocking(entry)
    log.close()
    assert verify(tmp_path, SIGNER.verifier, BODIES).ok
