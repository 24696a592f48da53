"""`python -m tests.prove.leaky MODE …`: the service with a defect that `remit prove` has to find. None is simulated:
each is what a mistake of that kind would do, and everything else is the real service.

    directory   everybody is in the group of Finance, as by a wrong lookup
    cache       a document that was returned once is returned again, whatever happened since
    +S-1-…      everybody of Active Directory is in the group of this SID
    -S-1-…      nobody of Active Directory is, whoever is a member
    rules       the connectors of exports and databases say of everything that everybody may read it
    sound       none
"""

from __future__ import annotations

import sys
from dataclasses import replace

from acl.principal import Principal, Realm
from connectors import feed, feed_file
from connectors.base import Change, Upsert
from connectors.directories.active_directory import ActiveDirectory
from connectors.directories.base import Resolution
from connectors.directories.static import StaticDirectory
from connectors.feed import Feed
from connectors.feed_file import FeedIndex, Place
from connectors.feed_lines import DocumentLine
from connectors.sql import connector
from connectors.sql.connector import Sql
from connectors.sql.tables import Found, Moment
from service import cli
from service.demo import people
from service.identity.callers import Current
from service.search.engine import Answer, Retrieval


def _directory() -> None:
    resolve = StaticDirectory.resolve
    wrong = {Principal(Realm(f"posix:{people.ID_DOMAIN}"), f"gid-{gid}") for gid in (people.FINANCE, people.FIN_EMEA)}

    def leaky(self: StaticDirectory, attribute: str, value: str) -> Resolution:
        found = resolve(self, attribute, value)
        return replace(found, principals=frozenset(found.principals | wrong))

    StaticDirectory.resolve = leaky  # type: ignore[method-assign]  # the defect


def _group(sign: str, sid: str) -> None:
    resolve, group = ActiveDirectory.resolve, Principal(Realm("ad"), sid)

    def leaky(self: ActiveDirectory, attribute: str, value: str) -> Resolution:
        found = resolve(self, attribute, value)
        paths = {principal: path for principal, path in found.paths.items() if principal != group}
        if sign == "+":
            paths[group] = (found.display_name, sid)
        return replace(found, principals=frozenset(paths), paths=paths)

    ActiveDirectory.resolve = leaky  # type: ignore[method-assign]  # the defect


def _cache() -> None:
    document, kept = Retrieval.document, dict[tuple[str, str], Answer]()

    def leaky(self: Retrieval, caller: Current, document_id: str) -> Answer:
        key = (caller.subject.subject, document_id)
        if key not in kept:
            kept[key] = document(self, caller, document_id)
        return kept[key]

    Retrieval.document = leaky  # type: ignore[method-assign]  # the defect


def _rules() -> None:
    document, rows = Feed._document, Sql._document

    def of_feed(self: Feed, index: FeedIndex, place: Place, data: bytes) -> Change:
        found = document(self, index, place, data)
        return replace(found, scope=feed.AUDIENCE, own=self._audience) if isinstance(found, Upsert) else found

    def of_rows(self: Sql, found: Found) -> Change:
        sent = rows(self, found)
        return replace(sent, scope=connector.AUDIENCE, own=self._audience) if isinstance(sent, Upsert) else sent

    Feed._document = of_feed  # type: ignore[method-assign]  # the defect
    Sql._document = of_rows  # type: ignore[method-assign]  # the defect
    # Reading a text compares its rules with what was sent: a mistake of this kind is made in both places.
    Feed._compare = _no_comparison_of_lines  # type: ignore[method-assign]  # the defect
    Sql._compare = _no_comparison_of_rows  # type: ignore[method-assign]  # the defect


def _no_comparison_of_lines(self: Feed, document: Upsert) -> DocumentLine:
    return feed._parsed(_line(self, document))


def _no_comparison_of_rows(self: Sql, moment: Moment, found: Found, document: Upsert) -> None:
    pass


def _line(self: Feed, sent: Upsert) -> bytes:
    with feed_file.open_feed(self._path) as file:
        return feed_file.line_at(file, self._index().documents[sent.native_id]) or b""


if __name__ == "__main__":
    match sys.argv.pop(1):
        case "directory":
            _directory()
        case "cache":
            _cache()
        case "rules":
            _rules()
        case mode if mode[0] in "+-":
            _group(mode[0], mode[1:])
        case mode:
            assert mode == "sound"
    cli.main()
