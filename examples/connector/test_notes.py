"""The note book keeps the contract of every connector."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from remit_notes import Notes

from connectors.base import Connector
from connectors.testing.contract import CONNECTOR_CHECKS, verify


class NoteBook:
    """A book that the checks can write in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._do("CREATE TABLE book (reader)")
        self._do("INSERT INTO book VALUES ('all')")
        self._do("CREATE TABLE notes (name PRIMARY KEY, body, reader, saved_at)")

    def connector(self) -> Connector:
        return Notes(self._path)

    def write(self, name: str, content: bytes) -> None:
        self._do("REPLACE INTO notes VALUES (?, ?, 'all', 0)", name, content)

    def remove(self, name: str) -> None:
        self._do("DELETE FROM notes WHERE name = ?", name)

    def narrow(self, name: str) -> None:
        self._do("UPDATE notes SET reader = NULL WHERE name = ?", name)

    def narrow_container(self) -> None:
        self._do("UPDATE book SET reader = NULL")

    def unplug(self) -> None:
        self._path.unlink()

    def _do(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute(statement, values)


@contextmanager
def note_book() -> Iterator[NoteBook]:
    with TemporaryDirectory() as folder:
        yield NoteBook(Path(folder) / "notes.db")


def test_contract() -> None:
    verify(note_book, CONNECTOR_CHECKS)
