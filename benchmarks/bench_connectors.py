"""How fast connectors walk a source that did not change: `python -m benchmarks.bench_connectors [filesystem] [smb]`.

Every walk reads each file's rules and no content. The clock on the wall is what counts against the target; files a
second of this process's own processor time tell how much of it other work on the machine took.
The SMB server is a Samba domain controller on loopback, which needs root (deploy/test-deps.sh), with encryption.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from benchmarks.report import Report
from connectors.base import Change, Connector, Upsert
from connectors.registry import build

FILES: Final = 20_000
SMB_FILES: Final = 3_000
ROUNDS: Final = 5
_A_FOLDER: Final = 100


def main(which: Iterable[str]) -> None:
    """Measure and write the result."""
    report = Report("connectors", seed=0)
    report.add("load_average", os.getloadavg()[0], "processes", n=1)
    for name in which:
        {"filesystem": filesystem, "smb": smb}[name](report)
    report.write()


def filesystem(report: Report) -> None:
    """A tree on this machine."""
    with tempfile.TemporaryDirectory(prefix="remit-bench-") as folder:
        _tree(Path(folder), FILES)
        options = {"root": folder, "id_domain": "bench", "foreign_permissions": "trust"}
        _measure(report, "filesystem", lambda: build("filesystem", options, Path("/")), FILES, ">= 5000")


def smb(report: Report) -> None:
    """The same over SMB."""
    from tests.support.samba import BASE, PASSWORD
    from tests.support.samba_share import ADDRESS, running_share

    with running_share() as server:
        _tree(server.root, SMB_FILES)
        password = server.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o600)
        options = {
            "server": ADDRESS,
            "share": "docs",
            "username": "Administrator",
            "password_file": str(password),
            "domain_sid": server.sid(f"CN=Administrator,CN=Users,{BASE}").rpartition("-")[0],
            "auth": "ntlm",
        }
        _measure(report, "smb", lambda: build("smb", options, Path("/")), SMB_FILES, ">= 500")


def _tree(root: Path, files: int) -> None:
    for number in range(files):
        folder = root / f"d{number // _A_FOLDER}"
        if number % _A_FOLDER == 0:
            folder.mkdir()
        (folder / f"f{number}.txt").write_text(f"text {number}")


def _measure(report: Report, name: str, connect: Callable[[], Connector], files: int, target: str) -> None:
    """Walk once to warm up, then report the median of some rounds."""
    walls: list[float] = []
    processors: list[float] = []
    for number in range(ROUNDS + 1):
        connector = connect()
        wall, processor = time.perf_counter(), time.process_time()
        found = _documents(connector.changes(None))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        connector.close()
        if found != files:
            raise RuntimeError(f"{name}: {found} of {files} files were sent")
        if number:
            walls.append(files / wall)
            processors.append(files / processor)
    report.add(f"{name}_rescan_files_s", statistics.median(walls), "files/s", target, n=ROUNDS)
    report.add(f"{name}_rescan_files_processor_s", statistics.median(processors), "files/s of processor", n=ROUNDS)


def _documents(changes: Iterable[Change]) -> int:
    return sum(isinstance(change, Upsert) for change in changes)


if __name__ == "__main__":
    main(sys.argv[1:] or ["filesystem", "smb"])
