"""`remit index …`: the vector index, which everything can be made again for from the catalog."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from service.cli.connect import Json, context
from service.cli.screen import err, out, print_json
from service.index.planner import Tuning

app = typer.Typer(no_args_is_help=True, help="Make the vector index anew, and measure for it.", rich_markup_mode=None)


@app.command()
def rebuild(ctx: typer.Context, json: Json = False) -> None:
    """Make the index anew from the vectors in the catalog. Nothing is embedded again; the service must be stopped."""
    from rich.progress import Progress

    from service.app import rebuild_index

    settings = context(ctx).settings
    with Progress(console=err, transient=True, disable=json) as bar:
        task = bar.add_task("reading the catalog", total=None)
        count = rebuild_index(settings, lambda done, last: bar.update(task, completed=done, total=last))
    if json:
        print_json({"passages": count})
    else:
        out.print(f"the index holds {count:,} passages")


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
