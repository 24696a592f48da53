"""Exports: a stretch of the log as a folder that `remit-audit-verify` checks without Remit.

A folder is there whole or not at all: it is written beside its place, and renamed when everything is durable.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Final, Protocol

from service.errors import RemitError, StartError
from service.files import durable_file

FORMAT: Final = 2
"""Of an export: what `remit-audit-verify` reads."""


class Header(Protocol):
    """What a stretch is held against: `ExportHeader` of the client."""

    @property
    def first_index(self) -> int:
        """The number of the first record."""

    @property
    def stop_index(self) -> int:
        """One past the number of the last."""

    @property
    def checkpoint(self) -> bytes:
        """The signed note."""

    @property
    def public_key(self) -> str:
        """The log's public key."""

    @property
    def before(self) -> Sequence[bytes]:
        """The roots of the complete subtrees before the stretch."""

    @property
    def behind(self) -> Sequence[bytes]:
        """The roots of the complete subtrees behind it."""

    @property
    def expiries(self) -> Sequence[Proven]:
        """The records that say which bodies in it expired."""


class Proven(Protocol):
    """A record of the client with its proof of inclusion."""

    @property
    def record(self) -> Exported:
        """The record."""

    @property
    def hashes(self) -> Sequence[bytes]:
        """The proof."""


class Expired(Protocol):
    """What the client knows of a body that expired."""

    @property
    def record_class(self) -> str:
        """The record's class."""

    @property
    def day(self) -> date:
        """The day of the record."""


class Exported(Protocol):
    """A record of the client."""

    @property
    def index(self) -> int:
        """Its number."""

    @property
    def data(self) -> bytes:
        """Its canonical form; empty when its body expired."""

    @property
    def expired(self) -> Expired | None:
        """What is known of it when its body expired."""

    @property
    def leaf_hash(self) -> bytes:
        """Its leaf."""


class ExportError(RemitError):
    """An export could not be written; nothing is left of it. Exit code 1."""


class Draft:
    """An export that is being written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, header: Header, records: Iterable[Exported]) -> None:
        """Write everything. Raises OSError, and ExportError when there are fewer records than the header says."""
        count = 0
        with (self._folder / "records.jsonl").open("xb") as lines, (self._folder / "leaves").open("xb") as leaves:
            for one in records:
                count += 1
                lines.write((one.data if one.expired is None else _placeholder(one.index, one.expired)) + b"\n")
                leaves.write(one.leaf_hash)
            for file in (lines, leaves):
                file.flush()
                os.fsync(file.fileno())
        if count != header.stop_index - header.first_index:
            raise ExportError(f"the service sent {count} of {header.stop_index - header.first_index} records")
        proof = {
            "format": FORMAT,
            "first": header.first_index,
            "stop": header.stop_index,
            "before": [one.hex() for one in header.before],
            "behind": [one.hex() for one in header.behind],
        }
        durable_file.create(self._folder / "proof.json", json.dumps(proof, indent=1).encode() + b"\n")
        said = "".join(f"{json.dumps(_proven(one))}\n" for one in header.expiries)
        durable_file.create(self._folder / "expiries.jsonl", said.encode())
        durable_file.create(self._folder / "audit.pub", header.public_key.encode() + b"\n")
        durable_file.create(self._folder / "checkpoint", header.checkpoint)


def _placeholder(index: int, expired: Expired) -> bytes:
    """What stands in the place of a record whose body expired."""
    facts = {"expired": {"class": expired.record_class, "day": expired.day.isoformat()}, "index": index}
    return json.dumps(facts, separators=(",", ":")).encode()


def _proven(one: Proven) -> dict[str, object]:
    return {
        "index": one.record.index,
        "record": one.record.data.decode(),
        "path": [each.hex() for each in one.hashes],
    }


@contextmanager
def draft(folder: Path) -> Iterator[Draft]:
    """Make a new export in `folder`, which must not exist; whatever fails, nothing is left there.

    Raises StartError when it exists or cannot be made, and ExportError when it cannot be written.
    """
    if os.path.lexists(folder):
        raise StartError(f"{folder} exists: an export overwrites nothing, name a new folder")
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.new")
    try:
        beside.mkdir(mode=0o700)
    except OSError as err:
        raise StartError(f"{folder} cannot be made: {err.strerror}") from err
    try:
        yield Draft(beside)
        beside.rename(folder)
        durable_file.sync_folder(folder.parent)
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ExportError(f"{folder} was not written: the disk is full") from err
        raise ExportError(f"{folder} was not written: {err.strerror or err}") from err
    finally:
        shutil.rmtree(beside, ignore_errors=True)
