"""What is done to many keys at once while others use them: counting, rotating, re-wrapping.

1. `rotate` makes a new version of the key-encryption key, wraps every source's keys with it, and gives each source a
   new key for wrapping the keys of its documents. A crash in between leaves both versions usable; calling it again
   finishes.
2. `rewrap` moves the keys of documents, some at a time, from older keys of their source to the newest. Nothing is
   sealed anew. What is left to do is written down nowhere but in the rows themselves, so that it can be broken off.
3. A source's older key is deleted once no document's key is under it.

A source's own secret, from which names and labels come, is wrapped anew and stays the same.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, delete, func, insert, select, update

from service.keys.envelope import KEY_BYTES
from service.keys.store import KeyStore, rewrap_one, wrapped_with
from service.keys.tables import OWN, backups, documents, source_keys


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How the keys of one source stand.

    documents: keys of documents. behind: those under an older key of the source, left to re-wrap.
    made_at: when its newest wrapping key was made. generations: how many wrapping keys there are.
    wraps, seals: how often the newest wrapping key and the source's own were used, `seals` with some that are counted
    ahead; most_seals: that of the document's key which was used most.
    """

    source: str
    documents: int
    behind: int
    generations: int
    made_at: datetime
    wraps: int
    seals: int
    most_seals: int


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of the key store that was made with `remit backup`."""

    backup_id: str
    made_at: datetime
    folder: str


@dataclass(frozen=True, slots=True)
class Status:
    """How all keys stand. kek: the id of the key-encryption key in use. older: how many keys of sources are not yet
    under it, because a rotation was broken off.
    """

    kek: str
    provider: str
    older: int
    sources: tuple[SourceStatus, ...]
    backups: tuple[Backup, ...]


class Custody:
    """The administration of one key store. Safe to use from several threads, beside everybody who uses the keys."""

    def __init__(self, keys: KeyStore, also_in_use: Callable[[], Collection[str]] = frozenset) -> None:
        """also_in_use: the versions of the key-encryption key that something beside the key store is under."""
        self._keys = keys
        self._also_in_use = also_in_use
        self._lock = threading.Lock()

    @property
    def key_id(self) -> str:
        """The id of the key-encryption key in use."""
        return self._keys.provider.key_id

    def status(self) -> Status:
        """Count. Reads every key's row once."""
        own, docs = source_keys.c, documents.c
        with self._keys.read() as connection:
            rows = connection.execute(select(source_keys).order_by(own.source, own.generation)).all()
            counted = {
                (row.source, row.generation): row
                for row in connection.execute(
                    select(
                        docs.source,
                        docs.generation,
                        func.count().label("keys"),
                        func.max(docs.uses).label("most"),
                    ).group_by(docs.source, docs.generation)
                )
            }
            made = connection.execute(select(backups).order_by(backups.c.made_at)).all()
        kek = self._keys.provider.key_id
        found = []
        for source in dict.fromkeys(row.source for row in rows):
            generations = {row.generation: row for row in rows if row.source == source}
            newest = max(generations)
            counts = {generation: one for (name, generation), one in counted.items() if name == source}
            found.append(
                SourceStatus(
                    source=source,
                    documents=sum(one.keys for one in counts.values()),
                    behind=sum(one.keys for generation, one in counts.items() if generation != newest),
                    generations=len(generations) - 1,
                    made_at=generations[newest].made_at,
                    wraps=generations[newest].uses,
                    seals=generations[OWN].uses,
                    most_seals=max((one.most for one in counts.values()), default=0),
                )
            )
        return Status(
            kek=kek,
            provider=self._keys.provider.described,
            older=sum(row.kek != kek for row in rows),
            sources=tuple(found),
            backups=tuple(Backup(row.backup_id, row.made_at, row.folder) for row in made),
        )

    def rotate(self) -> tuple[str, ...]:
        """Rotate, or finish a rotation that was broken off; return the ids of the versions that were set aside.

        Raises ProviderError and StorageError; everything stays readable.
        """
        provider, own = self._keys.provider, source_keys.c
        with self._lock:
            also = self._also_in_use()
            if not self._older():
                provider.rotate()
            with self._keys.read() as connection:
                rows = connection.execute(select(source_keys).order_by(own.source, own.generation)).all()
            newest = {row.source: row.generation for row in rows}
            # The provider is asked before the transaction begins, for which everybody waits who writes.
            moved = [
                (row, self._keys.wrap_source_key(row.source, row.generation, self._keys.unwrap_row(row)))
                for row in rows
            ]
            fresh = [(source, number + 1, os.urandom(KEY_BYTES)) for source, number in newest.items()]
            wrapped = [self._keys.wrap_source_key(*one) for one in fresh]
            with self._keys.write() as connection:
                kept = {row.source for row, one in moved if self._keys.replace_source_key(connection, row, one)}
                for (source, number, _), one in zip(fresh, wrapped, strict=True):
                    if source in kept:  # else it was shredded meanwhile
                        self._keys.put_source_key(connection, source, number, one)
                in_use = set(connection.scalars(select(own.kek).distinct()))
            for source, number, key in fresh:
                if source in kept:
                    self._keys.adopt(source, number, key)
            self._keys.empty_log()
            return provider.retire({provider.key_id, *in_use, *also})

    def rewrap(self, limit: int) -> int:
        """Re-wrap at most `limit` keys of documents; return how many are left. Raises UnsealError and StorageError."""
        done = 0
        with self._lock:
            for source, newest in self._newest().items():
                while done < limit:
                    count = self._rewrap_some(source, newest, min(limit - done, _BATCH))
                    if not count:
                        self._give_up_older(source, newest)
                        break
                    done += count
            left = self._behind()
            if not left:
                # Also when the last keys were just as many as were asked for: what is done is done to its end.
                for source, newest in self._newest().items():
                    self._give_up_older(source, newest)
        return left

    def note_backup(self, folder: str, at: datetime) -> str:
        """Write down that a copy of the key store is being made; return its id."""
        made = secrets.token_hex(8)
        with self._keys.write() as connection:
            connection.execute(insert(backups).values(backup_id=made, made_at=at, folder=folder))
        return made

    def forget_backup(self, backup_id: str) -> None:
        """Take back what `note_backup` wrote: there is no such copy."""
        with self._keys.write() as connection:
            connection.execute(delete(backups).where(backups.c.backup_id == backup_id))

    def backups(self) -> Sequence[Backup]:
        """The copies of the key store that were made."""
        with self._keys.read() as connection:
            rows = connection.execute(select(backups).order_by(backups.c.made_at)).all()
        return [Backup(row.backup_id, row.made_at, row.folder) for row in rows]

    # Within.

    def _older(self) -> int:
        with self._keys.read() as connection:
            return (
                connection.scalar(
                    select(func.count()).select_from(source_keys).where(source_keys.c.kek != self._keys.provider.key_id)
                )
                or 0
            )

    def _newest(self) -> dict[str, int]:
        own = source_keys.c
        with self._keys.read() as connection:
            rows = connection.execute(select(own.source, func.max(own.generation)).group_by(own.source)).all()
        return {row[0]: row[1] for row in rows}

    def _behind(self) -> int:
        docs = documents.c
        with self._keys.read() as connection:
            return sum(
                connection.scalar(
                    select(func.count()).select_from(documents).where(docs.source == source, docs.generation < newest)
                )
                or 0
                for source, newest in self._newest().items()
            )

    def _rewrap_some(self, source: str, newest: int, limit: int) -> int:
        docs = documents.c
        wrapping = self._keys.wrapping(source)
        with self._keys.write() as connection:
            rows = connection.execute(
                select(docs.document, docs.generation, docs.wrapped)
                .where(docs.source == source, docs.generation < newest)
                .limit(limit)
            ).all()
            if rows:
                moved = [
                    {
                        "d": row.document,
                        "w": rewrap_one(wrapping[row.generation], wrapping[newest], source, row.document, row.wrapped),
                    }
                    for row in rows
                ]
                connection.execute(
                    update(documents)
                    .where(docs.source == source, docs.document == bindparam("d"))
                    .values(wrapped=bindparam("w"), generation=newest),
                    moved,
                )
                wrapped_with(connection, source, newest, len(rows))
        return len(rows)

    def _give_up_older(self, source: str, newest: int) -> None:
        """Delete the older keys of a source: no document is under them. The foreign key holds that."""
        own = source_keys.c
        with self._keys.write() as connection:
            gone = connection.execute(
                delete(source_keys).where(own.source == source, own.generation > OWN, own.generation < newest)
            ).rowcount
        if gone:
            self._keys.abandon(source, newest)
            self._keys.empty_log()


_BATCH = 2000
"""How many keys are re-wrapped in one transaction, which others wait for."""
