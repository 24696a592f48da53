"""Keys: files that are refused, keys that do not fit, places that values are bound to, and shredding."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StartError
from service.keys import DocumentKeyId, FileKey, KeyStore, UnsealError, associated, create_key_file
from service.keys.envelope import seal, unseal


@pytest.fixture
def provider(tmp_path: Path) -> FileKey:
    create_key_file(tmp_path / "kek")
    return FileKey(tmp_path / "kek")


@pytest.fixture
def store(tmp_path: Path, provider: FileKey) -> Iterator[KeyStore]:
    opened = KeyStore(tmp_path / "keys.sqlite", provider)
    opened.add_source("a")
    opened.create("a", ["one", "two"])
    yield opened
    opened.close()


def files(folder: Path) -> bytes:
    """Everything that stands in the key store's files."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("keys.sqlite*")))


def test_a_new_key_file_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask, and a second creation leaves the first key as it was."""
    path = tmp_path / "keys" / "kek"
    before = os.umask(0)
    try:
        create_key_file(path)
    finally:
        os.umask(before)
    first = path.read_bytes()

    with pytest.raises(StartError, match="never overwritten"):
        create_key_file(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["kek"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_file_that_others_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """Any bit for group or others is one too many; 0600 and 0400 are fine."""
    path = tmp_path / "kek"
    create_key_file(path)
    path.chmod(mode)

    with pytest.raises(StartError, match=f"mode {mode:04o}"):
        FileKey(path)

    path.chmod(0o400)
    FileKey(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "remit key-encryption key 1\n",
        "remit key-encryption key 1\nAAAA\n",
        "remit key-encryption key 1\nnot base64!\n",
        "remit key-encryption key 2\n" + "A" * 43 + "=\n",
        "-----BEGIN PRIVATE KEY-----\n" + "A" * 43 + "=\n",
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    """Another header, too few bytes, no base64: one sentence that names the file."""
    path = tmp_path / "kek"
    path.write_text(text)
    path.chmod(0o600)

    with pytest.raises(StartError, match="is not a key file"):
        FileKey(path)

    path.write_text("remit key-encryption key 1\n" + "A" * 43 + "=\n")
    FileKey(path)


def test_a_missing_key_file_is_one_sentence(tmp_path: Path) -> None:
    """No key, no start; and nothing is made in its place."""
    with pytest.raises(StartError, match="does not exist"):
        FileKey(tmp_path / "kek")

    assert not list(tmp_path.iterdir())


def test_a_fifo_is_no_key_file(tmp_path: Path) -> None:
    """Reading it neither hangs nor succeeds."""
    os.mkfifo(tmp_path / "kek", 0o600)

    with pytest.raises(StartError, match="not a regular file"):
        FileKey(tmp_path / "kek")


def test_another_key_does_not_open_the_store_and_changes_nothing(tmp_path: Path, store: KeyStore) -> None:
    """The sentence names both keys; the right one still opens it."""
    store.close()
    before = files(tmp_path)
    create_key_file(tmp_path / "other")

    with pytest.raises(StartError, match="restore the right key"):
        KeyStore(tmp_path / "keys.sqlite", FileKey(tmp_path / "other"), create=False)

    assert files(tmp_path) == before
    again = KeyStore(tmp_path / "keys.sqlite", FileKey(tmp_path / "kek"), create=False)
    assert again.documents("a") == {"one", "two"}
    again.close()


def test_a_missing_store_is_not_made_anew_where_sealed_data_exists(tmp_path: Path, provider: FileKey) -> None:
    """A new one would hide that nothing can be read any more."""
    with pytest.raises(StartError, match="is missing"):
        KeyStore(tmp_path / "keys.sqlite", provider, create=False)

    assert not (tmp_path / "keys.sqlite").exists()


def test_a_sealed_value_opens_only_in_its_place_under_its_key_and_unchanged(store: KeyStore) -> None:
    """Another document's key, another place, one flipped bit, a cut: each is refused, the original opens."""
    one, two = store.cipher(DocumentKeyId("a", "one")), store.cipher(DocumentKeyId("a", "two"))
    place = associated("a", "one", "passage", 1, 0)
    sealed = seal(one, b"secret", place)

    refused = [
        (two, sealed, place),
        (one, sealed, associated("a", "one", "passage", 1, 1)),
        (one, sealed, associated("a", "one", "passage", 2, 0)),
        (one, sealed[:-1], place),
        (one, b"\x02" + sealed[1:], place),
        (one, b"", place),
        *((one, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], place) for at in range(1, len(sealed))),
    ]

    for cipher, value, where in refused:
        with pytest.raises(UnsealError):
            unseal(cipher, value, where)
    assert unseal(one, sealed, place) == b"secret"


def test_the_same_text_never_seals_to_the_same_bytes(store: KeyStore) -> None:
    """Nonces are random: what repeats in the source does not show."""
    cipher = store.cipher(DocumentKeyId("a", "one"))
    place = associated("a", "one")

    assert len({seal(cipher, b"secret", place) for _ in range(100)}) == 100


@given(st.lists(st.text("ab:/1", max_size=4), max_size=4), st.lists(st.text("ab:/1", max_size=4), max_size=4))
def test_places_are_never_confused(one: list[str], other: list[str]) -> None:
    """Two lists of parts give the same bytes only when they are the same list."""
    assert (associated(*one) == associated(*other)) == (one == other)


def test_keys_survive_and_are_stored_wrapped(tmp_path: Path, provider: FileKey, store: KeyStore) -> None:
    """What was sealed opens after a new start, and a key bound to one document is not another's."""
    sealed = seal(store.cipher(DocumentKeyId("a", "one")), b"secret", b"")
    name = store.name("a", "x")
    store.close()

    again = KeyStore(tmp_path / "keys.sqlite", provider, create=False)

    assert unseal(again.cipher(DocumentKeyId("a", "one")), sealed, b"") == b"secret"
    assert again.name("a", "x") == name
    again.add_source("b")
    assert again.name("b", "x") != name
    again.close()


def test_a_wrapped_key_is_bound_to_its_document(tmp_path: Path, provider: FileKey, store: KeyStore) -> None:
    """Rows of the key store that are swapped open nothing."""
    with store.write() as connection:
        one, two = (
            connection.exec_driver_sql("SELECT wrapped FROM documents WHERE document = ?", (name,)).scalar()
            for name in ("one", "two")
        )
        for wrapped, name in ((one, "two"), (two, "one")):
            connection.exec_driver_sql("UPDATE documents SET wrapped = ? WHERE document = ?", (wrapped, name))

    with pytest.raises(UnsealError):
        store.cipher(DocumentKeyId("a", "one"))

    store.create("a", ["three"])
    store.cipher(DocumentKeyId("a", "three"))


def test_a_shredded_key_is_gone_from_memory_and_from_every_file(tmp_path: Path, store: KeyStore) -> None:
    """The wrapped bytes stood in the files before, and do not after; the neighbour's still do."""
    store.cipher(DocumentKeyId("a", "one"))
    with store.write() as connection:
        one, two = (
            connection.exec_driver_sql("SELECT wrapped FROM documents WHERE document = ?", (name,)).scalar()
            for name in ("one", "two")
        )
    assert isinstance(one, bytes)
    assert isinstance(two, bytes)
    assert one in files(tmp_path), "the control: a stored key can be found"

    store.shred("a", ["one"])

    assert one not in files(tmp_path)
    assert two in files(tmp_path)
    with pytest.raises(UnsealError, match="no key any more"):
        store.cipher(DocumentKeyId("a", "one"))
    assert isinstance(store.cipher(DocumentKeyId("a", "two")), AESGCM)
    assert store.documents("a") == {"two"}
