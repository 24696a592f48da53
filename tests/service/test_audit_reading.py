"""Reading a log that is being written: what is found, in which order, with proofs that hold; and an index that is only
derived."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.audit import Actor, AuditKey, AuditLog, AuditReader, AuditTamperedError, Call, Kind, Record, Returned
from service.audit.checkpoint import Checkpoint, Signer
from service.audit.errors import IndexBehindError
from service.audit.index import RecordIndex, Wanted
from service.audit.leaves import Leaves
from service.audit.merkle import Tree, leaf_hash, root, verify_consistency, verify_inclusion
from service.errors import AuditUnavailableError
from tests.support.audit_bodies import BODIES, opened, sealed

KEY = AuditKey(Signer("remit-audit/test", Ed25519PrivateKey.from_private_bytes(bytes(range(32)))))


def answer(number: int, person: str = "u-1", *documents: str) -> Record:
    """The record of a search with the response id `r-<number>`."""
    returned = [
        Returned(rank, "company", one, "1", f"{one}-0", "00" * 32, 0, 9, 7, ()) for rank, one in enumerate(documents, 1)
    ]
    return Call(
        Kind.QUERY,
        "remit.v1.RetrievalService/Search",
        f"r-{number}",
        "OK",
        timedelta(0),
        actor=Actor("https://issuer", f"sub-{person}", "t", "people", person),
        returned=returned,
    ).record()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    """A log of many small segments."""
    opened = AuditLog(tmp_path, KEY.signer, BODIES, segment_bytes=2000)
    yield opened
    opened.close()


@pytest.fixture
def reader(log: AuditLog, tmp_path: Path) -> Iterator[AuditReader]:
    """A reader of it that follows only when it is asked."""
    opened = AuditReader(log, tmp_path, KEY)
    yield opened
    opened.close()


def ids(reader: AuditReader, wanted: Wanted, *, newest: bool = True) -> list[str]:
    """The response ids of all records that are wanted, page by page."""
    found: list[str] = []
    first, last = 0, reader.size - 1
    while True:
        page = reader.page(wanted, first=first, last=last, limit=3, newest=newest)
        found += [str(one.data).split('"response_id":"')[1].split('"')[0] for one in page.entries]
        if page.following is None:
            return found
        first, last = (first, page.following) if newest else (page.following, last)


def test_records_are_found_by_document_person_and_response(log: AuditLog, reader: AuditReader) -> None:
    """Each way finds exactly its records, in order, over several pages and segments; all conditions must hold."""
    for number in range(20):
        log.append_blocking(answer(number, f"u-{number % 2}", f"d-{number % 5}", f"d-{number % 5}", "d-all"))

    assert ids(reader, Wanted(document_id="d-3")) == ["r-18", "r-13", "r-8", "r-3"]
    assert ids(reader, Wanted(document_id="d-3"), newest=False) == ["r-3", "r-8", "r-13", "r-18"]
    assert ids(reader, Wanted(person="u-1")) == [f"r-{n}" for n in range(19, 0, -2)]
    assert ids(reader, Wanted(person="sub-u-1")) == ids(reader, Wanted(person="u-1"))
    assert ids(reader, Wanted(person="u-1", document_id="d-3")) == ["r-13", "r-3"]
    assert ids(reader, Wanted(document_id="d-all")) == [f"r-{n}" for n in range(19, -1, -1)]
    assert ids(reader, Wanted(document_id="d-9")) == ids(reader, Wanted(person="d-3")) == []
    assert [one.index for one in reader.by_response("r-7")] == [8]
    assert reader.by_response("r-77") == []


def test_times_and_classes_narrow(log: AuditLog, reader: AuditReader) -> None:
    """From a time on, before a time, and by class."""
    for number in range(4):
        log.append_blocking(answer(number, "u-1", "d"))
    now = datetime.now(UTC)
    hour = timedelta(hours=1)

    assert len(ids(reader, Wanted(document_id="d", since=now - hour, until=now + hour))) == 4
    assert ids(reader, Wanted(document_id="d", since=now + hour)) == []
    assert ids(reader, Wanted(until=now - hour)) == []
    assert len(ids(reader, Wanted(kinds=frozenset({Kind.QUERY})))) == 4
    control = reader.page(Wanted(kinds=frozenset({Kind.CONTROL})), first=0, last=99, limit=9, newest=True)
    assert [one.index for one in control.entries] == [0]


def test_a_digest_that_collides_decides_nothing(
    log: AuditLog, reader: AuditReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index proposes; what it proposes is read and compared."""
    monkeypatch.setattr(RecordIndex, "_digest", lambda self, name: 7)
    log.append_blocking(answer(1, "u-1", "d-1"))
    log.append_blocking(answer(2, "u-2", "d-2"))

    assert ids(reader, Wanted(document_id="d-1")) == ["r-1"]
    assert [one.index for one in reader.by_response("r-2")] == [2]


def test_the_index_holds_no_id_in_the_clear(log: AuditLog, reader: AuditReader, tmp_path: Path) -> None:
    """Neither people nor documents nor responses can be read from its files; from the log they can."""
    log.append_blocking(answer(1, "person-in-the-clear", "document-in-the-clear"))
    assert reader.by_response("r-1")

    files = b"".join(path.read_bytes() for path in tmp_path.glob("index.sqlite*"))
    assert any(b"in-the-clear" in data for data in opened(tmp_path))
    assert b"in-the-clear" not in files
    assert b"r-1" not in files


def damage(path: Path) -> None:
    """Overwrite the middle of a file."""
    data = bytearray(path.read_bytes())
    data[100 : len(data) // 2] = b"x" * (len(data) // 2 - 100)
    path.write_bytes(data)


def older(path: Path) -> None:
    """Forget some of the records, as an index that a backup brought back does."""
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM record WHERE idx > 2")
    db.close()


@pytest.mark.parametrize("fault", ["missing", "damaged", "older", "of another log", "of another format", "ahead"])
def test_an_index_that_is_not_this_logs_is_built_again(tmp_path: Path, fault: str) -> None:
    """Whatever is wrong with the derived file, the answers are those of the log."""
    log = AuditLog(tmp_path, KEY.signer, BODIES)
    for number in range(6):
        log.append_blocking(answer(number, "u-1", "d"))
    first = AuditReader(log, tmp_path, KEY)
    before = ids(first, Wanted(document_id="d"))
    first.close()
    path = tmp_path / "index.sqlite"
    match fault:
        case "missing":
            path.unlink()
        case "damaged":
            damage(path)
        case "older":
            older(path)
        case _:
            change = {
                "of another log": "origin = 'remit-audit/other'",
                "of another format": "format = 99",
                "ahead": "next = 1000",
            }[fault]
            with sqlite3.connect(path) as db:
                db.execute(f"UPDATE state SET {change}")
            db.close()

    second = AuditReader(log, tmp_path, KEY)
    try:
        assert ids(second, Wanted(document_id="d")) == before == [f"r-{n}" for n in range(5, -1, -1)]
    finally:
        second.close()
        log.close()


def test_an_index_that_cannot_be_written_stops_no_record(log: AuditLog, tmp_path: Path) -> None:
    """Auditors are told; the log goes on."""
    (tmp_path / "index.sqlite").mkdir()
    reader = AuditReader(log, tmp_path, KEY)
    reader.start()
    try:
        log.append_blocking(answer(1))
        with pytest.raises(IndexBehindError):
            reader.by_response("r-1")
        assert log.append_blocking(answer(2)).index == 2
    finally:
        reader.close()


def test_a_record_that_was_changed_is_not_shown(log: AuditLog, reader: AuditReader, tmp_path: Path) -> None:
    """A bit flipped while the service runs: the record is refused with its number, its neighbour is shown."""
    log.append_blocking(answer(1, "u-1", "d"))
    log.append_blocking(answer(2, "u-1", "d"))
    assert reader.by_response("r-1")
    changed = [
        data.replace(b'"response_id":"r-1","returned"', b'"response_id":"r-1","returnee"') for data in opened(tmp_path)
    ]
    (path,) = (tmp_path / "segments").iterdir()
    path.write_bytes(b"".join(len(one).to_bytes(4) + one for one in sealed(tmp_path, changed)))

    with pytest.raises(AuditTamperedError) as caught:
        reader.by_response("r-1")
    assert caught.value.index == 1
    assert [one.index for one in reader.by_response("r-2")] == [2]


def test_proofs_hold_at_every_size(log: AuditLog, reader: AuditReader) -> None:
    """Every record is proved to be under a signed checkpoint, and every earlier size to be its beginning."""
    for number in range(40):
        log.append_blocking(answer(number))
    signed = reader.checkpoint(reader.size)
    leaves = [reader.leaf(index) for index in range(signed.checkpoint.size)]

    assert Checkpoint.open(signed.note.encode(), KEY.verifier) == signed.checkpoint
    assert signed.checkpoint.root == root(leaves)
    for index in range(41):
        under, path = reader.inclusion(index)
        assert verify_inclusion(index, under.checkpoint.size, leaves[index], path, under.checkpoint.root)
    for size in range(1, 42):
        under, path = reader.consistency(size)
        assert verify_consistency(size, 41, root(leaves[:size]), under.checkpoint.root, path)
    for wrong in (-1, 41):
        with pytest.raises(ValueError, match="no record"):
            reader.inclusion(wrong)


def test_a_record_is_proved_as_soon_as_it_is_durable(log: AuditLog, reader: AuditReader) -> None:
    """A proof does not wait for the next checkpoint: one is signed for it."""
    receipt = log.append_blocking(answer(1))
    assert log.checkpoint.size <= receipt.index

    signed, path = reader.inclusion(receipt.index)

    assert signed.checkpoint.size == receipt.index + 1
    assert verify_inclusion(receipt.index, signed.checkpoint.size, receipt.leaf_hash, path, signed.checkpoint.root)


def test_leaves_that_were_changed_prove_nothing(log: AuditLog, reader: AuditReader, tmp_path: Path) -> None:
    """A proof that does not lead to the signed root is never given out."""
    for number in range(9):
        log.append_blocking(answer(number))
    data = bytearray((tmp_path / "leaves").read_bytes())
    data[3 * 32] ^= 1
    (tmp_path / "leaves").write_bytes(data)

    for asked in (lambda: reader.inclusion(5), lambda: reader.consistency(4), lambda: reader.stretch(Wanted(), 2)):
        with pytest.raises(AuditTamperedError):
            asked()


def test_blocks_of_leaves_give_the_same_proofs(tmp_path: Path) -> None:
    """With more leaves than one block holds, the hashes that are kept in memory are those of the tree."""
    leaves = [leaf_hash(str(n).encode()) for n in range(1500)]
    (tmp_path / "leaves").write_bytes(b"".join(leaves))
    found = Leaves(tmp_path)

    for size in (255, 256, 257, 1024, 1025, 1500):
        expected = root(leaves[:size])
        assert found.root(size) == expected
        for index in (0, 254, size - 1):
            assert verify_inclusion(index, size, leaves[index], found.inclusion(index, size, expected), expected)
        assert found.consistency(200, size, expected)
        for start, stop in ((0, size), (7, 250), (size, size), (3, size - 1)):
            before, behind = found.around(start, stop, size, expected)
            assert len(before) <= 11
            assert len(behind) <= 11


def test_a_stretch_is_read_in_parts_and_in_order(log: AuditLog, reader: AuditReader, tmp_path: Path) -> None:
    """Any range gives exactly its records; by time the range is the one that the times enclose."""
    for number in range(12):
        log.append_blocking(answer(number))
    everything = list(opened(tmp_path))

    for first, stop in ((0, 13), (3, 9), (12, 13), (5, 5)):
        found = [one.data for part in reader.read(first, stop) for one in part]
        assert found == everything[first:stop]
    whole = reader.stretch(Wanted(since=datetime(2000, 1, 1, tzinfo=UTC)))
    nothing = reader.stretch(Wanted(since=datetime(2100, 1, 1, tzinfo=UTC)))
    beyond = reader.stretch(Wanted(), 2**62)
    assert (whole.first, whole.stop) == (0, 13)
    assert nothing.first == nothing.stop == beyond.first == beyond.stop == 13


def test_a_tree_grows_by_whole_subtrees() -> None:
    """Leaves one by one and complete subtrees give the same root; a subtree that may not stand there is refused."""
    leaves = [leaf_hash(str(n).encode()) for n in range(12)]
    tree = Tree(leaves[:4])

    tree.append_subtree(root(leaves[4:8]), 2)
    tree.append_subtree(root(leaves[8:10]), 1)

    assert (tree.size, tree.root()) == (10, root(leaves[:10]))
    with pytest.raises(ValueError, match="no subtree of 4 leaves"):
        tree.append_subtree(leaves[0], 2)


def test_a_log_that_failed_signs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a checkpoint of a log that cannot be written is refused."""
    log = AuditLog(tmp_path, KEY.signer, BODIES)
    log.append_blocking(answer(1))
    monkeypatch.setattr(log, "_sign", lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(AuditUnavailableError, match="No space left"):
        log.covering(2)
    with pytest.raises(AuditUnavailableError):
        log.covering(1)
    log.close()
