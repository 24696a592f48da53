"""`kill -9` at any point of a sync: the next start goes on; nothing without its rules, nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("seed", [1])
def test_killed_syncs_end_in_the_state_of_one_that_was_not(tmp_path: Path, seed: int) -> None:
    """After each of 25 kills the invariants hold; in the end the folder holds what a run from scratch gives."""
    script = [sys.executable, "-m", "tests.service.sync_kill", str(tmp_path), str(seed), "25"]

    done = subprocess.run(script, capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert len(outcome["killed"]) == 25
    assert len(set(outcome["killed"])) > 10, "kills at many different statements"
    assert outcome["resumed"] > 2, "runs that went on from a checkpoint"
    assert outcome["after_kills"] == outcome["whole"]
    assert outcome["whole"]["chunks"] > 20
