"""Reading a log and holding it against its last signed checkpoint. Read-only; works on a log that is being written.

What each part proves: a record and its leaf belong together; the leaves give the root that was signed; each record
names the leaf before it. Behind the last checkpoint only the first and the last of these hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from service.audit import segments
from service.audit.checkpoint import Checkpoint, NoteError, Verifier
from service.audit.errors import AuditTamperedError, RecordError
from service.audit.merkle import EMPTY_ROOT, HASH_BYTES, Tree, leaf_hash, root
from service.audit.record import parse

_RESPONSE: Final = re.compile(rb'"response_id":"([A-Za-z0-9_.:-]{1,128})"')
_NONE: Final = bytes(HASH_BYTES)


@dataclass(frozen=True, slots=True)
class Problem:
    """The first thing that is wrong.

    index: the record, from 0, or None when it is not one record. response_id: empty when it cannot be read.
    """

    index: int | None
    response_id: str
    what: str

    def __str__(self) -> str:
        if self.index is None:
            return self.what
        return f"record {self.index}{f' (response {self.response_id})' if self.response_id else ''}: {self.what}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found. records: whole ones; covered: those under the signed checkpoint; root: that of the checkpoint.

    unfinished_bytes: what a write that is under way, or was cut off, left at the end.
    """

    origin: str
    records: int
    covered: int
    root: bytes
    unfinished_bytes: int
    problem: Problem | None

    @property
    def ok(self) -> bool:
        """True when nothing is wrong."""
        return self.problem is None


@dataclass(frozen=True, slots=True)
class Found:
    """One record of the log with its number and its leaf hash."""

    index: int
    leaf: bytes
    data: bytes
    record: dict[str, object]


@dataclass(slots=True)
class Scan:
    """What a pass over the whole log found, for the writer to go on from.

    unwritten: the leaf hashes of whole records that are not in the file of leaves yet, the last ones.
    """

    checkpoint: Checkpoint | None = None
    tree: Tree = field(default_factory=Tree)
    last: bytes = _NONE
    known_leaves: int = 0
    unwritten: list[bytes] = field(default_factory=list)
    unfinished: segments.Unfinished | None = None
    problem: Problem | None = None


def verify(folder: Path, public_key: Verifier, kept: Checkpoint | None = None) -> VerifyReport:
    """Check a whole log against its last checkpoint, signed by `public_key`. Raises OSError when it cannot be read.

    kept: an earlier checkpoint that was kept elsewhere, whose records must be the beginning of the log.
    """
    found = scan(folder, public_key)
    if found.problem is None and kept is not None:
        leaves = segments.read_leaves(folder)
        found.problem = _kept(kept, found.tree.size, lambda size: _root_of(leaves, size))
    return VerifyReport(
        origin=public_key.name,
        records=found.tree.size,
        covered=found.checkpoint.size if found.checkpoint is not None else 0,
        root=found.checkpoint.root if found.checkpoint is not None else b"",
        unfinished_bytes=found.unfinished.size if found.unfinished is not None else 0,
        problem=found.problem,
    )


def verify_stretch(
    note: bytes, records: Iterable[tuple[bytes, bytes]], public_key: Verifier, kept: Checkpoint | None = None
) -> VerifyReport:
    """Check all records of a log, each with its leaf hash, from the first on, against a checkpoint. See `verify`."""
    tree, last, kept_root, problem = Tree(), _NONE, EMPTY_ROOT, None
    checkpoint = Checkpoint(public_key.name, 0, b"")
    try:
        checkpoint = Checkpoint.open(note, public_key)
        for data, stored in records:
            leaf = leaf_hash(data)
            wrong = _chained(data, tree.size, last) if stored == leaf else "the record and its leaf hash differ"
            if wrong:
                problem = Problem(tree.size, _response(data), wrong)
                break
            tree.append(leaf)
            last = leaf
            if kept is not None and tree.size == kept.size:
                kept_root = tree.root()
    except NoteError as err:
        problem = Problem(None, "", f"the checkpoint is not one of `{public_key.name}`: {err}")
    if problem is None and (tree.size, tree.root()) != (checkpoint.size, checkpoint.root):
        problem = Problem(None, "", f"the {tree.size} records do not give the root that was signed: rewritten")
    if problem is None and kept is not None:
        problem = _kept(kept, tree.size, lambda size: kept_root)
    return VerifyReport(public_key.name, tree.size, checkpoint.size, checkpoint.root, 0, problem)


def _kept(kept: Checkpoint, size: int, root_of: Callable[[int], bytes]) -> Problem | None:
    if kept.size > size:
        what = (
            f"a kept checkpoint signs {kept.size} records, and the log has {size}: an older copy was put in its place"
        )
        return Problem(None, "", what)
    if root_of(kept.size) != kept.root:
        what = f"the first {kept.size} records are not those that a kept checkpoint signs: another history"
        return Problem(None, "", what)
    return None


def _root_of(leaves: bytes, size: int) -> bytes:
    return root([leaves[at : at + HASH_BYTES] for at in range(0, size * HASH_BYTES, HASH_BYTES)])


def scan(folder: Path, public_key: Verifier) -> Scan:
    """Read a whole log once and say what it is; stops at the first problem."""
    found = Scan()
    # Each file that is read later can only have grown: a checkpoint before its leaves, leaves before their records.
    note = segments.read_checkpoint(folder)
    leaves = segments.read_leaves(folder)
    if note is None:
        found.problem = Problem(None, "", "the checkpoint is missing: the log is not whole")
        return found
    try:
        found.checkpoint = Checkpoint.open(note, public_key)
    except NoteError as err:
        found.problem = Problem(None, "", f"the checkpoint is not one of `{public_key.name}`: {err}")
        return found

    reader = segments.Reader(folder)
    try:
        found.problem = _root(folder, found) or _read(folder, found, reader, leaves)
    except segments.DamagedError as err:
        found.problem = Problem(err.index, "", str(err))
    found.unfinished = reader.unfinished
    if found.problem is None:
        found.problem = _end(folder, found, leaves)
    return found


def _read(folder: Path, found: Scan, reader: segments.Reader, leaves: bytes) -> Problem | None:
    assert found.checkpoint is not None
    covered = found.checkpoint.size
    for data in reader.records():
        index = found.tree.size
        leaf = leaf_hash(data)
        stored = leaves[index * HASH_BYTES : (index + 1) * HASH_BYTES]
        if stored == leaf and not found.unwritten:
            found.known_leaves += 1
        elif index >= covered and (leaf.startswith(stored) or stored == _NONE):
            # Not durable yet when the machine stopped.
            found.unwritten.append(leaf)
        else:
            return Problem(index, _response(data), "the record and its leaf hash do not belong together")
        if index >= covered:
            wrong = _chained(data, index, found.last)
            if wrong:
                return Problem(index, _response(data), wrong)
        found.tree.append(leaf)
        found.last = leaf
        if found.tree.size == covered:
            problem = _root(folder, found)
            if problem is not None:
                return problem
    return None


def _root(folder: Path, found: Scan) -> Problem | None:
    """Compare the root where the checkpoint stands."""
    assert found.checkpoint is not None
    if found.tree.size != found.checkpoint.size or found.tree.root() == found.checkpoint.root:
        return None
    rewritten = f"the {found.checkpoint.size} records do not give the root that was signed: rewritten"
    return _unchained(folder) or Problem(None, "", rewritten)


def _unchained(folder: Path) -> Problem | None:
    """The first record that does not fit the one before it: the tree says that something differs, the chain where."""
    previous, before = _NONE, b""
    for index, data in enumerate(segments.Reader(folder).records()):
        wrong = _chained(data, index, previous)
        if wrong:
            # One that is itself in order, but for the leaf that it names, tells of a change to the one before it.
            if index > 0 and not _chained(data, index, None):
                return Problem(index - 1, _response(before), "the record is another than the next one names")
            return Problem(index, _response(data), wrong)
        previous, before = leaf_hash(data), data
    return None


def _chained(data: bytes, index: int, previous: bytes | None) -> str:
    """Say what keeps this from being record `index` behind `previous`, or nothing."""
    try:
        found = parse(data)
    except RecordError as err:
        return str(err)
    if found["index"] != index:
        return f"it says that it is record {found['index']}"
    if previous is not None and found["previous"] != previous.hex():
        return "it does not follow the record before it"
    return ""


def _end(folder: Path, found: Scan, leaves: bytes) -> Problem | None:
    assert found.checkpoint is not None
    count = found.tree.size
    if count < found.checkpoint.size:
        state = "cut off" if found.unfinished is not None else "missing"
        missing = Problem(count, "", f"the record is {state}, and {found.checkpoint.size} records were signed")
        return _unchained(folder) or missing
    if leaves[count * HASH_BYTES :].strip(b"\0"):
        return Problem(count, "", "the record is missing, and its leaf hash is there")
    return None


def _response(data: bytes) -> str:
    match = _RESPONSE.search(data)
    return match[1].decode("ascii") if match is not None else ""


def find(folder: Path, response_id: str) -> Found | None:
    """The record of one answer, or None. Raises AuditTamperedError when it, or the way to it, is damaged."""
    wanted = f'"response_id":"{response_id}"'.encode("utf-8", "replace")
    if not _RESPONSE.fullmatch(wanted):
        return None
    leaves = segments.read_leaves(folder)
    try:
        for index, data in enumerate(segments.Reader(folder).records()):
            if wanted not in data:
                continue
            leaf, stored = leaf_hash(data), leaves[index * HASH_BYTES : (index + 1) * HASH_BYTES]
            record = parse(data)
            body = record["body"]
            if isinstance(body, dict) and body.get("response_id") == response_id:
                if stored not in (leaf, b"", _NONE):
                    raise AuditTamperedError(f"record {index} and its leaf hash do not belong together", index)
                return Found(index, leaf, data, record)
    except segments.DamagedError as err:
        raise AuditTamperedError(f"record {err.index}: {err}", err.index) from err
    except RecordError as err:
        raise AuditTamperedError(f"the record of response {response_id}: {err}") from err
    return None
