"""The set-up says in one sentence what a machine lacks, and starts nothing then."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the set-up reads, in a folder of its own."""
    for name in ("pyproject.toml", "client/pyproject.toml", "deploy/constraints.txt", "deploy/venv.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(checkout: Path, name: str, script: str) -> str:
    """Put a program of this name before all others; return its path."""
    path = checkout / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def set_up(checkout: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run the set-up with this Python."""
    environment = {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", "PYTHON": python, "HOME": str(checkout)}
    return subprocess.run(
        ["bash", str(checkout / "deploy/venv.sh")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], checkout: Path) -> str:
    """The one sentence; nothing was made."""
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert not (checkout / ".venv").exists()
    return line


def test_no_python_is_one_sentence(checkout: Path) -> None:
    """A name that no program has."""
    line = refused(set_up(checkout, "python-of-nowhere"), checkout)

    assert line.startswith("remit: no `python-of-nowhere` found: install Python 3.11 or newer")


def test_an_old_python_is_one_sentence(checkout: Path) -> None:
    """An interpreter that says that it is older than 3.11."""
    old = program(checkout, "python-old", 'case "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac')

    line = refused(set_up(checkout, old), checkout)

    assert "is Python 3.9.2, but Remit needs 3.11 or newer" in line


def test_a_missing_venv_module_is_one_sentence(checkout: Path) -> None:
    """As on Debian without python3-venv."""
    bare = program(checkout, "python-bare", 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')

    line = refused(set_up(checkout, bare), checkout)

    assert line.endswith("has no venv module: on Debian or Ubuntu install it with: apt install python3-venv")


def test_a_full_disk_is_one_sentence(checkout: Path) -> None:
    """Before anything is downloaded."""
    fine = program(checkout, "python-fine", "exit 0")
    program(checkout, "df", "echo header; echo /dev/x 100 90 10 90% /")

    line = refused(set_up(checkout, fine), checkout)

    assert line.startswith("remit: only 10 MB are free in ")


def test_a_download_that_fails_names_the_reason(checkout: Path) -> None:
    """What pip said last is shown, and where the whole story is; the same command goes on later."""
    broken = 'mkdir -p .venv/bin; printf "#!/bin/sh\\necho No space left on device; exit 1\\n" > .venv/bin/python; '
    venv = program(checkout, "python-disk", f'case "$*" in "-m venv"*) {broken} chmod +x .venv/bin/python;; esac')

    done = set_up(checkout, venv)

    assert done.returncode == 1
    assert "remit: the disk is full: free about 3 GB, then run the same command again" in done.stderr
    assert not (checkout / ".venv" / ".remit").exists()
