"""The page about access works as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.service.test_cli import ENVIRONMENT, Running, running

__all__ = ["running"]

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_command_of_the_page_works(running: Running, tmp_path: Path) -> None:
    """All blocks, one after the other, end without an error."""
    command = tmp_path / "remit"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m service.cli "$@"\n')
    command.chmod(0o755)
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    blocks = BLOCK.findall((ROOT / "docs/access.md").read_text())

    done = subprocess.run(
        ["sh", "-euc", "\n".join(blocks)],
        cwd=running.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(blocks) == 4
    assert "denied  Bob Berg" in done.stdout
    assert "nothing was changed" in done.stdout
