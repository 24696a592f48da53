"""Memory file systems of a size of their own, for full and read-only disks; needs the right to mount."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.needs import need


@contextmanager
def small_folder(path: Path, size: str) -> Iterator[Path]:
    """A memory file system of `size`, such as `256k`, at `path`; skips where nothing can be mounted."""
    need(os.geteuid() == 0 and shutil.which("mount") is not None, "mounting a memory file system needs root")
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "remit-test", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    need(done.returncode == 0, f"a memory file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
