"""`remit source holds|approve|reject`: what the circuit breaker holds, and a person's word on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service.cli.connect import As, Json, Token, context
from service.cli.screen import out, print_json, since

if TYPE_CHECKING:
    from remit.client import Hold

Id = Annotated[str, typer.Argument(help="The hold's id, as `remit source holds` shows it.")]


def holds(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The source's name; all sources without one.")] = "",
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """List what the circuit breaker holds: changes that would open or remove more documents than one run may."""
    with context(ctx).admin(token, person) as admin:
        found = admin.list_holds(name)
    if json:
        print_json(found)
        return
    table = Table("hold", "source", "what", "documents", "met", "decision", box=None)
    for one in found:
        decision = "waits" if not one.decided_by else f"{one.state.value} by {one.decided_by}"
        share = f"{one.documents:,} of {one.total:,}"
        table.add_row(one.hold_id, one.source, one.kind.value, share, since(one.listed_at), escape(decision))
    out.print(table if found else "nothing is held")
    for one in found:
        _print_groups(one)


def approve(ctx: typer.Context, hold_id: Id, token: Token = "", person: As = "", json: Json = False) -> None:
    """Let the next complete run apply what is held (role `access-admin`, or `source-owner`)."""
    with context(ctx).admin(token, person) as admin:
        decided = admin.approve_hold(hold_id)
    _show(decided, f"approved: the next complete run over {decided.source} applies it", json)


def reject(ctx: typer.Context, hold_id: Id, token: Token = "", person: As = "", json: Json = False) -> None:
    """Keep what is held as it is, until the source says something else (role `access-admin`, or `source-owner`)."""
    with context(ctx).admin(token, person) as admin:
        decided = admin.reject_hold(hold_id)
    _show(decided, "rejected: it stays as it is until the source says something else", json)


def _print_groups(hold: Hold) -> None:
    """Whose membership is held."""
    if hold.groups:
        out.print(f"\n[bold]{hold.hold_id}[/]  who would join, or leave what denies them, and so read more:")
    for one in hold.groups:
        counts = (("join", one.joining), ("leave", one.leaving))
        steps = " and ".join(f"{count:,} would {what}" for what, count in counts if count)
        name = f"{one.name} ({one.group})" if one.name else one.group
        more = ", …" if one.joining + one.leaving > len(one.examples) else ""
        out.print(f"  {escape(name)}: {steps}, {one.documents:,} documents: {escape(', '.join(one.examples))}{more}")
    if hold.more_groups:
        out.print(f"  and {hold.more_groups:,} other groups")


def _show(decided: Hold, sentence: str, json: bool) -> None:
    if json:
        print_json(decided)
    else:
        out.print(sentence)
