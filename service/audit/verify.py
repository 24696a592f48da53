"""Reading a log and holding it against its last signed checkpoint. Read-only; works on a log that is being written.

What each part proves: a record and its leaf belong together; the leaves give the root that was signed; each record
names the leaf before it. Behind the last checkpoint only the first and the last of these hold.

Of a record whose body is gone only the leaf is left, which the root covers; that the body may be gone, another record
must say (`service.audit.standing`). Without the keys of the bodies only leaves and root are held against each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Final

from service.audit import segments
from service.audit.bodies import BodyError, Gone, Opener, Period, glance
from service.audit.checkpoint import Checkpoint, NoteError, Verifier
from service.audit.errors import AuditTamperedError, RecordError
from service.audit.merkle import EMPTY_ROOT, HASH_BYTES, Tree, leaf_hash, root
from service.audit.record import Kind, parse
from service.audit.standing import Standing, Tally

_RESPONSE: Final = re.compile(rb'"response_id":"([A-Za-z0-9_.:-]{1,128})"')
_STANDING: Final = b'"class":"standing"'
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
    expired: records whose bodies are gone, as the log says. unopened: records that could not be looked into, because
    the keys of the bodies were not there; their leaves are what was signed.
    """

    origin: str
    records: int
    covered: int
    root: bytes
    unfinished_bytes: int
    problem: Problem | None
    expired: int = 0
    unopened: int = 0

    @property
    def ok(self) -> bool:
        """True when nothing is wrong."""
        return self.problem is None


@dataclass(frozen=True, slots=True)
class Found:
    """One record of the log with its number and its leaf hash. expired: its class and day when its body is gone."""

    index: int
    leaf: bytes
    data: bytes
    record: dict[str, object]
    expired: Period | None = None


@dataclass(slots=True)
class Scan:
    """What a pass over the whole log found, for the writer to go on from.

    unwritten: the leaf hashes of whole records that are not in the file of leaves yet, the last ones.
    day: the latest that a body was sealed for. latest: the last record that has a body; last_time: when it was written.
    standing: what stands.
    gone: the records of each class and day without a key. expired, unopened: as in the report.
    lacks_keys: the problem is that keys are missing which nothing says to have expired.
    """

    checkpoint: Checkpoint | None = None
    tree: Tree = field(default_factory=Tree)
    last: bytes = _NONE
    known_leaves: int = 0
    unwritten: list[bytes] = field(default_factory=list)
    unfinished: segments.Unfinished | None = None
    day: date = date.min
    latest: bytes = b""
    last_time: datetime | None = None
    standing: Standing = field(default_factory=Standing)
    gone: dict[Period, Tally] = field(default_factory=dict)
    expired: int = 0
    unopened: int = 0
    lacks_keys: bool = False
    problem: Problem | None = None


def verify(folder: Path, public_key: Verifier, bodies: Opener | None, kept: Checkpoint | None = None) -> VerifyReport:
    """Check a whole log against its last checkpoint, signed by `public_key`. Raises OSError when it cannot be read.

    bodies: what opens the records; None where their keys are not at hand, then leaves and root alone are checked.
    kept: an earlier checkpoint that was kept elsewhere, whose records must be the beginning of the log.
    """
    found = scan(folder, public_key, bodies)
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
        expired=found.expired,
        unopened=found.unopened,
    )


@dataclass(frozen=True, slots=True)
class Received:
    """One record of a log as an auditor gets it. expired: its class and day when its body is gone."""

    data: bytes
    leaf: bytes
    expired: Period | None = None


def verify_stretch(
    note: bytes, records: Iterable[Received], public_key: Verifier, kept: Checkpoint | None = None
) -> VerifyReport:
    """Check all records of a log, from the first on, against a checkpoint. See `verify`."""
    found, kept_root, problem = Scan(), EMPTY_ROOT, None
    checkpoint = Checkpoint(public_key.name, 0, b"")
    try:
        checkpoint = Checkpoint.open(note, public_key)
        for one in records:
            index, leaf = found.tree.size, one.leaf
            if one.expired is not None:
                _note_gone(found, index, one.expired)
            elif leaf_hash(one.data) != leaf:
                problem = Problem(index, _response(one.data), "the record and its leaf hash differ")
            else:
                wrong = _chained(one.data, index, found.last)
                problem = Problem(index, _response(one.data), wrong) if wrong else None
                _note_standing(found, one.data)
            if problem is not None:
                break
            found.tree.append(leaf)
            found.last = leaf
            if kept is not None and found.tree.size == kept.size:
                kept_root = found.tree.root()
    except NoteError as err:
        problem = Problem(None, "", f"the checkpoint is not one of `{public_key.name}`: {err}")
    count = found.tree.size
    if problem is None and (count, found.tree.root()) != (checkpoint.size, checkpoint.root):
        problem = Problem(None, "", f"the {count} records do not give the root that was signed: rewritten")
    problem = problem or _unsaid(found)
    if problem is None and kept is not None:
        problem = _kept(kept, count, lambda size: kept_root)
    return VerifyReport(public_key.name, count, checkpoint.size, checkpoint.root, 0, problem, found.expired)


def _note_standing(found: Scan, data: bytes) -> None:
    # Quick for the many others; a body that only contains these bytes has another class when it is parsed.
    if _STANDING in data:
        whole = parse(data)
        if whole["class"] == Kind.STANDING.value:
            found.standing.take(whole)


def _note_gone(found: Scan, index: int, period: Period) -> None:
    found.gone.setdefault(period, Tally()).add(index)
    found.expired += 1


def _unsaid(found: Scan) -> Problem | None:
    """The first record whose body is gone although nothing in the log says that it may be."""
    problems: list[Problem] = []
    for period, tally in found.gone.items():
        said = found.standing.expired.get(period)
        if said is None:
            what = f"its body cannot be read: the key `{period.name}` is missing, and no record says that it expired"
            problems.append(Problem(tally.first, "", what))
            found.lacks_keys = True
        elif said != tally.said:
            what = f"of `{period.name}` {said.count} records expired, and those without a body are others"
            problems.append(Problem(tally.first, "", what))
    return min(problems, key=lambda one: one.index or 0, default=None)


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


def scan(folder: Path, public_key: Verifier, bodies: Opener | None) -> Scan:
    """Read a whole log once and say what it is; stops at the first problem. bodies: as in `verify`."""
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
        found.problem = _root(folder, found, bodies) or _read(folder, found, reader, leaves, bodies)
    except segments.DamagedError as err:
        found.problem = Problem(err.index, "", str(err))
    found.unfinished = reader.unfinished
    if found.problem is None:
        found.problem = _end(folder, found, leaves, bodies) or _unsaid(found)
    if found.problem is None and found.latest:
        found.last_time = datetime.fromisoformat(str(parse(found.latest)["time"]))
    return found


def _read(folder: Path, found: Scan, reader: segments.Reader, leaves: bytes, bodies: Opener | None) -> Problem | None:
    assert found.checkpoint is not None
    covered = found.checkpoint.size
    for stored in reader.records():
        index = found.tree.size
        known = leaves[index * HASH_BYTES : (index + 1) * HASH_BYTES]
        try:
            data = _opened(found, index, stored, bodies)
        except BodyError as err:
            return Problem(index, "", str(err))
        if data is None:
            # Of its body nothing is left to hash: the leaf is all there is, and the root covers it.
            if len(known) < HASH_BYTES or known == _NONE or found.unwritten:
                return Problem(index, "", "its body cannot be read, and its leaf hash is missing")
            leaf = known
        else:
            leaf = leaf_hash(data)
        if known == leaf and not found.unwritten:
            found.known_leaves += 1
        elif index >= covered and (leaf.startswith(known) or known == _NONE):
            # Not durable yet when the machine stopped.
            found.unwritten.append(leaf)
        else:
            return Problem(index, _response(data or b""), "the record and its leaf hash do not belong together")
        if data is not None:
            if index >= covered:
                wrong = _chained(data, index, found.last)
                if wrong:
                    return Problem(index, _response(data), wrong)
            _note_standing(found, data)
            found.latest = data
        found.tree.append(leaf)
        found.last = leaf
        if found.tree.size == covered:
            problem = _root(folder, found, bodies)
            if problem is not None:
                return problem
    return None


def _opened(found: Scan, index: int, stored: bytes, bodies: Opener | None) -> bytes | None:
    """The record, or None when its body cannot be read, which is noted. Raises BodyError."""
    said = glance(stored)
    if said is not None:
        found.day = max(found.day, said.period.day)
    if bodies is None and said is not None:
        found.unopened += 1
        return None
    data = bodies.open(index, stored) if bodies is not None else stored
    if isinstance(data, Gone):
        _note_gone(found, index, data.period)
        return None
    return data


def _root(folder: Path, found: Scan, bodies: Opener | None) -> Problem | None:
    """Compare the root where the checkpoint stands."""
    assert found.checkpoint is not None
    if found.tree.size != found.checkpoint.size or found.tree.root() == found.checkpoint.root:
        return None
    rewritten = f"the {found.checkpoint.size} records do not give the root that was signed: rewritten"
    return _unchained(folder, bodies) or Problem(None, "", rewritten)


def _unchained(folder: Path, bodies: Opener | None) -> Problem | None:
    """The first record that does not fit the one before it: the tree says that something differs, the chain where."""
    previous: bytes | None = _NONE
    before = b""
    for index, stored in enumerate(segments.Reader(folder).records()):
        try:
            data = _opened(Scan(), index, stored, bodies)
        except BodyError as err:
            return Problem(index, "", str(err))
        if data is None:
            previous = None  # nothing tells what the next one should name
            continue
        wrong = _chained(data, index, previous)
        if wrong:
            # One that is itself in order, but for the leaf that it names, tells of a change to the one before it.
            if index > 0 and previous is not None and not _chained(data, index, None):
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


def _end(folder: Path, found: Scan, leaves: bytes, bodies: Opener | None) -> Problem | None:
    assert found.checkpoint is not None
    count = found.tree.size
    if count < found.checkpoint.size:
        state = "cut off" if found.unfinished is not None else "missing"
        missing = Problem(count, "", f"the record is {state}, and {found.checkpoint.size} records were signed")
        return _unchained(folder, bodies) or missing
    if leaves[count * HASH_BYTES :].strip(b"\0"):
        return Problem(count, "", "the record is missing, and its leaf hash is there")
    return None


def _response(data: bytes) -> str:
    match = _RESPONSE.search(data)
    return match[1].decode("ascii") if match is not None else ""


def find(folder: Path, response_id: str, bodies: Opener) -> Found | None:
    """The record of one answer, or None. Raises AuditTamperedError when it, or the way to it, is damaged."""
    wanted = f'"response_id":"{response_id}"'.encode("utf-8", "replace")
    if not _RESPONSE.fullmatch(wanted):
        return None
    name = bodies.digest(f"response:{response_id}")
    leaves = segments.read_leaves(folder)
    try:
        for index, stored in enumerate(segments.Reader(folder).records()):
            said = glance(stored)
            if said is not None and said.name != name:
                continue
            known = leaves[index * HASH_BYTES : (index + 1) * HASH_BYTES]
            data = bodies.open(index, stored)
            if isinstance(data, Gone):
                return Found(index, known, b"", {}, data.period)
            if wanted not in data:
                continue
            leaf = leaf_hash(data)
            record = parse(data)
            body = record["body"]
            if isinstance(body, dict) and body.get("response_id") == response_id:
                if known not in (leaf, b"", _NONE):
                    raise AuditTamperedError(f"record {index} and its leaf hash do not belong together", index)
                return Found(index, leaf, data, record)
    except segments.DamagedError as err:
        raise AuditTamperedError(f"record {err.index}: {err}", err.index) from err
    except (RecordError, BodyError) as err:
        raise AuditTamperedError(f"the record of response {response_id}: {err}") from err
    return None
