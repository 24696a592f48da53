"""The queue that goes to a file: in order, whole, sealed, and gone when it is broken off."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.stores.errors import StorageError
from service.sync.channel import BrokenOffError
from service.sync.spool import Spool


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 5))
def test_what_goes_in_comes_out_in_its_order(bursts: list[int], in_memory: int) -> None:
    """However puts and takes alternate."""
    spool: Spool[str] = Spool(Path("/tmp"), in_memory)
    sent = taken = 0
    for number, burst in enumerate(bursts):
        for _ in range(burst):
            if number % 2 == 0:
                spool.put(f"value {sent}")
                sent += 1
            elif taken < sent:
                assert spool.take() == f"value {taken}"
                taken += 1
    spool.close()
    assert [spool.take() for _ in range(sent - taken)] == [f"value {n}" for n in range(taken, sent)]
    assert spool.take() is None


def test_much_is_in_a_file_without_a_name_that_says_nothing(tmp_path: Path) -> None:
    """Neither a name in the folder nor a word in the file; memory holds a part."""
    spool: Spool[str] = Spool(tmp_path, 10)
    for number in range(5000):
        spool.put(f"CANARY {number}")

    assert list(tmp_path.iterdir()) == []
    assert spool._file is not None
    size = os.fstat(spool._file.fileno()).st_size
    assert size > 10_000
    assert b"CANARY" not in os.pread(spool._file.fileno(), size, 0)
    assert len(spool._head) + len(spool._tail) <= 110
    spool.close()
    assert [spool.take() for _ in range(5000)] == [f"CANARY {number}" for number in range(5000)]


def test_the_reader_waits_and_the_writer_never_does(tmp_path: Path) -> None:
    """A thread that takes gets every value of one that puts."""
    spool: Spool[int] = Spool(tmp_path, 3)
    found: list[int] = []

    def read() -> None:
        while (value := spool.take()) is not None:
            found.append(value)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(2000):
        spool.put(number)
    spool.close()
    thread.join(20)
    assert found == list(range(2000))


def test_what_was_broken_off_is_dropped(tmp_path: Path) -> None:
    """Both sides learn of it."""
    spool: Spool[int] = Spool(tmp_path, 1)
    for number in range(300):
        spool.put(number)
    spool.break_off()
    for call in (spool.take, spool.check, lambda: spool.put(1)):
        with pytest.raises(BrokenOffError):
            call()


def test_a_folder_that_is_gone_is_a_storage_error(tmp_path: Path) -> None:
    """In a sentence, as every disk that fails."""
    spool: Spool[int] = Spool(tmp_path / "gone", 1)
    for number in range(100):
        spool.put(number)
    with pytest.raises(StorageError):
        spool.put(100)
