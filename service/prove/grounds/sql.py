"""The ground of a `sql` source: rows in the tables that the settings declare, written by a connection that is given.

A canary is a copy of a neighbour's row. For each declared rule there is one whose readers stand in that rule alone, so
that what takes it away is that rule and no other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import sqlalchemy as sa

from acl.errors import InvalidValueError
from acl.model import Effect
from acl.principal import Principal, Realm
from connectors.base import own_realm
from connectors.registry import OptionError
from connectors.sql import rows as values_of
from connectors.sql.declared import Declared, Documents, Fixed, Groups, InColumn, InTable, RuleSource, Scopes, declared
from service.errors import StartError
from service.prove.grounds.base import PREFIX, Canary, Skipped, Way, Who, beside, text_of, word
from service.prove.grounds.sql_rows import Rows, Where, fresh_key
from service.prove.grounds.sql_rules import Named, always, column_of, denied, direct, member_of, taken, value_in
from service.settings import SourceSettings

_NOBODY: Final = -1
"""The number of a rule that no table has: a row whose rules let nobody in."""


def declared_of(source: SourceSettings) -> Declared:
    """What the settings declare of the database. Raises StartError."""
    options = source.options
    try:
        own = own_realm(source.name) if "groups" in options else None
        return declared(options.get("documents"), options.get("scopes"), options.get("groups"), own)
    except OptionError as err:
        raise StartError(f"{source.place(err.option)}: {err}") from err
    except InvalidValueError as err:
        raise StartError(f"{source.place('groups')}: {err}") from err


class SqlGround:
    """The declared tables with the rows that were put into them. See `service.prove.grounds.base.Ground`."""

    def __init__(self, declared: Declared, rows: Rows) -> None:
        """Nothing is connected to yet."""
        self._documents: Final = declared.documents
        self._scopes: Final = declared.scopes
        self._groups: Final = declared.groups
        self._rows: Final = rows
        self._keys: dict[str, object] = {}

    @property
    def writes(self) -> str:
        """See `Ground`."""
        tables = [one.table for one in (self._documents, self._scopes, self._groups) if one is not None]
        others = [
            rule.table
            for one in (self._documents, self._scopes, self._groups)
            if one is not None
            for rule in one.rules
            if isinstance(rule, InTable)
        ]
        listed = ", ".join(f"`{one}`" for one in dict.fromkeys([*tables, *others]))
        return f"rows of `{PREFIX}…` in {listed}, which are removed again; no other row is touched"

    def names(self, realm: Realm) -> bool:
        """See `Ground`."""
        return any(
            not isinstance(rule, Fixed) and rule.effect is Effect.ALLOW and rule.realm == realm
            for table in (self._documents, self._scopes)
            if table is not None
            for rule in table.rules
        )

    def plant(self, like: str) -> Canary:
        """See `Ground`."""
        return self._plant(like)

    def plant_for(self, like: str, group: Collection[Principal]) -> Canary:
        """See `Ground`."""
        for table in (self._documents, self._scopes):
            for number, rule in enumerate(table.rules if table is not None else ()):
                value = next((v for one in sorted(group) if (v := value_in(rule, one)) is not None), None)
                if rule.effect is Effect.ALLOW and value is not None:
                    named = Named(number, value)
                    if table is self._documents:
                        return self._plant(like, named)
                    return self._plant(like, around=self._container(like, named))
        raise StartError("no rule that is declared can name a group of this directory")

    def ways(self, like: str, who: Who) -> Sequence[Way | Skipped]:
        """See `Ground`."""
        found = self._by_rules(self._documents, who, lambda named: self._plant(like, named))
        if self._scopes is not None:
            found += self._by_rules(
                self._scopes, who, lambda named: self._plant(like, around=self._container(like, named))
            )
            found.append(self._by_moving(like, who))
        if self._groups is not None:
            found.append(self._by_membership(like, who))
        found.append(Way("delete", "the row is gone", lambda: self._plant(like), self._remove))
        return found

    def clear(self) -> list[str]:
        """See `Clearable`."""
        return self._rows.clear()

    # --- the kinds of changes ---

    def _by_rules(
        self, table: Documents | Scopes, who: Who, plant: Callable[[Named | None], Canary]
    ) -> list[Way | Skipped]:
        """One way for each rule that rows decide about; one that always counts is the settings' alone."""
        return [
            self._by_rule(table, number, who, plant)
            for number, rule in enumerate(table.rules)
            if not isinstance(rule, Fixed) or rule.when is not None
        ]

    def _by_rule(
        self, table: Documents | Scopes, number: int, who: Who, plant: Callable[[Named | None], Canary]
    ) -> Way | Skipped:
        """The person is let in by this rule alone, and then not; or is denied by it. plant: one whom a rule names."""
        rule = table.rules[number]
        kind = "scope" if isinstance(table, Scopes) else rule.effect.value
        at = f"{'scopes' if isinstance(table, Scopes) else 'documents'}.rules"
        what = f"{taken(rule) if rule.effect is Effect.ALLOW else denied(rule)} ({at}[{number}])"
        open_to_all = [n for n, one in enumerate(table.rules) if always(one, who)]
        if rule.effect is Effect.ALLOW and open_to_all:
            return Skipped(kind, what, f"`{at}[{open_to_all[0]}]` lets {who.name} in whatever it says")
        mine = self._naming(number, rule, who)
        if mine is None:
            return Skipped(kind, what, f"{who.name} holds nothing alone that it could name")
        named: dict[str, Named] = {}
        key_of = self._key if isinstance(table, Documents) else self._scope_of
        if rule.effect is Effect.ALLOW:

            def let_in() -> Canary:
                found = mine()
                canary = plant(found)
                named[canary.location] = found
                return canary

            return Way(kind, what, let_in, lambda c: self._empty(table, number, key_of(c), named[c.location].value))
        behind = [
            found
            for n, one in enumerate(table.rules)
            if n > number and one.effect is Effect.ALLOW and (found := self._naming(n, one, who)) is not None
        ]
        lets_in_anyway = any(n > number for n in open_to_all)
        if not behind and not lets_in_anyway:
            return Skipped(kind, what, "no rule behind it lets anybody in, so it takes nothing away")

        def let_in_behind() -> Canary:
            found = mine()
            canary = plant(None if lets_in_anyway else behind[0]())
            named[canary.location] = found
            return canary

        return Way(kind, what, let_in_behind, lambda c: self._fill(table, named[c.location], key_of(c)))

    def _by_moving(self, like: str, who: Who) -> Way | Skipped:
        assert self._scopes is not None
        what = "the row goes into a closed container"
        if any(always(rule, who) for rule in self._scopes.rules):
            return Skipped("move", what, f"`scopes.rules` let {who.name} into every container")
        closed: list[object] = []

        def plant() -> Canary:
            if not closed:
                closed.append(self._container(like, None))
            return self._plant(like)

        def move(canary: Canary) -> None:
            assert self._documents.scope is not None
            where = {self._documents.key: self._key(canary)}
            self._rows.update(self._documents.table, where, {self._documents.scope: closed[0]})

        return Way("move", what, plant, move)

    def _by_membership(self, like: str, who: Who) -> Way | Skipped:
        groups = self._groups
        assert groups is not None
        what = "the person leaves a group of the source"
        named = member_of(groups, who)
        if not self.names(groups.realm):
            return Skipped("member", what, f"no rule that lets somebody in names groups of `{groups.realm}`")
        if named is None:
            return Skipped("member", what, f"{who.name} holds nothing alone that `groups.members` could name")
        made: dict[str, object] = {}

        def plant() -> Canary:
            key = self._group(named)
            canary = self.plant_for(like, [values_of.group(groups, key)])
            made[canary.location] = key
            return canary

        return Way("member", what, plant, lambda c: self._empty(groups, named.number, made[c.location], named.value))

    def _naming(self, number: int, rule: RuleSource, who: Who) -> Callable[[], Named] | None:
        """How a rule can name the person and nobody else: by what only they hold, or by a group made for it."""
        alone = direct(number, rule, who)
        if alone is not None:
            return lambda: alone
        groups = self._groups
        if groups is None or isinstance(rule, Fixed) or rule.realm != groups.realm:
            return None
        member = member_of(groups, who)
        if member is None:
            return None

        def by_group() -> Named:
            found = value_in(rule, values_of.group(groups, self._group(member)))
            if found is None:
                raise StartError(f"`prefix` of `groups` and of the rules of `{groups.realm}` do not fit")
            return Named(number, found)

        return by_group

    # --- rows ---

    def _plant(self, like: str, named: Named | None = None, *, around: object = None) -> Canary:
        """A copy of a document's row. named: who alone is let in, None: whom the neighbour lets in. around: where."""
        table = self._documents
        near = self._neighbour(like)
        canary = word()
        name = f"{PREFIX}{canary}"
        key = fresh_key(self._one(table, near, table.key), name)
        text: object = f"{text_of(canary)}\n"
        if isinstance(self._rows.column(table.table, table.text).type, sa.LargeBinary):
            text = str(text).encode()
        values: dict[str, object] = {table.title: name, table.text: text}
        if around is not None and table.scope is not None:
            values[table.scope] = around
        location = f"{table.table}/{values_of.native_id(key)}"
        if table.location is not None:
            values[table.location] = location = beside(like, name)
        self._copy(table, near, key, values, named)
        self._keys[location] = key
        return Canary(location, canary, text_of(canary))

    def _container(self, like: str, named: Named | None) -> object:
        """A copy of the container of a document. named: who alone is let in, None: nobody."""
        scopes, documents = self._scopes, self._documents
        assert scopes is not None
        assert documents.scope is not None
        near = {scopes.key: self._one(documents, self._neighbour(like), documents.scope)}
        name = f"{PREFIX}{word()}"
        key = fresh_key(self._one(scopes, near, scopes.key), name)
        self._copy(scopes, near, key, {scopes.title: name}, named or Named(_NOBODY, False))
        return key

    def _group(self, member: Named) -> object:
        """A new group with one member."""
        table = self._groups
        assert table is not None
        name = f"{PREFIX}{word()}"
        known = self._rows.values(table.table, table.key, {}, at_most=1)
        key = fresh_key(known[0] if known else name, name)
        like = {table.key: known[0]} if known else None
        empty = {rule.column: self._nothing(table, rule) for rule in table.rules if isinstance(rule, InColumn)}
        self._rows.insert(table.table, {table.key: key}, {table.title: name, **empty}, like)
        self._fill(table, member, key)
        return key

    def _copy(
        self, table: Documents | Scopes, near: Where, key: object, values: dict[str, object], named: Named | None
    ) -> None:
        """Insert a row like another one, with what its rules say; with `named`, every allow says that alone."""
        if named is not None:
            for rule in table.rules:
                if rule.effect is Effect.ALLOW and (column := column_of(rule)) is not None:
                    values[column] = self._nothing(table, rule)
        self._rows.insert(table.table, {table.key: key}, values, near)
        for rule in table.rules:
            if isinstance(rule, InTable) and (named is None or rule.effect is Effect.DENY):
                old = near[table.key] if table.key in near else self._one(table, near, table.key)
                for value in self._rows.values(rule.table, rule.column, {rule.key: old}, at_most=1000):
                    self._rows.insert(rule.table, {rule.key: key, rule.column: value}, {}, {rule.key: old})
        if named is not None and named.number != _NOBODY:
            self._fill(table, named, key)

    def _fill(self, table: Documents | Scopes | Groups, named: Named, key: object) -> None:
        """Have a rule of a row of ours name somebody."""
        rule = table.rules[named.number]
        match rule:
            case InTable():
                value = self._fitting(rule.table, rule.column, named.value)
                like = {rule.key: old[0]} if (old := self._rows.values(rule.table, rule.key, {}, at_most=1)) else None
                self._rows.insert(rule.table, {rule.key: key, rule.column: value}, {}, like)
            case InColumn():
                value = self._fitting(table.table, rule.column, named.value)
                filled = self._listed(table, rule, [value]) if rule.is_list else value
                self._rows.update(table.table, {table.key: key}, {rule.column: filled})
            case Fixed():
                assert rule.when is not None
                flag = self._fitting(table.table, rule.when, True)
                self._rows.update(table.table, {table.key: key}, {rule.when: flag})

    def _empty(self, table: Documents | Scopes | Groups, number: int, key: object, value: str | bool) -> None:
        """Have a rule of a row of ours name nobody."""
        rule = table.rules[number]
        if isinstance(rule, InTable):
            where = {rule.key: key, rule.column: self._fitting(rule.table, rule.column, value)}
            self._rows.delete(rule.table, where)
        elif (column := column_of(rule)) is not None:
            self._rows.update(table.table, {table.key: key}, {column: self._nothing(table, rule)})

    def _nothing(self, table: Documents | Scopes | Groups, rule: RuleSource) -> object:
        """What a column holds when it names nobody."""
        if isinstance(rule, Fixed):
            assert rule.when is not None
            return self._fitting(table.table, rule.when, False)
        if isinstance(rule, InColumn) and rule.is_list:
            return self._listed(table, rule, [])
        if isinstance(rule, InColumn) and isinstance(table, Groups):
            # NULL would say that nobody knows who is in.
            whole = isinstance(self._rows.column(table.table, rule.column).type, sa.Integer)
            return self._fitting(table.table, rule.column, "-1" if whole else f"{PREFIX}nobody")
        return None

    def _listed(self, table: Documents | Scopes | Groups, rule: InColumn, ids: list[object]) -> object:
        kind = self._rows.column(table.table, rule.column).type
        return ids if isinstance(kind, sa.ARRAY | sa.JSON) else json.dumps(ids)

    def _fitting(self, table: str, column: str, value: str | bool) -> Any:
        """A value as its column takes it."""
        kind = self._rows.column(table, column).type
        if isinstance(value, bool):
            return value if isinstance(kind, sa.Boolean) else int(value)
        try:
            return int(value) if isinstance(kind, sa.Integer) else value
        except ValueError as err:
            raise StartError(f"`{column}` of `{table}` takes numbers, and `{value}` is none") from err

    def _remove(self, canary: Canary) -> None:
        key = self._key(canary)
        for rule in self._documents.rules:
            if isinstance(rule, InTable):
                for value in self._rows.values(rule.table, rule.column, {rule.key: key}, at_most=1000):
                    self._rows.delete(rule.table, {rule.key: key, rule.column: value})
        self._rows.delete(self._documents.table, {self._documents.key: key})

    def _neighbour(self, like: str) -> Where:
        """Which row the document at a location is."""
        table = self._documents
        if table.location is not None:
            found = self._rows.values(table.table, table.key, {table.location: like})
            if len(found) == 1:
                return {table.key: found[0]}
            if len(found) > 1:
                raise StartError(f"several rows of `{table.table}` are at `{like}`, so no canary can be like it")
        try:
            return {table.key: values_of.key_of(like.removeprefix(f"{table.table}/"))}
        except ValueError as err:
            raise StartError(f"no row of `{table.table}` is at `{like}`") from err

    def _one(self, table: Documents | Scopes, where: Where, column: str) -> object:
        found = self._rows.values(table.table, column, where)
        if len(found) != 1:
            raise StartError(f"`{table.table}` has {len(found)} rows instead of one to be like")
        return found[0]

    def _key(self, canary: Canary) -> object:
        return self._keys[canary.location]

    def _scope_of(self, canary: Canary) -> object:
        assert self._documents.scope is not None
        return self._one(self._documents, {self._documents.key: self._key(canary)}, self._documents.scope)
