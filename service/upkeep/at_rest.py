"""`remit evidence at-rest`: plant words that nobody could guess, let the service work on them, and search its disk.

The deployment is one of its own below a temporary folder: real settings, keys, catalog, index, audit log, extraction
and listeners; only the source is in memory and the embedding a hash. The words stand in texts, titles, names of files
and folders, reasons of quarantine, problems of a run, and in a query.

The files of the audit log are searched, too, for the ids of the person who asked, of what was read and of the answers:
elsewhere ids stand in the clear by design, and there only in the sealed records.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from remit.client import AdminClient, Client

from acl.model import Clause, Effect, Rule, ScopeId, Unknown
from acl.principal import Principal, realm
from connectors.base import Skip
from connectors.testing.hostile import MemoryDocument, MemoryScope, MemorySource
from service import devissuer, settings, telemetry
from service.app import Listening, open_app
from service.errors import RemitError
from service.index.base import Add
from service.keys import open_provider
from service.sections import initial
from service.settings import Settings
from service.stores.catalog import open_stores
from service.stores.folder import open_folder
from service.upkeep import scan
from service.upkeep.scan import Found, Hit

SOURCE: Final = "canaries"
_PERSON: Final = "alice"
_TIMEOUT_S: Final = 120.0


class DrillError(RemitError):
    """The deployment did not do what it should before the scan: nothing can be said."""


@dataclass(frozen=True, slots=True)
class Planted:
    """The words, by where they were put."""

    words: tuple[tuple[str, str], ...]

    def __getitem__(self, place: str) -> str:
        """The word that was put in a place."""
        return dict(self.words)[place]


@dataclass(frozen=True, slots=True)
class AtRest:
    """What was found. hits: of planted words; there must be none. places: where words were planted.

    vectors: files in which the stored vectors stand in the clear, which is so in the index and nowhere else.
    """

    at: datetime
    places: tuple[str, ...]
    files: int
    size_bytes: int
    unpacked: int
    hits: tuple[Hit, ...]
    vectors: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no word was found, and vectors in no file but those of the index."""
        return not self.hits and all(path.startswith("data/index/") for path in self.vectors)


_PLACES: Final = (
    "text",
    "title",
    "file name",
    "folder name",
    "quarantined text",
    "quarantined file name",
    "reason of a quarantine",
    "skipped file name",
    "problem of a run",
    "removed text",
    "query",
)
_IN_THE_LOG: Final = ("person's id", "document's id", "response's id")


def run(folder: Path) -> AtRest:
    """Do all of it below `folder`, which must be empty. Raises DrillError, StartError and what the client raises."""
    words = Planted(tuple((place, f"Canary{secrets.token_hex(16)}") for place in _PLACES))
    with _temporary(folder / "tmp"):
        found, ids = asyncio.run(_work(folder, words))
    vectors = _vectors(settings.load(folder / "remit.yaml"))
    with_vectors = scan.scan(folder, [], vectors)
    shut = scan.scan(folder, dict(words.words).values())
    by_word = {word: place for place, word in words.words} | {value: name for name, value in ids.items()}
    hits = dict.fromkeys(
        Hit(one.path, by_word[one.word], one.form) for one in (*found.hits, *shut.hits, *_in_log(folder, ids))
    )
    return AtRest(
        at=datetime.now(UTC),
        places=(*_PLACES, *_IN_THE_LOG),
        files=max(found.files, shut.files),
        size_bytes=found.size_bytes + shut.size_bytes,
        unpacked=found.unpacked + shut.unpacked,
        hits=tuple(hits),
        vectors=tuple(dict.fromkeys(one.path for one in with_vectors.hits)),
    )


def _in_log(folder: Path, ids: Mapping[str, str]) -> list[Hit]:
    """Where ids stand in the files of the audit log."""
    where = Path("data") / "audit"
    return [replace(one, path=str(where / one.path)) for one in scan.scan(folder / where, ids.values()).hits]


async def _work(folder: Path, words: Planted) -> tuple[Found, dict[str, str]]:
    """Serve, sync twice, search and read; return what a scan finds while all of it is open, and ids that were used."""
    person = f"u-{secrets.token_hex(16)}"
    config = _lay_out(folder, person)
    source = _source(words)
    with (folder / "service.log").open("w") as log, telemetry.logging_to(log):
        async with _serving(config, source) as listening:
            loop = asyncio.get_running_loop()
            document, response = await loop.run_in_executor(None, _use, config, listening, source, words)
            ids = dict(zip(_IN_THE_LOG, (person, document, response), strict=True))
            found = await loop.run_in_executor(None, scan.scan, folder, dict(words.words).values())
            in_log = await loop.run_in_executor(None, _in_log, folder, ids)
            return replace(found, hits=(*found.hits, *in_log)), ids


@asynccontextmanager
async def _serving(config: Settings, source: MemorySource) -> AsyncIterator[Listening]:
    app = await open_app(config, lambda one, base: source)
    ready: asyncio.Queue[Listening] = asyncio.Queue()
    try:
        serving = asyncio.create_task(app.serve(ready.put_nowait))
        listening = asyncio.create_task(ready.get())
        await asyncio.wait([serving, listening], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            listening.cancel()
            serving.result()  # raises what kept it from listening
        try:
            yield await listening
        finally:
            serving.cancel()
            await asyncio.wait([serving])
    finally:
        app.close()


def _use(config: Settings, listening: Listening, source: MemorySource, words: Planted) -> tuple[str, str]:
    """Sync, search and read; return the ids of the document that was read and of the answer to the search."""

    def token() -> str:
        return devissuer.mint(config, _PERSON)

    with AdminClient(str(listening.administrators), token=token, insecure_loopback=True) as admin:
        for turn in range(2):
            *_, last = admin.watch_sync_run(admin.start_sync(SOURCE).run_id, timeout_s=_TIMEOUT_S)
            if last.failure:
                raise DrillError(f"the sync failed: {last.failure}")
            if turn == 0:
                del source.documents["removed"]
    with Client(str(listening.callers), token=token, insecure_loopback=True) as client:
        answer = client.search(f"what of {words['text']} and {words['query']}", limit=10)
        texts = "".join(hit.chunk.text + hit.chunk.document.title for hit in answer.hits)
        # The control within: what was planted was read, stored and found.
        if words["text"] not in texts or words["title"] not in texts:
            raise DrillError("the search did not return what was planted: a scan would prove nothing")
        document_id = answer.hits[0].chunk.document.document_id
        client.get_document(document_id)
        return document_id, answer.response_id


def _source(words: Planted) -> MemorySource:
    readable = Clause((Rule(Effect.ALLOW, frozenset({Principal(realm("posix", "corp"), "other")})),))
    source = MemorySource()
    source.scopes[ScopeId("root")] = MemoryScope(None, readable, f"/{words['folder name']}")

    def add(name: str, text: str, own: Clause | Unknown = readable, media_type: str = "text/markdown") -> None:
        source.documents[name] = MemoryDocument(text.encode(), ScopeId("root"), own, media_type)

    add("text", f"# {words['title']}\n\nThe account {words['text']} gets a discount of twelve percent.\n")
    add(words["file name"], "A file whose name says it all.\n")
    add("removed", f"This is about {words['removed text']} and will be removed.\n")
    unknown = Unknown(f"an entry {words['reason of a quarantine']} that nobody understands")
    add(words["quarantined file name"], f"Nobody reads {words['quarantined text']}.\n", unknown)
    add(words["skipped file name"], "not a document", media_type="application/pdf")
    source.skips.append(Skip(None, f"/{words['problem of a run']}/pipe", "special file", words["problem of a run"]))
    return source


def _lay_out(folder: Path, person: str) -> Settings:
    initial.write(folder)
    people = folder / "people.yaml"
    people.write_text(people.read_text().replace("{id: u-1001,", f"{{id: {person},"))
    file = folder / "remit.yaml"
    text = file.read_text().replace("embedding: {kind: model}", "embedding: {kind: hash}")
    text = text.replace("127.0.0.1:7420", "127.0.0.1:0").replace("127.0.0.1:7421", "127.0.0.1:0")
    file.write_text(text.replace("sources: []\n", f"sources:\n  - {{name: {SOURCE}, kind: memory}}\n"))
    return settings.load(file)


@contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """Let this process and its children put temporary files where they are searched."""
    folder.mkdir(parents=True)
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _vectors(config: Settings) -> dict[str, bytes]:
    """The stored vectors as the index and the catalog write them, opened with their keys."""
    folder = open_folder(config.data)
    try:
        keys, catalog = open_stores(folder, config.keys.store, open_provider(config.keys), datetime.now(UTC))
        try:
            with catalog.reader() as reader:
                items = [item for item in reader.feed(0, 1000) if isinstance(item, Add)]
        finally:
            catalog.close()
            keys.close()
    finally:
        folder.close()
    if not items:
        raise DrillError("no vector was stored: a scan would prove nothing")
    found = {}
    for item in items:
        found[f"vector {item.row}, float32"] = item.vector.tobytes()
        found[f"vector {item.row}, float16"] = item.vector.astype("<f2").tobytes()
    return found
