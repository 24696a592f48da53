"""Bodies of records at rest: sealed for their place, gone with their key, and a log that verifies without them."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service import audit_keys
from service.audit import (
    AuditLog,
    AuditReader,
    AuditTamperedError,
    Bodies,
    Kind,
    Period,
    find,
    record,
    remit_audit_verify,
    segments,
    verify,
)
from service.audit import log as log_module
from service.audit.bodies import USES, BodyError, is_whole
from service.audit.checkpoint import Checkpoint
from service.audit.index import Wanted
from service.audit.merkle import leaf_hash, root
from service.audit.retention import Retention
from service.audit.standing import Hold
from service.errors import NotFoundError, StartError
from service.keys import FileKey, KeyStore, create_key_file
from service.stores.catalog import KEYS
from tests.service.test_audit_export import exported, lines, problem, put
from tests.service.test_audit_reading import KEY, answer, ids
from tests.support.audit_bodies import NAME_KEY, DerivedKeys, bodies, opened

DAY = date(2026, 1, 10)
START = datetime(2026, 1, 10, 12, tzinfo=UTC)
KEPT = {"query": timedelta(days=400), "control": timedelta(days=30)}


class Wall:
    """The writer's clock: a wall that is moved by hand."""

    def __init__(self) -> None:
        self.at = START

    def now(self, zone: object = UTC) -> datetime:
        """As `datetime.now`."""
        return self.at


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """The clock of every log that is opened in a test."""
    found = Wall()
    monkeypatch.setattr(log_module, "datetime", SimpleNamespace(now=found.now))
    return found


class Kept:
    """A log with its reader and its retention, on a clock of its own."""

    def __init__(self, folder: Path, wall: Wall, by: Bodies | None = None) -> None:
        self.folder, self.wall, self.bodies = folder, wall, by or bodies()
        self.log = AuditLog(folder, KEY.signer, self.bodies)
        self.reader = AuditReader(self.log, folder, KEY)
        self.retention = Retention(self.log, self.reader, KEPT, now=lambda: wall.at)

    def ok(self) -> bool:
        """Whether the files verify."""
        return verify(self.folder, KEY.verifier, self.bodies).ok

    def close(self) -> None:
        """End it."""
        self.retention.close()
        self.reader.close()
        self.log.close()


@pytest.fixture
def kept(tmp_path: Path, wall: Wall) -> Iterator[Kept]:
    """A log with two answers on one day and one on the next; then 401 days pass."""
    found = Kept(tmp_path / "log", wall)
    found.log.append_blocking(answer(1, "u-1", "d-1"))
    found.log.append_blocking(answer(2, "u-2", "d-2"))
    wall.at += timedelta(days=1)
    found.log.append_blocking(answer(3, "u-1", "d-2"))
    wall.at = datetime(2026, 1, 11, tzinfo=UTC) + timedelta(days=400)
    yield found
    found.close()


# --- at rest ---


def test_nothing_of_a_record_stands_in_its_segment(tmp_path: Path) -> None:
    """People, documents and responses are in no file of the log; opened, the records say them."""
    log = AuditLog(tmp_path, KEY.signer, bodies())
    log.append_blocking(answer(1, "person-at-rest", "document-at-rest"))
    log.close()

    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"at-rest" not in stored
    assert b"r-1" not in stored
    assert any(b"person-at-rest" in data for data in opened(tmp_path))


def test_a_stored_record_opens_in_its_place_alone() -> None:
    """Another number, class, day, name, key or byte: it does not open; where it belongs it does."""
    by = bodies()
    made = answer(1)
    stored = by.seal(made, 5, DAY, b'{"body":1}')

    assert by.open(5, stored) == b'{"body":1}'
    with pytest.raises(BodyError):
        by.open(6, stored)
    for at in range(len(stored)):
        changed = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
        assert not is_whole(changed)
        if at not in range(1, 5):  # the checksum alone: without it the rest still opens
            with pytest.raises(BodyError):
                by.open(5, changed)
    with pytest.raises(BodyError):
        by.open(5, stored[:10])


def test_equal_records_have_leaves_that_nobody_can_guess(tmp_path: Path) -> None:
    """Whoever knows everything that a record says cannot try whether a leaf is its: it holds 16 random bytes."""
    log = AuditLog(tmp_path, KEY.signer, bodies())
    log.close()
    first, *_ = opened(tmp_path)
    said = json.loads(first)

    assert len(bytes.fromhex(said["salt"])) == 16
    other = first.replace(said["salt"].encode(), b"0" * 32)
    assert leaf_hash(other) != leaf_hash(first)
    assert len({json.loads(data)["salt"] for data in opened(tmp_path)}) == 2


def test_a_log_from_before_bodies_were_sealed_goes_on(tmp_path: Path) -> None:
    """Its records are read, found and verified as they stand; new ones behind them, in the same file, are sealed."""
    old, last = [], bytes(32)
    for number in range(3):
        body = answer(number, "u-old", "d-old").body.decode()
        text = (
            f'{{"body":{body},"class":"query","index":{number},"previous":"{last.hex()}","session":"00",'
            f'"time":"2025-01-01T00:00:0{number}.000000Z","uptime_us":1,"v":1}}'
        )
        old.append(text.encode())
        last = leaf_hash(old[-1])
    leaves = [leaf_hash(one) for one in old]
    writer = segments.Writer(tmp_path, 0)
    writer.append(0, old, leaves)
    writer.put_checkpoint(Checkpoint(KEY.verifier.name, 3, root(leaves)).sign(KEY.signer))
    writer.close()
    assert b"u-old" in (tmp_path / "segments" / "000000000000.seg").read_bytes()

    log = AuditLog(tmp_path, KEY.signer, by := bodies())
    log.append_blocking(answer(7, "u-new", "d-old"))
    reader = AuditReader(log, tmp_path, KEY)

    assert ids(reader, Wanted(document_id="d-old")) == ["r-7", "r-2", "r-1", "r-0"]
    target = exported(log, tmp_path, tmp_path.parent / f"{tmp_path.name}-export")
    assert problem(target) == "None"
    reader.close()
    log.close()
    assert verify(tmp_path, KEY.verifier, by).ok
    assert list(opened(tmp_path))[:3] == old
    assert b"u-new" not in (tmp_path / "segments" / "000000000000.seg").read_bytes()
    assert (found := find(tmp_path, "r-1", by)) is not None
    assert found.index == 1


def test_leaves_alone_are_checked_without_keys(tmp_path: Path) -> None:
    """Without the keys of the bodies: the leaves give the signed root, a torn file shows, and nothing is claimed."""
    log = AuditLog(tmp_path, KEY.signer, bodies())
    log.append_blocking(answer(1))
    log.close()

    report = verify(tmp_path, KEY.verifier, None)
    assert (report.ok, report.unopened, report.records) == (True, 3, 3)
    path = next((tmp_path / "segments").iterdir())
    path.write_bytes(path.read_bytes()[:-5] + b"xxxxx")
    assert not verify(tmp_path, KEY.verifier, None).ok


def test_the_keys_are_in_the_key_store(tmp_path: Path) -> None:
    """Made when first needed, under the key-encryption key, read beside an open store, and counted before use."""
    create_key_file(tmp_path / "kek")
    provider = FileKey(tmp_path / "kek")
    store = KeyStore(tmp_path / "store" / KEYS, provider)
    log = AuditLog(tmp_path / "log", KEY.signer, audit_keys.bodies(store, KEY))
    log.append_blocking(answer(1))

    by = audit_keys.opener(tmp_path / "store", provider, KEY)
    assert verify(tmp_path / "log", KEY.verifier, by).ok
    assert (found := find(tmp_path / "log", "r-1", by)) is not None
    assert found.record["class"] == "query"
    log.append_blocking(record(Kind.INGEST, {"event": "x"}))  # of a class that had no key before
    assert verify(tmp_path / "log", KEY.verifier, by).ok
    assert {name.partition(" ")[0] for name in store.documents(audit_keys.SOURCE)} == {"control", "query", "ingest"}
    with store.read() as connection:
        uses = {row.uses for row in connection.exec_driver_sql("SELECT uses FROM documents")}
    assert uses == {USES}
    log.close()
    store.close()

    create_key_file(tmp_path / "other")
    with pytest.raises(StartError, match="cannot be opened"):
        audit_keys.opener(tmp_path / "store", FileKey(tmp_path / "other"), KEY)


def test_what_expired_is_beyond_reading_but_with_older_key_stores(tmp_path: Path, wall: Wall) -> None:
    """Its key is in no file of the key store; an older copy of the log with today's keys says that it expired."""
    create_key_file(tmp_path / "kek")
    provider, path = FileKey(tmp_path / "kek"), tmp_path / "store" / KEYS
    store = KeyStore(path, provider)
    kept = Kept(tmp_path / "log", wall, audit_keys.bodies(store, KEY))
    kept.log.append_blocking(answer(1))
    with store.read() as connection:
        asked = "SELECT wrapped FROM documents WHERE document LIKE 'query%'"
        (wrapped,) = [row.wrapped for row in connection.exec_driver_sql(asked)]
    store.empty_log()
    assert wrapped in path.read_bytes(), "the control: it is found while it is there"
    shutil.copytree(tmp_path / "store", tmp_path / "older")
    shutil.copytree(tmp_path / "log", tmp_path / "copy")
    wall.at += timedelta(days=500)

    kept.retention.sweep()

    files = b"".join(one.read_bytes() for one in (tmp_path / "store").iterdir())
    assert wrapped not in files
    now, then = (audit_keys.opener(tmp_path / name, provider, KEY) for name in ("store", "older"))
    assert (gone := find(tmp_path / "copy", "r-1", now)) is not None
    assert (gone.expired, gone.data) == (Period("query", DAY), b"")
    assert (read := find(tmp_path / "copy", "r-1", then)) is not None
    assert read.record["class"] == "query"
    assert not verify(tmp_path / "copy", KEY.verifier, now).ok, "this copy does not know of the expiry"
    assert verify(tmp_path / "log", KEY.verifier, now).ok
    kept.close()
    store.close()


def test_uses_are_counted_again_when_they_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is asked for again after as many seals as were counted."""
    monkeypatch.setattr("service.audit.bodies.USES", 3)
    asked: list[str] = []

    class Counted(DerivedKeys):
        def sealing(self, name: str) -> AESGCM:
            asked.append(name)
            return super().sealing(name)

    by = Bodies(Counted(), NAME_KEY)

    for index in range(7):
        by.seal(answer(1), index, DAY, b"{}")

    assert asked == ["query 2026-01-10"] * 3


# --- gone ---


def test_a_key_that_is_missing_without_a_word_is_found(tmp_path: Path, kept: Kept) -> None:
    """A body that cannot be read counts as taken away unless the log says that it expired; nothing is served then."""
    kept.bodies.destroy([Period("query", DAY)])

    found = verify(kept.folder, KEY.verifier, kept.bodies).problem
    assert found is not None
    assert found.index == 1
    assert "no record says that it expired" in found.what
    with pytest.raises(AuditTamperedError, match="missing"):
        kept.reader.page(Wanted(), first=0, last=9, limit=9, newest=False)
    kept.close()
    with pytest.raises(AuditTamperedError, match=r"record 1: .* restore the key store that belongs to it"):
        AuditLog(kept.folder, KEY.signer, kept.bodies)


def test_bodies_expire_by_class_and_the_tree_still_closes(kept: Kept, tmp_path: Path) -> None:
    """What is due is gone, what is not is there; list, show, find, export and the verifiers say so; the log goes on."""
    assert kept.retention.sweep() == {Period("query", DAY), Period("control", DAY)}
    assert kept.retention.sweep() == frozenset()

    report = verify(kept.folder, KEY.verifier, kept.bodies)
    assert (report.ok, report.expired, report.problem) == (True, 3, None)
    entries = kept.reader.page(Wanted(), first=0, last=9, limit=9, newest=False).entries
    assert [one.expired.name if one.expired else "" for one in entries] == [
        "control 2026-01-10",
        "query 2026-01-10",
        "query 2026-01-10",
        "",
        "",
    ]
    assert [one.data for one in entries[:3]] == [b""] * 3
    (shown,) = kept.reader.by_response("r-2")
    assert shown.index == 2
    assert shown.expired == Period("query", DAY)
    found = find(kept.folder, "r-2", kept.bodies)
    assert found is not None
    assert (found.index, found.expired) == (2, Period("query", DAY))
    assert ids(kept.reader, Wanted(document_id="d-2")) == ["r-3"], "the index has forgotten whom it named"
    for first, stop in ((0, None), (1, 3), (2, 4), (4, 5)):
        target = exported(kept.log, kept.folder, tmp_path / f"export-{first}", first, stop)
        result = remit_audit_verify.verify(target, KEY.verifier.text)
        assert result.problem is None
        assert result.expired == len([n for n in range(3) if first <= n < (9 if stop is None else stop)])
    kept.close()
    again = Kept(kept.folder, kept.wall, kept.bodies)
    again.log.append_blocking(answer(9))
    assert again.ok()
    again.close()


def test_no_file_of_the_log_names_what_expired(kept: Kept) -> None:
    """Also not the index, whose digests could be tried by whoever has the log's secret."""
    name = kept.bodies.digest("person:u-2")
    assert [one.index for one in kept.reader.page(Wanted(person="u-2"), first=0, last=9, limit=9, newest=True).entries]
    kept.retention.sweep()

    with kept.reader._index._lock:
        db = kept.reader._index._opened(None)
        assert db.execute("SELECT count(*) FROM named WHERE name = ?", (name,)).fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM named").fetchone()[0] > 0
    data = (kept.folder / "index.sqlite").read_bytes()
    assert name.to_bytes(8) not in data


def test_an_index_that_is_built_after_the_expiry_knows_the_response_alone(kept: Kept) -> None:
    """Built from what is left, it finds an answer by its id and says that it expired."""
    kept.retention.sweep()
    kept.reader._index.forget()

    (shown,) = kept.reader.by_response("r-1")
    assert shown.expired is not None
    assert ids(kept.reader, Wanted(person="u-1")) == ["r-3"]


def slip(folder: Path, index: int, period: bytes) -> None:
    """Give a stored record another class and day, with a checksum that fits, as somebody would who hides it."""
    for place, stored in segments.read_from(folder, segments.Place(), index + 1):
        if place.index == index:
            rest = period + stored[9:]
            path = folder / "segments" / f"{place.segment:012d}.seg"
            data = bytearray(path.read_bytes())
            changed = stored[:1] + zlib.crc32(rest).to_bytes(4) + rest
            data[place.offset + 4 : place.offset + 4 + len(changed)] = changed
            path.write_bytes(data)


def test_a_record_that_is_slipped_under_an_expiry_is_found(kept: Kept) -> None:
    """A record that is made to look like one that expired is missed: the log says which ones did."""
    first = next(stored for place, stored in segments.read_from(kept.folder, segments.Place(), 2) if place.index == 1)
    kept.retention.sweep()
    assert kept.ok()

    slip(kept.folder, 3, first[5:9])

    found = verify(kept.folder, KEY.verifier, kept.bodies).problem
    assert found is not None
    assert "2 records expired" in found.what


def test_an_export_cannot_hide_a_record_behind_an_expiry(kept: Kept, tmp_path: Path) -> None:
    """A placeholder for a record that did not expire, an expiry that was changed or left out: named."""
    kept.retention.sweep()
    target = exported(kept.log, kept.folder, tmp_path / "export")
    whole = lines(target)
    said = (target / "expiries.jsonl").read_bytes()

    def hidden(kind: str, day: str) -> bytes:
        return f'{{"expired":{{"class":"{kind}","day":"{day}"}},"index":3}}\n'.encode()

    put(target, lambda found: [*found[:3], hidden("query", "2026-01-11"), *found[4:]])
    assert problem(target).startswith("record 3: its body is missing, and no record says")
    put(target, lambda found: [*found[:3], hidden("query", "2026-01-10"), *found[4:]])
    assert "bodies of class query of 2026-01-10 are missing that did not expire" in problem(target)
    put(target, lambda found: whole)
    assert problem(target) == "None"
    (target / "expiries.jsonl").write_bytes(b"")
    assert problem(target).startswith("record 0: its body is missing")
    (target / "expiries.jsonl").write_bytes(said.replace(b"2026-01-10", b"2026-01-11"))
    with pytest.raises(remit_audit_verify.InputError, match="not in the log"):
        problem(target)


def test_a_crash_between_word_and_deed_is_made_good(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is there and the keys still are: everything is read as before, and the next sweep goes on."""
    monkeypatch.setattr(kept.bodies, "destroy", lambda periods: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(OSError, match="I/O"):
        kept.retention.sweep()
    assert kept.ok()
    monkeypatch.undo()

    assert Period("query", DAY) in kept.retention.sweep()
    assert kept.ok()


def test_a_clock_that_is_set_back_seals_under_the_last_day(kept: Kept) -> None:
    """A key that was destroyed is never made again, so that what expired cannot look changed."""
    kept.log.append_blocking(answer(4))
    kept.retention.sweep()
    kept.wall.at = START

    kept.log.append_blocking(answer(5))

    assert Period("query", DAY) not in kept.bodies.periods()
    assert kept.ok()


# --- holds ---


@pytest.mark.parametrize(
    ("hold", "stays"),
    [
        (Hold("", "kai", "a case"), {"query", "control"}),
        (Hold("", "kai", "a case", kinds=frozenset({"query"})), {"query"}),
        (Hold("", "kai", "a case", since=DAY, until=DAY), {"query", "control"}),
        (Hold("", "kai", "a case", since=DAY + timedelta(days=1)), set()),
        (Hold("", "kai", "a case", until=DAY - timedelta(days=1)), set()),
        (Hold("", "kai", "a case", document_id="d-1"), {"query", "control"}),
        (Hold("", "kai", "a case", kinds=frozenset({"query"}), document_id="d-1"), {"query"}),
        (Hold("", "kai", "a case", person="u-2"), {"query", "control"}),
        (Hold("", "kai", "a case", person="u-2", document_id="d-2"), {"query", "control"}),
        (Hold("", "kai", "a case", person="u-9"), set()),
    ],
)
def test_a_hold_keeps_what_it_names_until_it_is_lifted(kept: Kept, hold: Hold, stays: set[str]) -> None:
    """By class, days, document and person; the neighbours expire; it outlives a restart; lifted, the rest goes."""
    placed = kept.retention.hold(hold)
    both = {Period("query", DAY), Period("control", DAY)}
    kept.close()
    kept = Kept(kept.folder, kept.wall, kept.bodies)
    assert [(one.hold_id, one.by, one.why) for one in kept.retention.holds] == [(placed.hold_id, "kai", "a case")]

    gone = kept.retention.sweep()

    assert {period.kind for period in both - gone} == stays
    assert kept.ok()
    kept.retention.lift(placed.hold_id, "kai", "settled")
    assert kept.retention.holds == ()
    assert kept.retention.sweep() == both - gone
    assert kept.ok()
    with pytest.raises(NotFoundError):
        kept.retention.lift(placed.hold_id, "kai", "again")
    kept.close()


def test_a_hold_keeps_the_key_of_a_record_that_a_clock_dated_back(kept: Kept) -> None:
    """The day that counts is that of the key: what was written under a clock that was set back is kept, too."""
    kept.wall.at = START + timedelta(days=30)
    kept.log.append_blocking(answer(7, "u-7", "d-7"))
    kept.wall.at = START
    kept.log.append_blocking(answer(8, "u-8", "d-8"))
    kept.wall.at = START + timedelta(days=500)

    kept.retention.hold(Hold("", "kai", "a case", kinds=frozenset({"query"}), person="u-8"))
    gone = kept.retention.sweep()

    assert Period("query", DAY) in gone
    assert Period("query", DAY + timedelta(days=30)) not in gone
    assert kept.reader.by_response("r-8")[0].expired is None


def test_nothing_expires_when_a_hold_cannot_be_told(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an index nobody knows on which days a person is named: then everything stays."""
    kept.retention.hold(Hold("", "kai", "a case", person="u-1"))
    monkeypatch.setattr(
        kept.reader._index, "places_naming", lambda name: (_ for _ in ()).throw(OSError(5, "I/O error"))
    )

    with pytest.raises(Exception, match="cannot be used"):
        kept.retention.sweep()

    assert Period("query", DAY) in kept.bodies.periods()


def test_what_stands_never_expires(kept: Kept) -> None:
    """Holds and expiries are read for as long as there is a log; the other classes for as long as they are kept."""
    kept.retention.sweep()
    kept.wall.at += timedelta(days=4000)

    gone = {period.kind for period in kept.retention.sweep()}

    assert gone == {"query"}
    assert {period.kind for period in kept.bodies.periods()} == {"standing"}
    assert kept.ok()


@pytest.mark.parametrize(
    ("before", "jump", "up", "trouble"),
    [
        (timedelta(minutes=1), timedelta(0), 0.0, ""),
        (timedelta(minutes=1), timedelta(hours=2), 7200.0, ""),
        (timedelta(minutes=1), timedelta(hours=2), 10.0, "changed"),
        (timedelta(minutes=1), timedelta(days=-3), 10.0, "changed"),
        (timedelta(days=31), timedelta(0), 0.0, "older"),
        (timedelta(days=31), timedelta(days=1), 86_400.0, ""),
    ],
)
def test_a_clock_that_cannot_be_trusted_destroys_nothing(
    kept: Kept, before: timedelta, jump: timedelta, up: float, trouble: str
) -> None:
    """One that jumped, or is far ahead of the log; one that runs as the machine does is trusted."""
    up_s = [0.0]
    kept.log.last_before = kept.wall.at - before
    retention = Retention(kept.log, kept.reader, KEPT, now=lambda: kept.wall.at, uptime_s=lambda: up_s[0])

    kept.wall.at += jump
    up_s[0] = up

    assert trouble in retention.clock_trouble()
    assert bool(trouble) == bool(retention.clock_trouble())
