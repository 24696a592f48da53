"""How answers about access look on a screen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from service.cli.screen import ago, out, since

if TYPE_CHECKING:
    from remit.client import (
        AccessGrant,
        AccessPreview,
        AccessRemedy,
        ClauseVerdict,
        DocumentPlace,
        DocumentReaders,
        ExplainedAccess,
        Explanation,
        User,
    )


def print_explained(found: ExplainedAccess) -> None:
    """A decision: the verdict, each clause, what would open it, and when each fact was verified."""
    verdict = "[bold green]allowed[/]" if found.explanation.allowed else "[bold red]denied[/]"
    out.print(f"{verdict}  {_who(found.user)}  {_where(found.document)}")
    explanation = found.explanation
    if explanation.reason.value in _FOR_EVERYBODY:
        out.print(f"[red]withheld from everybody:[/] {_FOR_EVERYBODY[explanation.reason.value]}{_detail(explanation)}")
    table = Table("clause", "", "rule", "principal", "by", box=None, pad_edge=False)
    for one in explanation.clauses:
        table.add_row(
            escape(one.clause),
            "[green]passes[/]" if one.passed else "[red]denies[/]",
            _rule(one),
            escape(one.principal),
            escape(" → ".join(one.path)),
        )
    if explanation.clauses:
        out.print(table)
    for one in explanation.clauses:
        if not one.passed:
            _print_remedies(one)
    _print_times(explanation)
    if found.user.left_out:
        out.print(f"[red]not known:[/] what {', '.join(escape(one) for one in found.user.left_out)} would say")
    out.print(f"[dim]response {found.response_id}[/]")


_FOR_EVERYBODY = {
    "unknown rules": "its rules are not understood or could not be read",
    "stale": "the source's rules were not verified in time, sync it",
    "no text": "there is no text to read",
}


def _detail(explanation: Explanation) -> str:
    return f": {escape(explanation.detail)}" if explanation.detail else ""


def _rule(one: ClauseVerdict) -> str:
    if one.rule is None:
        return f"none of {one.rules}"
    until = "" if one.rule_expires_at is None else f", until {_time(one.rule_expires_at)}"
    return f"{one.rule + 1} of {one.rules}{until}"


def _print_remedies(one: ClauseVerdict) -> None:
    out.print(f"[bold]{escape(one.clause)}[/] would let the person through")
    if one.reason.value == "incomplete realm":
        out.print(f"  perhaps, once the directory says what the person holds in `{escape(one.detail)}`")
        return
    if not one.remedies:
        out.print("  by no group: no rule in force allows anybody whom a change could make the person")
    for remedy in one.remedies:
        out.print(f"  {_remedy(remedy)}")


def _remedy(one: AccessRemedy) -> str:
    parts = []
    if one.leave:
        parts.append("without " + " and ".join(escape(token) for token in one.leave))
    if one.hold_one_of:
        more = f" or one of {one.more} more" if one.more else ""
        parts.append("with " + " or ".join(escape(token) for token in one.hold_one_of) + more)
    return ", and ".join(parts)


def _print_times(explanation: Explanation) -> None:
    limit = explanation.max_permissions_age
    bound = "the source is not configured" if limit is None else f"withheld past {ago(limit)}"
    out.print(f"rules verified {since(explanation.permissions_verified_at)} ({bound})")
    out.print(f"groups resolved {_time(explanation.principals_resolved_at)}, decided {_time(explanation.decided_at)}")


def print_readers(found: DocumentReaders) -> None:
    """Who may read a document: the rules, then people."""
    out.print(f"[bold]{_where(found.document)}[/]")
    if found.withheld.value in _FOR_EVERYBODY:
        detail = f": {escape(found.detail)}" if found.detail else ""
        out.print(f"[red]nobody reads it:[/] {_FOR_EVERYBODY[found.withheld.value]}{detail}")
    rules = Table("clause", "rule", "", "principals", "expires", box=None, pad_edge=False)
    for clause in found.clauses:
        if not clause.rules:
            rules.add_row(escape(clause.clause), "", "[red]nobody[/]", "", "")
        for number, rule in enumerate(clause.rules, 1):
            effect = "[green]allow[/]" if rule.allow else "[red]deny[/]"
            more = f" and {rule.more} more" if rule.more else ""
            expires = "" if rule.expires_at is None else _time(rule.expires_at)
            rules.add_row(
                escape(clause.clause),
                str(number),
                effect if rule.in_force else f"[dim]{effect} (expired)[/]",
                escape(", ".join(rule.principals)) + more,
                expires,
            )
    out.print(rules)
    if found.listed:
        _print_people(found)
    for name in found.not_listed:
        out.print(
            f"[yellow]directory `{escape(name)}` does not list its people:[/] whoever of it holds these, reads it"
        )
    if found.unresolved:
        out.print(f"[red]{found.unresolved} people are not known:[/] a directory does not say now what they hold")
    out.print(f"rules verified {since(found.permissions_verified_at)}")
    out.print(f"[dim]response {found.response_id}[/]")


def _print_people(found: DocumentReaders) -> None:
    listed = ", ".join(f"`{escape(name)}`" for name in found.listed)
    if not found.readers:
        out.print(f"nobody of {listed} reads it")
        return
    people = Table("reader", "account", "by", box=None, pad_edge=False)
    for reader in found.readers:
        # Of the document's own clause: what a class opens on the way, it opens for everybody.
        own = reader.grants[-1]
        by = f"{own.principal} ({' → '.join(own.path)})"
        people.add_row(escape(reader.user.display_name), escape(_account(reader.user)), escape(by))
    out.print(people)
    more = f", and {found.more_readers} more" if found.more_readers else ""
    out.print(f"{len(found.readers)} people of {listed}{more}")


def print_documents(user: User, found: Sequence[DocumentPlace], more: bool) -> None:
    """What somebody may read."""
    out.print(f"[bold]{_who(user)}[/]")
    table = Table("source", "document", "location", box=None, pad_edge=False)
    for one in found:
        table.add_row(escape(one.source), one.document_id, escape(one.location))
    out.print(table)
    out.print(f"{len(found)} documents" + (", and there are more: raise `--limit`" if more else ""))


def print_grants(found: Sequence[AccessGrant]) -> None:
    """Rows for recertification."""
    table = Table("source", "principal", "kind", "opens", "named in", "last use", box=None, pad_edge=False)
    for one in found:
        table.add_row(
            escape(one.source),
            escape(one.principal),
            "class" if one.is_class else "",
            str(one.opens),
            str(one.named),
            "never" if one.last_used_at is None else since(one.last_used_at),
        )
    out.print(table)
    out.print("opens: documents that somebody reads who holds it and nothing beside it but classes")


def print_preview(found: AccessPreview) -> None:
    """What would change."""
    for what, tokens in (("would lose", found.principals_lost), ("would gain", found.principals_gained)):
        if tokens:
            out.print(f"{what}: {escape(', '.join(tokens))}")
    changed = [one for one in found.effects if one.lost or one.gained]
    if not changed:
        out.print("nobody would read more or less" + ("" if not found.not_listed else ", of those who can be listed"))
    for one in changed:
        out.print(f"[bold]{_who(one.user)}[/]  [red]-{one.lost}[/] [green]+{one.gained}[/] documents")
        for sign, colour, examples in (("-", "red", one.lost_examples), ("+", "green", one.gained_examples)):
            for place in examples:
                out.print(f"  [{colour}]{sign}[/] {_where(place)}")
    if not found.exact:
        out.print("[yellow]at least:[/] the directory does not say what is held through that group alone")
    for name in found.not_listed:
        out.print(f"[yellow]directory `{escape(name)}` does not list its people:[/] they are not in this")
    out.print(f"[dim]nothing was changed; response {found.response_id}[/]")


def _who(user: User) -> str:
    return f"{escape(user.display_name)} ({escape(_account(user))})"


def _account(user: User) -> str:
    return f"{user.directory}/{user.account}"


def _where(document: DocumentPlace) -> str:
    place = document.location or "a place that cannot be opened any more"
    return f"{escape(place)} of `{escape(document.source)}` ({document.document_id})"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"
