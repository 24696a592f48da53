#!/usr/bin/env python3
"""remit-audit-verify: check an export of Remit's audit log on a machine without Remit.

This file is the whole program. It needs Python 3.10 or newer and the package `cryptography`, and imports nothing of
Remit: read it before you trust it. An export is a folder, as `remit audit export` writes it:

    records.jsonl   one record a line, in the exact bytes that were hashed
    leaves          32 bytes for each record: SHA-256 of a zero byte and the line without its end (RFC 9162, 2.1.1)
    proof.json      which records these are, and the roots of the complete subtrees before and behind them
    expiries.jsonl  the records that say which bodies were destroyed when their time had passed, with their proofs
    checkpoint      the signed note over the whole log (C2SP tlog-checkpoint, Ed25519)
    audit.pub       the log's public key as the service had it; use the one that you were given elsewhere

1. The checkpoint's signature is checked with the public key: it says how many records there were, and their root.
2. The leaves, between the subtrees before and behind them, must give that root.
3. Every record must have the hash of its leaf and the number of its place. Of one whose body expired there is its class
   and its day alone, and a record under the same root must say that the bodies of that class and day expired, and of
   which records.
4. A checkpoint that was kept from before (`--seen`) must be the root of the beginning of the same tree.

What this cannot show: that whoever holds the signing key did not sign another history as well, and, without a
checkpoint that somebody else kept, that this history is the one that was signed first.

Exit codes: 0 verified; 1 not what was signed; 2 wrong input.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HASH_BYTES = 32
_TAIL = re.compile(
    rb'"class":"[a-z]+","index":(\d+),"previous":"([0-9a-f]{64})",(?:"salt":"[0-9a-f]{32}",)?"session":"[0-9a-f]+",'
    rb'"time":"([^"]+)","uptime_us":\d+,"v":[12]\}'
)
_EXPIRED = re.compile(rb'\{"expired":\{"class":"([a-z]+)","day":"(\d{4}-\d\d-\d\d)"\},"index":(\d+)\}')
_TAIL_BYTES = 400
_RESPONSE = re.compile(rb'"response_id":"([A-Za-z0-9_.:-]{1,128})"')


class InputError(Exception):
    """The export, the key or a checkpoint cannot be read as one; says nothing about the log."""


class SignatureError(Exception):
    """A checkpoint is not signed by the key."""


@dataclass(frozen=True)
class Problem:
    """What is wrong. index: the record's number, None when it is not one record. response: its id, if it has one."""

    index: int | None
    response: str
    what: str

    def __str__(self) -> str:
        if self.index is None:
            return self.what
        return f"record {self.index}{f' (response {self.response})' if self.response else ''}: {self.what}"


class Note(NamedTuple):
    """A checkpoint whose signature is good."""

    origin: str
    size: int
    root: bytes


class Result(NamedTuple):
    """What was found. first, stop: the records of the export. seen: the sizes of the older checkpoints that fit.

    expired: how many of the records have no body any more.
    """

    note: Note
    first: int
    stop: int
    earliest: str
    latest: str
    seen: tuple[int, ...]
    unseen: tuple[int, ...]
    problem: Problem | None
    expired: int = 0


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf (RFC 9162, 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


class Tree:
    """A Merkle tree that grows by complete subtrees; it keeps the roots of those that are complete so far."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[bytes] = []

    def append(self, top: bytes, level: int = 0) -> None:
        """Add the root of 2^level leaves."""
        rest = self.size >> level
        while rest & 1:
            top = hashlib.sha256(b"\x01" + self.peaks.pop() + top).digest()
            rest >>= 1
        self.peaks.append(top)
        self.size += 1 << level

    def root(self) -> bytes:
        """The root over everything so far."""
        if not self.peaks:
            return hashlib.sha256(b"").digest()
        found = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            found = hashlib.sha256(b"\x01" + peak + found).digest()
        return found


def cover(start: int, stop: int) -> Iterator[int]:
    """The levels of the fewest complete subtrees over a range of leaves, in order."""
    while start < stop:
        level = (stop - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield level
        start += 1 << level


def includes(root: bytes, size: int, index: int, leaf: bytes, path: list[bytes]) -> bool:
    """Whether the leaf is record `index` of the tree of `size` with this root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for one in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = hashlib.sha256(b"\x01" + one + found).digest()
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = hashlib.sha256(b"\x01" + found + one).digest()
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def open_note(note: bytes, key: str) -> Note:
    """Read a checkpoint that the key `name+id+base64` signed. Raises InputError and SignatureError."""
    name, _, rest = key.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    public = _decode(encoded)
    if len(public) != 33 or public[:1] != b"\x01":
        raise InputError("the public key is not an Ed25519 key of a signed note")
    if hashlib.sha256(name.encode() + b"\n" + public).hexdigest()[:8] != key_id:
        raise InputError("the public key's id is that of another key")
    try:
        text, _, signatures = note.decode().rpartition("\n\n")
    except UnicodeDecodeError as err:
        raise InputError("the checkpoint is not a signed note") from err
    lines = text.split("\n")
    for line in signatures.split("\n"):
        dash, _, rest = line.partition(" ")
        signer, _, data = rest.partition(" ")
        if dash != "\u2014" or signer != name:
            continue
        raw = _decode(data)
        if raw[:4].hex() != key_id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(raw[4:], f"{text}\n".encode())
        except InvalidSignature:
            raise SignatureError(f"the signature of `{name}` under the checkpoint is wrong") from None
        if len(lines) < 3 or lines[0] != name or not re.fullmatch("0|[1-9][0-9]{0,18}", lines[1]):
            raise InputError("the checkpoint is not one of this log")
        return Note(name, int(lines[1]), _decode(lines[2]))
    raise SignatureError(f"the checkpoint bears no signature of `{name}`")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise InputError("malformed base64") from err


class _Proof(NamedTuple):
    first: int
    stop: int
    before: list[bytes]
    behind: list[bytes]


def _proof(path: Path) -> _Proof:
    try:
        found = json.loads(path.read_bytes())
        first, stop = found["first"], found["stop"]
        before, behind = ([bytes.fromhex(one) for one in found[side]] for side in ("before", "behind"))
        if found["format"] not in (1, 2) or not (type(first) is type(stop) is int and 0 <= first <= stop):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise InputError(f"{path} is not the proof of an export of format 1 or 2") from err
    return _Proof(first, stop, before, behind)


@dataclass(frozen=True)
class _Said:
    """What the log says of the bodies of one class and day that expired."""

    count: int
    numbers: str


def _expiries(export: Path, note: Note) -> dict[tuple[str, str], _Said]:
    """What expired, from records that are proved to be in the log. Raises InputError."""
    path = export / "expiries.jsonl"
    said: dict[tuple[str, str], _Said] = {}
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return said  # an export of the first format
    try:
        for line in data.splitlines():
            found = json.loads(line)
            record = found["record"].encode()
            hashes = [bytes.fromhex(one) for one in found["path"]]
            if not includes(note.root, note.size, found["index"], leaf_hash(record), hashes):
                raise InputError(f"{path} has a record that is not in the log: it was changed")
            whole = json.loads(record)
            if whole["class"] == "standing" and whole["body"]["event"] == "bodies expired":
                said.update(
                    {(kind, day): _Said(count, numbers) for kind, day, count, numbers in whole["body"]["bodies"]}
                )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise InputError(f"{path} does not hold records with proofs") from err
    return said


def _replay(
    proof: _Proof, leaves: Iterable[bytes], size: int, sizes: Iterable[int]
) -> tuple[Tree | None, dict[int, bytes]]:
    """The tree over everything, None when the parts do not add up; and its roots at those `sizes` that lie within."""
    wanted = set(sizes)
    roots: dict[int, bytes] = {}
    tree = Tree()
    levels = list(cover(0, proof.first))
    if len(levels) != len(proof.before):
        return None, roots
    for level, top in zip(levels, proof.before, strict=True):
        tree.append(top, level)
    if tree.size in wanted:
        roots[tree.size] = tree.root()
    for leaf in leaves:
        tree.append(leaf)
        if tree.size in wanted:
            roots[tree.size] = tree.root()
    levels = list(cover(proof.stop, size))
    if tree.size != proof.stop or len(levels) != len(proof.behind):
        return None, roots
    for level, top in zip(levels, proof.behind, strict=True):
        tree.append(top, level)
        if tree.size in wanted:
            roots[tree.size] = tree.root()
    return tree, roots


def verify(export: Path, key: str, seen: Iterable[bytes] = ()) -> Result:
    """Check an export. seen: checkpoints that were kept from before. Raises InputError, SignatureError and OSError."""
    note = open_note((export / "checkpoint").read_bytes(), key)
    older = [open_note(one, key) for one in seen]
    proof = _proof(export / "proof.json")
    data = (export / "leaves").read_bytes()
    leaves = [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
    tree, roots = _replay(proof, leaves, note.size, [one.size for one in older])
    expired = _Expired(_expiries(export, note))
    if tree is not None and tree.root() == note.root:
        problem, earliest, latest = _records(export, proof, leaves, expired)
        problem = problem or expired.problem() or _older(note, older, roots)
    else:
        # The leaves are not to be trusted: the chain within the records says where something was changed.
        problem, earliest, latest = _chained(export, proof, note, leaves)
    within = tuple(sorted(one.size for one in older if one.size in roots))
    without = tuple(sorted(one.size for one in older if one.size not in roots))
    return Result(note, proof.first, proof.stop, earliest, latest, within, without, problem, expired.count)


def _lines(export: Path) -> Iterator[bytes]:
    with (export / "records.jsonl").open("rb") as file:
        for line in file:
            yield line[:-1] if line.endswith(b"\n") else line


class _Expired:
    """The records of an export that have no body any more, held against what the log says of them."""

    def __init__(self, said: dict[tuple[str, str], _Said]) -> None:
        self.count = 0
        self._said = said
        self._found: dict[tuple[str, str], list[int]] = {}

    def add(self, match: re.Match[bytes]) -> None:
        """Count the record that a line stands for."""
        self.count += 1
        self._found.setdefault((match[1].decode(), match[2].decode()), []).append(int(match[3]))

    def problem(self) -> Problem | None:
        """The first record whose body is missing although the log does not say that it expired."""
        problems = []
        for (kind, day), indexes in self._found.items():
            said = self._said.get((kind, day))
            if said is None:
                what = f"its body is missing, and no record says that those of class {kind} of {day} expired"
                problems.append(Problem(indexes[0], "", what))
                continue
            numbers = hashlib.sha256(b"".join(one.to_bytes(8, "big") for one in indexes)).hexdigest()
            # An export may hold a part of a day.
            if len(indexes) > said.count or (len(indexes) == said.count and numbers != said.numbers):
                what = f"bodies of class {kind} of {day} are missing that did not expire"
                problems.append(Problem(indexes[0], "", what))
        return min(problems, key=lambda one: one.index or 0, default=None)


def _records(export: Path, proof: _Proof, leaves: list[bytes], expired: _Expired) -> tuple[Problem | None, str, str]:
    """Hold every record against its leaf, which is known to be what was signed."""
    earliest = latest = ""
    count = 0
    for count, line in enumerate(_lines(export), 1):
        index = proof.first + count - 1
        if count > len(leaves):
            return Problem(index, _response(line), "the record was never signed: it was added"), earliest, latest
        gone = _EXPIRED.fullmatch(line)
        if gone is not None:
            if int(gone[3]) != index:
                return Problem(index, "", f"record {int(gone[3])} stands in its place: reordered"), earliest, latest
            expired.add(gone)
            continue
        if leaf_hash(line) != leaves[count - 1]:
            return _named(export, proof, leaves, count - 1, line), earliest, latest
        tail = _TAIL.search(line, max(len(line) - _TAIL_BYTES, 0))
        if tail is None or int(tail[1]) != index:
            return Problem(index, _response(line), "it was signed, but is not a record of its place"), earliest, latest
        latest = tail[3].decode("ascii", "replace")
        earliest = earliest or latest
    if count < len(leaves):
        missing = len(leaves) - count
        what = f"the record is missing: the end was cut off, {missing} of {len(leaves)}"
        return Problem(proof.first + count, "", what), earliest, latest
    return None, earliest, latest


def _named(export: Path, proof: _Proof, leaves: list[bytes], at: int, line: bytes) -> Problem:
    """Say what became of the record at place `at`, which does not have its hash."""
    index, found = proof.first + at, leaf_hash(line)
    if found in leaves:
        present = {leaf_hash(one) for one in _lines(export)}
        if leaves[at] in present:
            return Problem(index, "", f"record {proof.first + leaves.index(found)} stands in its place: reordered")
        return Problem(index, "", "the record is missing: it was taken out")
    return Problem(index, _response(line), "the record is not what was signed: it was changed")


def _older(note: Note, older: Iterable[Note], roots: dict[int, bytes]) -> Problem | None:
    for one in older:
        if one.size > note.size:
            what = f"a kept checkpoint signs {one.size} records, and the export's {note.size}: an older copy of the log"
            return Problem(None, "", what)
        if one.size in roots and roots[one.size] != one.root:
            what = f"the first {one.size} records are not those that a kept checkpoint signs: another history"
            return Problem(None, "", what)
    return None


def _chained(export: Path, proof: _Proof, note: Note, leaves: list[bytes]) -> tuple[Problem, str, str]:
    """The records and the leaves are not what was signed: name the first record that does not fit the next one."""
    lines = list(_lines(export))
    found = [
        leaves[at] if _EXPIRED.fullmatch(line) and at < len(leaves) else leaf_hash(line)
        for at, line in enumerate(lines)
    ]
    tree, _ = _replay(proof, found, note.size, ())
    if tree is not None and tree.root() == note.root:
        return Problem(None, "", "the file of leaves was changed; the records themselves are what was signed"), "", ""
    previous: bytes | None = None
    for at, line in enumerate(lines):
        index = proof.first + at
        if _EXPIRED.fullmatch(line):
            previous = None
            continue
        tail = _TAIL.search(line, max(len(line) - _TAIL_BYTES, 0))
        if tail is None:
            return Problem(index, _response(line), "not a record: it was changed"), "", ""
        if int(tail[1]) != index:
            what = f"record {int(tail[1])} stands in its place: taken out or reordered"
            return Problem(index, _response(line), what), "", ""
        if previous is not None and tail[2] != previous.hex().encode():
            what = "the record is another than the next one names: it was changed"
            return Problem(index - 1, _response(lines[at - 1]), what), "", ""
        previous = leaf_hash(line)
    if len(lines) < proof.stop - proof.first:
        return Problem(proof.first + len(lines), "", "the record is missing: the end was cut off"), "", ""
    return Problem(None, "", "records, leaves and proof do not give the root that was signed: rewritten"), "", ""


def _response(line: bytes) -> str:
    match = _RESPONSE.search(line)
    return match[1].decode("ascii") if match is not None else ""


def main(arguments: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="remit-audit-verify", description="Check an export of Remit's audit log, without Remit."
    )
    parser.add_argument("export", type=Path, help="the folder that `remit audit export` wrote")
    parser.add_argument("--key", type=Path, help="the log's public key, as you were given it apart from the export")
    parser.add_argument(
        "--seen", type=Path, action="append", default=[], help="a checkpoint that was kept from before; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    asked = parser.parse_args(arguments)
    try:
        key = (asked.key or asked.export / "audit.pub").read_text("ascii")
        result = verify(asked.export, key, [path.read_bytes() for path in asked.seen])
    except OSError as err:
        return _refuse(f"{err.filename} cannot be read: {err.strerror}", 2)
    except UnicodeDecodeError:
        return _refuse("the public key is not text", 2)
    except InputError as err:
        return _refuse(str(err), 2)
    except SignatureError as err:
        return _refuse(str(err), 1)
    if asked.json:
        print(json.dumps(_plain(result, own_key=asked.key is None)))
    elif result.problem is None:
        _say(result, own_key=asked.key is None)
    if result.problem is not None and not asked.json:
        print(f"NOT what was signed: {result.problem}")
    return 0 if result.problem is None else 1


def _refuse(message: str, code: int) -> int:
    print(f"remit-audit-verify: {message}", file=sys.stderr)
    return code


def _plain(result: Result, *, own_key: bool) -> dict[str, object]:
    problem = result.problem
    return {
        "ok": problem is None,
        "origin": result.note.origin,
        "size": result.note.size,
        "root": result.note.root.hex(),
        "first": result.first,
        "stop": result.stop,
        "earliest": result.earliest,
        "latest": result.latest,
        "expired": result.expired,
        "kept_checkpoints_that_fit": list(result.seen),
        "kept_checkpoints_not_compared": list(result.unseen),
        "key_from_the_export_itself": own_key,
        "problem": None
        if problem is None
        else {"index": problem.index, "response_id": problem.response, "what": problem.what},
    }


def _say(result: Result, *, own_key: bool) -> None:
    count = result.stop - result.first
    print(f"verified: {count:,} records of {result.note.origin}, numbers {result.first} to {result.stop - 1}")
    if count:
        print(f"written from {result.earliest or '?'} to {result.latest or '?'}")
    if result.expired:
        print(f"expired by retention: {result.expired:,} of them; their leaves are what was signed")
    print(f"under the signed checkpoint over {result.note.size:,} records, root {result.note.root.hex()}")
    for size in result.seen:
        print(f"the kept checkpoint over {size:,} records is the beginning of this log")
    for size in result.unseen:
        print(f"NOT compared: the kept checkpoint over {size:,} records, whose end lies inside what was not exported")
    if own_key:
        print("CAUTION: the public key came with the export itself; whoever changes both is not noticed. Use --key")
    if not result.seen:
        print("CAUTION: held against no checkpoint kept elsewhere (--seen): an older copy, or another history signed")
        print("         with the same key, would look the same")


if __name__ == "__main__":
    sys.exit(main())
