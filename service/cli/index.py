"""`remit index …`: the vector index, which everything can be made again for from the catalog."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from service.cli.connect import As, Context, Json, Token, context
from service.cli.screen import err, out, print_json
from service.files import lock_file
from service.index.planner import Tuning

app = typer.Typer(no_args_is_help=True, help="Make the vector index anew, and measure for it.", rich_markup_mode=None)


@app.command()
def rebuild(ctx: typer.Context, token: Token = "", person: As = "", json: Json = False) -> None:
    """Make the indexes anew from the catalog. Nothing is embedded again.

    A running service does it beside what it serves, and searches go on (role `operator`); without one it is done here.
    """
    from rich.progress import Progress

    found = context(ctx)
    with Progress(console=err, transient=True, disable=json) as bar:
        task = bar.add_task("reading the catalog", total=None)

        def tell(done: int, last: int) -> None:
            bar.update(task, completed=done, total=last)

        if found.address or lock_file.is_held(found.settings.data / "lock"):
            count = _asked(found, token, person, tell)
        else:
            from service.app import rebuild_index

            count = rebuild_index(found.settings, tell)
    if json:
        print_json({"passages": count})
    else:
        out.print(f"the index holds {count:,} passages")


def _asked(found: Context, token: str, person: str, tell: Callable[[int, int], None]) -> int:
    count = 0
    with found.admin(token, person) as admin:
        for step in admin.rebuild_index():
            tell(step.done, step.total)
            count = step.chunks
    return count


@app.command()
def calibrate(
    chunks: Annotated[int, typer.Option(min=10_000, max=5_000_000, help="How many made passages to measure with.")] = (
        100_000
    ),
    dimension: Annotated[int, typer.Option(min=8, max=4096, help="Of the model's vectors.")] = 384,
    threads: Annotated[int, typer.Option(min=0, max=256, help="That scan; 0 is one for each core.")] = 0,
    json: Json = False,
) -> None:
    """Measure this machine and propose what `index` in the settings should say. Reads and changes nothing."""
    from service.index.calibrate import Step, calibrate

    def tell(step: Step) -> None:
        if not json:
            err.print(f"{step.name:32s} {step.value}", highlight=False)

    found = asdict(calibrate(chunks, dimension, Tuning(threads=threads).scanners, tell))
    found["threads"] = threads
    del found["shadow"], found["approximate"]  # not found out by measuring
    if json:
        print_json({"index": found})
        return
    out.print("index:", highlight=False)
    for name, value in found.items():
        out.print(f"  {name}: {value}", highlight=False)
