"""The second half of a sync: content to passages to vectors, for documents whose rules are in force.

Two threads: one reads and extracts, one embeds and stores, so that extraction is never what the model waits for.
Whether a document may be read at all was settled by `service.sync.walk` before it came here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from connectors.base import Connector
from connectors.errors import SkippableError
from connectors.media_types import UNKNOWN
from service.embed.embedder import Embedder
from service.keys.store import KeyStore
from service.stores.catalog import Catalog, Opening
from service.stores.checkpoints import StoredCheckpoint
from service.stores.records import Counts, Problem, SyncPass
from service.stores.writer import Writer
from service.stores.writes import FoundText, Known, PassageWrite, TextWrite
from service.sync.channel import Channel
from service.sync.met import Met
from service.sync.names import Names
from service.sync.runs import Progress
from service.sync.spool import Spool
from service.sync.walk import Todo
from service.text.extract import Extracted, ExtractError

_MOST_READY: Final = 64
_AS_HEAVY: Final = 100
"""So many documents wait for the model, or texts of so many passages as one document more: one may hold thousands."""
_BATCH_DOCUMENTS: Final = 64
_BATCH_PASSAGES: Final = 256
_BATCH_S: Final = 0.3
_FIRST_BATCHES: Final = (4, 2)
"""How much smaller the first batches are, so that who watches a run soon sees something happen."""

UNTITLED: Final = "untitled"
"""The title that the extractor gives to a document with neither a title nor a name: its stored name stands in."""


class Extractor(Protocol):
    """Turns bytes into passages; see `service.text.extract`."""

    def extract(self, data: bytes, media_type: str, name: str) -> Extracted:
        """Return title and passages. Raises ExtractError for this document alone."""


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A document with a new text. content: keyed hash of bytes and media type."""

    todo: Todo
    content: bytes
    extracted: Extracted


@dataclass(frozen=True, slots=True)
class _Copy:
    """A document with the content of another. found: None when the other's text is on its way before this one."""

    todo: Todo
    content: bytes
    found: FoundText | None


@dataclass(frozen=True, slots=True)
class _Same:
    """A document with a new version and the content that is stored already."""

    todo: Todo


@dataclass(frozen=True, slots=True)
class _Failed:
    """A document whose text cannot be had. again: try at the next run, not only when it changes."""

    todo: Todo
    reason: str
    again: bool


_Ready = _Fresh | _Copy | _Same | _Failed | StoredCheckpoint


class Texts:
    """The pipeline of one run. `read_all` and `store_all` each have a thread; `put` and `close` feed them.

    may_widen: whether rules may be released with a text that let somebody in who was not let in before.
    """

    def __init__(
        self,
        catalog: Catalog,
        keys: KeyStore,
        opening: Opening,
        connector: Connector,
        extractor: Extractor,
        embedder: Embedder,
        progress: Progress,
        *,
        limit_bytes: int,
        on_commit: Callable[[], None],
        now: Callable[[], datetime],
        met: Met,
        may_widen: Callable[[], bool],
    ) -> None:
        self._catalog = catalog
        self._names = Names(keys, opening.run.source)
        self._source = opening.run.source
        self._fence = opening.fence
        self._connector = connector
        self._extractor = extractor
        self._embedder = embedder
        self._progress = progress
        self._limit_bytes = limit_bytes
        self._on_commit = on_commit
        self._now = now
        self._met = met
        self._may_widen = may_widen
        self._todo: Spool[Todo | StoredCheckpoint] = Spool(catalog.folder)
        self._ready: Channel[_Ready] = Channel(_MOST_READY, _weight)
        self._total_known = False
        # Contents that are on their way to the catalog.
        self._passed: set[bytes] = set()
        self._stored_batches = 0

    def put(self, what: Todo | StoredCheckpoint) -> None:
        """Hand over a document, or a checkpoint: it is stored once everything before it was dealt with."""
        self._todo.put(what)

    def close(self) -> None:
        """Say that the walk is over."""
        self._total_known = True
        self._todo.close()

    def tasks(self) -> Sequence[Callable[[], None]]:
        """Return what each thread has to do."""
        return self.read_all, self.store_all

    def check(self) -> None:
        """Raise BrokenOffError once the pipeline was broken off."""
        self._todo.check()

    def break_off(self) -> None:
        """Stop both threads before their next document."""
        self._todo.break_off()
        self._ready.break_off()

    def read_all(self) -> None:
        """Read and extract until the walk is over and nothing waits."""
        while (todo := self._todo.take()) is not None:
            ready = self._mark(todo) if isinstance(todo, StoredCheckpoint) else self._read(todo)
            if ready is not None:
                self._ready.put(ready)
        self._ready.close()

    def store_all(self) -> None:
        """Embed and store until everything that was extracted is stored."""
        while not self._ready.ended:
            batch = self._batch()
            if batch:
                self._store(batch)
            if self._total_known:
                self._progress.remaining(len(self._todo) + len(self._ready))

    # Reading.

    def _mark(self, checkpoint: StoredCheckpoint) -> StoredCheckpoint:
        return replace(checkpoint, unconfirmed=checkpoint.seen & self._met.unconfirmed_texts())

    def _read(self, todo: Todo) -> _Ready | None:
        upsert = todo.upsert
        if upsert.media_type == UNKNOWN:
            # A share may be full of images: not a byte of them is asked for.
            self._skipped(todo, "unsupported", "nothing reads files of this kind")
            return _Failed(todo, "unsupported", again=False)
        try:
            data = self._connector.read(upsert, self._limit_bytes)
        except SkippableError as err:
            self._skipped(todo, err.reason, err.detail)
            if err.reason == "changed":
                # The old text stays, under old and new rules; the next run reads the new one.
                self._met.unconfirmed(todo.document.ordinal)
                return None
            return _Failed(todo, err.reason, again=err.reason != "too large")
        content = self._names.content(data, upsert.media_type)
        # Asked before the catalog: what is not on its way any more is stored there.
        passed = content in self._passed
        with self._catalog.reader() as reader:
            known = todo.document.source_version is not None
            if known and reader.same_content(todo.document.ordinal, content):
                return _Same(todo)
            if passed:
                return _Copy(todo, content, None)
            # Taken now: when this one is stored, the other may have another text.
            found = reader.find_text(self._source, content)
            if found is not None:
                return _Copy(todo, content, found)
        try:
            # Without its name, so that a title which is only a name cannot go with the text to a copy of it.
            extracted = self._extractor.extract(data, upsert.media_type, "")
        except ExtractError as err:
            self._skipped(todo, err.reason, err.detail)
            return _Failed(todo, err.reason, again=False)
        if not extracted.chunks:
            self._skipped(todo, "empty", "it has no text")
            return _Failed(todo, "empty", again=False)
        self._passed.add(content)
        return _Fresh(todo, content, extracted)

    def _skipped(self, todo: Todo, reason: str, detail: str) -> None:
        self._progress.add(Counts(skipped=1), [Problem(todo.upsert.location, reason, detail)])

    # Storing.

    def _batch(self) -> list[_Ready]:
        """Take what is ready: until the batch is full, or old, or nothing more will come."""
        first = self._ready.take()
        if first is None:
            return []
        batch, passages = [first], _passages(first)
        until = time.monotonic() + _BATCH_S
        smaller = _FIRST_BATCHES[self._stored_batches] if self._stored_batches < len(_FIRST_BATCHES) else 1
        while len(batch) < _BATCH_DOCUMENTS // smaller and passages < _BATCH_PASSAGES // smaller:
            following = self._ready.take(until)
            if following is None:
                break
            batch.append(following)
            passages += _passages(following)
        return batch

    def _store(self, batch: list[_Ready]) -> None:
        texts = [passage.text for ready in batch if isinstance(ready, _Fresh) for passage in ready.extracted.chunks]
        vectors = self._embedder.embed(texts) if texts else None
        made: dict[bytes, FoundText] = {}
        writes: list[TextWrite] = []
        same: list[tuple[Known, bytes]] = []
        checkpoint: StoredCheckpoint | None = None
        used = 0
        with self._catalog.writer(self._source, self._fence) as writer:
            for ready in batch:
                match ready:
                    case _Fresh(todo, content, extracted):
                        assert vectors is not None
                        mine = vectors[used : used + len(extracted.chunks)]
                        used += len(extracted.chunks)
                        passages = tuple(
                            PassageWrite(p.text, p.headings, p.start, p.end, vector)
                            for p, vector in zip(extracted.chunks, mine, strict=True)
                        )
                        title = "" if extracted.title == UNTITLED else extracted.title
                        made[content] = FoundText(title, passages)
                        writes.append(_text(todo, content, made[content]))
                    case _Copy(todo, content, taken):
                        # What this run passed on is in this batch or stored, and a run stores no document twice.
                        found = taken or made.get(content) or writer.find_text(content)
                        assert found is not None
                        writes.append(_text(todo, content, found))
                    case _Same(todo):
                        same.append((todo.document, todo.version))
                    case _Failed(todo, reason, again):
                        # The old text is not what the document says now: it is not served as if it were.
                        version = None if again else todo.version
                        writes.append(TextWrite(todo.document, version, None, todo.upsert.name, "", (), reason))
                    case StoredCheckpoint():
                        checkpoint = ready
            todos = [ready.todo for ready in batch if not isinstance(ready, StoredCheckpoint)]
            # What is stored now was read under the rules that the source has now: no older ones are needed, unless
            # the breaker has to be asked first.
            may_widen = self._may_widen()
            writer.give([(todo.document, todo.released) for todo in todos if may_widen or not todo.widens])
            stored = self._write(writer, writes, same)
            if checkpoint is not None:
                writer.checkpoints.put(SyncPass.CONTENT, checkpoint)
        self._met.done([todo.document.ordinal for todo in todos])
        self._passed.difference_update(made)
        self._stored_batches += 1
        self._on_commit()
        self._progress.add(stored)

    def _write(self, writer: Writer, writes: list[TextWrite], same: list[tuple[Known, bytes]]) -> Counts:
        present = writer.put_texts(writes, self._now())
        writer.confirm_text(same)
        kept = [write for write in writes if write.document.ordinal in present and not write.problem]
        counts = Counts(stored=len(kept), unchanged=len(same), chunks=sum(len(write.passages) for write in kept))
        writer.save_run(self._progress.snapshot())
        return counts


def _text(todo: Todo, content: bytes, found: FoundText) -> TextWrite:
    return TextWrite(todo.document, todo.version, content, todo.upsert.name, found.title, found.passages)


def _weight(ready: _Ready) -> int:
    return 1 + _passages(ready) // _AS_HEAVY


def _passages(ready: _Ready) -> int:
    match ready:
        case _Fresh(extracted=extracted):
            return len(extracted.chunks)
        case _Copy(found=FoundText(passages=passages)):
            return len(passages)
        case _:
            return 1
