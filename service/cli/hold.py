"""`remit audit hold …` and `remit canary …`: what stands until somebody ends it, and by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service.cli.connect import As, Json, Token, context
from service.cli.screen import out, print_json, since

if TYPE_CHECKING:
    from remit.client.audit_values import LegalHold

hold = typer.Typer(
    no_args_is_help=True, help="Legal holds: what does not expire (role `key-admin`).", rich_markup_mode=None
)
canary = typer.Typer(
    no_args_is_help=True, help="Sources that a canary stopped (role `operator`).", rich_markup_mode=None
)

Why = Annotated[str, typer.Option("--why", help="Why, for the record.")]


@hold.command()
def add(
    ctx: typer.Context,
    why: Why,
    kind: Annotated[list[str] | None, typer.Option("--class", help="Only records of this class; repeatable.")] = None,
    from_day: Annotated[str, typer.Option("--from", help="From this day (UTC) on, such as 2026-11-25.")] = "",
    to_day: Annotated[str, typer.Option("--to", help="Up to this day (UTC), included.")] = "",
    document_id: Annotated[
        str, typer.Option("--document", help="Only days on which this document was returned, by its id.")
    ] = "",
    person: Annotated[
        str, typer.Option("--person", help="Only days on which the log names this person, by account or subject.")
    ] = "",
    token: Token = "",
    name: As = "",
    json: Json = False,
) -> None:
    """Keep records of the audit log from expiring until the hold is lifted. Without conditions: all of them."""
    with context(ctx).admin(token, name) as admin:
        placed = admin.place_legal_hold(
            why, classes=kind or (), from_day=from_day, to_day=to_day, document_id=document_id, person=person
        )
    if json:
        print_json(placed)
    else:
        out.print(f"hold `{placed.hold_id}` stands: {escape(_what(placed))}")


@hold.command("list")
def list_holds(ctx: typer.Context, token: Token = "", name: As = "", json: Json = False) -> None:
    """List the holds that stand (role `key-admin` or `auditor`)."""
    with context(ctx).admin(token, name) as admin:
        found = admin.list_legal_holds()
    if json:
        print_json({"holds": found})
        return
    if not found:
        out.print("no hold stands")
        return
    table = Table("hold", "placed", "by", "keeps", "why", box=None)
    for one in found:
        table.add_row(one.hold_id, since(one.placed_at), escape(one.placed_by), escape(_what(one)), escape(one.why))
    out.print(table)


@hold.command()
def lift(
    ctx: typer.Context,
    hold_id: Annotated[str, typer.Argument(help="The hold's id.")],
    why: Why,
    token: Token = "",
    name: As = "",
    json: Json = False,
) -> None:
    """End a hold. What it alone kept expires within the hour."""
    with context(ctx).admin(token, name) as admin:
        lifted = admin.lift_legal_hold(hold_id, why)
    if json:
        print_json(lifted)
    else:
        out.print(f"hold `{lifted.hold_id}` is lifted")


def _what(found: LegalHold) -> str:
    parts = [f"records of class {', '.join(found.classes)}" if found.classes else "all records"]
    parts += [f"{word} {day}" for word, day in (("from", found.from_day), ("to", found.to_day)) if day]
    named = [f"document {found.document_id}"] * bool(found.document_id) + [f"person {found.person}"] * bool(
        found.person
    )
    if named:
        parts.append(f"of days that name {' and '.join(named)}")
    return " ".join(parts)


@canary.command("list")
def list_stopped(ctx: typer.Context, token: Token = "", name: As = "", json: Json = False) -> None:
    """List the sources that are stopped, because one of their canaries was about to leave."""
    with context(ctx).admin(token, name) as admin:
        found = admin.list_stopped_sources()
    if json:
        print_json({"sources": found})
        return
    if not found:
        out.print("no source is stopped")
        return
    table = Table("source", "stopped", "answer", "canary", "alert", box=None)
    for one in found:
        table.add_row(escape(one.source), since(one.happened_at), one.response_id, one.document_id, one.alert_id)
    out.print(table)
    out.print(
        "[dim]who asked: `remit audit show ANSWER`; once it is understood: `remit canary clear SOURCE --why …`[/]"
    )


@canary.command()
def clear(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="The source's name.")],
    why: Why,
    token: Token = "",
    name: As = "",
    json: Json = False,
) -> None:
    """Let a stopped source be read again; say what was found. Who did it is on record."""
    with context(ctx).admin(token, name) as admin:
        cleared = admin.clear_source(source, why)
    if json:
        print_json(cleared)
    else:
        out.print(f"source `{escape(cleared.source)}` is read again")


__all__ = ["canary", "hold"]
