"""The process that holds the postings of keyword search: numbers for terms, rows of chunks, never a word.

A process of its own, because adding up postings holds the interpreter's lock, and the vectors' process has searches to
answer at the same moment. One folder: `lock` (held while the process lives), `state.json` (which catalog, which hash of
terms, how far in the feed) and a file a segment, named by its first row. The state is written after the segments and
never claims more than they hold; what they hold beyond it is applied again, which changes nothing. A folder of another
catalog, hash or format, or one with a damaged file, is emptied: the catalog fills it again.

Run as `python -m service.index.keyword_process FOLDER INCARNATION FINGERPRINT` by `service.index.keyword`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from service.files import durable_file, lock_file
from service.index.postings import Impacts, Postings, Rows, Segment, Terms
from service.process import Answer, Refusal, serve

FORMAT: Final = 1
_LOCK_WAIT_S: Final = 10.0


class Store:
    """Postings with their folder."""

    def __init__(self, folder: Path, incarnation: str, fingerprint: str, *, lock_wait_s: float = _LOCK_WAIT_S) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._identity = {"format": FORMAT, "incarnation": incarnation, "terms": fingerprint}
        self._lock = _locked(folder / "lock", lock_wait_s)
        self.applied_seq = 0
        self.postings = Postings()
        self._open()

    def _open(self) -> None:
        state = self._read_state()
        if state is not None:
            try:
                paths = self._folder.glob("*.segment")
                self.postings = Postings({int(path.stem): Segment.load(path.read_bytes()) for path in paths})
            except (OSError, ValueError) as err:
                sys.stderr.write(f"the keyword index could not be loaded and is built anew: {type(err).__name__}\n")
            else:
                self.applied_seq = state
                return
        self.clear()

    def clear(self) -> None:
        """Forget everything, durably."""
        self.applied_seq, self.postings = 0, Postings()
        # The state goes first: a folder that is half emptied must not look like one that is whole.
        (self._folder / "state.json").unlink(missing_ok=True)
        for path in self._folder.glob("*.segment"):
            path.unlink()
        self._write_state()

    def apply(
        self,
        add: tuple[Rows, NDArray[np.int64], Terms, Impacts],
        remove: Sequence[int],
        after: int,
        last: int,
    ) -> bool:
        """Apply one stretch of the feed, from behind `after` to `last`. False, and nothing done, when it has a gap.

        add: see `Postings.add`; none of the rows is also in `remove`.
        """
        if after > self.applied_seq:
            return False
        rows, counts, terms, impacts = add
        if len(counts) != len(rows) or counts.sum() != len(terms) or len(impacts) != len(terms):
            raise Refusal("terms", "the terms of the chunks do not divide among them")
        self.postings.add(rows, counts, terms, impacts)
        self.postings.remove(remove)
        self.applied_seq = max(self.applied_seq, last)
        return True

    def flush(self) -> None:
        """Make everything applied durable, then say so in the state."""
        # In any order: a row is in the file of one segment for as long as it lives, so a crash in between leaves some
        # files ahead of the state, and none at odds with another.
        for first, segment in self.postings.changed.items():
            if segment is None:
                self._path(first).unlink(missing_ok=True)
            else:
                durable_file.replace(self._path(first), segment.dump())
        self.postings.changed.clear()
        self._write_state()

    def _path(self, first: int) -> Path:
        return self._folder / f"{first}.segment"

    def _read_state(self) -> int | None:
        """The durable `applied_seq`, or None when the folder is not of this catalog, hash and format."""
        try:
            state = json.loads((self._folder / "state.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(state, dict):
            return None
        applied = state.pop("applied_seq", None)
        return applied if state == self._identity and type(applied) is int and applied >= 0 else None

    def _write_state(self) -> None:
        state = json.dumps({**self._identity, "applied_seq": self.applied_seq})
        durable_file.replace(self._folder / "state.json", state.encode())

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)


def _locked(path: Path, wait_s: float) -> int:
    """Take the folder's lock. A child of a server that was just killed may need a moment to go away."""
    until = time.monotonic() + wait_s
    while True:
        try:
            return lock_file.acquire(path)
        except lock_file.HeldError as err:
            if time.monotonic() >= until:
                raise Refusal("locked", f"the index in {path.parent} is held by another process") from err
            time.sleep(0.05)


def _integers(params: dict[str, object], name: str) -> list[int]:
    values = params[name]
    assert isinstance(values, list)
    return [int(value) for value in values]


def _number(params: dict[str, object], name: str) -> int:
    value = params[name]
    assert isinstance(value, int)
    return value


def main(folder: str, incarnation: str, fingerprint: str) -> None:
    """Serve one folder to the parent."""
    store: Store

    def prepare() -> None:
        nonlocal store
        store = Store(Path(folder), incarnation, fingerprint)

    def state(params: dict[str, object], blobs: list[bytes]) -> Answer:
        known = {"applied_seq": store.applied_seq, "count": store.postings.count}
        return {**known, "segments": len(store.postings.segments)}, []

    def apply(params: dict[str, object], blobs: list[bytes]) -> Answer:
        add = (
            np.frombuffer(blobs[0], np.uint32),
            np.frombuffer(blobs[1], np.int64),
            np.frombuffer(blobs[2], np.uint32),
            np.frombuffer(blobs[3], np.uint8),
        )
        done = store.apply(add, _integers(params, "remove"), _number(params, "after"), _number(params, "last"))
        return {"done": done, **state(params, blobs)[0]}, []

    def flush(params: dict[str, object], blobs: list[bytes]) -> Answer:
        store.flush()
        return state(params, blobs)

    def clear(params: dict[str, object], blobs: list[bytes]) -> Answer:
        store.clear()
        return state(params, blobs)

    def search(params: dict[str, object], blobs: list[bytes]) -> Answer:
        permitted = BitMap.deserialize(blobs[0])
        return {"rows": store.postings.search(_integers(params, "terms"), permitted, _number(params, "limit"))}, []

    serve({"state": state, "apply": apply, "flush": flush, "clear": clear, "search": search}, prepare=prepare)


if __name__ == "__main__":
    main(*sys.argv[1:])
