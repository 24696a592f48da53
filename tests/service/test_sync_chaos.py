"""Whatever breaks a sync: nothing is served that may not be, and the next runs end as if it had not broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.sync_chaos import FAULTS
from tests.support.needs import need


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_broken_syncs_leave_nothing_wrong_and_converge(fault: str) -> None:
    """Ten seeded rounds of each kind; `make chaos-sync` runs the full count."""
    if fault == "full":
        need(os.geteuid() == 0, "a memory file system of its own size needs root")
    done = subprocess.run(
        [sys.executable, "-m", "tests.service.sync_chaos", "--rounds", "10", "--fault", fault],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert "10 of 10 rounds held" in done.stdout
    if fault in ("kill", "gone", "full"):
        assert "'failed'" in done.stdout, "the control: runs are broken"
