"""`remit source …`: configured sources and their runs, for operators."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service.cli import progress
from service.cli.connect import As, Json, Token, context
from service.cli.screen import out, print_json, since

app = typer.Typer(no_args_is_help=True, help="Sources and their syncs (role `operator`).", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="The source's name.")]


@app.command("list")
def list_sources(ctx: typer.Context, token: Token = "", person: As = "", json: Json = False) -> None:
    """List every configured source."""
    with context(ctx).admin(token, person) as admin:
        sources = admin.list_sources()
    if json:
        print_json(sources)
        return
    table = Table(
        "source", "kind", "documents", "passages", "quarantined", "permissions verified", "latest run", box=None
    )
    for one in sources:
        run = one.latest_run
        table.add_row(
            one.name,
            one.kind,
            f"{one.documents:,}",
            f"{one.chunks:,}",
            f"{one.quarantined:,}",
            since(one.permissions_verified_at),
            "none" if run is None else f"{run.state.value}, {since(run.started_at)}",
        )
    out.print(table if sources else "no source is configured: add one to `sources` in remit.yaml")


@app.command()
def check(ctx: typer.Context, name: Name, token: Token = "", person: As = "", json: Json = False) -> None:
    """Connect to a source and say what can and cannot be read; store nothing."""
    with context(ctx).admin(token, person) as admin:
        found = admin.check_source(name)
    if json:
        print_json(found)
    else:
        colours = {"info": "green", "warning": "yellow", "error": "red"}
        for one in found.findings:
            out.print(f"[{colours[one.severity.value]}]{one.severity.value:8}[/]{escape(one.text)}")
        out.print("ready to sync" if found.ready else "[red]not ready[/]")
    if not found.ready:
        raise typer.Exit(1)


@app.command()
def sync(
    ctx: typer.Context,
    name: Name,
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Start a run over a source, and follow it."""
    with context(ctx).admin(token, person) as admin:
        run = admin.start_sync(name)
        if wait:
            run = progress.follow(admin, run.run_id, json=json)
        elif json:
            print_json(run)
        else:
            out.print(f"run {run.run_id} is under way: `remit source watch {run.run_id}`")
    if run.failure:
        raise typer.Exit(1)


@app.command()
def watch(
    ctx: typer.Context,
    run_id: Annotated[str, typer.Argument(help="The run's id, as `remit source sync --no-wait` gave it.")],
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Follow a run to its end. With --json, one line each time that something changed."""
    with context(ctx).admin(token, person) as admin:
        run = progress.follow(admin, run_id, json=json)
    if run.failure:
        raise typer.Exit(1)
