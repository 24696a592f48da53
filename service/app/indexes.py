"""Both indexes, what brings them up to the catalog, and making them anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service import offline
from service.app.ahead import Ahead
from service.app.ground import Ground
from service.audit import AuditKey, AuditLog, Kind, record
from service.errors import StartError
from service.index.base import FeedItem, Index, Remove
from service.index.edge import EdgeIndex
from service.index.follow import Follower, RenewingFollower, follow
from service.index.generations import VectorGenerations, WordGenerations
from service.index.keyword import AddTerms, KeywordIndex, TermFeed, term_hash
from service.keys import open_provider
from service.settings import Settings, SettingsError
from service.stores.catalog import Catalog, open_stores
from service.stores.folder import DataFolder, open_folder
from service.text.terms import TermHash
from service.upkeep.purge import Purge
from service.upkeep.rebuild import InPlace, Renewable


@dataclass(frozen=True, slots=True)
class Indexes:
    """Both indexes, each with what brings it up to the catalog."""

    vectors: Index
    words: WordGenerations
    followers: tuple[Follower[FeedItem], Follower[AddTerms | Remove]]
    renewables: Mapping[str, Renewable]

    def notify(self) -> None:
        """Say that the catalog has changed."""
        for follower in self.followers:
            follower.notify()

    def purge(self, catalog: Catalog, audit: AuditLog, closing: ExitStack) -> Purge:
        """What makes both anew after a shredding."""

        def done() -> None:
            audit.append_blocking(record(Kind.ADMIN, {"event": "index purged"}))

        made = Purge(catalog, tuple(self.renewables.values()), done)
        made.start()
        closing.callback(made.close)
        return made

    def settle(self) -> None:
        """Wait until both hold what the catalog holds."""
        for follower in self.followers:
            follower.settle()


def open_indexes(ground: Ground, dimension: int, closing: ExitStack) -> Indexes:
    """Open both, and follow to the end of the catalog's feed. Raises StartError and SearchUnavailableError."""
    folder, catalog = ground.folder, ground.catalog
    hashed = term_hash(ground.keys)
    opening_words = Ahead(lambda opened: _followed_words(folder, catalog, hashed, opened), closing)
    vectors = _index(folder, catalog, dimension, ground.settings)
    closing.callback(vectors.close)
    vectors_follow: Follower[FeedItem]
    renewed: Renewable = InPlace()
    if isinstance(vectors, VectorGenerations):
        vectors_follow = renewed = RenewingFollower(catalog, vectors)
    else:
        vectors_follow = Follower(catalog, vectors)
    vectors_follow.start()
    closing.callback(vectors_follow.close)
    words, words_follow = opening_words.get()
    catalog.applied(min(vectors.applied_seq, words.applied_seq))
    renewables = {"vectors": renewed, "words": words_follow}
    return Indexes(vectors, words, (vectors_follow, words_follow), renewables)


def _followed_words(
    folder: DataFolder, catalog: Catalog, hashed: TermHash, closing: ExitStack
) -> tuple[WordGenerations, RenewingFollower[AddTerms | Remove]]:
    words = _words(folder, catalog, hashed)
    closing.callback(words.close)
    follower = RenewingFollower(TermFeed(catalog, hashed), words)
    follower.start()
    closing.callback(follower.close)
    return words, follower


def rebuild_index(settings: Settings, tell: Callable[[int, int], None]) -> int:
    """Make both indexes anew from the catalog, embedding nothing; return how many passages they hold.

    tell: called with how far it is, and how far it goes. A crash on the way loses nothing: the next start goes on.
    Raises StartError, also when the service has the data folder, and SearchUnavailableError.
    """
    if not (settings.data / "FORMAT").exists():
        raise StartError(f"{settings.data} holds nothing yet: `remit serve` makes it")
    provider = open_provider(settings.keys)
    with ExitStack() as closing:
        folder = open_folder(settings.data)
        closing.callback(folder.close)
        keys, catalog = open_stores(folder, settings.keys.store, provider, datetime.now(UTC))
        closing.callback(keys.close)
        closing.callback(catalog.close)
        dimension = catalog.dimension()
        if dimension is None:
            return 0
        closing.enter_context(offline.recorded(folder, keys, AuditKey.load(settings.keys.audit), "index rebuild"))
        index = _index(folder, catalog, dimension, settings)
        closing.callback(index.close)
        index.clear()
        follow(catalog, index, tell)
        hashed = term_hash(keys)
        keywords = _words(folder, catalog, hashed)
        closing.callback(keywords.close)
        keywords.clear()
        follow(TermFeed(catalog, hashed), keywords, tell)
        return index.count


def _index(folder: DataFolder, catalog: Catalog, dimension: int, settings: Settings) -> Index:
    if settings.qdrant is not None:
        # Only here, because the client is an extra.
        try:
            from service.index.qdrant import QdrantIndex, connect
        except ImportError as err:
            missing = "qdrant-client is not installed: `pip install 'remit-server[qdrant]'`"
            raise SettingsError(f"`index.backend: qdrant`: {missing}") from err

        return QdrantIndex(
            connect(settings.qdrant),
            collection=settings.qdrant.collection,
            incarnation=catalog.incarnation,
            dimension=dimension,
            tuning=settings.index,
            server_side=settings.qdrant.server_side,
        )

    def open_generation(path: Path) -> EdgeIndex:
        return EdgeIndex(path, incarnation=catalog.incarnation, dimension=dimension, tuning=settings.index)

    return VectorGenerations(folder.index, open_generation)


def _words(folder: DataFolder, catalog: Catalog, hashed: TermHash) -> WordGenerations:
    def open_generation(path: Path) -> KeywordIndex:
        return KeywordIndex(path, incarnation=catalog.incarnation, hashed=hashed)

    return WordGenerations(folder.keywords, open_generation)
