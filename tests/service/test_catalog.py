"""The data folder and the catalog: what they refuse to open, what a snapshot sees, what a stolen disk shows."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, update

from acl.changes import AclDrop, AclPut, DocumentDrop, DocumentPut, ScopePut
from acl.model import ScopeId, Unknown
from acl.normalize import encode, normalize
from acl.principal import Principal
from connectors.base import Skip, own_realm
from connectors.testing.hostile import MemoryScope
from service.errors import StartError
from service.index.base import Add, Remove
from service.keys import Custody, FileKey, KeyStore, UnsealError, create_key_file
from service.stores import schema
from service.stores.catalog import Catalog, open_stores
from service.stores.errors import FormatError, LockedError, ModelChangedError, StorageError, StorageFullError
from service.stores.folder import FORMAT, open_folder
from service.stores.records import RunState
from service.stores.runs import INTERRUPTED
from tests.service.sync_support import EPOCH, SOURCE, World, allow, everything, open_world, person

CANARY = "Quetzalcoatlus-7f3a91"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as opened:
        yield opened


# The folder.


def test_a_new_folder_is_its_owners_alone(tmp_path: Path) -> None:
    """Created with its parents, mode 0700, and opened again."""
    path = tmp_path / "a" / "data"

    open_folder(path).close()
    open_folder(path).close()

    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / "FORMAT").read_text() == f"{FORMAT}\n"


@pytest.mark.parametrize("written", ["1\n", "", "one\n", "10\n"])
def test_a_folder_of_another_format_is_refused_and_left_alone(tmp_path: Path, written: str) -> None:
    """The sentence says what to do; nothing is written."""
    (tmp_path / "FORMAT").write_text(written)

    with pytest.raises(FormatError, match="sync again"):
        open_folder(tmp_path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["FORMAT"]
    (tmp_path / "FORMAT").write_text(f"{FORMAT}\n")
    open_folder(tmp_path).close()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    """Nobody's files are mixed with a catalog; what a crash leaves while a folder is made is no obstacle."""
    (tmp_path / "holiday.jpg").touch()

    with pytest.raises(FormatError, match=r"holiday\.jpg"):
        open_folder(tmp_path)

    (tmp_path / "holiday.jpg").rename(tmp_path / "FORMAT.new")
    (tmp_path / "lock").touch()
    open_folder(tmp_path).close()


def test_a_folder_that_another_process_has_open_is_refused_with_its_id(tmp_path: Path) -> None:
    """The lock is the process's: when it is gone, however it went, the folder opens."""
    script = (
        "import sys; from pathlib import Path; from service.stores.folder import FORMAT, open_folder;"
        "folder = open_folder(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "data"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"

        with pytest.raises(LockedError, match=f"by process {other.pid}"):
            open_folder(path)

        other.kill()
        other.wait()
    open_folder(path).close()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """A file where a folder should be."""
    (tmp_path / "file").touch()

    with pytest.raises(StartError, match="cannot be read or written"):
        open_folder(tmp_path / "file" / "data")


def test_a_full_disk_while_a_folder_is_made_leaves_nothing_that_hinders(tmp_path: Path) -> None:
    """One sentence; with space again the same folder opens."""
    path = tmp_path / "data"
    path.mkdir()
    (path / "FORMAT.new").symlink_to("/dev/full")

    with pytest.raises(StartError, match="no space left"):
        open_folder(path)

    assert not (path / "FORMAT").exists()
    (path / "FORMAT.new").unlink()
    open_folder(path).close()


# Catalog and keys belong together.


def test_a_catalog_of_another_key_store_is_refused(tmp_path: Path) -> None:
    """A key store made anew, or of another folder, opens nothing and is told apart."""
    with open_world(tmp_path):
        pass
    store = tmp_path / "keystore"
    store.rename(tmp_path / "kept")
    folder = open_folder(tmp_path / "data")

    with pytest.raises(StartError, match="is missing"):
        open_stores(folder, store, FileKey(tmp_path / "kek"), EPOCH)
    KeyStore(store / "keys.sqlite", FileKey(tmp_path / "kek")).close()
    with pytest.raises(StartError, match="another key store"):
        open_stores(folder, store, FileKey(tmp_path / "kek"), EPOCH)

    store.rename(tmp_path / "made-anew")
    (tmp_path / "kept").rename(store)
    folder.close()
    with open_world(tmp_path):
        pass


def test_another_key_opens_nothing_and_writes_nothing(tmp_path: Path) -> None:
    """The folder's files are the same bytes after the refusal."""
    with open_world(tmp_path):
        pass
    create_key_file(tmp_path / "other")
    folder = open_folder(tmp_path / "data")
    both = (folder.path, tmp_path / "keystore")
    before = {path: path.read_bytes() for one in both for path in one.iterdir()}

    with pytest.raises(StartError, match="restore the right key"):
        open_stores(folder, tmp_path / "keystore", FileKey(tmp_path / "other"), EPOCH)

    assert {path: path.read_bytes() for one in both for path in one.iterdir()} == before
    folder.close()


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    """Damage is named, not a traceback of the driver."""
    with open_world(tmp_path):
        pass
    (tmp_path / "data" / "catalog.sqlite").write_bytes(b"this is no database, " * 1000)
    folder = open_folder(tmp_path / "data")

    with pytest.raises(StorageError, match=r"catalog.sqlite` cannot be read or written"):
        open_stores(folder, tmp_path / "keystore", FileKey(tmp_path / "kek"), EPOCH)
    folder.close()


def test_vectors_of_another_model_are_not_mixed(world: World) -> None:
    """Refused as soon as there is one stored vector; free to choose before."""
    world.catalog.bind_model("another", 8)
    world.catalog.bind_model(world.embedder.digest, world.embedder.dimension)
    world.add("a.txt", "text", allow(1))
    world.sync()

    with pytest.raises(ModelChangedError, match="another model"):
        world.catalog.bind_model("another", 8)

    world.catalog.bind_model(world.embedder.digest, world.embedder.dimension)


def test_a_source_does_not_change_its_kind(world: World) -> None:
    """A name that was a folder is not suddenly a wiki."""
    with pytest.raises(StartError, match="name it anew"):
        world.catalog.add_source(SOURCE, "wiki")

    world.catalog.add_source(SOURCE, "memory")


def test_a_run_that_a_crash_interrupted_is_failed_at_the_next_start(tmp_path: Path) -> None:
    """Nobody watches a run for ever that nobody works on."""
    with open_world(tmp_path) as world:
        run_id = world.engine.open(SOURCE).progress.run_id

    with open_world(tmp_path) as world, world.catalog.reader() as reader:
        run = reader.run(run_id)

    assert run is not None
    assert (run.state, run.failure) == (RunState.FAILED, INTERRUPTED)


# Reading.


def test_a_reader_sees_one_moment(world: World) -> None:
    """What is committed while a snapshot is open is not in it, and is in the next."""
    world.add("a.txt", "old", allow(1))
    world.sync()
    world.add("a.txt", "new", allow(2))
    with world.catalog.reader() as reader:
        before = reader.changes_since(0)
        document = reader.documents([1])[1]

        done = threading.Thread(target=world.sync)
        done.start()
        done.join(30)

        assert reader.changes_since(0) == before
        assert reader.documents([1])[1] == document
        assert [world.catalog.sealing.text(chunk).text for chunk in reader.chunks_of(1)] == ["old"]
    with world.catalog.reader() as reader:
        assert reader.seq > document.text_seq
        assert [world.catalog.sealing.text(chunk).text for chunk in reader.chunks_of(1)] == ["new"]


def test_a_follower_of_the_change_log_ends_with_what_a_new_one_reads(world: World) -> None:
    """Applying what is new after each run gives the same values as reading everything at the end."""
    held: dict[tuple[str, object], object] = {}
    seq = 0
    world.source.scopes[ScopeId("team")] = MemoryScope(ScopeId("root"), allow(1), "/team")
    for step in range(6):
        world.add(f"{step}.txt", f"text {step}", allow(step % 3 + 1), "team" if step % 2 else "root")
        world.source.documents.pop(f"{step - 3}.txt", None)
        if step == 4:
            world.add("4.txt", "text 4", Unknown("not understood"))
        if step == 5:
            del world.source.scopes[ScopeId("team")]
            world.source.documents.pop("3.txt", None)
        assert world.sync().state is RunState.SUCCEEDED
        with world.catalog.reader() as reader:
            for change in reader.changes_since(seq):
                assert change.source == SOURCE
                match change.value:
                    case ScopePut() | AclPut() | DocumentPut() as put:
                        held[_named(put)] = put
                    case drop:
                        held.pop(_named(drop), None)
            seq = reader.seq
            fresh = {_named(change.value): change.value for change in reader.changes_since(0)}
        assert held == fresh
        assert reader.seq == seq


def _named(value: object) -> tuple[str, object]:
    match value:
        case AclPut(acl_id=ref) | AclDrop(acl_id=ref):
            return "acl", ref
        case DocumentPut(ordinal=ref) | DocumentDrop(ordinal=ref):
            return "document", ref
        case _:
            return "scope", value.id  # type: ignore[attr-defined]  # the only kind that is left


def test_acl_ids_and_rows_are_never_used_again(world: World) -> None:
    """After everything was removed, what is new gets numbers that nothing ever had."""
    world.add("a.txt", "text", allow(1))
    world.sync()
    first = world.documents()["a.txt"]
    world.source.documents.clear()
    world.sync()
    world.add("a.txt", "text", allow(1))
    world.sync()

    second = world.documents()["a.txt"]

    assert second.acl_id > first.acl_id
    assert second.ordinal > first.ordinal
    assert second.row_start >= first.row_stop
    assert second.document_id != first.document_id


def test_documents_with_the_same_rules_share_an_acl(world: World) -> None:
    """A pair of scope and clause is interned once; the order of the rules' principals is no difference."""
    world.source.scopes[ScopeId("team")] = MemoryScope(ScopeId("root"), allow(1, 2), "/team")
    for number in range(10):
        world.add(f"{number}.txt", f"text {number}", allow(1, 2), "team" if number % 2 else "root")

    world.sync()

    assert len({document.acl_id for document in world.documents().values()}) == 2


def test_the_feed_gives_vectors_of_unit_length_near_to_those_embedded(world: World) -> None:
    """Half precision costs less than a thousandth of the cosine."""
    world.add("a.txt", "some words to embed", allow(1))
    world.sync()
    wanted = world.embedder.embed(["some words to embed"])[0]

    with world.catalog.reader() as reader:
        (item,) = reader.feed(0, 10)
        assert reader.feed(item.seq, 10) == []

    assert isinstance(item, Add)
    assert item.vector.dtype == np.float32
    assert np.isclose(np.linalg.norm(item.vector), 1.0, atol=1e-6)
    assert float(item.vector @ wanted) > 0.999


def test_the_feed_goes_on_after_any_place(world: World) -> None:
    """Pages of any size give the same items in the same order, each seq larger than the one before."""
    for number in range(7):
        world.add(f"{number}.txt", f"text {number}\n\nmore", allow(1))
    world.sync()
    del world.source.documents["3.txt"]
    world.sync()
    with world.catalog.reader() as reader:
        whole = [(item.seq, item.row, type(item)) for item in reader.feed(0, 100)]
        paged: list[tuple[int, int, type]] = []
        while page := reader.feed(paged[-1][0] if paged else 0, 3):
            paged += [(item.seq, item.row, type(item)) for item in page]

    assert paged == whole
    assert [seq for seq, _, _ in whole] == sorted({seq for seq, _, _ in whole})
    assert sum(kind is Remove for _, _, kind in whole) == 2
    assert sum(kind is Add for _, _, kind in whole) == 12


def test_counts_are_of_what_can_be_served(world: World) -> None:
    """Documents without a text and those that are withheld are not among the documents."""
    world.add("a.txt", "one\n\ntwo", allow(1))
    world.add("b.txt", "", allow(1))
    world.add("c.txt", "text", Unknown("not understood"))

    run = world.sync()

    with world.catalog.reader() as reader:
        (source,) = reader.sources()
    assert (source.documents, source.chunks, source.quarantined) == (1, 2, 1)
    assert source.latest_run == run


def test_titles_and_places_that_are_not_utf8_are_shown_escaped(world: World) -> None:
    """A lone surrogate from a file's name breaks nothing and stays recognisable."""
    world.add("odd-\udcff\n.txt", "text", allow(1))

    world.sync()

    assert list(world.documents()) == ["odd-\\udcff\n.txt"]
    assert world.readable(1) == {"odd-\\udcff\n.txt": ["text"]}


# What a disk shows.


def _everything(path: Path) -> bytes:
    return b"\0".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


def _forms(text: str) -> list[bytes]:
    return [text.encode(), text.encode("utf-16-le"), text.encode().hex().encode(), text.lower().encode()]


def test_no_text_title_path_label_or_native_id_stands_in_any_file(tmp_path: Path) -> None:
    """The canary is in everything that a source sends; no byte of the folder shows it, closed or open."""
    with open_world(tmp_path) as world:
        team = ScopeId(f"inode-{CANARY}")
        world.source.scopes[team] = MemoryScope(ScopeId("root"), allow(1), f"/{CANARY}")
        world.source.scopes[ScopeId("odd")] = MemoryScope(ScopeId("root"), Unknown(f"entry {CANARY}"), "/odd")
        world.add(f"{CANARY}.txt", f"# {CANARY}\n\nabout {CANARY}", allow(1), team)
        world.add(f"unknown-{CANARY}.txt", "text", Unknown(f"rule {CANARY}"))
        world.add(f"bad-{CANARY}.txt", CANARY, allow(1))
        world.extractor.failures[CANARY] = "corrupt"
        world.source.skips.append(Skip(None, f"/{CANARY}/pipe", "special file", f"a FIFO {CANARY}"))
        run = world.sync()
        world.source.faults.fail_at = 1
        world.source.faults.error = RuntimeError(CANARY)
        world.sync()
        opened = _everything(world.folder.path)
        shown = str(world.readable(1)) + str(run.problems) + str(list(world.documents()))
    closed = _everything(tmp_path / "data")

    assert shown.count(CANARY) >= 5, "the control: opened with its keys, it is there"
    assert b"special" not in closed
    assert b"corrupt" in closed, "the control: a word that is not sealed is found"
    for form in _forms(CANARY):
        assert form not in opened
        assert form not in closed


def test_the_scan_finds_a_canary_that_is_not_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: without sealing the same scan finds the same canary."""
    monkeypatch.setattr("service.stores.sealing.seal", lambda cipher, plain, place: plain)
    with open_world(tmp_path) as world:
        world.add("a.txt", f"about {CANARY}", allow(1))
        world.sync()

    assert CANARY.encode() in _everything(tmp_path / "data")


def test_removed_text_cannot_be_opened_even_from_a_copy_of_the_catalog(tmp_path: Path) -> None:
    """The catalog from before the removal, with today's key store: the document is shredded, its neighbour opens."""
    with open_world(tmp_path) as world:
        world.add("a.txt", "shredded", allow(1))
        world.add("b.txt", "kept", allow(1))
        world.sync()
        source = world.source
    copy = (tmp_path / "data" / "catalog.sqlite").read_bytes()
    with open_world(tmp_path, source) as world:
        del source.documents["a.txt"]
        world.sync()
        assert world.readable(1) == {"b.txt": ["kept"]}
    for leftover in (tmp_path / "data").glob("catalog.sqlite*"):
        leftover.unlink()
    (tmp_path / "data" / "catalog.sqlite").write_bytes(copy)

    with open_world(tmp_path, source) as world, world.catalog.reader() as reader:
        documents = reader.documents([1, 2])
        assert world.catalog.sealing.location(documents[2]) == "b.txt"
        with pytest.raises(UnsealError, match="no key any more"):
            world.catalog.sealing.location(documents[1])
        with pytest.raises(UnsealError):
            world.catalog.sealing.text(reader.chunks_of(1)[0])


def test_ciphertexts_that_were_swapped_do_not_open(world: World) -> None:
    """Within a document and between two: a passage opens only where it was stored."""
    world.add("a.txt", "first\n\nsecond", allow(1))
    world.add("b.txt", "third", allow(1))
    world.sync()
    with world.catalog._write() as connection:
        bodies = connection.execute(schema.chunks.select().order_by(schema.chunks.c.row)).all()
        for row, body in ((1, bodies[1].body), (2, bodies[0].body)):
            connection.execute(update(schema.chunks).where(schema.chunks.c.row == row).values(body=body))

    with world.catalog.reader() as reader:
        chunks = reader.chunks([1, 2, 3])

    for row in (1, 2):
        with pytest.raises(UnsealError):
            world.catalog.sealing.text(chunks[row])
    assert world.catalog.sealing.text(chunks[3]).text == "third"


@pytest.mark.parametrize("field", ["title", "location", "quarantine"])
def test_fields_that_were_swapped_between_documents_do_not_open(world: World, field: str) -> None:
    """A title, a place or a reason opens only in its own document; another field of the same document still does."""
    world.add("a.txt", "first", Unknown("odd rule"))
    world.add("b.txt", "second", Unknown("other rule"))
    world.sync()
    table = schema.documents
    with world.catalog._write() as connection:
        rows = connection.execute(table.select().order_by(table.c.ordinal)).all()
        for row, other in zip(rows, reversed(rows), strict=True):
            connection.execute(
                update(table).where(table.c.ordinal == row.ordinal).values({field: getattr(other, field)})
            )

    with world.catalog.reader() as reader:
        documents = list(reader.documents([1, 2]).values())

    opening = {"title", "location", "quarantine"}
    for document in documents:
        with pytest.raises(UnsealError):
            getattr(world.catalog.sealing, field)(document)
        for kept in opening - {field}:
            assert getattr(world.catalog.sealing, kept)(document)


def test_vectors_that_were_swapped_do_not_reach_the_index(world: World) -> None:
    """Two passages of one document: a vector opens only under the passage that it was made of."""
    world.add("a.txt", "first\n\nsecond", allow(1))
    world.sync()
    with world.catalog._write() as connection:
        one, two = connection.execute(schema.chunks.select().order_by(schema.chunks.c.row)).all()
        for row, vector in ((1, two.vector), (2, one.vector)):
            connection.execute(update(schema.chunks).where(schema.chunks.c.row == row).values(vector=vector))

    with world.catalog.reader() as reader:
        assert [type(item) for item in reader.feed(0, 10)] == [Remove, Remove]

    with world.catalog._write() as connection:
        for row, vector in ((1, one.vector), (2, two.vector)):
            connection.execute(update(schema.chunks).where(schema.chunks.c.row == row).values(vector=vector))
    with world.catalog.reader() as reader:
        assert [type(item) for item in reader.feed(0, 10)] == [Add, Add]


def test_every_sealing_is_counted_before_it_is_committed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document of two passages: its place, its name, then a title, two texts and two vectors; a new text, more."""
    monkeypatch.setattr("service.keys.store._AHEAD", 0)  # so that each one shows
    world.add("a.txt", "first\n\nsecond", allow(1))
    world.sync()
    (first,) = Custody(world.keys).status().sources
    world.add("a.txt", "third", allow(1))
    world.sync()
    (second,) = Custody(world.keys).status().sources

    assert (first.most_seals, first.wraps, first.documents) == (2 + 5, 1, 1)
    assert second.most_seals == first.most_seals + 3
    assert second.seals > first.seals > 0


def test_a_key_store_of_another_data_folder_is_refused(tmp_path: Path) -> None:
    """A data folder that is new beside keys that are not: a sync into it would shred what they open."""
    with open_world(tmp_path) as world:
        world.add("a.txt", "text", allow(1))
        world.sync()
        source = world.source
    (tmp_path / "data").rename(tmp_path / "moved")

    with pytest.raises(StartError, match="belongs to another data folder"), open_world(tmp_path):
        pass

    for entry in (tmp_path / "data").iterdir():
        entry.unlink()
    (tmp_path / "data").rmdir()
    (tmp_path / "moved").rename(tmp_path / "data")
    with open_world(tmp_path, source) as world:
        assert world.readable(1) == {"a.txt": ["text"]}


def test_documents_whose_keys_are_gone_are_read_anew(tmp_path: Path) -> None:
    """An older key store beside a newer catalog: what it cannot open is nobody's until the next run reads it again."""
    with open_world(tmp_path) as world:
        world.add("a.txt", "old", allow(1))
        world.sync()
        source = world.source
    older = (tmp_path / "keystore" / "keys.sqlite").read_bytes()
    with open_world(tmp_path, source) as world:
        world.add("b.txt", "new", allow(1))
        world.sync()
    for leftover in (tmp_path / "keystore").glob("keys.sqlite*"):
        leftover.unlink()
    (tmp_path / "keystore" / "keys.sqlite").write_bytes(older)

    with open_world(tmp_path, source) as world:
        run = world.sync()

        assert run.failure == ""
        assert world.readable(1) == {"a.txt": ["old"], "b.txt": ["new"]}
        assert world.extractor.extracted == ["new"]


@pytest.mark.parametrize("damaged", [b"\x01damaged", encode(normalize(allow(3)))], ids=["unreadable", "another's"])
def test_a_damaged_clause_is_nobodys(world: World, damaged: bytes) -> None:
    """A stored rule that cannot be read, or reads as another one, takes the documents away; others stay."""
    world.add("a.txt", "text a", allow(1))
    world.add("b.txt", "text b", allow(1, 2))
    world.sync()
    digest = next(
        change.value for change in _changes(world) if isinstance(change.value, AclPut) and change.value.own == allow(1)
    )
    with world.catalog._write() as connection:
        own = connection.scalar(
            schema.acls.select().with_only_columns(schema.acls.c.own).where(schema.acls.c.acl_id == digest.acl_id)
        )
        connection.execute(update(schema.clauses).where(schema.clauses.c.digest == own).values(body=damaged))

    assert world.readable(1) == {"b.txt": ["text b"]}
    assert world.readable(3) == {}
    known = world.catalog.open_run(SOURCE, EPOCH).documents
    assert own is not None
    assert isinstance(known.clause(own), Unknown), "nothing is compared with it either"


def test_a_damaged_text_ends_no_run_and_is_copied_to_nobody(world: World) -> None:
    """Documents with its content are read and extracted for themselves, the others of the run too."""
    world.add("a.txt", "the same", allow(1))
    world.sync()
    with world.catalog._write() as connection:
        connection.execute(update(schema.chunks).values(body=b"\x01" + bytes(40)))
    for name, text in (("b.txt", "the same"), ("c.txt", "the same"), ("d.txt", "another")):
        world.add(name, text, allow(2))

    run = world.sync()

    assert (run.state, run.counts.stored) == (RunState.SUCCEEDED, 3)
    assert world.readable(2) == {"b.txt": ["the same"], "c.txt": ["the same"], "d.txt": ["another"]}
    world.add("e.txt", "the same", allow(2))
    assert world.sync().state is RunState.SUCCEEDED
    assert world.extractor.extracted == ["the same", "the same", "another"], "one that opens is copied"


def test_a_damaged_label_closes_nothing(world: World) -> None:
    """What a container is called is for people, and why it is not understood: the rules of all others stay known."""
    world.source.scopes[ScopeId("odd")] = MemoryScope(None, Unknown("an odd rule"), "/odd")
    world.add("a.txt", "text a", allow(1))
    world.add("b.txt", "text b", allow(1), "odd")
    world.sync()
    table = schema.scopes
    with world.catalog._write() as connection:
        connection.execute(update(table).values(label=b"\x01" + bytes(40)))
        connection.execute(update(table).where(table.c.unknown.is_not(None)).values(unknown=b"\x01" + bytes(40)))

    assert world.readable(1) == {"a.txt": ["text a"]}


def test_a_damaged_report_of_a_run_stops_nothing(tmp_path: Path) -> None:
    """Sources and runs are listed, the next run starts, and so does a service that was killed during this one."""
    with open_world(tmp_path) as world:
        world.add("a.txt", "text a", allow(1))
        world.sync()
        opening = world.catalog.open_run(SOURCE, EPOCH)
        with world.catalog._write() as connection:
            connection.execute(update(schema.runs).values(report=b"\x01" + bytes(40)))
        source = world.source

    with open_world(tmp_path, source) as world:
        with world.catalog.reader() as reader:
            killed = reader.run(opening.run.run_id)
            (listed,) = reader.sources()
        assert killed is not None
        assert (killed.state, killed.failure) == (RunState.FAILED, INTERRUPTED)
        assert listed.latest_run == killed
        assert world.sync().state is RunState.SUCCEEDED


def test_a_damaged_vector_keeps_no_other_from_the_index(world: World) -> None:
    """It is not searched; what comes behind it in the feed is."""
    world.add("a.txt", "first", allow(1))
    world.add("b.txt", "second", allow(1))
    world.sync()
    with world.catalog._write() as connection:
        connection.execute(update(schema.chunks).where(schema.chunks.c.row == 1).values(vector=b"\x01" + bytes(40)))

    with world.catalog.reader() as reader:
        found = reader.feed(0, 10)

    assert [(type(item), item.row) for item in found] == [(Remove, 1), (Add, 2)]


def _changes(world: World):  # type: ignore[no-untyped-def]  # what the reader returns
    with world.catalog.reader() as reader:
        return reader.changes_since(0)


# What is kept of what is gone.


def test_the_change_log_does_not_keep_what_is_gone_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start takes it out once it is much; what is there stays, and who follows from then on learns of every end."""
    monkeypatch.setattr("service.stores.journal._MOST_DEAD", 20)
    group = Principal(own_realm(SOURCE), "team")
    with open_world(tmp_path) as world:
        world.source.groups = {group: {person(1)}}
        world.source.scopes[ScopeId("old")] = MemoryScope(None, allow(9), "/old")
        world.add("stays.txt", "stays", allow(1))
        for number in range(30):
            world.add(f"{number}.txt", f"text {number}", allow(1, 10 + number))
        world.sync()
        for number in range(30):
            del world.source.documents[f"{number}.txt"]
        del world.source.scopes[ScopeId("old")]
        world.sync()
        source = world.source

    with open_world(tmp_path, source) as world:
        with world.catalog._readers.begin() as connection:
            logged = connection.execute(select(schema.changes.c.kind, schema.changes.c.ref)).all()
        assert sorted(kind for kind, _ in logged) == ["acl", "document", "membership", "scope"]
        assert world.readable(1) == {"stays.txt": ["stays"]}
        with world.catalog.reader() as reader:
            seq, (known,) = reader.seq, reader.groups_since(0)
            assert known.group is not None
        source.documents.clear()
        source.groups = {}
        world.sync()
        with world.catalog.reader() as reader:
            ended = [change.value for change in reader.changes_since(seq)]
            assert [change.group for change in reader.groups_since(seq)] == [None]
        assert {DocumentDrop, AclDrop} <= {type(value) for value in ended}


def test_a_start_leaves_a_log_of_few_ends_alone(tmp_path: Path) -> None:
    """They cost nothing, and to look for them does."""
    with open_world(tmp_path) as world:
        world.add("a.txt", "text", allow(1))
        world.sync()
        world.source.documents.clear()
        world.sync()
        before = everything(world)
        source = world.source

    with open_world(tmp_path, source) as world:
        assert everything(world) == before


def test_the_feed_does_not_keep_what_both_indexes_have_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be held stays, what some index was not told of yet stays, and the feed's end stays."""
    monkeypatch.setattr("service.stores.journal._MOST_DEAD_ROWS", 5)
    for number in range(12):
        world.add(f"{number}.txt", f"text {number}", allow(1))
    world.sync()
    for number in range(1, 11):
        del world.source.documents[f"{number}.txt"]
        world.sync()
    with world.catalog.reader() as reader:
        before, last = reader.feed(0, 100), reader.feed_seq
    assert [type(item) for item in before] == [Add] * 2 + [Remove] * 10

    world.catalog.applied(before[-4].seq)
    with world.catalog.reader() as reader:
        assert [(item.seq, item.row) for item in reader.feed(0, 100)] == [
            (item.seq, item.row) for item in (*before[:2], *before[-3:])
        ]

    world.catalog.applied(last)
    with world.catalog.reader() as reader:
        assert len(reader.feed(0, 100)) == 5, "few are left alone"
    monkeypatch.setattr("service.stores.journal._MOST_DEAD_ROWS", 1)
    world.catalog.applied(last)
    with world.catalog.reader() as reader:
        left = reader.feed(0, 100)
        assert (reader.feed_seq, left[-1].seq) == (last, last)
    assert [(type(item), item.row) for item in left] == [(type(item), item.row) for item in (*before[:2], before[-1])]
    world.add("more.txt", "more", allow(1))
    world.sync()
    with world.catalog.reader() as reader:
        assert [type(item) for item in reader.feed(last, 100)] == [Add]


def test_so_many_runs_are_kept_of_a_source_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest ones; the audit log has all of them."""
    monkeypatch.setattr("service.stores.catalog._KEPT_RUNS", 3)

    runs = [world.sync().run_id for _ in range(6)]

    with world.catalog.reader() as reader:
        assert [run.run_id for run in reader.runs(SOURCE, 100)] == runs[:-4:-1]


# No space.


def test_a_full_disk_fails_the_run_with_one_sentence_and_nothing_is_half_written(world: World) -> None:
    """What was there before is served; with space again the next run goes on."""
    world.add("a.txt", "text a", allow(1))
    world.sync()
    for number in range(300):
        world.add(f"more-{number}.txt", f"more {number} " * 50, allow(1))
    _limit_pages(world.catalog, 60)

    run = world.sync()

    assert run.state is RunState.FAILED
    assert "no space left" in run.failure
    assert "catalog.sqlite" in run.failure
    assert world.readable(1)["a.txt"] == ["text a"]
    for parts in world.readable(1).values():
        assert len(parts) == 1
    _limit_pages(world.catalog, 1_000_000)
    assert world.sync().state is RunState.SUCCEEDED
    assert len(world.readable(1)) == 301


def test_a_full_disk_is_a_storage_error_where_it_happens(world: World) -> None:
    """Whoever opens a run hears it too, and the source is not left with a run that nobody works on."""
    _limit_pages(world.catalog, 1)

    def open_runs() -> None:
        for _ in range(100):
            world.catalog.open_run(SOURCE, EPOCH + timedelta(days=1))

    with pytest.raises(StorageFullError, match="no space left"):
        open_runs()

    _limit_pages(world.catalog, 1_000_000)
    assert world.sync().state is RunState.SUCCEEDED


def _limit_pages(catalog: Catalog, pages: int) -> None:
    """Let SQLite take its file for full at this size: what a full disk gives, without filling one."""
    with catalog._writer.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute(f"PRAGMA max_page_count = {pages}").close()


def test_the_lock_is_not_inherited_by_child_processes(tmp_path: Path) -> None:
    """A worker that outlives the service does not keep the folder."""
    folder = open_folder(tmp_path / "data")
    with subprocess.Popen(["sleep", "30"], close_fds=False) as child:
        folder.close()
        try:
            open_folder(tmp_path / "data").close()
        finally:
            child.kill()
    assert os.access(tmp_path / "data", os.R_OK)
