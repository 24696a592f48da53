"""Following a run: a bar on a terminal, a line every few seconds elsewhere, its counts and problems at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from service.cli.screen import err, out, print_json

if TYPE_CHECKING:
    from remit.client import AdminClient, SyncRun

_SHOWN_PROBLEMS: Final = 3
_LINE_EVERY_S: Final = 5.0


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
        with _bar(err) if err.is_terminal else _lines(err) as show:
            for last in admin.watch_sync_run(run_id):
                show(last)
    if last is None or last.state.value == "running":
        raise RemitError("the watch ended before the run did: it goes on, watch it again")
    if not json:
        _report(last)
    return last


@contextmanager
def _bar(console: Console) -> Iterator[_Show]:
    """A bar with what the run is doing, and the last problems below it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=console)
    task = bar.add_task("connecting", total=None, pace="")
    with Live(bar, console=console, transient=True, refresh_per_second=8) as live:

        def show(run: SyncRun) -> None:
            done, total = _extent(run)
            bar.update(task, description=_doing(run), completed=done, total=total or None, pace=_pace(run))
            problems = run.problems[-_SHOWN_PROBLEMS:]
            # One line each, cut at the width: a long path must not make the bar jump.
            lines = [Text(f"  {one.location}: {one.reason}", "yellow", no_wrap=True, end="") for one in problems]
            for line in lines:
                line.truncate(console.width, overflow="ellipsis")
            live.update(Group(bar, *(Text.assemble(line) for line in lines)))

        yield show


@contextmanager
def _lines(console: Console) -> Iterator[_Show]:
    """A line when something else begins, and every few seconds: for logs and pipes, nothing is overwritten."""
    said: tuple[str, float] | None = None

    def show(run: SyncRun) -> None:
        nonlocal said
        phase, now = _phase(run), time.monotonic()
        if run.progress is None or (said is not None and said[0] == phase and now - said[1] < _LINE_EVERY_S):
            return
        said = (phase, now)
        done, total = _extent(run)
        extent = f"{done:,} of {total:,} documents" if total else f"{done:,} documents"
        console.print(f"{_doing(run)}, {extent} {_pace(run)}".rstrip(), markup=False)

    yield show


def _phase(run: SyncRun) -> str:
    return run.progress.phase.value if run.progress is not None else run.state.value


def _doing(run: SyncRun) -> str:
    counts = run.counts
    return f"{run.source}: {_phase(run)}, {counts.seen:,} met, {counts.stored:,} stored, {counts.skipped:,} skipped"


def _extent(run: SyncRun) -> tuple[int, int]:
    """How many documents are dealt with, and of how many: 0 while nobody knows."""
    counts = run.counts
    done = counts.stored + counts.unchanged + counts.skipped
    if counts.remaining or run.progress is None:
        return done, done + counts.remaining
    # The walk goes ahead of the reading: until it has ended, the source is taken to be as large as it was.
    expected = run.progress.expected_documents
    return done, max(expected, counts.seen, done) if expected else 0


def _pace(run: SyncRun) -> str:
    if run.progress is None or run.progress.documents_per_second <= 0:
        return ""
    rate = f"{run.progress.documents_per_second:,.0f}/s" if run.progress.documents_per_second >= 1 else "< 1/s"
    left = run.progress.time_left
    return rate if left is None else f"{rate}, about {_length(left)} left"


def _length(time_left: timedelta) -> str:
    seconds = int(time_left.total_seconds())
    if seconds < 60:
        return f"{max(seconds, 1)} s"
    return f"{seconds // 60} min" if seconds < 3600 else f"{seconds // 3600} h {seconds % 3600 // 60} min"


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
