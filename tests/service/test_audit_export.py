"""Exports, and the one-file program that checks them on a machine without Remit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from remit.client.audit_values import AuditRecord, ExpiredBody, ProvenRecord

from service.audit import AuditKey, AuditLog, AuditReader, Received, export, remit_audit_verify, verify_stretch
from service.audit.checkpoint import Checkpoint, Signer
from service.audit.index import Wanted
from service.audit.remit_audit_verify import InputError, SignatureError
from service.errors import StartError
from tests.service.test_audit_reading import KEY, answer
from tests.support.audit_bodies import BODIES
from tests.support.mounts import small_folder

PROGRAM = Path(remit_audit_verify.__file__)
PUBLIC = KEY.verifier.text
OTHER = AuditKey(Signer("remit-audit/other", Ed25519PrivateKey.from_private_bytes(bytes(32))))


@dataclass(frozen=True)
class Sent:
    """What the service sends of one record."""

    data: bytes
    leaf_hash: bytes
    index: int = -1
    expired: ExpiredBody | None = None


@dataclass(frozen=True)
class Header:
    """What the service sends first."""

    first_index: int
    stop_index: int
    checkpoint: bytes
    public_key: str
    before: list[bytes]
    behind: list[bytes]
    expiries: list[ProvenRecord] = field(default_factory=list)


def exported(log: AuditLog, folder: Path, target: Path, first: int = 0, stop: int | None = None) -> Path:
    """Export records of a log as the command does."""
    reader = AuditReader(log, folder, KEY)
    found = reader.stretch(Wanted(), first)
    stop = found.stop if stop is None else stop
    signed = found.signed
    before, behind = reader._leaves.around(first, stop, signed.checkpoint.size, signed.checkpoint.root)
    expiries = [
        ProvenRecord(AuditRecord(entry.index, entry.data, entry.leaf), tuple(path)) for entry, path in found.expiries
    ]
    header = Header(first, stop, signed.note.encode(), PUBLIC, before, behind, expiries)
    records = [
        Sent(
            one.data,
            one.leaf,
            one.index,
            None if one.expired is None else ExpiredBody(one.expired.kind, one.expired.day),
        )
        for part in reader.read(first, stop)
        for one in part
    ]
    with export.draft(target) as draft:
        draft.write(header, records)
    reader.close()
    return target


def make(folder: Path, target: Path, first: int = 0, stop: int | None = None, count: int = 20) -> Path:
    """A log of some answers, and an export of it."""
    log = AuditLog(folder, KEY.signer, BODIES, segment_bytes=2000)
    for number in range(count):
        log.append_blocking(answer(number, "u-1", "d-1"))
    try:
        return exported(log, folder, target, first, stop)
    finally:
        log.close()


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """An export of a whole log with 21 records."""
    return make(tmp_path / "log", tmp_path / "export")


def problem(folder: Path, *seen: bytes) -> str:
    """What the program finds wrong."""
    return str(remit_audit_verify.verify(folder, PUBLIC, seen).problem)


def lines(folder: Path) -> list[bytes]:
    """The records of an export."""
    return (folder / "records.jsonl").read_bytes().splitlines(keepends=True)


def put(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the records of an export."""
    (folder / "records.jsonl").write_bytes(b"".join(change(lines(folder))))


@pytest.mark.parametrize(("first", "stop"), [(0, None), (0, 21), (7, 12), (20, 21), (8, 16), (5, 5), (21, 21)])
def test_any_stretch_of_a_log_verifies(tmp_path: Path, first: int, stop: int | None) -> None:
    """Whole, a middle, the last record, none: each is held against the root of the whole log."""
    folder = make(tmp_path / "log", tmp_path / "export", first, stop)

    found = remit_audit_verify.verify(folder, PUBLIC)

    assert found.problem is None
    assert (found.note.size, found.first, found.stop) == (21, first, 21 if stop is None else stop)


def flip(data: bytes, at: int) -> bytes:
    """Flip one bit of one byte."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(("first", "stop"), [(0, 21), (7, 12)])
def test_a_flipped_bit_in_any_byte_names_its_record(tmp_path: Path, first: int, stop: int) -> None:
    """Every byte of two records in turn, the last record of the export among them."""
    folder = make(tmp_path / "log", tmp_path / "export", first, stop)
    original = lines(folder)

    for at in (1, len(original) - 1):
        for byte in range(0, len(original[at]) - 1, 7):
            changed = flip(original[at], byte)
            if b"\n" in changed[:-1]:
                continue
            (folder / "records.jsonl").write_bytes(b"".join([*original[:at], changed, *original[at + 1 :]]))
            assert problem(folder).startswith(f"record {first + at}"), (at, byte)
    (folder / "records.jsonl").write_bytes(b"".join(original))
    assert problem(folder) == "None"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda all_: [*all_[:5], *all_[6:]], "record 5: the record is missing: it was taken out"),
        (lambda all_: [*all_[:4], all_[5], all_[4], *all_[6:]], "record 4: record 5 stands in its place: reordered"),
        (lambda all_: all_[:-3], "record 18: the record is missing: the end was cut off, 3 of 21"),
        (lambda all_: all_[:-1], "record 20: the record is missing: the end was cut off, 1 of 21"),
        (lambda all_: [], "record 0: the record is missing: the end was cut off, 21 of 21"),
        (lambda all_: [*all_, all_[3]], "record 21 (response r-2): the record was never signed: it was added"),
        (lambda all_: [*all_[:9], all_[2], *all_[10:]], "record 9: the record is missing: it was taken out"),
    ],
)
def test_what_was_dropped_moved_or_added_is_named(
    whole: Path, change: Callable[[list[bytes]], list[bytes]], says: str
) -> None:
    """Each kind of change to whole records, with the first record that it concerns."""
    put(whole, change)

    assert problem(whole) == says


def test_leaves_changed_with_their_record_are_found_by_the_chain(whole: Path) -> None:
    """Whoever changes a record and its leaf does not have the root; the next record names the one before it."""
    all_ = lines(whole)
    all_[6] = all_[6].replace(b'"u-1"', b'"u-2"')
    (whole / "records.jsonl").write_bytes(b"".join(all_))
    leaves = bytearray((whole / "leaves").read_bytes())
    leaves[6 * 32 : 7 * 32] = remit_audit_verify.leaf_hash(all_[6][:-1])
    (whole / "leaves").write_bytes(leaves)

    assert problem(whole) == "record 6 (response r-5): the record is another than the next one names: it was changed"


def test_leaves_alone_that_were_changed_are_said_to_be(whole: Path) -> None:
    """The records are what was signed, and nobody is sent to look for a change in them."""
    data = (whole / "leaves").read_bytes()
    (whole / "leaves").write_bytes(flip(data, 40))

    assert problem(whole) == "the file of leaves was changed; the records themselves are what was signed"


@pytest.mark.parametrize("name", ["proof.json", "checkpoint", "leaves", "records.jsonl"])
def test_a_missing_part_is_wrong_input(whole: Path, name: str) -> None:
    """One sentence and exit code 2, before anything is claimed."""
    (whole / name).unlink()

    with pytest.raises(OSError, match=name):
        remit_audit_verify.verify(whole, PUBLIC)
    assert remit_audit_verify.main([str(whole)]) == 2


@pytest.mark.parametrize("name", ["proof.json", "expiries.jsonl"])
@pytest.mark.parametrize(
    "data",
    [
        b"[" * 20_000,
        b'{"a":' * 20_000,
        b'{"format": 2, "first": 1.5, "stop": 1e400, "before": [], "behind": []}',
        b'{"format": 2, "first": 0, "stop": true, "before": [], "behind": []}',
        b'{"record": "{}", "path": [], "index": 1e400}',
    ],
)
def test_a_part_that_is_no_such_part_is_wrong_input(
    whole: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes
) -> None:
    """Whoever made the export: one sentence and exit code 2, and no traceback that looks like a broken program."""
    assert remit_audit_verify.main([str(whole)]) == 0
    (whole / name).write_bytes(data)

    assert remit_audit_verify.main([str(whole)]) == 2
    assert name in capsys.readouterr().err


def test_a_proof_of_another_stretch_does_not_fit(tmp_path: Path) -> None:
    """Numbers and subtrees belong together."""
    folder = make(tmp_path / "log", tmp_path / "export", 7, 12)
    proof = json.loads((folder / "proof.json").read_text())
    changes: list[dict[str, object]] = [
        {"first": 8, "stop": 13},
        {"before": []},
        {"behind": proof["behind"][::-1]},
        {"stop": 11},
    ]
    for change in changes:
        (folder / "proof.json").write_text(json.dumps({**proof, **change}))
        assert problem(folder) != "None", change
    (folder / "proof.json").write_text(json.dumps({**proof, "format": 3}))
    with pytest.raises(InputError, match="format 1 or 2"):
        remit_audit_verify.verify(folder, PUBLIC)


def test_an_older_copy_is_found_by_a_kept_checkpoint_and_by_nothing_else(tmp_path: Path) -> None:
    """A copy of the log from before looks whole; whoever kept a later checkpoint knows."""
    log = AuditLog(tmp_path / "log", KEY.signer, BODIES)
    log.append_blocking(answer(1))
    early = exported(log, tmp_path / "log", tmp_path / "early")
    log.append_blocking(answer(2))
    late = exported(log, tmp_path / "log", tmp_path / "late")
    log.close()
    kept_early, kept_late = (early / "checkpoint").read_bytes(), (late / "checkpoint").read_bytes()

    assert problem(early) == "None"
    assert problem(early, kept_early) == problem(late, kept_early) == problem(late, kept_late) == "None"
    assert (
        problem(early, kept_late) == "a kept checkpoint signs 3 records, and the export's 2: an older copy of the log"
    )


def test_another_history_under_the_same_key_is_found_by_a_kept_checkpoint(tmp_path: Path) -> None:
    """Whoever has the key can write and sign another log; a checkpoint that somebody else kept tells."""
    true = make(tmp_path / "true", tmp_path / "export", count=5)
    forged = make(tmp_path / "forged", tmp_path / "other", count=9)

    assert problem(forged) == "None"
    kept = (true / "checkpoint").read_bytes()
    assert problem(forged, kept) == "the first 6 records are not those that a kept checkpoint signs: another history"


def test_a_kept_checkpoint_that_cannot_be_compared_is_said_not_to_be(tmp_path: Path) -> None:
    """Its end lies before an exported stretch: nothing is claimed of it."""
    log = AuditLog(tmp_path / "log", KEY.signer, BODIES)
    kept = log.covering(1).note.encode()
    for number in range(9):
        log.append_blocking(answer(number))
    folder = exported(log, tmp_path / "log", tmp_path / "export", 3)
    log.close()

    found = remit_audit_verify.verify(folder, PUBLIC, [kept])

    assert (found.problem, found.seen, found.unseen) == (None, (), (1,))


def test_a_checkpoint_of_another_key_is_refused(whole: Path) -> None:
    """Signed by nobody that was named, or changed after it was signed."""
    with pytest.raises(SignatureError, match="no signature of `remit-audit/other`"):
        remit_audit_verify.verify(whole, OTHER.verifier.text)
    note = (whole / "checkpoint").read_bytes()
    (whole / "checkpoint").write_bytes(note.replace(b"\n21\n", b"\n20\n"))
    with pytest.raises(SignatureError, match="is wrong"):
        remit_audit_verify.verify(whole, PUBLIC)
    assert remit_audit_verify.main([str(whole)]) == 1


def test_the_program_stands_alone(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Copied elsewhere and started without any path to Remit, it verifies, and says what it did not show."""
    alone = tmp_path / "elsewhere.py"
    shutil.copy(PROGRAM, alone)
    key = tmp_path / "key"
    key.write_text(PUBLIC)
    done = subprocess.run(
        [sys.executable, "-I", alone, whole, "--key", key], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "verified: 21 records of remit-audit/test, numbers 0 to 20" in done.stdout
    assert "held against no checkpoint kept elsewhere" in done.stdout
    assert "service" not in {line.split()[1].partition(".")[0] for line in _imports()}
    put(whole, lambda all_: all_[:-1])
    assert remit_audit_verify.main([str(whole), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problem"]["index"] == 20


def _imports() -> list[str]:
    return [line for line in PROGRAM.read_text().splitlines() if line.startswith(("import ", "from "))]


@pytest.mark.parametrize("key", ["", "nonsense", "a+b+c", f"{PUBLIC[:-8]}AAAAAAA=", "remit+00000000+AQ=="])
def test_what_is_no_key_is_one_sentence(whole: Path, tmp_path: Path, key: str) -> None:
    """Wrong input: exit code 2."""
    (tmp_path / "key").write_text(key)

    assert remit_audit_verify.main([str(whole), "--key", str(tmp_path / "key")]) == 2


def test_an_export_overwrites_nothing(whole: Path) -> None:
    """A folder that exists is left alone."""
    before = sorted((path.name, path.read_bytes()) for path in whole.iterdir())

    with pytest.raises(StartError, match="overwrites nothing"), export.draft(whole):
        pass

    assert sorted((path.name, path.read_bytes()) for path in whole.iterdir()) == before


def test_an_export_that_was_cut_short_leaves_nothing(tmp_path: Path) -> None:
    """Fewer records than were announced: no folder, no draft."""
    header = Header(0, 3, b"note", PUBLIC, [], [])

    with pytest.raises(export.ExportError, match="1 of 3"), export.draft(tmp_path / "export") as draft:
        draft.write(header, [Sent(b"{}", bytes(32))])

    assert list(tmp_path.iterdir()) == []


def test_an_export_to_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """One sentence; neither the folder nor a draft stays."""
    with small_folder(tmp_path / "disk", "256k") as disk:
        header = Header(0, 1000, b"note", PUBLIC, [], [])
        with pytest.raises(export.ExportError, match="the disk is full"), export.draft(disk / "export") as draft:
            draft.write(header, (Sent(b"x" * 1000, bytes(32)) for _ in range(1000)))

        assert os.listdir(disk) == []


def test_records_that_are_streamed_are_checked_like_a_folder(tmp_path: Path) -> None:
    """What the command line does with the service's stream: whole, changed, cut, older, another history."""
    log = AuditLog(tmp_path, KEY.signer, BODIES)
    for number in range(5):
        log.append_blocking(answer(number))
    reader = AuditReader(log, tmp_path, KEY)
    records = [Received(one.data, one.leaf) for part in reader.read(0, 6) for one in part]
    signed = log.covering(6)
    kept = Checkpoint(KEY.verifier.name, 4, reader._leaves.root(4))
    reader.close()
    log.close()
    note, key = signed.note.encode(), KEY.verifier

    assert verify_stretch(note, records, key, kept).ok
    assert verify_stretch(note, records, key).records == 6
    assert not verify_stretch(note, records[:-1], key).ok
    changed = [*records[:2], Received(records[2].data.replace(b"r-1", b"r-9"), records[2].leaf), *records[3:]]
    found = verify_stretch(note, changed, key).problem
    assert found is not None
    assert found.index == 2
    for wrong in (Checkpoint(key.name, 4, bytes(32)), Checkpoint(key.name, 9, bytes(32))):
        assert not verify_stretch(note, records, key, wrong).ok
    assert not verify_stretch(note, records, OTHER.verifier).ok
