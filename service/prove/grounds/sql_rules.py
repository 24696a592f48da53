"""How declared rules of a database can name somebody, and what their changes are called. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from acl.model import Effect
from acl.principal import Principal
from connectors.sql.declared import Fixed, Groups, InColumn, InTable, RuleSource
from service.prove.grounds.base import Who


@dataclass(frozen=True, slots=True)
class Named:
    """One rule of a table and what names the person, or a group, in it; value: an id, or that a flag is set."""

    number: int
    value: str | bool


def direct(number: int, rule: RuleSource, who: Who) -> Named | None:
    """How a rule can name somebody and nobody else; a flag names whom the settings say, if the person is one."""
    if isinstance(rule, Fixed):
        return Named(number, True) if rule.when is not None and rule.principals & who.held else None
    found = next((value for one in who.own if (value := value_in(rule, one)) is not None), None)
    return Named(number, found) if found is not None else None


def member_of(groups: Groups, who: Who) -> Named | None:
    """How the person can be put into a group."""
    return next((one for n, rule in enumerate(groups.rules) if (one := direct(n, rule, who)) is not None), None)


def value_in(rule: RuleSource, principal: Principal) -> str | None:
    """What a column holds to name a principal; None when it cannot."""
    if isinstance(rule, Fixed) or principal.realm != rule.realm or not principal.id.startswith(rule.prefix):
        return None
    return principal.id.removeprefix(rule.prefix) or None


def always(rule: RuleSource, who: Who) -> bool:
    return (
        isinstance(rule, Fixed)
        and rule.effect is Effect.ALLOW
        and rule.when is None
        and bool(rule.principals & who.held)
    )


def column_of(rule: RuleSource) -> str | None:
    """The column of the row itself in which a rule stands."""
    match rule:
        case Fixed():
            return rule.when
        case InColumn():
            return rule.column
        case InTable():
            return None


def taken(rule: RuleSource) -> str:
    match rule:
        case InTable():
            return f"the row in `{rule.table}` is gone"
        case InColumn():
            return f"`{rule.column}` names nobody"
        case Fixed():
            return f"`{rule.when}` is false"


def denied(rule: RuleSource) -> str:
    match rule:
        case InTable():
            return f"a row in `{rule.table}` denies"
        case InColumn():
            return f"`{rule.column}` denies"
        case Fixed():
            return f"`{rule.when}` is true, and denies"
