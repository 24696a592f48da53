"""The grounds of proofs: one for each kind of source that the house ships. The only list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from service.errors import StartError
from service.prove.grounds.base import Ground
from service.prove.grounds.feed import FeedGround
from service.prove.grounds.filesystem import FileGround, root_of
from service.prove.hands import Hands
from service.settings import Settings, SourceSettings

__all__ = ["Ground", "ground_of"]


def ground_of(settings: Settings, source: str, hands: Hands) -> Ground:
    """The ground of a source. Raises StartError: one of another kind, or nobody who may write is named."""
    found = next((one for one in settings.sources if one.name == source), None)
    if found is None:
        raise StartError(f"the settings have no source `{source}`")
    if found.kind not in _GROUNDS:
        listed = ", ".join(f"`{kind}`" for kind in _GROUNDS)
        raise StartError(f"the source `{source}` is of the kind `{found.kind}`: canaries are planted in {listed} only")
    return _GROUNDS[found.kind](settings, found, hands)


def _filesystem(settings: Settings, source: SourceSettings, hands: Hands) -> Ground:
    _, root = root_of(settings, source.name)
    return FileGround(root, str(source.options["id_domain"]))


def _feed(settings: Settings, source: SourceSettings, hands: Hands) -> Ground:
    return FeedGround(source, settings.base)


def _smb(settings: Settings, source: SourceSettings, hands: Hands) -> Ground:
    # Imported when it is examined: the command line starts without its libraries.
    from service.prove.grounds import smb

    login = hands.share
    if login is None:
        raise StartError(
            f"who writes to the share of `{source.name}`? Give an account that may, with `--share-login NAME=FILE`"
        )
    return smb.ShareGround(
        source.name, lambda: smb.connect(settings, source, login), lambda: smb.reader_of(settings, source)
    )


def _sql(settings: Settings, source: SourceSettings, hands: Hands) -> Ground:
    from service.prove.grounds import sql, sql_rows

    if hands.database is None:
        raise StartError(
            f"who writes to the database of `{source.name}`? Give a connection that may: `--database-url FILE` names "
            "a file with its URL, password included"
        )
    engine = sql_rows.engine_of(settings, source, hands.database)
    return sql.SqlGround(sql.declared_of(source), sql_rows.Rows(engine))


_GROUNDS: Final[Mapping[str, Callable[[Settings, SourceSettings, Hands], Ground]]] = {
    "feed": _feed,
    "filesystem": _filesystem,
    "smb": _smb,
    "sql": _sql,
}
