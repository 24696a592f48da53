"""Rotating and re-wrapping while keys are used, broken off and taken up again; counters; what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import StartError
from service.keys import (
    Custody,
    DocumentKeyId,
    FileKey,
    KeyExhaustedError,
    KeyStore,
    ProviderError,
    UnsealError,
    create_key_file,
)
from service.keys.envelope import seal, unseal
from service.keys.tables import MAX_USES
from service.stores.errors import StorageError

PLACE = b"place"
_WRAPPING = "SELECT wrapped FROM source_keys WHERE generation = 1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    create_key_file(tmp_path / "kek")
    opened = KeyStore(tmp_path / "keys.sqlite", FileKey(tmp_path / "kek"))
    for source in ("a", "b"):
        opened.add_source(source)
        opened.create(source, [f"d{number}" for number in range(50)])
    yield opened
    opened.close()


def again(path: Path) -> KeyStore:
    return KeyStore(path / "keys.sqlite", FileKey(path / "kek"), create=False)


def test_rotation_changes_the_key_and_nothing_that_is_sealed_or_named(tmp_path: Path, store: KeyStore) -> None:
    """Before, after, and after a new start everything opens; the older key is set aside and opens nothing any more."""
    sealed = seal(store.cipher(DocumentKeyId("a", "d1")), b"secret", PLACE)
    label = seal(store.source_cipher("a"), b"label", PLACE)
    name, older = store.name("a", "x"), store.provider.key_id
    before = (tmp_path / "kek").read_bytes()

    retired = Custody(store).rotate()

    assert retired == (older,)
    assert store.provider.key_id != older
    store.close()
    opened = again(tmp_path)
    assert unseal(opened.cipher(DocumentKeyId("a", "d1")), sealed, PLACE) == b"secret"
    assert unseal(opened.source_cipher("a"), label, PLACE) == b"label"
    assert opened.name("a", "x") == name
    opened.close()
    aside = tmp_path / f"kek.retired-{older}"
    assert aside.read_bytes() == before
    assert aside.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StartError, match="restore the right key"):
        KeyStore(tmp_path / "keys.sqlite", FileKey(aside), create=False)


def test_rewrapping_goes_on_where_it_was_broken_off(tmp_path: Path, store: KeyStore) -> None:
    """Some at a time, over a restart; then the older keys of the sources are gone from the files too."""
    sealed = {d: seal(store.cipher(DocumentKeyId("b", d)), b"secret", PLACE) for d in ("d0", "d49")}
    with store.read() as connection:
        rows = [*connection.exec_driver_sql(_WRAPPING).scalars()]
    custody = Custody(store)
    custody.rotate()
    with store.read() as connection:
        rows += connection.exec_driver_sql(_WRAPPING).scalars()

    assert custody.rewrap(30) == 70
    store.close()
    opened = again(tmp_path)
    custody = Custody(opened)
    assert [one.behind for one in custody.status().sources] == [20, 50]
    assert custody.rewrap(1000) == 0

    assert [(one.behind, one.generations, one.documents) for one in custody.status().sources] == [(0, 1, 50)] * 2
    assert [one.wraps for one in custody.status().sources] == [50, 50]
    for document, value in sealed.items():
        assert unseal(opened.cipher(DocumentKeyId("b", document)), value, PLACE) == b"secret"
    opened.close()
    files = b"".join(path.read_bytes() for path in tmp_path.glob("keys.sqlite*"))
    assert len(rows) == 4
    assert not any(row in files for row in rows)


def test_no_read_fails_while_keys_are_rotated_rewrapped_made_and_shredded(tmp_path: Path, store: KeyStore) -> None:
    """Readers that open every key again and again, and a writer that makes new ones, meet no error."""
    place = {d: seal(store.cipher(DocumentKeyId("a", d)), d.encode(), PLACE) for d in sorted(store.documents("a"))}
    stop, errors, reads = threading.Event(), list[BaseException](), [0]

    def guarded(work: object) -> None:
        try:
            while not stop.is_set():
                work()  # type: ignore[operator]  # one of the two below
                stop.wait(0.005)  # room for the others: a thread that never waits starves them
        except BaseException as err:  # noqa: BLE001  told below
            errors.append(err)

    def read() -> None:
        with store._lock:
            store._opened.clear()
        for document, cipher in store.ciphers("a", list(place)).items():
            assert unseal(cipher, place[document], PLACE) == document.encode()
            reads[0] += 1

    def make() -> None:
        store.create("b", [f"n{make.__dict__.setdefault('n', 0)}"])
        make.__dict__["n"] += 1
        store.shred("b", [f"n{make.__dict__['n'] - 2}"])

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (read, read, make)]
    for thread in threads:
        thread.start()
    custody = Custody(store)
    try:
        for _ in range(3):
            custody.rotate()
            while custody.rewrap(29):
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert errors == []
    assert reads[0] > len(place)
    store.close()
    opened = again(tmp_path)
    assert len(opened.ciphers("a", list(place))) == 50
    opened.close()


@pytest.mark.parametrize("at", ["before the rows", "after the rows"])
def test_a_rotation_that_was_broken_off_is_finished_not_repeated(
    tmp_path: Path, store: KeyStore, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """A crash between the key file and the rows, or before the older key was set aside: all opens, one call ends it."""
    older = store.provider.key_id
    sealed = seal(store.cipher(DocumentKeyId("a", "d1")), b"secret", PLACE)
    broken = StorageError("power cut")

    def cut(*args: object) -> None:
        raise broken

    owner, method = (store, "put_source_key") if at == "before the rows" else (FileKey, "retire")
    monkeypatch.setattr(owner, method, cut)
    with pytest.raises(StorageError):
        Custody(store).rotate()
    newer = store.provider.key_id
    store.close()
    monkeypatch.undo()

    opened = again(tmp_path)
    assert unseal(opened.cipher(DocumentKeyId("a", "d1")), sealed, PLACE) == b"secret"
    custody = Custody(opened)
    assert custody.status().older == (4 if at == "before the rows" else 0)
    custody.rotate()

    if at == "before the rows":
        assert opened.provider.key_id == newer, "finished, not repeated"
    assert custody.status().older == 0
    assert (tmp_path / f"kek.retired-{older}").exists()
    assert len(FileKey(tmp_path / "kek")._keys) == 1
    assert unseal(opened.cipher(DocumentKeyId("a", "d1")), sealed, PLACE) == b"secret"
    opened.close()


def test_a_key_file_that_cannot_be_written_changes_nothing(tmp_path: Path, store: KeyStore) -> None:
    """One sentence that names the file, and the key stays the one it was."""
    before, key_id = (tmp_path / "kek").read_bytes(), store.provider.key_id
    (tmp_path / "kek.new").symlink_to("/dev/full")

    with pytest.raises(ProviderError, match="cannot be written"):
        Custody(store).rotate()

    assert store.provider.key_id == key_id
    assert (tmp_path / "kek").read_bytes() == before
    (tmp_path / "kek.new").unlink()
    Custody(store).rotate()


def test_a_key_is_not_used_more_often_than_it_may_be(store: KeyStore) -> None:
    """At the limit the next sealing is refused before it is committed; the neighbour's key goes on."""
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE documents SET uses = ? WHERE document = 'd1'", (MAX_USES - 1,))
        connection.exec_driver_sql("UPDATE source_keys SET uses = ? WHERE source = 'b'", (MAX_USES,))
    store.count_use("a", "d1")
    store.save_uses()

    store.count_use("a", "d1")
    with pytest.raises(KeyExhaustedError, match="remit keys rotate"):
        store.save_uses()
    with pytest.raises(KeyExhaustedError):
        store.create("b", ["new"])

    store._uses.clear()
    store.count_use("a", "d2")
    store.save_uses()
    store.create("a", ["new"])
    Custody(store).rotate()
    store.create("b", ["new"])


def uses(store: KeyStore, source: str) -> int:
    """How often a source's own key may have been used, as it is written down."""
    with store.read() as connection:
        asked = "SELECT uses FROM source_keys WHERE source = ? AND generation = 0"
        found: int = connection.exec_driver_sql(asked, (source,)).scalar_one()
        return found


def test_uses_of_a_source_s_own_key_are_written_down_before_they_happen(tmp_path: Path, store: KeyStore) -> None:
    """Never fewer than there were, also after a crash, and seldom written; the other source's are not touched."""
    written = []
    for used in range(1, 3001):
        store.count_use("a", times=1)
        store.save_uses()
        written.append(uses(store, "a"))
        assert used <= written[-1]
    assert len(set(written)) <= 4
    assert uses(store, "b") == 0

    store.close()  # as a crash: nothing is written at the end
    opened = again(tmp_path)
    opened.count_use("a", times=1)
    opened.save_uses()
    assert uses(opened, "a") > written[-1], "what the process before did not use counts as used"
    opened.count_use("a", times=5000)
    opened.save_uses()
    assert uses(opened, "a") >= written[-1] + 5001
    opened.close()


def test_a_source_s_new_key_is_counted_from_its_first_use(store: KeyStore) -> None:
    """What was written down ahead for a key that was shredded is not taken from the next one's."""
    store.count_use("a")
    store.save_uses()
    store.shred_source("a")
    store.add_source("a")
    assert uses(store, "a") == 0

    store.count_use("a")
    store.save_uses()

    assert uses(store, "a") >= 1


def test_uses_that_could_not_be_written_down_are_not_taken_for_written(store: KeyStore) -> None:
    """The next try writes them, with those that came meanwhile."""
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE source_keys SET uses = ? WHERE source = 'a'", (MAX_USES,))
    store.count_use("a", times=3)
    for _ in range(2):
        with pytest.raises(KeyExhaustedError):
            store.save_uses()
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE source_keys SET uses = 0 WHERE source = 'a'")

    store.count_use("a", times=4)
    store.save_uses()

    assert uses(store, "a") >= 7


def test_a_shredded_source_is_gone_from_memory_and_from_every_file(tmp_path: Path, store: KeyStore) -> None:
    """All its keys, its own too; the other source is untouched, and the name can be used for new keys."""
    name = store.name("a", "x")
    with store.read() as connection:
        gone, kept = (
            [
                row.wrapped
                for table in ("source_keys", "documents")
                for row in connection.exec_driver_sql(f"SELECT wrapped FROM {table} WHERE source = ?", (source,))
            ]
            for source in ("a", "b")
        )

    store.shred_source("a")

    files = b"".join(path.read_bytes() for path in tmp_path.glob("keys.sqlite*"))
    assert (len(gone), len(kept)) == (52, 52)
    assert not any(wrapped in files for wrapped in gone)
    assert all(wrapped in files for wrapped in kept)
    assert store.ciphers("a", ["d1"]) == {}
    with pytest.raises(UnsealError):
        store.source_cipher("a")
    store.add_source("a")
    assert store.name("a", "x") != name
    store.cipher(DocumentKeyId("b", "d1"))


def test_two_services_cannot_open_one_key_store(tmp_path: Path, store: KeyStore) -> None:
    """Each would shred the keys that it does not know; the sentence says who has it."""
    with pytest.raises(StartError, match="already open by process"):
        again(tmp_path)

    store.close()
    again(tmp_path).close()
