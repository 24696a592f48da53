"""What an administrator declares of a database: which columns are what, and how rows say who may read.

Options to values, without a look at the database; every error names the option. docs/connectors/sql.md explains them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from acl.errors import InvalidValueError
from acl.model import Effect
from acl.principal import Principal, Realm
from connectors.media_types import PLAIN
from connectors.registry import OptionError

_EFFECTS: Final = {"allow": Effect.ALLOW, "deny": Effect.DENY}
_REALM: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*(:[A-Za-z0-9_.-]+)?")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+-]{1,80}/[a-z0-9.+-]{1,120}")


@dataclass(frozen=True, slots=True)
class Fixed:
    """A rule for principals that the declaration names. when: the column that says whether it counts, None: always."""

    effect: Effect
    principals: frozenset[Principal]
    when: str | None


@dataclass(frozen=True, slots=True)
class InColumn:
    """A rule for those whose ids stand in a column of the row: one id, or a list. prefix: what an id begins with."""

    effect: Effect
    realm: Realm
    prefix: str
    column: str
    is_list: bool


@dataclass(frozen=True, slots=True)
class InTable:
    """A rule for those whose ids stand in another table, in rows that name the row's key."""

    effect: Effect
    realm: Realm
    prefix: str
    table: str
    key: str
    column: str


RuleSource = Fixed | InColumn | InTable


@dataclass(frozen=True, slots=True)
class Documents:
    """The table of documents. Columns; location and scope: None when there is none."""

    table: str
    key: str
    text: str
    version: str
    title: str
    modified_at: str
    location: str | None
    scope: str | None
    media_type: str
    rules: tuple[RuleSource, ...]


@dataclass(frozen=True, slots=True)
class Scopes:
    """The table of containers. parent: None when they do not lie in one another."""

    table: str
    key: str
    title: str
    parent: str | None
    rules: tuple[RuleSource, ...]


@dataclass(frozen=True, slots=True)
class Groups:
    """The table of groups that the system has itself. rules: where their members stand, each as an allow.

    realm: the source's own. prefix: what is put before each key.
    """

    table: str
    key: str
    title: str
    realm: Realm
    prefix: str
    rules: tuple[InColumn | InTable, ...]


@dataclass(frozen=True, slots=True)
class Declared:
    """All that is declared."""

    documents: Documents
    scopes: Scopes | None
    groups: Groups | None = None


def declared(documents: object, scopes: object, groups: object = None, own: Realm | None = None) -> Declared:
    """Read the options `documents`, `scopes` and `groups`, None for those that are not there. Raises OptionError.

    own: the realm of the source's own groups.
    """
    inner = None if groups is None or own is None else _groups(groups, own)
    table, around = _tables(documents, scopes)
    return Declared(table, around, inner)


def _groups(values: object, own: Realm) -> Groups:
    found = _Group("groups", values)
    found.allow("table", "key", "title", "prefix", "members")
    return Groups(
        **{key: found.text(key) for key in ("table", "key", "title")},
        realm=own,
        prefix=found.optional("prefix") or "",
        rules=tuple(_named(one, Effect.ALLOW) for one in found.groups("members")),
    )


def _tables(documents: object, scopes: object) -> tuple[Documents, Scopes | None]:
    found = _Group("documents", documents)
    keys = ("table", "key", "text", "version", "title", "modified_at")
    optional = ("location", "scope", "media_type")
    found.allow(*keys, *optional, "rules")
    table = Documents(
        **{key: found.text(key) for key in keys},
        location=found.optional("location"),
        scope=found.optional("scope"),
        media_type=_media_type(found),
        rules=_rules(found),
    )
    if scopes is None:
        if table.scope is not None:
            raise found.error("scope", "names the container of a document, and no `scopes` are declared")
        return table, None
    if table.scope is None:
        raise found.error("scope", "is missing: `scopes` are declared, and this column says which is a document's")
    around = _Group("scopes", scopes)
    around.allow("table", "key", "title", "parent", "rules")
    inner = Scopes(
        **{key: around.text(key) for key in ("table", "key", "title")},
        parent=around.optional("parent"),
        rules=_rules(around),
    )
    return table, inner


class _Group:
    """One mapping of the options. at: where it stands, such as `documents.rules[0]`."""

    def __init__(self, at: str, values: object) -> None:
        self._at = at
        if not isinstance(values, Mapping):
            raise self.error("", "expected a mapping")
        self._values: Mapping[object, object] = values

    def error(self, key: str, complaint: str) -> OptionError:
        """An error about one key, or about the whole group."""
        option = self._at.partition(".")[0]
        return OptionError(option, f"`{self._at}.{key}`: {complaint}" if key else f"`{self._at}`: {complaint}")

    def allow(self, *keys: str) -> None:
        """Refuse other keys."""
        for key in self._values:
            if key not in keys:
                raise self.error(str(key), f"unknown key, known: {', '.join(f'`{one}`' for one in sorted(keys))}")

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self._values

    def text(self, key: str) -> str:
        """Read text that must be there."""
        value = self._values.get(key)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.error(key, "expected text" if self.has(key) else "missing")
        return value

    def optional(self, key: str) -> str | None:
        """Read text that may be left out."""
        return self.text(key) if self.has(key) else None

    def groups(self, key: str) -> list[_Group]:
        """Read a list of mappings, at least one."""
        value = self._values.get(key)
        if not isinstance(value, list | tuple) or not value:
            raise self.error(key, "expected a list of mappings, at least one")
        return [_Group(f"{self._at}.{key}[{number}]", one) for number, one in enumerate(value)]

    def texts(self, key: str) -> list[str]:
        """Read a list of texts, at least one."""
        value = self._values.get(key)
        if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) for one in value):
            raise self.error(key, "expected a list of texts, at least one")
        return list(value)


def _media_type(group: _Group) -> str:
    found = group.optional("media_type")
    if found is not None and not _MEDIA_TYPE.fullmatch(found):
        raise group.error("media_type", "expected one such as `text/plain`")
    return found if found is not None else PLAIN


def _rules(group: _Group) -> tuple[RuleSource, ...]:
    return tuple(_rule(one) for one in group.groups("rules"))


def _rule(group: _Group) -> RuleSource:
    effect = _EFFECTS.get(group.text("effect"))
    if effect is None:
        raise group.error("effect", "expected `allow` or `deny`")
    if group.has("principals"):
        group.allow("effect", "principals", "when")
        try:
            principals = frozenset(Principal.parse(token) for token in group.texts("principals"))
        except InvalidValueError as err:
            raise group.error("principals", str(err)) from err
        return Fixed(effect, principals, group.optional("when"))
    return _named(group, effect, "effect")


def _named(group: _Group, effect: Effect, *more: str) -> InColumn | InTable:
    """Read where ids of people stand. more: other keys that may be there."""
    realm = group.text("realm")
    if not _REALM.fullmatch(realm):
        raise group.error("realm", f"`{realm}` is not a realm")
    prefix = group.optional("prefix") or ""
    if group.has("table"):
        group.allow(*more, "realm", "prefix", "table", "key", "column")
        return InTable(effect, Realm(realm), prefix, group.text("table"), group.text("key"), group.text("column"))
    group.allow(*more, "realm", "prefix", "column", "holds")
    holds = group.optional("holds") or "one"
    if holds not in ("one", "list"):
        raise group.error("holds", "expected `one` or `list`")
    return InColumn(effect, Realm(realm), prefix, group.text("column"), holds == "list")
