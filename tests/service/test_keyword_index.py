"""The keyword index in its process: what it was told survives, what it forgot is gone, and words never reach it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyroaring import BitMap

from service.errors import SearchUnavailableError, StartError
from service.index.base import Remove
from service.index.follow import RenewingFollower
from service.index.generations import WordGenerations
from service.index.keyword import AddTerms, KeywordIndex, term_hash
from service.index.keyword_process import FORMAT
from service.index.postings import Segment, impacts
from service.keys import FileKey, KeyStore, create_key_file
from service.keys.custody import Custody
from service.process import Child
from service.text.terms import TermHash, passage_terms
from tests.service.test_index_edge import Feed

HASHED = TermHash(b"k" * 32)


def adding(first_seq: int, texts: dict[int, str]) -> list[AddTerms | Remove]:
    """Items that add texts by row."""
    items: list[AddTerms | Remove] = []
    for seq, (row, text) in enumerate(texts.items(), start=first_seq):
        counted = passage_terms(text)
        numbers = dict(zip(HASHED.numbers(counted), counted.values(), strict=True))
        items.append(AddTerms(seq, row, *impacts(numbers)))
    return items


Open = Callable[..., KeywordIndex]


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Open]:
    """Opens an index over one folder."""
    opened: list[KeywordIndex] = []

    def open_index(incarnation: str = "one", hashed: TermHash = HASHED) -> KeywordIndex:
        opened.append(KeywordIndex(tmp_path / "keywords", incarnation=incarnation, hashed=hashed))
        return opened[-1]

    yield open_index
    for index in opened:
        index.close()


def test_what_was_flushed_survives_a_kill_and_the_rest_is_fed_again(opening: Open) -> None:
    """After the process died its place in the feed is that of the last flush; feeding from there completes it."""
    index = opening()
    index.apply(adding(1, {3: "merger plan", 4: "budget"}))
    assert index.flush() == 2
    later = adding(3, {5: "merger"})
    index.apply([*later, Remove(4, 4)])
    assert index.search("merger budget", BitMap([3, 4, 5]), 9) == [5, 3]

    assert index.pid is not None
    os.kill(index.pid, 9)
    index.search("merger", BitMap([3]), 9)
    with pytest.raises(SearchUnavailableError, match="fell back to item 2"):
        index.apply(adding(5, {6: "x"}))

    index.apply([*later, Remove(4, 4)])
    assert index.search("merger budget", BitMap([3, 4, 5]), 9) == [5, 3]
    assert index.count == 2


def test_a_restart_reads_what_was_written(opening: Open, tmp_path: Path) -> None:
    """Rows, order and place are those of before; no word and no plain hash of one stands in the folder."""
    index = opening()
    index.apply(adding(1, {row: f"merger {'plan ' * (row % 3)}" for row in range(500)}))
    before = index.search("merger plan", BitMap(range(500)), 20)
    index.close()

    again = opening()

    assert (again.applied_seq, again.count) == (500, 500)
    assert again.search("merger plan", BitMap(range(500)), 20) == before
    written = b"".join(path.read_bytes() for path in (tmp_path / "keywords").iterdir())
    assert b"merger" not in written
    number = np.uint32(HASHED.numbers(["merger"])[0]).tobytes()
    assert number in written
    assert np.uint32(TermHash(b"other").numbers(["merger"])[0]).tobytes() not in written


@pytest.mark.parametrize("change", ["incarnation", "key", "damage", "state"])
def test_a_folder_of_something_else_is_emptied(opening: Open, tmp_path: Path, change: str) -> None:
    """Another catalog, another key, a damaged file or no state: it starts over at the feed's beginning."""
    index = opening()
    index.apply(adding(1, {3: "merger"}))
    index.close()
    if change == "damage":
        (tmp_path / "keywords" / "3.segment").write_bytes(b"PK")
    if change == "state":
        (tmp_path / "keywords" / "state.json").write_text("{")

    again = opening(
        incarnation="two" if change == "incarnation" else "one",
        hashed=TermHash(b"o" * 32) if change == "key" else HASHED,
    )

    assert (again.applied_seq, again.count) == (0, 0)
    assert list((tmp_path / "keywords").glob("*.segment")) == []
    again.apply(adding(1, {3: "merger"}))
    assert again.count == 1


def test_a_forgotten_chunk_leaves_the_disk(opening: Open, tmp_path: Path) -> None:
    """After a flush no number of its terms stands in the folder."""
    index = opening()
    index.apply(adding(1, {1: "merger plan", 2: "plan"}))
    index.flush()
    index.apply([Remove(3, 1)])
    index.flush()

    written = b"".join(path.read_bytes() for path in (tmp_path / "keywords").glob("*.segment"))
    assert np.uint32(HASHED.numbers(["merger"])[0]).tobytes() not in written
    assert np.uint32(HASHED.numbers(["plan"])[0]).tobytes() in written
    assert index.search("merger plan", BitMap([1, 2]), 9) == [2]


def test_nothing_permitted_and_nothing_asked_need_no_process(opening: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rows, or only words that say nothing: an answer without a call."""
    index = opening()
    index.apply(adding(1, {1: "merger"}))

    with monkeypatch.context() as patched:
        patched.setattr(Child, "call", lambda *args, **kwargs: pytest.fail("called"))
        assert index.search("merger", BitMap(), 9) == []
        assert index.search("the of und", BitMap([1]), 9) == []

    assert index.search("merger", BitMap([1]), 9) == [1]


def test_rows_outside_the_permitted_ones_are_an_error(opening: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the process answers, nothing leaves that was not asked for."""
    index = opening()
    with monkeypatch.context() as patched:
        patched.setattr(Child, "call", lambda *args, **kwargs: ({"rows": [1, 2]}, []))
        with pytest.raises(SearchUnavailableError, match="outside"):
            index.search("merger", BitMap([1]), 9)
        assert index.search("merger", BitMap([1, 2]), 9) == [1, 2]


def test_a_second_opener_is_refused(opening: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes never write one folder."""
    opening()

    with pytest.raises(StartError, match="held by another process"):
        KeywordIndex(tmp_path / "keywords", incarnation="one", hashed=HASHED)


def test_words_keep_their_numbers_when_keys_are_rotated(tmp_path: Path) -> None:
    """Another opening and another key-encryption key change nothing; another key store changes every number."""
    create_key_file(tmp_path / "kek")
    keys = KeyStore(tmp_path / "keys.sqlite", FileKey(tmp_path / "kek"))
    first = term_hash(keys)
    Custody(keys).rotate()
    keys.close()
    again = KeyStore(tmp_path / "keys.sqlite", FileKey(tmp_path / "kek"), create=False)
    other = KeyStore(tmp_path / "other" / "keys.sqlite", FileKey(tmp_path / "kek"))

    assert term_hash(again).fingerprint == first.fingerprint
    assert term_hash(again).numbers(["merger"]) == first.numbers(["merger"])
    assert term_hash(other).numbers(["merger"]) != first.numbers(["merger"])
    again.close()
    other.close()


def test_it_is_made_anew_beside_itself(tmp_path: Path) -> None:
    """The generations of words answer as before the swap, and what changed meanwhile is in the new one."""

    def open_generation(folder: Path) -> KeywordIndex:
        return KeywordIndex(folder, incarnation="one", hashed=HASHED)

    index = WordGenerations(tmp_path / "keywords", open_generation)
    feed: Any = Feed([], step=50)  # of words in place of vectors
    feed.items += adding(1, {row: f"merger plan {row}" for row in range(200)})
    follower = RenewingFollower(feed, index)
    follower.start()
    before = index.search("merger 7", BitMap(range(300)), 20)
    feed.items += adding(201, {200: "merger 7"})

    follower.renew()

    assert index.search("merger 7", BitMap(range(200)), 20) == before
    assert (index.count, index.applied_seq) == (201, 201)
    assert {entry.name for entry in (tmp_path / "keywords").iterdir()} == {"current", "g2"}
    follower.close()
    index.close()


def test_a_process_that_does_not_start_keeps_no_search_waiting(
    opening: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one attempt searches fail at once for a while; when it starts again, they have answers."""
    index = opening()
    index.apply(adding(1, {3: "merger"}))
    index.flush()
    assert index.pid is not None
    started: list[object] = []

    def refuse(*args: object) -> None:
        started.append(args)
        raise OSError(11, "no more processes")

    monkeypatch.setattr("service.process._spawn", refuse)
    os.kill(index.pid, 9)
    for _ in range(5):
        with pytest.raises(SearchUnavailableError):
            index.search("merger", BitMap([3]), 9)
    attempts = len(started)
    monkeypatch.undo()
    monkeypatch.setattr(index, "_resting_until", 0.0)

    assert index.search("merger", BitMap([3]), 9) == [3]
    assert 1 <= attempts <= 2


def test_segments_of_which_little_is_left_are_put_together_by_a_renewal(tmp_path: Path) -> None:
    """Each lasts as long as one of its rows, so a search walked over more and more of them. A few are left alone."""
    feed: Any = Feed([])  # of words in place of vectors
    feed.items += adding(1, {20_000 * number: f"merger {number}" for number in range(1, 31)})
    folder = tmp_path / "keywords"

    def scattered(path: Path) -> KeywordIndex:
        # As after a long time of coming and going: one row a segment.
        path.mkdir(parents=True, exist_ok=True)
        if path.name == "g1" and not (path / "state.json").exists():
            state = {"format": FORMAT, "incarnation": "one", "terms": HASHED.fingerprint, "applied_seq": 30}
            (path / "state.json").write_text(json.dumps(state))
            for item in feed.items:
                assert isinstance(item, AddTerms)
                made = Segment.of(
                    np.array([item.row], np.uint32), np.array([len(item.terms)]), item.terms, item.impacts
                )
                (path / f"{item.row}.segment").write_bytes(made.dump())
        return KeywordIndex(path, incarnation="one", hashed=HASHED)

    index = WordGenerations(folder, scattered)
    follower = RenewingFollower(feed, index)
    follower.start()
    rows = BitMap(item.row for item in feed.items)
    before = index.search("merger", rows, 40)
    for _ in range(400):
        if not index.wasteful and follower.alone:
            break
        threading.Event().wait(0.05)
    after = index.search("merger", rows, 40)
    follower.close()

    assert len(before) == 30
    assert after == before
    assert [path.name for path in folder.glob("g*/*.segment")] == ["20000.segment"]
    index.close()
