"""`remit source …`: configured sources and their runs, for operators."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from service.cli import holds, progress
from service.cli.connect import As, Json, Token, context
from service.cli.screen import ago, out, print_json, since

if TYPE_CHECKING:
    from remit.client import AdminClient, Source, SyncRun

app = typer.Typer(no_args_is_help=True, help="Sources and their syncs (role `operator`).", rich_markup_mode=None)

for command in (holds.holds, holds.approve, holds.reject):
    app.command()(command)

_POLL_S: Final = 0.5

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
        *("source", "kind", "documents", "passages", "quarantined", "permissions verified", "latest run", "next run"),
        box=None,
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
            "none" if run is None else f"{progress.state(run)}, {since(run.started_at)}",
            _next(one),
        )
    out.print(table if sources else "no source is configured: add one to `sources` in remit.yaml")


def _next(one: Source) -> str:
    if one.removal is not None:
        return f"[yellow]removed, {one.removal.value}[/]"
    if one.waits_for_a_person:
        return f"[red]somebody must act: `remit source runs {one.name}`[/]"
    if one.next_run_at is not None:
        return f"in {ago(max(one.next_run_at - datetime.now(one.next_run_at.tzinfo), timedelta(0)))}"
    return "not scheduled" if one.latest_run is None or one.latest_run.state.value != "running" else "under way"


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
    permissions: Annotated[
        bool, typer.Option("--permissions", help="Verify rules alone, and read no content.")
    ] = False,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Start a run over a source, and follow it."""
    from remit.client import SyncPass

    with context(ctx).admin(token, person) as admin:
        run = admin.start_sync(name, SyncPass.PERMISSIONS if permissions else SyncPass.CONTENT)
        if wait:
            run = progress.follow(admin, run.run_id, json=json)
        elif json:
            print_json(run)
        else:
            out.print(f"run {run.run_id} is under way: `remit source watch {run.run_id}`")
    if run.state.value != "succeeded" and (wait or run.failure):
        raise typer.Exit(1)


@app.command()
def runs(
    ctx: typer.Context,
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest.")] = 20,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """List the runs over a source, the newest first. With --json, one line each."""
    with context(ctx).admin(token, person) as admin:
        found = list(islice(_runs(admin, name, limit), limit))
    if json:
        for one in found:
            print_json(one)
        return
    table = Table("run", "state", "began", "took", "met", "stored", "removed", "skipped", "what was wrong", box=None)
    for one in found:
        took = "" if one.ended_at is None else f"{(one.ended_at - one.started_at).total_seconds():,.1f} s"
        counts = (one.counts.seen, one.counts.stored, one.counts.removed, one.counts.skipped)
        table.add_row(
            one.run_id,
            progress.state(one),
            since(one.started_at),
            took,
            *(f"{count:,}" for count in counts),
            escape(one.failure),
        )
    out.print(
        table if found else f"no run over `{name}` yet: `remit source sync {name}` starts one", markup=bool(found)
    )


def _runs(admin: AdminClient, name: str, limit: int) -> Iterator[SyncRun]:
    page_token = ""
    while True:
        page = admin.list_sync_runs(name, page_size=min(limit, 100), page_token=page_token)
        yield from page.runs
        page_token = page.next_page_token
        if not page_token:
            return


@app.command()
def cancel(
    ctx: typer.Context,
    run_id: Annotated[str, typer.Argument(help="The run's id, as `remit source runs` shows it.")],
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Tell a run to end; what it stored and narrowed stays, and nothing counts as deleted."""
    with context(ctx).admin(token, person) as admin:
        run = admin.cancel_sync_run(run_id)
        if wait and run.state.value == "running":
            run = progress.follow(admin, run_id, json=json)
        elif json:
            print_json(run)
        elif run.state.value == "running":
            out.print(f"run {run.run_id} was told to end: `remit source watch {run.run_id}`")
        else:
            out.print(f"run {run.run_id} has ended: {progress.state(run)}")


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
    if run.state.value != "succeeded":
        raise typer.Exit(1)


@app.command()
def remove(
    ctx: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until everything is purged.")] = False,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Remove a source: withheld on the next query, purged in the background with its keys. There is no way back."""
    with context(ctx).admin(token, person) as admin:
        if not yes:
            there = admin.get_source(name)
            typer.confirm(f"remove `{name}` with {there.documents:,} documents?", abort=True)
        removed = admin.remove_source(name)
        purged = removed.removal is not None and removed.removal.value == "purged"
        while wait and not purged:
            time.sleep(_POLL_S)
            states = {one.name: one.removal for one in admin.list_sources()}
            state = states.get(name)
            purged = state is None or state.value == "purged"
    if json:
        print_json(removed)
        return
    left = "everything is purged" if purged else f"{removed.documents:,} documents are being purged"
    out.print(f"{name} is withheld, {left}; its name is free once remit.yaml does not name it any more", markup=False)
