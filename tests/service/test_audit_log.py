"""The audit log: durable before it answers, refusing when it cannot, and every later change found."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.audit import AuditLog, AuditTamperedError, Call, Kind, Record, Signer, find, record, verify
from service.audit.checkpoint import Checkpoint
from service.audit.merkle import leaf_hash, root
from service.audit.segments import Reader, read_checkpoint, read_leaves
from service.errors import AuditUnavailableError, StartError
from tests.support.audit_bodies import BODIES, opened, sealed

SIGNER = Signer("remit-audit/test", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
KEY = SIGNER.verifier


def answer(number: int) -> Record:
    """The record of an answer with the response id `r-<number>`."""
    return Call(Kind.QUERY, "x/Search", f"r-{number}", "OK", timedelta(0)).record()


def filled(folder: Path, count: int, *, segment_bytes: int = 1 << 20) -> Path:
    """A closed log with `count` answers between its start and its stop."""
    log = AuditLog(folder, SIGNER, BODIES, segment_bytes=segment_bytes)
    for number in range(count):
        log.append_blocking(answer(number))
    log.close()
    return folder


def bodies(folder: Path) -> list[dict[str, object]]:
    """The bodies of all records."""
    return [json.loads(data)["body"] for data in opened(folder)]


def segment(folder: Path) -> Path:
    """The last segment."""
    return sorted((folder / "segments").iterdir())[-1]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to let a file of this process grow beyond `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- writing ---


async def test_records_stand_in_their_order_and_the_end_is_signed(tmp_path: Path) -> None:
    """Start, answers, stop; each receipt names its record; the checkpoint covers all; files are private."""
    log = AuditLog(tmp_path / "audit", SIGNER, BODIES, facts={"software": "0.1.0"})
    receipts = [await log.append(answer(n)) for n in range(3)]
    log.close()
    log.close()

    folder = tmp_path / "audit"
    data = list(opened(folder))
    assert [r.index for r in receipts] == [1, 2, 3]
    assert [r.leaf_hash for r in receipts] == [leaf_hash(d) for d in data[1:4]]
    assert bodies(folder)[0] == {"event": "started", "covered": 0, "software": "0.1.0"}
    assert bodies(folder)[-1] == {"event": "stopped"}
    note = read_checkpoint(folder)
    assert note is not None
    assert Checkpoint.open(note, KEY) == Checkpoint(KEY.name, 5, root([leaf_hash(d) for d in data]))
    assert {p.stat().st_mode & 0o777 for p in folder.rglob("*") if p.is_file()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    report = verify(folder, KEY, BODIES)
    assert (report.ok, report.records, report.covered, report.unfinished_bytes) == (True, 5, 5, 0)


async def test_concurrent_calls_each_have_their_record(tmp_path: Path) -> None:
    """Callers on a loop and in threads share batches; every receipt is another, and every record is there."""
    log = AuditLog(tmp_path, SIGNER, BODIES, segment_bytes=20_000)
    indexes: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: indexes.append(log.append_blocking(answer(n)).index)) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    receipts = await asyncio.gather(*(log.append(answer(100 + n)) for n in range(300)))
    for thread in threads:
        thread.join()
    log.close()

    assert sorted([*indexes, *(r.index for r in receipts)]) == list(range(1, 321))
    assert len({b.get("response_id") for b in bodies(tmp_path)} - {None}) == 320
    assert len(list((tmp_path / "segments").iterdir())) > 1
    assert verify(tmp_path, KEY, BODIES).ok


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    """Opening again verifies, continues the numbers, and records that it was opened."""
    filled(tmp_path, 2)
    filled(tmp_path, 1)

    events = [b.get("event", b.get("response_id")) for b in bodies(tmp_path)]
    assert events == ["started", "r-0", "r-1", "stopped", "started", "r-0", "stopped"]
    assert verify(tmp_path, KEY, BODIES).ok


def test_checkpoints_come_with_records_and_when_idle(tmp_path: Path) -> None:
    """Every so many records, and after the interval with a heartbeat when nothing happened."""
    log = AuditLog(tmp_path / "busy", SIGNER, BODIES, checkpoint_records=3)
    for number in range(6):
        log.append_blocking(answer(number))
        assert log._tree.size - log.checkpoint.size <= 3
    log.close()
    assert "heartbeat" not in {json.loads(d)["class"] for d in opened(tmp_path / "busy")}

    idle = AuditLog(tmp_path / "idle", SIGNER, BODIES, checkpoint_interval_s=0.01)
    until = time.monotonic() + 20
    while idle.checkpoint.size < 3 and time.monotonic() < until:
        time.sleep(0.005)
    idle.close()
    classes = [json.loads(d)["class"] for d in opened(tmp_path / "idle")]
    assert classes[1:3] == ["heartbeat", "heartbeat"]
    assert verify(tmp_path / "idle", KEY, BODIES).ok


async def test_a_closed_log_refuses(tmp_path: Path) -> None:
    """No record after the end, from a loop or from a thread."""
    log = AuditLog(tmp_path, SIGNER, BODIES)
    log.close()

    with pytest.raises(AuditUnavailableError, match="closed"):
        await log.append(answer(1))
    with pytest.raises(AuditUnavailableError, match="closed"):
        log.append_blocking(answer(1))


async def test_a_cancelled_call_leaves_its_record(tmp_path: Path) -> None:
    """Who stops waiting takes nothing out of the log, and disturbs nobody else."""
    log = AuditLog(tmp_path, SIGNER, BODIES)
    task = asyncio.create_task(log.append(answer(1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await log.append(answer(2))
    log.close()

    assert [b.get("response_id") for b in bodies(tmp_path)] == [None, "r-1", "r-2", None]


# --- when it cannot be written ---


async def test_a_log_that_cannot_be_written_refuses_until_it_is_opened_again(tmp_path: Path) -> None:
    """A write that fails half way answers nobody, nothing is appended behind it, and reopening cuts it and goes on."""
    log = AuditLog(tmp_path, SIGNER, BODIES)
    await log.append(answer(1))
    size = segment(tmp_path).stat().st_size

    with no_file_larger_than(size + 100):
        results = await asyncio.gather(*(log.append(answer(n)) for n in range(2, 9)), return_exceptions=True)
    assert {type(r) for r in results} == {AuditUnavailableError}
    assert "File too large" in str(results[0])
    with pytest.raises(AuditUnavailableError):
        await log.append(answer(9))
    with pytest.raises(AuditUnavailableError):
        log.append_blocking(answer(9))
    assert log.failure is not None
    log.close()
    assert segment(tmp_path).stat().st_size == size + 100
    torn = verify(tmp_path, KEY, BODIES)
    assert (torn.ok, torn.records, torn.unfinished_bytes) == (True, 2, 100)

    again = AuditLog(tmp_path, SIGNER, BODIES)
    assert again.failure is None
    await again.append(answer(10))
    again.close()

    assert [b.get("response_id", b.get("cut_bytes")) for b in bodies(tmp_path)] == [None, "r-1", 100, "r-10", None]
    assert verify(tmp_path, KEY, BODIES).ok


async def test_a_log_that_hangs_is_unavailable(tmp_path: Path) -> None:
    """A write that takes longer than allowed refuses the answer, on a loop and in a thread."""
    log = AuditLog(tmp_path, SIGNER, BODIES, timeout_s=0.05)
    go_on = threading.Event()
    append = log._writer.append

    def slow(*args: object) -> None:
        go_on.wait(30)
        append(*args)  # type: ignore[arg-type]  # handed on

    log._writer.append = slow  # type: ignore[assignment, method-assign]  # the disk's clock is the fake
    with pytest.raises(AuditUnavailableError, match=r"within|hangs"):
        await log.append(answer(1))
    with pytest.raises(AuditUnavailableError, match=r"within|hangs"):
        log.append_blocking(answer(2))
    go_on.set()
    log.close()

    assert verify(tmp_path, KEY, BODIES).ok


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """One process writes a log; the next may when the first has closed it."""
    log = AuditLog(tmp_path, SIGNER, BODIES)
    with pytest.raises(StartError, match="written by process"):
        AuditLog(tmp_path, SIGNER, BODIES)
    log.close()

    AuditLog(tmp_path, SIGNER, BODIES).close()


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    """A file where the folder should be is named with what is wrong."""
    (tmp_path / "audit").write_text("")

    with pytest.raises(StartError, match=r"the audit log in `.*audit` cannot be opened: File exists"):
        AuditLog(tmp_path / "audit", SIGNER, BODIES)


def test_a_log_of_another_installation_is_refused(tmp_path: Path) -> None:
    """Another key does not open it, and changes nothing in it."""
    filled(tmp_path, 1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    with pytest.raises(AuditTamperedError, match="not one of `remit-audit/other`"):
        AuditLog(tmp_path, Signer("remit-audit/other", Ed25519PrivateKey.generate()), BODIES)

    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    AuditLog(tmp_path, SIGNER, BODIES).close()


# --- kill -9 ---

WRITER = """
import sys
from pathlib import Path
from tests.service.test_audit_log import BODIES, SIGNER, AuditLog, answer
import threading
log = AuditLog(Path(sys.argv[1]), SIGNER, BODIES, segment_bytes=40_000, checkpoint_records=50)
def run(base):
    for n in range(base, base + 100_000):
        log.append_blocking(answer(n))
        sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
for base in (0, 1_000_000, 2_000_000):
    threading.Thread(target=run, args=(base,)).start()
"""


def test_every_acknowledged_record_survives_kill_9(tmp_path: Path) -> None:
    """Killed again and again while it writes: what was acknowledged is there, the tree verifies, it goes on."""
    acknowledged: set[str] = set()
    for wanted in (1, 40, 200):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(wanted)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        acknowledged |= {f"r-{line.strip()}" for line in lines if line.endswith("\n")}

        report = verify(tmp_path, KEY, BODIES)
        assert report.ok, report.problem
        assert acknowledged <= {b.get("response_id") for b in bodies(tmp_path)}

    AuditLog(tmp_path, SIGNER, BODIES).close()
    report = verify(tmp_path, KEY, BODIES)
    assert (report.ok, report.records, report.unfinished_bytes) == (True, report.covered, 0)


@contextmanager
def crashed(folder: Path, count: int) -> Iterator[list[int]]:
    """A log with `count` records behind its last checkpoint that nobody closed; yields the offset of each record."""
    log = AuditLog(folder, SIGNER, BODIES)
    offsets = []
    for number in range(count):
        offsets.append(segment(folder).stat().st_size)
        log.append_blocking(answer(number))
    # A copy of the files as they are is what kill -9 leaves.
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    log.close()
    for path, data in files.items():
        path.write_bytes(data)
    yield offsets


def test_an_unfinished_write_is_cut_at_every_length(tmp_path: Path) -> None:
    """Whatever part of a record reached the disk without its leaf: it is cut, noted, and nothing before it is lost."""
    with crashed(tmp_path, 3) as offsets:
        pass
    path, leaves = segment(tmp_path), tmp_path / "leaves"
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    whole = files[path]

    for end in range(offsets[2] + 1, len(whole)):
        for zeros in (0, 50):
            for name, data in files.items():
                name.write_bytes(data)
            path.write_bytes(whole[:end] + bytes(zeros))
            leaves.write_bytes(files[leaves][:-32])
            report = verify(tmp_path, KEY, BODIES)
            assert (report.ok, report.records) == (True, 3), (end, zeros, report.problem)
            if end % 40 == 0:
                AuditLog(tmp_path, SIGNER, BODIES).close()
                assert verify(tmp_path, KEY, BODIES).ok
                assert bodies(tmp_path)[3]["cut_bytes"] == end - offsets[2] + zeros


@pytest.mark.parametrize("keep", [32, 33, 63, 64, 95])
def test_leaves_that_were_not_durable_are_written_again(tmp_path: Path, keep: int) -> None:
    """After a power failure the leaves behind the checkpoint may be missing, partly or zero; the records say them."""
    with crashed(tmp_path, 2):
        pass
    leaves = tmp_path / "leaves"
    whole = leaves.read_bytes()

    leaves.write_bytes(whole[:keep])
    AuditLog(tmp_path, SIGNER, BODIES).close()
    assert leaves.read_bytes()[:96] == whole
    assert verify(tmp_path, KEY, BODIES).ok


def test_zeros_for_leaves_are_written_again_only_behind_the_checkpoint(tmp_path: Path) -> None:
    """A page of zeros is what a power failure leaves, but not under a checkpoint, whose leaves were made durable."""
    with crashed(tmp_path, 2):
        pass
    leaves = tmp_path / "leaves"
    whole = leaves.read_bytes()

    leaves.write_bytes(bytes(32) + whole[32:])
    assert str(verify(tmp_path, KEY, BODIES).problem) == "record 0: the record and its leaf hash do not belong together"
    leaves.write_bytes(whole[:32] + bytes(32) + whole[64:])
    AuditLog(tmp_path, SIGNER, BODIES).close()
    assert leaves.read_bytes()[:96] == whole


def test_a_first_start_that_was_cut_off_is_a_first_start(tmp_path: Path) -> None:
    """Killed right after the first checkpoint, the log begins anew without a complaint."""
    log = AuditLog(tmp_path, SIGNER, BODIES)
    log.close()
    (tmp_path / "checkpoint").write_text(Checkpoint(SIGNER.name, 0, root([])).sign(SIGNER))
    (tmp_path / "leaves").unlink()
    for path in (tmp_path / "segments").iterdir():
        path.unlink()
    (tmp_path / "segments").rmdir()

    AuditLog(tmp_path, SIGNER, BODIES).close()

    assert verify(tmp_path, KEY, BODIES).records == 2


# --- changes ---


def test_a_flip_at_every_byte_is_found_and_its_record_named(tmp_path: Path) -> None:
    """In a closed log each byte of each file but the lock counts, and the record it belongs to is the one named."""
    filled(tmp_path, 3)
    owner: dict[tuple[str, int], int] = {}
    offset = 0
    for index, data in enumerate(Reader(tmp_path).records()):
        owner |= {(segment(tmp_path).name, offset + n): index for n in range(4 + len(data))}
        owner |= {("leaves", 32 * index + n): index for n in range(32)}
        offset += 4 + len(data)
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"]

    for path in files:
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << (at % 8))]) + whole[at + 1 :])
            problem = verify(tmp_path, KEY, BODIES).problem
            assert problem is not None, (path.name, at)
            assert problem.index == owner.get((path.name, at)), (path.name, at, problem)
        path.write_bytes(whole)

    assert {p.name for p in files} == {"000000000000.seg", "leaves", "checkpoint"}
    assert verify(tmp_path, KEY, BODIES).ok


def test_a_flip_in_an_answer_names_its_response_and_stops_the_start(tmp_path: Path) -> None:
    """The sentence names record and response; the log does not open; undone, it does."""
    filled(tmp_path, 3)
    path = segment(tmp_path)
    records = list(opened(tmp_path))
    whole, changed = path.read_bytes(), records[2].replace(b'"r-1"', b'"r-0"')

    path.write_bytes(framed(sealed(tmp_path, [*records[:2], changed, *records[3:]])))
    changed = path.read_bytes()

    assert str(verify(tmp_path, KEY, BODIES).problem).startswith("record 2 (response r-0): ")
    with pytest.raises(AuditTamperedError, match=r"record 2 \(response r-0\)") as caught:
        AuditLog(tmp_path, SIGNER, BODIES)
    assert caught.value.index == 2
    assert path.read_bytes() == changed
    path.write_bytes(whole)
    AuditLog(tmp_path, SIGNER, BODIES).close()


def framed(stored: list[bytes]) -> bytes:
    """Stored records as a segment has them."""
    return b"".join(len(one).to_bytes(4) + one for one in stored)


def rewrite(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the records of a log as somebody would who can write its files and has its keys: everything fits."""
    records = change(list(opened(folder)))
    (path,) = (folder / "segments").iterdir()
    path.write_bytes(b"".join(len(r).to_bytes(4) + r for r in records))
    (folder / "leaves").write_bytes(b"".join(leaf_hash(r) for r in records))


@pytest.mark.parametrize(
    ("change", "index"),
    [
        (lambda r: [*r[:2], r[2].replace(b'"OK"', b'"NO"'), *r[3:]], 2),
        (lambda r: [*r[:2], *r[3:]], 2),
        (lambda r: [*r[:2], r[3], r[2], *r[4:]], 2),
        (lambda r: [*r[:3], r[2], *r[3:]], 3),
        (lambda r: r[:-1], 4),
        (lambda r: r[:2], 2),
        (lambda r: [], 0),
    ],
    ids=["changed", "dropped", "swapped", "doubled", "last dropped", "truncated", "emptied"],
)
def test_a_rewritten_log_is_found_even_with_leaves_that_fit(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], index: int
) -> None:
    """Change, drop, swap, double, truncate, empty: the signed root does not fit, and the chain names the record."""
    filled(tmp_path, 3)

    rewrite(tmp_path, change)

    problem = verify(tmp_path, KEY, BODIES).problem
    assert problem is not None
    assert problem.index == index
    with pytest.raises(AuditTamperedError):
        AuditLog(tmp_path, SIGNER, BODIES)


@pytest.mark.parametrize("gone", ["checkpoint", "leaves", "segments"])
def test_a_missing_file_is_found(tmp_path: Path, gone: str) -> None:
    """A log without its checkpoint, its leaves or its segments is not a new one."""
    filled(tmp_path, 3)
    (tmp_path / gone).rename(tmp_path / "elsewhere")

    assert not verify(tmp_path, KEY, BODIES).ok
    with pytest.raises(AuditTamperedError):
        AuditLog(tmp_path, SIGNER, BODIES)


def test_a_segment_that_was_taken_out_is_named(tmp_path: Path) -> None:
    """A gap between segments is found at the record where it begins, and so is one that ends early."""
    filled(tmp_path, 12, segment_bytes=1500)
    first, second, *_ = sorted((tmp_path / "segments").iterdir())
    whole = second.read_bytes()

    second.unlink()
    problem = verify(tmp_path, KEY, BODIES).problem
    assert problem is not None
    assert problem.index == int(second.stem)
    second.write_bytes(whole[:-1])
    problem = verify(tmp_path, KEY, BODIES).problem
    assert problem is not None
    assert "ends within the record" in problem.what
    second.write_bytes(whole)
    assert verify(tmp_path, KEY, BODIES).ok
    assert first.stem == "000000000000"


def test_an_acknowledged_record_is_missed_before_a_checkpoint_covers_it(tmp_path: Path) -> None:
    """Behind the last checkpoint a leaf proves that its record was durable: cutting the record is found."""
    with crashed(tmp_path, 3) as offsets:
        pass
    path = segment(tmp_path)

    os.truncate(path, offsets[2] + 10)
    assert str(verify(tmp_path, KEY, BODIES).problem) == "record 3: the record is missing, and its leaf hash is there"
    os.truncate(path, offsets[2])
    with pytest.raises(AuditTamperedError, match="record 3"):
        AuditLog(tmp_path, SIGNER, BODIES)


def test_a_record_that_does_not_follow_is_found_before_a_checkpoint_covers_it(tmp_path: Path) -> None:
    """Taking a record and its leaf out of the middle leaves one that does not follow."""
    with crashed(tmp_path, 3):
        pass
    rewrite(tmp_path, lambda r: [*r[:2], *r[3:]])

    problem = verify(tmp_path, KEY, BODIES).problem
    assert problem is not None
    assert problem.index == 2


def test_a_log_can_be_verified_while_it_is_written(tmp_path: Path) -> None:
    """Reading beside the writer finds nothing wrong."""
    log = AuditLog(tmp_path, SIGNER, BODIES, segment_bytes=5_000, checkpoint_records=7)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            log.append_blocking(answer(number))
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        reports = [verify(tmp_path, KEY, BODIES) for _ in range(60)]
    finally:
        stop.set()
        thread.join()
        log.close()

    assert [r.problem for r in reports if not r.ok] == []
    assert len(read_leaves(tmp_path)) == 32 * verify(tmp_path, KEY, BODIES).records


# --- reading ---


def test_the_record_of_an_answer_is_found_by_its_id(tmp_path: Path) -> None:
    """Exactly that record; an unknown id, a prefix, an empty or odd one is nothing."""
    filled(tmp_path, 12)

    found = find(tmp_path, "r-1", BODIES)

    assert found is not None
    assert found.index == 2
    assert isinstance(found.record["body"], dict)
    assert found.record["body"]["response_id"] == "r-1"
    for unknown in ("r-12", "r-", "", '"', "r-1\n", "\ud800", "x" * 10_000):
        assert find(tmp_path, unknown, BODIES) is None


def test_an_id_inside_another_field_is_not_an_answer(tmp_path: Path) -> None:
    """Only the record's own response id counts, not one that somebody placed in a deeper field."""
    log = AuditLog(tmp_path, SIGNER, BODIES)
    log.append_blocking(record(Kind.ADMIN, {"deep": {"response_id": "r-1"}}))
    log.append_blocking(answer(1))
    log.close()

    found = find(tmp_path, "r-1", BODIES)

    assert found is not None
    assert found.index == 2


def test_a_changed_answer_is_not_shown(tmp_path: Path) -> None:
    """A record that does not fit its leaf is refused, named, instead of being shown."""
    filled(tmp_path, 2)
    records = [one.replace(b'"code":"OK"', b'"code":"NO"') if b'"r-1"' in one else one for one in opened(tmp_path)]
    segment(tmp_path).write_bytes(framed(sealed(tmp_path, records)))

    with pytest.raises(AuditTamperedError, match="record 2"):
        find(tmp_path, "r-1", BODIES)
    assert find(tmp_path, "r-0", BODIES) is not None
