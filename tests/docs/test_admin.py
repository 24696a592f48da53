"""The administrators' page works as it is written."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import need

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    """All blocks, one after the other in one shell, end without an error and show two different answers."""
    need(shutil.which("setfacl") is not None, "the page uses setfacl: install the package `acl`")
    blocks = [
        b for b in BLOCK.findall((ROOT / "docs/admin.md").read_text()) if not b.startswith("# not run by the test")
    ]
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "remit"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m service.cli "$@"\n')
    command.chmod(0o755)
    script = "set -eu\n" + "\n".join(blocks)
    # The ports of the page may be taken on this machine.
    callers, administrators = _free_ports()
    script = script.replace(
        "remit init\n", f"remit init\nsed -i 's/:7420/:{callers}/; s/:7421/:{administrators}/' remit.yaml\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REMIT_")}
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "client")])

    done = subprocess.run(
        ["bash", "-c", f"trap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n{script}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    alice, bob = done.stdout.split("\nresponse ")[:2]
    assert "1. helios.md" in alice
    assert "posix:corp:gid-20101 by alice → sales" in alice
    assert "margin.md" not in alice.rpartition("Search")[2]
    assert "1. margin.md" in bob
    assert "posix:corp:gid-20102 by bob → fin-emea → finance" in bob
    assert "verified" in done.stdout
