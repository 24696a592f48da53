"""What a soak looks at beside the calls, so that a number that is missed explains itself: the memory of each process,
and the sizes of tables and files.

Everything is read from outside: `/proc`, the files of the data folder, and its databases as a reader of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_CHILDREN: Final = {
    "service.index.edge_process": "vectors",
    "service.index.keyword_process": "words",
    "service.text.extract_process": "extract",
    "service.embed.process": "embed",
}
_TABLES: Final = {
    "catalog.sqlite": ("documents", "chunks", "acls", "clauses", "scopes", "changes", "feed", "runs"),
    "audit/index.sqlite": ("record",),
}
_FILES: Final = ("catalog.sqlite", "catalog.sqlite-wal", "audit/index.sqlite", "audit/index.sqlite-wal", "audit/leaves")
_FOLDERS: Final = ("audit/segments", "index", "keywords")


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. resident: all that is mapped. own: of no file, which nobody else can take or share."""

    resident: int
    own: int


Processes = dict[str, Memory]
"""By name."""

Sizes = dict[str, int]
"""Rows of tables and bytes of files, by name."""


def processes(pid: int) -> Processes:
    """Look at a service and at its children."""
    service = psutil.Process(pid)
    found: Processes = {}
    for one in (service, *service.children(recursive=True)):
        try:
            found[_name(one, pid)] = _memory(one.pid)
        except (psutil.Error, OSError):
            continue  # it ended meanwhile
    return found


def _name(process: psutil.Process, service: int) -> str:
    if process.pid == service:
        return "service"
    return next((_CHILDREN[word] for word in process.cmdline() if word in _CHILDREN), "other")


def _memory(pid: int) -> Memory:
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    # Of a file's pages each process that maps them is said to hold its share, whoever started it: libraries shrink and
    # grow with what else runs on the machine. So they are left out.
    return Memory(found["Rss"], found["Pss_Anon"] + found.get("Pss_Shmem", 0))


def sizes(data: Path, keys: Path) -> Sizes:
    """Look at a data folder, and at the key store's database."""
    found: Sizes = {}
    for file, tables in _TABLES.items():
        found |= {f"rows_{table}": count for table, count in _counts(data / file, tables).items()}
    for path in [*(data / one for one in _FILES), keys, keys.with_name(f"{keys.name}-wal")]:
        name = "_".join(path.relative_to(data).parts) if path.is_relative_to(data) else path.name
        found[f"bytes_{name}"] = path.stat().st_size if path.exists() else 0
    for folder in _FOLDERS:
        found[f"bytes_{folder.replace('/', '_')}"] = _allocated(data / folder)
    return found


def _counts(path: Path, tables: Sequence[str]) -> dict[str, int]:
    if not path.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.2)) as connection:
            return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    except sqlite3.Error:
        return {}  # it is being made, or the service was killed and has not yet opened it


def _allocated(folder: Path) -> int:
    """Bytes on the disk: files may have holes."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except OSError:
            continue  # it was removed meanwhile
    return total
