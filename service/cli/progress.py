"""Following a run: a bar while it goes on, its counts and problems at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from service.cli.screen import err, out, print_json

if TYPE_CHECKING:
    from remit.client import AdminClient, SyncRun


class _Show(Protocol):
    def __call__(self, run: SyncRun) -> None: ...


def follow(admin: AdminClient, run_id: str, *, json: bool) -> SyncRun:
    """Show a run until it has ended and return its end. json: print each state as a line instead."""
    from remit.client import RemitError

    last: SyncRun | None = None
    if json:
        for last in admin.watch_sync_run(run_id):
            print_json(last)
    else:
        with _bar() as show:
            for last in admin.watch_sync_run(run_id):
                show(last)
    if last is None or last.state.value == "running":
        raise RemitError("the watch ended before the run did: it goes on, watch it again")
    if not json:
        _report(last)
    return last


@contextmanager
def _bar() -> Iterator[_Show]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(run: SyncRun) -> None:
            counts = run.counts
            done = counts.stored + counts.unchanged + counts.skipped
            text = f"{run.source}: {counts.seen:,} met, {counts.stored:,} stored, {counts.chunks:,} passages"
            # The walk goes ahead of the reading: how much there is in all is known when it has ended.
            bar.update(
                task, description=text, completed=done, total=done + counts.remaining if counts.remaining else None
            )

        yield show


def state(run: SyncRun) -> str:
    """Where a run stands, with its colour."""
    colours = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}
    return f"[{colours[run.state.value]}]{run.state.value}[/]"


def _report(run: SyncRun) -> None:
    counts = run.counts
    seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at is not None else 0.0
    out.print(
        f"{run.source}: {state(run)} in {seconds:.1f} s: {counts.seen:,} documents met, {counts.stored:,} stored, "
        f"{counts.unchanged:,} unchanged, {counts.permissions_changed:,} permissions changed, "
        f"{counts.skipped:,} skipped, {counts.removed:,} removed, {counts.chunks:,} passages"
    )
    if run.failure:
        out.print(f"[red]{escape(run.failure)}[/]")
    if run.problems:
        shown = (
            f"the last {len(run.problems)} of {counts.skipped:,}" if counts.skipped > len(run.problems) else "left out"
        )
        out.print(f"[yellow]{shown}:[/]")
        for problem in run.problems:
            out.print(f"  {escape(problem.location)}: {problem.reason}. {escape(problem.detail)}")
