"""The ground of a `feed` source: lines of canaries in the export, with the rest of it as it is.

1. The feed as it was stays beside it, by another name of the same file, and goes back by renaming: byte for byte, with
   its owner and its times.
2. Every change is a new file that is the kept one with our lines before its end marker, renamed into place.
3. An export that took the place of ours meanwhile is the exporter's: it is what is kept from then on, and never undone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from acl.errors import InvalidValueError
from acl.principal import Principal, Realm
from connectors.base import of_source, own_realm
from connectors.feed_lines import DocumentLine, EndLine, LineError, parse
from service.errors import StartError
from service.prove.grounds.base import PREFIX, Canary, Skipped, Way, Who, beside, text_of, word
from service.prove.grounds.filesystem import copy_rights
from service.settings import SourceSettings

_Signature = tuple[int, int, int, int]
_Line = dict[str, Any]


class FeedGround:
    """One feed with the lines that were put into it. See `service.prove.grounds.base.Ground`."""

    def __init__(self, source: SourceSettings, base: Path) -> None:
        """Nothing is written yet."""
        self._source: Final = source.name
        self._path: Final = (base / Path(str(source.options["path"])).expanduser()).absolute()
        self._kept: Final = self._path.with_name(f".{self._path.name}.{PREFIX}kept")
        self._ours: _Signature | None = None
        self._groups: dict[str, _Line] = {}
        self._scopes: dict[str, _Line] = {}
        self._documents: dict[str, _Line] = {}

    @property
    def writes(self) -> str:
        """See `Ground`."""
        return f"lines about `{PREFIX}…` in {self._path}; as it was it is kept beside it, and goes back"

    def names(self, realm: Realm) -> bool:
        """See `Ground`: groups of other sources are the only ones that rules here cannot name."""
        return not of_source(realm)

    def plant(self, like: str) -> Canary:
        """See `Ground`."""
        around, rules = self._rights(like)
        return self._plant(like, around, rules)

    def plant_for(self, like: str, group: Collection[Principal]) -> Canary:
        """See `Ground`."""
        return self._plant(like, self._rights(like)[0], _allow(group))

    def ways(self, like: str, who: Who) -> Sequence[Way | Skipped]:
        """See `Ground`."""

        def plant() -> Canary:
            return self.plant(like)

        return [
            Way("rules", "the document's rules lose their entries", plant, lambda c: self._rule(c, [])),
            *self._by_name(like, who),
            self._by_moving(like),
            Way("delete", "the document's line is gone", plant, self._remove),
        ]

    def clear(self) -> list[str]:
        """See `Clearable`."""
        if self._ours is None:
            return []
        try:
            if _signature(self._path) == self._ours:
                self._kept.replace(self._path)
            # Still there when the exporter's is in place, or when nothing had been put there yet.
            self._kept.unlink(missing_ok=True)
        except OSError as err:
            return [f"{self._path} holds lines of canaries; as it was it is {self._kept}: {err.strerror}"]
        self._ours = None
        return []

    def _by_name(self, like: str, who: Who) -> list[Way | Skipped]:
        """The ways that name the person alone."""
        whats = {
            "deny": "a rule that denies comes first",
            "scope": "the container around the document loses its rules",
            "member": "the person leaves a group of the feed",
        }
        mine = next((one for one in who.own if self.names(one.realm)), None)
        if mine is None:
            why = f"{who.name} holds no principal alone, so that nobody else would be named"
            return [Skipped(kind, what, why) for kind, what in whats.items()]

        def plant() -> Canary:
            return self.plant(like)

        def deny(canary: Canary) -> None:
            rules = self._documents[canary.location]["rules"]
            self._rule(canary, [_rule("deny", [mine]), *(_allow([mine]) if rules == "scope" else rules)])

        def in_scope() -> Canary:
            scope = self._scope(self._rights(like)[0], _allow([mine]))
            return self._plant(like, scope, "scope")

        def close_scope(canary: Canary) -> None:
            self._scopes[self._documents[canary.location]["scope"]]["rules"] = []
            self._write()

        ways: list[Way | Skipped] = [
            Way("deny", whats["deny"], plant, deny),
            Way("scope", whats["scope"], in_scope, close_scope),
        ]
        try:
            realm = own_realm(self._source)
        except InvalidValueError as err:
            return [*ways, Skipped("member", whats["member"], str(err))]

        def in_group() -> Canary:
            group = Principal(realm, f"{PREFIX}{word()}")
            self._groups[group.token] = {
                "kind": "group", "group": group.token, "name": group.id, "members": [mine.token]
            }  # fmt: skip
            return self.plant_for(like, [group])

        def leave(canary: Canary) -> None:
            (rule,) = self._documents[canary.location]["rules"]
            self._groups[rule["principals"][0]]["members"] = []
            self._write()

        return [*ways, Way("member", whats["member"], in_group, leave)]

    def _by_moving(self, like: str) -> Way:
        closed: list[str] = []

        def plant() -> Canary:
            if not closed:
                closed.append(self._scope(self._rights(like)[0], []))
            return self.plant(like)

        def move(canary: Canary) -> None:
            self._documents[canary.location]["scope"] = closed[0]
            self._write()

        return Way("move", "the document goes into a closed container", plant, move)

    def _rule(self, canary: Canary, rules: list[_Line]) -> None:
        self._documents[canary.location]["rules"] = rules
        self._write()

    def _remove(self, canary: Canary) -> None:
        del self._documents[canary.location]
        self._write()

    def _plant(self, like: str, around: str | None, rules: object) -> Canary:
        canary = word()
        name = f"{PREFIX}{canary}"
        location = beside(like, name)
        self._documents[location] = {
            "kind": "document",
            "id": name,
            **({"scope": around} if around is not None else {}),
            "title": name,
            "location": location,
            "media_type": "text/plain",
            "modified_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "rules": rules,
            "text": text_of(canary),
        }
        self._write()
        return Canary(location, canary, text_of(canary))

    def _scope(self, around: str | None, rules: list[_Line]) -> str:
        """A container within another; written with the next document."""
        name = f"{PREFIX}{word()}"
        self._scopes[name] = {
            "kind": "scope",
            "id": name,
            **({"parent": around} if around is not None else {}),
            "location": name,
            "rules": rules,
        }
        return name

    def _rights(self, like: str) -> tuple[str | None, Any]:
        """Container and rules of the document at a location, as they stand in the feed."""
        self._keep()
        found: list[tuple[str | None, Any]] = []
        with self._open(self._kept if self._ours is not None else self._path) as file:
            for data in file:
                try:
                    line = parse(data)
                except LineError:
                    continue
                if isinstance(line, DocumentLine) and line.location == like:
                    one = (line.scope, json.loads(data).get("rules"))
                    if one not in found:
                        found.append(one)
        if len(found) != 1:
            many = "no line" if not found else "several lines with different rules"
            raise StartError(f"{self._path} has {many} about `{like}`, so no canary can be like it")
        return found[0]

    def _write(self) -> None:
        """Put the kept feed with our lines in its place. Raises StartError."""
        self._keep()
        fresh = self._path.with_name(f".{self._path.name}.{PREFIX}new")
        lines = [*self._groups.values(), *self._scopes.values(), *self._documents.values()]
        try:
            if self._ours is None:
                os.link(self._path, self._kept)
                # From here on there is something to put back.
                self._ours = _signature(self._path)
            fresh.unlink(missing_ok=True)
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with self._open(self._kept) as old, os.fdopen(handle, "wb") as new:
                self._copy(old, new, lines)
                copy_rights(self._kept, fresh)
                new.flush()
                os.fsync(new.fileno())
            ours = _signature(fresh)
            fresh.replace(self._path)
            self._ours = ours
        except OSError as err:
            raise StartError(f"{self._path} cannot be written: {err.strerror}") from err
        finally:
            fresh.unlink(missing_ok=True)

    def _keep(self) -> None:
        """See to it that what is kept is the exporter's latest. Raises StartError."""
        try:
            if self._ours is None:
                if self._kept.exists():
                    raise StartError(
                        f"{self._kept} is there: a proof was killed, and this is the feed as it was before it; "
                        "rename it back, or delete it when the feed was exported since"
                    )
            elif _signature(self._path) != self._ours:
                self._kept.unlink()
                self._ours = None
        except OSError as err:
            raise StartError(f"{self._path} cannot be looked at: {err.strerror}") from err

    def _copy(self, old: BinaryIO, new: BinaryIO, lines: Sequence[Mapping[str, Any]]) -> None:
        """Copy a feed with more lines before its end marker. Raises StartError unless it ends with one."""
        last = b""
        for data in old:
            new.write(last)
            last = data
        try:
            ended = isinstance(parse(last), EndLine)
        except LineError:
            ended = False
        if not ended:
            raise StartError(f"{self._path} has no end marker: it is being written, or broken")
        end = json.loads(last)
        for kind, count in (("scopes", self._scopes), ("documents", self._documents), ("groups", self._groups)):
            end[kind] = end.get(kind, 0) + len(count)
        for line in [*lines, end]:
            new.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def _open(self, path: Path) -> BinaryIO:
        try:
            return path.open("rb")
        except OSError as err:
            raise StartError(f"{path} cannot be read: {err.strerror}") from err


def _allow(principals: Collection[Principal]) -> list[_Line]:
    return [_rule("allow", principals)]


def _rule(effect: str, principals: Collection[Principal]) -> _Line:
    return {"effect": effect, "principals": sorted(one.token for one in principals)}


def _signature(path: Path) -> _Signature:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
