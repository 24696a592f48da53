"""Kills syncs at database statements drawn by lot and checks what each one left. Run by `test_sync_kill.py`.

A process of its own, so that it can fork without the threads of a test session: everything is imported once, and each
sync is a child that ends itself with SIGKILL before its n-th statement.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, text

from acl.changes import AclPut, DocumentPut
from acl.decide import Allowed, decide
from acl.model import ScopeId
from connectors.testing.hostile import MemoryDocument, MemoryScope, MemorySource
from service.index.base import Add, FeedItem, Remove
from service.stores.records import RunState
from service.sync import texts, walk
from tests.service.sync_support import SOURCE, World, acl_of, allow, caller, open_world

USERS = (1, 2, 3)
DOCUMENTS = 40


class History:
    """A source that changes, and for each document the users of every revision that there ever was."""

    def __init__(self, seed: int | str, documents: int = DOCUMENTS, checkpoint_every: int = 10) -> None:
        self.random = random.Random(seed)
        self.source = MemorySource(checkpoint_every=checkpoint_every)
        self.source.scopes[ScopeId("root")] = MemoryScope(None, allow(*USERS), "/")
        self.users: dict[str, list[frozenset[int]]] = {}
        self.held: set[int] = set()
        self.applied = 0
        self.epoch = datetime(2024, 1, 1, tzinfo=UTC)
        for number in range(documents):
            self.change(f"{number}.txt")

    def change(self, name: str) -> None:
        """Give a document a new text for new users; the text says which revision it is, a few times over."""
        users = frozenset(self.random.sample(USERS, self.random.randint(1, 3)))
        revisions = self.users.setdefault(name, [])
        revisions.append(users)
        paragraphs = [f"{name} revision {len(revisions) - 1} part {part}" for part in range(self.random.randint(1, 4))]
        content = "\n\n".join(paragraphs).encode()
        found = self.source.documents.get(name)
        where = ScopeId("root") if found is None else found.scope
        self.source.documents[name] = MemoryDocument(content, where, allow(*users))

    def move(self, name: str, where: ScopeId) -> None:
        """Put a document elsewhere."""
        self.source.documents[name] = replace(self.source.documents[name], scope=where)

    def follow(self, items: list[FeedItem]) -> None:
        """Do what an index does: apply what is new in the feed."""
        for item in items:
            assert item.seq > self.applied
            self.applied = item.seq
            match item:
                case Add():
                    assert item.row not in self.held, "a row twice"
                    self.held.add(item.row)
                case Remove():
                    self.held.discard(item.row)

    def drift(self, changed: int = 6, removed: int = 3) -> None:
        """Change, remove and add some documents."""
        for name in self.random.sample(sorted(self.users), changed):
            self.change(name)
        present = sorted(self.source.documents)
        for name in self.random.sample(present, removed):
            del self.source.documents[name]


def killed_sync(path: Path, source: MemorySource, statement: int) -> bool:
    """Run one sync in a child that kills itself before its n-th statement; True when it got that far."""
    child = os.fork()
    if child == 0:
        try:
            count = 0

            def die(*_: Any) -> None:
                nonlocal count
                count += 1
                if count == statement:
                    os.kill(os.getpid(), signal.SIGKILL)

            event.listen(Engine, "before_cursor_execute", die)
            event.listen(Engine, "commit", die)
            with open_world(path, source) as world:
                state = world.sync().state
            os._exit(0 if state is RunState.SUCCEEDED else 3)
        finally:
            os._exit(4)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, f"the sync ended with {os.WEXITSTATUS(status)}"
    return False


def check(world: World, history: History) -> None:
    """Hold what is stored against what may be: nothing twice, nothing without rules, no text under other rules."""
    with world.catalog.reader() as reader:
        values = [change.value for change in reader.changes_since(0)]
        puts = [value for value in values if isinstance(value, DocumentPut)]
        documents = reader.documents([put.ordinal for put in puts])
        interned = {value.acl_id for value in values if isinstance(value, AclPut)}
        feed = reader.feed(0, 10**6)
        history.follow(reader.feed(history.applied, 10**6))
        states = [run.state for run in reader.runs(SOURCE, 100)]
        assert RunState.RUNNING not in states, "a run that nobody works on"
        rows: list[int] = []
        locations: list[str] = []
        for put in puts:
            document = documents[put.ordinal]
            location = world.catalog.sealing.location(document)
            locations.append(location)
            chunks = reader.chunks_of(put.ordinal)
            assert [chunk.row for chunk in chunks] == [row for start, stop in put.rows for row in range(start, stop)]
            assert [chunk.position for chunk in chunks] == list(range(len(chunks)))
            withheld = document.quarantine is not None
            assert not chunks or withheld or document.acl_id in interned, "chunks without rules"
            rows += [chunk.row for chunk in chunks]
            shown = [world.catalog.sealing.text(chunk).text.split() for chunk in chunks]
            for name, _, revision, _, _ in shown:
                assert name == location
                for user in USERS:
                    acl = acl_of(document, values)
                    if isinstance(decide(acl, caller(user), world.clock.time), Allowed):
                        users = history.users[name][int(revision)]
                        assert user in users, f"user {user} reads {name} {revision}"
        assert len(locations) == len(set(locations)), "a document twice"
        adds = [item.row for item in feed if isinstance(item, Add)]
        removes = {item.row for item in feed if isinstance(item, Remove)}
        assert sorted(adds) == sorted(rows), "the index is told of other rows than there are"
        assert not removes.intersection(rows)
        assert history.held == set(rows), "an index that followed the feed holds other rows"
    with world.catalog._readers.begin() as connection:
        lost = "SELECT count(*) FROM chunks WHERE ordinal NOT IN (SELECT ordinal FROM documents)"
        assert connection.scalar(text(lost)) == 0, "chunks without a document"
    assert {document.document_id for document in documents.values()} <= world.keys.documents(SOURCE)


def final(world: World) -> dict[str, Any]:
    """Return all that a run from scratch would give, too."""
    readable = {str(user): dict(sorted(world.readable(user).items())) for user in USERS}
    with world.catalog.reader() as reader:
        source = reader.sources()[0]
    keys = len(world.keys.documents(SOURCE))
    return {"readable": readable, "documents": source.documents, "chunks": source.chunks, "keys": keys}


def main(path: Path, seed: int, kills: int) -> None:
    """Kill `kills` syncs over one folder, then let one finish, and write the outcome to `outcome.json`."""
    # Small batches, so that there are many places to be killed at.
    walk.MOST_CHANGES = 7  # type: ignore[misc]
    texts._BATCH_DOCUMENTS = 5  # type: ignore[misc]
    walk.CHECKPOINT_EVERY = timedelta(0)  # type: ignore[misc]
    history = History(seed)
    folder = path / "killed"
    folder.mkdir()
    killed: list[int] = []
    resumed = 0
    while len(killed) < kills:
        statement = history.random.randint(1, 560)
        if killed_sync(folder, history.source, statement):
            killed.append(statement)
        with open_world(folder, history.source) as world:
            check(world, history)
            with world.catalog.reader() as reader:
                resumed += sum(run.resumed for run in reader.runs(SOURCE, 1))
        if history.random.random() < 0.5:
            history.drift()
    with open_world(folder, history.source) as world:
        # One that goes on says what was so when its first part began: the state of now is the next one's.
        while (run := world.sync()).resumed:
            resumed += 1
            check(world, history)
        assert run.state is RunState.SUCCEEDED
        check(world, history)
        after_kills = final(world)
        assert world.sync().counts.stored == 0
    (path / "whole").mkdir()
    with open_world(path / "whole", history.source) as world:
        assert world.sync().state is RunState.SUCCEEDED
        whole = final(world)
    (path / "outcome.json").write_text(
        json.dumps({"killed": killed, "after_kills": after_kills, "whole": whole, "resumed": resumed})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
