"""Backups while everything goes on: the content in one folder, the keys in another, each there whole or not at all.

1. The catalog is copied first, from one snapshot.
2. Of the audit log the checkpoint is copied next, then the leaves, then the records: so all that was signed is there,
   and no leaf without its record.
3. The key store is copied after both: what was shredded in between has no key in the copy, and every record of the
   audit log that is copied has one, unless it expired.
4. Every file is hashed into a manifest, and both folders get their names only when all of it is durable.

Not in it: the key-encryption key, the key of the audit log, settings and directories, which are kept elsewhere; and the
index, which the first start builds from the catalog.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from service.errors import StartError
from service.files import durable_file
from service.keys import Custody
from service.stores.catalog import KEYS
from service.stores.errors import StorageError, StorageFullError, full_sentence, storage_errors
from service.stores.folder import FORMAT, DataFolder

MANIFEST: Final = "manifest.json"
CONTENT: Final = "remit backup of content 1"
OF_KEYS: Final = "remit backup of keys 1"

_FIRST: Final = ("checkpoint", "leaves")
_NOT_COPIED: Final = frozenset({"lock", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm"})
"""Of the audit log: what belongs to the running service, and what it makes again from the records."""


class TargetError(StartError):
    """A backup cannot be written where it should be. field: `folder` or `keys_folder`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made. backup_id: what certificates of shredding call it."""

    backup_id: str
    made_at: datetime
    files: int
    size_bytes: int


class Backups:
    """Makes backups of an opened data folder. Blocking; reads beside everybody who works on it."""

    def __init__(
        self,
        folder: DataFolder,
        keystore: Path,
        custody: Custody,
        now: Callable[[], datetime],
        roots: tuple[Path, Path],
    ) -> None:
        """roots: the folders below which backups of the content and of the keys are written, and nowhere else."""
        self._folder = folder
        self.roots = roots
        self._keystore = keystore
        self._custody = custody
        self._now = now

    def create(self, folder: Path, keys_folder: Path) -> Made:
        """Back up the content, and elsewhere the keys. Raises TargetError and StorageError; nothing stays then."""
        _check_targets(folder, keys_folder, self.roots, (self._folder.path, self._keystore))
        at = self._now()
        backup_id = self._custody.note_backup(str(keys_folder), at)
        try:
            return self._write(folder, keys_folder, backup_id, at)
        except BaseException:
            self._custody.forget_backup(backup_id)
            raise

    def _write(self, folder: Path, keys_folder: Path, backup_id: str, at: datetime) -> Made:
        facts = {"backup_id": backup_id, "made_at": at.isoformat(), "format": FORMAT}
        with _drafts(folder, keys_folder) as (content, keys):
            _snapshot(self._folder.catalog, content / "catalog.sqlite")
            _copy_log(self._folder.audit, content / "audit")
            _snapshot(self._keystore / KEYS, keys / KEYS)
            written = [_seal(content, {"kind": CONTENT, **facts}), _seal(keys, {"kind": OF_KEYS, **facts})]
        return Made(backup_id, at, sum(one[0] for one in written), sum(one[1] for one in written))


def _check_targets(folder: Path, keys_folder: Path, roots: tuple[Path, Path], ours: tuple[Path, ...]) -> None:
    for field, path, root in (("folder", folder, roots[0]), ("keys_folder", keys_folder, roots[1])):
        if not path.is_absolute():
            raise TargetError(field, f"`{path}` is no absolute path")
        _check_below(field, path, root)
        if os.path.lexists(path):
            raise TargetError(field, f"`{path}` exists: a backup overwrites nothing, name a new folder")
        if any(path.resolve().is_relative_to(one.resolve()) for one in ours):
            raise TargetError(field, f"`{path}` lies in what is backed up: name a folder elsewhere")
    content, keys = folder.resolve(), keys_folder.resolve()
    if content.is_relative_to(keys) or keys.is_relative_to(content):
        raise TargetError("keys_folder", "the keys would lie with what they open: name another folder for them")


def _check_below(field: str, path: Path, root: Path) -> None:
    """Raise TargetError unless `path` is below `root` as it is written, on folders that nobody else can change.

    Whoever may ask for a backup must not write where only the service may: not by `..`, and not by a link on the way.
    """
    where = f"`backup.{field}` of the settings, `{root}`"
    if ".." in path.parts or not path.is_relative_to(root) or path == root:
        raise TargetError(field, f"`{path}` is not below {where}")
    steps = [one for one in (path.parent, *path.parents) if one.is_relative_to(root)]
    for step in reversed(steps):
        try:
            found = step.lstat() if step != root else step.stat()
        except OSError as err:
            raise TargetError(field, f"`{step}` is no folder: make it first") from err
        if not stat.S_ISDIR(found.st_mode):
            raise TargetError(field, f"`{step}` is no folder: links are not followed below {where}")
        if found.st_mode & 0o022:
            raise TargetError(field, f"`{step}` can be changed by others: `chmod go-w {step}`")


@contextmanager
def _drafts(*targets: Path) -> Iterator[list[Path]]:
    """Make folders beside the targets; give them their names at the end, or remove them."""
    drafts = [path.with_name(f".{path.name}.{os.urandom(8).hex()}.new") for path in targets]
    named: list[Path] = []
    try:
        for draft in drafts:
            with storage_errors(draft):
                draft.mkdir(mode=0o700)
        yield drafts
        for draft, target in zip(drafts, targets, strict=True):
            with storage_errors(target):
                draft.rename(target)
                named.append(target)
                durable_file.sync_folder(target.parent)
    except BaseException:
        for path in (*drafts, *named):
            shutil.rmtree(path, ignore_errors=True)
        raise


def _snapshot(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, while others write to it."""
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reading,
            closing(sqlite3.connect(target)) as writing,
        ):
            target.chmod(0o600)
            reading.backup(writing)
            # A copy is one file: it must not need a log beside it.
            writing.execute("PRAGMA journal_mode=DELETE").close()
    except sqlite3.Error as err:
        if err.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
            raise StorageFullError(full_sentence(target)) from err
        raise StorageError(f"`{source}` cannot be copied to `{target}`: {err}") from err


def _copy_log(source: Path, target: Path) -> None:
    """Copy the audit log in the order in which what is there proves what must be."""
    with storage_errors(target):
        target.mkdir(mode=0o700)
        for name in _FIRST:
            # A log that was never signed has none.
            with contextlib.suppress(FileNotFoundError):
                copy_file(source / name, target / name)
        for path in sorted(source.rglob("*")):
            inner = path.relative_to(source)
            if path.is_dir():
                (target / inner).mkdir(mode=0o700)
            elif str(inner) not in (*_FIRST, *_NOT_COPIED):
                copy_file(path, target / inner)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, for its owner alone, durably. Raises OSError."""
    with source.open("rb") as reading:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as writing:
            shutil.copyfileobj(reading, writing, 1024 * 1024)
            writing.flush()
            os.fsync(handle)


def _seal(folder: Path, facts: Mapping[str, object]) -> tuple[int, int]:
    """Write the manifest, after everything else is durable; return how many files and bytes it names."""
    with storage_errors(folder):
        files = {
            str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": digest(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        for path in folder.rglob("*"):
            if path.is_dir():
                durable_file.sync_folder(path)
        text = json.dumps({**facts, "files": files}, indent=1)
        durable_file.create(folder / MANIFEST, f"{text}\n".encode())
    return len(files), sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def digest(path: Path) -> str:
    """SHA-256 of a file, as hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
