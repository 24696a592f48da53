"""A note book in SQLite as a source: each note has one reader, or `all`, and so has the book around them."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from acl import Clause, Effect, Principal, Rule, ScopeId, realm
from connectors.base import Change, Connector, Cursor, Finding, Level, ScanComplete, ScopeChange, Upsert
from connectors.errors import RetriableError, SkippableError
from connectors.registry import Options

PEOPLE = realm("static", "people")
BOOK = ScopeId("book")


def build(options: Mapping[str, object], base: Path) -> Connector:
    """What the entry point names: from the settings to a connector."""
    return Notes(Options("notes", options, base, allowed=["path"]).path("path"))


class Notes:
    """Reads one note book."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._book: Clause | None = None

    def check(self) -> list[Finding]:
        try:
            ((count,),) = self._rows("SELECT count(*) FROM notes")
        except RetriableError as err:
            return [Finding(Level.ERROR, err.detail)]
        return [Finding(Level.INFO, f"{count} notes")]

    def changes(self, cursor: Cursor | None) -> Iterator[Change]:
        self._book = self._rules_of_book()
        yield ScopeChange(BOOK, None, self._book, self._path.name)
        for name, body, reader, saved_at in self._rows("SELECT name, body, reader, saved_at FROM notes ORDER BY name"):
            yield Upsert(
                native_id=name,
                scope=BOOK,
                own=rules(reader),
                version=version(body),
                name=name,
                location=name,
                media_type="text/plain",
                size_bytes=len(body),
                modified_at=datetime.fromtimestamp(saved_at, UTC),
            )
        # The second look: what was the same before and after was so for every note in between.
        now = self._rules_of_book()
        if now != self._book:
            self._book = None
            yield ScopeChange(BOOK, None, now, self._path.name)
        yield ScanComplete({})

    def read(self, document: Upsert, limit_bytes: int) -> bytes:
        # One statement sees one moment: the text and the rules that it is returned under.
        question = "SELECT body, reader, (SELECT reader FROM book) FROM notes WHERE name = ?"
        found = self._rows(question, document.native_id)
        if not found:
            raise SkippableError("vanished", f"`{document.location}` is gone")
        ((body, reader, book),) = found
        if (version(body), rules(reader), rules(book)) != (document.version, document.own, self._book):
            raise SkippableError("changed", f"`{document.location}` or its rules changed")
        if len(body) > limit_bytes:
            raise SkippableError("too large", f"`{document.location}` has {len(body)} bytes")
        return bytes(body)

    def close(self) -> None:
        pass

    def _rules_of_book(self) -> Clause:
        ((reader,),) = self._rows("SELECT reader FROM book")
        return rules(reader)

    def _rows(self, question: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as connection:
                return connection.execute(question, values).fetchall()
        except sqlite3.Error as err:
            raise RetriableError(f"`{self._path}`: {err}") from err


def rules(reader: str | None) -> Clause:
    """No reader is nobody, never everybody."""
    if not reader:
        return Clause(())
    name = "members" if reader == "all" else reader
    return Clause((Rule(Effect.ALLOW, frozenset({Principal(PEOPLE, name)})),))


def version(body: bytes) -> str:
    return sha256(body).hexdigest()
