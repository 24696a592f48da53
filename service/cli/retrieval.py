"""`remit search`: a question, and the passages that the asker may read."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import typer
from rich.markup import escape

from service.cli.connect import As, Json, Token, context
from service.cli.screen import ago, out, print_json

_SHOWN: Final = 400
"""Characters of a passage on the screen."""


def search(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="The question.")],
    limit: Annotated[int, typer.Option(help="How many passages at most, 1 to 100.")] = 5,
    source: Annotated[list[str] | None, typer.Option(help="Only of this source; may be repeated.")] = None,
    explain: Annotated[bool, typer.Option(help="Say why you may read each of them.")] = False,
    mode: Annotated[
        Literal["hybrid", "dense", "keyword"], typer.Option(help="By meaning and by words, or by one of them alone.")
    ] = "hybrid",
    exact: Annotated[bool, typer.Option(help="Compare every passage that you may read.")] = False,
    approximate: Annotated[bool, typer.Option(help="Quicker, where the deployment allows it.")] = False,
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Search as the person that the token names."""
    from remit.client import SearchMode

    with context(ctx).client(token, person) as client:
        result = client.search(
            query,
            limit=limit,
            sources=source or (),
            explain=explain,
            mode=SearchMode(mode),
            exact=exact,
            approximate=approximate,
        )
    if json:
        print_json(result)
        return
    if not result.hits:
        out.print("nothing that you may read matches")
    for hit in result.hits:
        document = hit.chunk.document
        out.print(f"[bold]{hit.rank}. {escape(document.title)}[/]  {hit.score:.3f}")
        out.print(f"   [dim]{escape(' › '.join([document.location, *hit.chunk.headings]))}[/]")
        out.print(f"   {escape(_shortened(hit.chunk.text))}")
        for grant in hit.grants:
            out.print(
                f"   [green]{escape(grant.clause)}[/]: {escape(grant.principal)} by {escape(' → '.join(grant.path))}"
            )
    for one in result.freshness.sources:
        if one.withheld:
            out.print(f"[red]left out:[/] {one.source}, permissions last verified {ago(one.permissions_age)} ago")
    if result.dense_only:
        out.print("[yellow]by meaning alone:[/] the index of words is down, and is being started again")
    if result.not_reranked:
        out.print("[yellow]not reranked:[/] the reranker is down")
    out.print(f"[dim]response {result.response_id}[/]")


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 2] + " …"
