"""Restoring a backup: everything is checked beside the target before the first name of it is taken.

1. Both manifests, the hash of every file, and that the two belong together.
2. The key-encryption key opens the key store, and the catalog was sealed with its keys.
3. Nothing in the catalog counts as verified any more: what was taken away since the backup is not in it.
4. The audit log holds against its last signed checkpoint, and gets a record of what was restored.
5. The folders get their names, the key store's first: content without keys would be refused at the next start.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from service import audit_keys
from service.audit import AuditKey, AuditLog
from service.errors import StartError
from service.files import durable_file
from service.keys import KeyProvider
from service.offline import command_record
from service.stores.catalog import KEYS, open_stores
from service.stores.errors import storage_errors
from service.stores.folder import FORMAT, open_folder
from service.upkeep.backup import CONTENT, MANIFEST, OF_KEYS, copy_file, digest

_KINDS: Final = {CONTENT: "the content", OF_KEYS: "keys"}


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored. records: of the audit log, all of which verified; the restore's own not counted."""

    backup_id: str
    made_at: str
    records: int


def restore(
    folder: Path,
    keys_folder: Path | None,
    *,
    data: Path,
    keystore: Path,
    provider: KeyProvider,
    audit_key: AuditKey,
    at: datetime,
) -> Restored:
    """Restore the content in `folder` to `data`, and the keys in `keys_folder` to `keystore`.

    keys_folder: None uses the key store that is there: what was shredded since the backup stays shredded.
    Raises StartError and StorageError: one sentence; then nothing was written.
    """
    content = _checked(folder, CONTENT)
    _check_free(data)
    if keys_folder is not None:
        keys = _checked(keys_folder, OF_KEYS)
        _check_free(keystore)
        if keys["backup_id"] != content["backup_id"]:
            raise StartError(f"`{folder}` and `{keys_folder}` are not of the same backup")
    elif not (keystore / KEYS).is_file():
        raise StartError(f"there is no key store in `{keystore}`: name the backup of the keys with `--keys`")
    draft = data.with_name(f".{data.name}.{os.urandom(8).hex()}.new")
    keys_draft = keystore.with_name(f".{keystore.name}.{os.urandom(8).hex()}.new") if keys_folder else keystore
    named: list[Path] = []
    try:
        with storage_errors(draft):
            _copy(folder, draft, content)
            durable_file.create(draft / "FORMAT", f"{FORMAT}\n".encode())
            if keys_folder is not None:
                _copy(keys_folder, keys_draft, keys)
        records = _check(draft, keys_draft, provider, audit_key, at, str(content["backup_id"]))
        with storage_errors(data):
            if keys_folder is not None:
                _name(keys_draft, keystore)
                named.append(keystore)
            _name(draft, data)
    except BaseException:
        for path in (draft, *named, *([keys_draft] if keys_folder is not None else [])):
            shutil.rmtree(path, ignore_errors=True)
        raise
    return Restored(str(content["backup_id"]), str(content["made_at"]), records)


def _checked(folder: Path, kind: str) -> Mapping[str, Any]:
    """Read a manifest and hold every file against it."""
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
        files = found["files"]
        if found["kind"] != kind:
            raise StartError(f"`{folder}` is no backup of {_KINDS[kind]} that this version reads")
        if found["format"] != FORMAT:
            raise StartError(f"`{folder}` is of format {found['format']}, and this version reads format {FORMAT}")
        for name, facts in files.items():
            path = folder / name
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise StartError(f"`{folder}` names a file outside of it")
            if path.stat().st_size != facts["size"] or digest(path) != facts["sha256"]:
                raise StartError(f"`{path}` is not what was backed up: use another copy")
    except OSError as err:
        raise StartError(f"`{err.filename}` cannot be read: {err.strerror}; `{folder}` is no whole backup") from err
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise StartError(f"`{folder / MANIFEST}` is not the manifest of a backup") from err
    return {**found, "files": dict(files)}


def _check_free(target: Path) -> None:
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise StartError(f"`{target}` holds something: nothing is overwritten, move it away first")


def _copy(source: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    target.mkdir(mode=0o700, parents=True)
    for name in manifest["files"]:
        (target / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy_file(source / name, target / name)


def _check(data: Path, keystore: Path, provider: KeyProvider, audit_key: AuditKey, at: datetime, backup_id: str) -> int:
    """Open all of it as a start does, and record the restore. Returns how many records verified."""
    folder = open_folder(data)
    try:
        keys, catalog = open_stores(folder, keystore, provider, at)
        # Nobody reads by rules that are older than what was known, until a run has verified them.
        catalog.unverify()
        catalog.close()
        try:
            audit = AuditLog(
                folder.audit, audit_key.signer, audit_keys.bodies(keys, audit_key), facts={"restored": backup_id}
            )
            records = audit.append_blocking(command_record("restore", "done", backup_id=backup_id)).index
            audit.close()
        finally:
            keys.close()
    finally:
        folder.close()
    return records - 1  # without the start's record


def _name(draft: Path, target: Path) -> None:
    # An empty folder may be there; nothing else is replaced.
    draft.rename(target)
    durable_file.sync_folder(target.parent)
