"""Feeds for tests: lines as dictionaries, written as an exporter should, by renaming."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from acl.model import Clause, Effect, Rule
from acl.principal import Principal, realm
from connectors.feed import Feed

REALM: Final = realm("static", "people")
STAFF: Final = Clause((Rule(Effect.ALLOW, frozenset({Principal(REALM, "members")})),))
ANYBODY: Final = [{"effect": "allow", "principals": ["static:people:members"]}]
EXPORTED: Final = datetime(2026, 2, 1, 8, tzinfo=UTC)
HEADER: Final = {"kind": "feed", "version": 1, "exported_at": EXPORTED.isoformat()}

_numbers = itertools.count(1)


def scope(scope_id: str, rules: object = ANYBODY, **more: object) -> dict[str, object]:
    """A scope's line."""
    return {"kind": "scope", "id": scope_id, "location": scope_id, "rules": rules} | more


def document(document_id: str, rules: object = ANYBODY, **more: object) -> dict[str, object]:
    """A document's line, with a text unless `more` brings content."""
    content = {} if {"text", "file"} & set(more) else {"text": f"text of {document_id}"}
    return {
        "kind": "document",
        "id": document_id,
        "title": document_id,
        "location": f"export/{document_id}",
        "media_type": "text/plain",
        "modified_at": "2026-01-31T08:00:00Z",
        "rules": rules,
        **content,
        **more,
    }


def group(name: str, *members: object, **more: object) -> dict[str, object]:
    """A group's line."""
    return {"kind": "group", "group": f"source:wiki:{name}", "name": name, "members": list(members)} | more


def only(*names: str) -> list[dict[str, object]]:
    """Rules that let these people through."""
    return [{"effect": "allow", "principals": [f"static:people:{name}" for name in names]}]


def whole(*lines: Mapping[str, object] | bytes) -> list[Mapping[str, object] | bytes]:
    """The lines with header and end marker; bytes count as a document."""
    scopes, groups = (
        sum(isinstance(line, Mapping) and line["kind"] == kind for line in lines) for kind in ("scope", "group")
    )
    end = {"kind": "end", "scopes": scopes, "documents": len(lines) - scopes - groups}
    return [HEADER, *lines, {**end, "groups": groups} if groups else end]


def write_lines(path: Path, lines: Sequence[Mapping[str, object] | bytes]) -> None:
    """Write the lines as they are, in place of what was there."""
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    fresh = path.with_name(f".{path.name}-{next(_numbers)}")
    fresh.write_bytes(b"".join(line + b"\n" for line in data))
    os.replace(fresh, path)  # noqa: PTH105


def feed(path: Path, audience: Clause = STAFF) -> Feed:
    """The connector, an hour after the export."""
    return Feed(path, audience, timedelta(hours=2), lambda: EXPORTED + timedelta(hours=1))


def write(path: Path, *lines: Mapping[str, object] | bytes) -> None:
    """Write a whole feed."""
    write_lines(path, whole(*lines))
