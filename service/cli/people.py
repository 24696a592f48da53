"""`remit token` and `remit whoami`: who is asking."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service.cli.connect import As, Json, Token, context
from service.cli.screen import ago, out, print_json
from service.errors import StartError


def token(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A person of the static directory.")],
    minutes: Annotated[int, typer.Option(help="How long it is valid, 1 to 60 minutes.")] = 15,
    json: Json = False,
) -> None:
    """Mint a short-lived token with the development issuer's key."""
    from service import devissuer

    if not 1 <= minutes <= 60:
        raise StartError(f"`--minutes` is {minutes}, expected 1 to 60")
    minted = devissuer.mint(context(ctx).settings, name, lifetime=timedelta(minutes=minutes))
    if json:
        print_json({"token": minted, "expires_in_s": minutes * 60})
    else:
        typer.echo(minted)


def whoami(ctx: typer.Context, token: Token = "", person: As = "", json: Json = False) -> None:
    """Show who the service takes you for, and every group you hold with the path to it."""
    with context(ctx).client(token, person) as client:
        caller = client.get_caller()
    if json:
        print_json(caller)
        return
    out.print(f"[bold]{escape(caller.display_name)}[/] ({escape(caller.subject)})")
    out.print(f"roles: {', '.join(caller.roles) or 'none'}    token expires: {caller.expires_at:%H:%M:%S %Z}")
    table = Table("principal", "by", box=None, pad_edge=False)
    for held in caller.principals:
        table.add_row(escape(held.token), escape(" → ".join(held.path)))
    out.print(table)
    out.print(f"known in full: {', '.join(caller.complete_realms) or 'no realm'}")
    if caller.freshness.principals_incomplete:
        out.print("[red]a directory does not answer:[/] what names its realm is withheld")
    for source in caller.freshness.sources:
        withheld = " [red]withheld: too old[/]" if source.withheld else ""
        out.print(f"{source.source}: permissions verified {ago(source.permissions_age)} ago{withheld}")
