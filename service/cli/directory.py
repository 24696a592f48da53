"""`remit directory`: can the directories be read, and what does somebody hold?

`check` asks the directories from here, before there is a service, with the settings and passwords that it will use:
whoever may read those files may ask. `resolve` asks the service, which wants a role for that and writes a record.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service.cli.connect import As, Json, Token, context
from service.cli.screen import out, print_json
from service.errors import StartError

if TYPE_CHECKING:
    from connectors.directories.base import Directory, Finding

app = typer.Typer(help="Directories: can they be read, and what does somebody hold?", no_args_is_help=True)

From = Annotated[str, typer.Option("--directory", help="The person's directory; else the first of the settings.")]


@app.command("check")
def check(
    ctx: typer.Context,
    user: Annotated[str, typer.Option(help="A login name to resolve, with the time that it takes.")] = "",
    json: Json = False,
) -> None:
    """Connect to every directory and say what can be read there. Exit code 1 when something must be done."""
    from connectors.directories.base import DirectoryError, Finding, Watched
    from service.identity import directories
    from service.sections import secret_options

    settings = secret_options.bound(context(ctx).settings)
    found: dict[str, list[Finding]] = {}
    for one in settings.directories:
        directory = directories.build(one, settings.base)
        findings = found.setdefault(one.name, [])
        try:
            if isinstance(directory, Watched):
                findings += directory.check()
            if user:
                findings.append(_example(directory, one.kind, user))
        except DirectoryError as err:
            findings.append(Finding("directory", False, err.detail))
        finally:
            if isinstance(directory, Watched):
                directory.close()
    if json:
        print_json(found)
    else:
        for name, findings in found.items():
            out.print(f"[bold]{escape(name)}[/]")
            for finding in findings or [Finding("directory", True, "is read again at every question")]:
                mark = "[green]ok[/]   " if finding.good else "[red]wrong[/]"
                out.print(f"  {mark} {escape(finding.what)}: {escape(finding.detail)}")
    if not all(finding.good for findings in found.values() for finding in findings):
        raise typer.Exit(1)


@app.command("resolve")
def resolve(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(help="A login name, or the immutable id that tokens name.")],
    directory: From = "",
    token: Token = "",
    person: As = "",
    json: Json = False,
) -> None:
    """Show everything that somebody holds, with the way to each (role `auditor` or `access-admin`); it is recorded."""
    with context(ctx).reviewer(token, person) as reviewer:
        found = reviewer.resolve_user(user, directory=directory)
    if json:
        print_json(found)
        return
    who = found.user
    out.print(f"[bold]{escape(who.display_name)}[/] ({escape(who.directory)}/{escape(who.account)})")
    out.print(f"roles: {', '.join(found.roles) or 'none'}")
    table = Table("principal", "by", box=None, pad_edge=False)
    for held in found.principals:
        table.add_row(escape(held.token), escape(" → ".join(held.path)))
    out.print(table)
    out.print(f"known in full: {', '.join(found.complete_realms) or 'no realm'}", markup=False)
    for left, reason in found.left_out.items():
        out.print(f"[red]left out[/] {escape(left)}: {escape(reason)}")
    age = (datetime.now(UTC) - found.resolved_at).total_seconds()
    out.print(f"as of {found.resolved_at:%H:%M:%S %Z}, {max(age, 0):.0f} s ago; record {found.response_id}")


def _named(directory: Directory, kind: str, user: str) -> tuple[str, str]:
    """The attribute and value by which `user`, a login name or an id, is found."""
    from connectors.directories.base import ATTRIBUTES, DirectoryError, UnknownSubjectError, Watched
    from connectors.directories.static import StaticDirectory

    attribute = ATTRIBUTES[kind][0]
    try:
        if isinstance(directory, StaticDirectory):
            found: str | None = directory.account_id(user)
        else:
            found = directory.find(user) if isinstance(directory, Watched) else None
    except UnknownSubjectError:
        found = None
    except DirectoryError as err:
        raise StartError(err.detail) from err
    return attribute, found or user


def _example(directory: Directory, kind: str, user: str) -> Finding:
    from connectors.directories.base import Finding, UnknownSubjectError

    attribute, value = _named(directory, kind, user)
    started = time.perf_counter()
    try:
        found = directory.resolve(attribute, value)
    except UnknownSubjectError as err:
        return Finding("example", False, err.detail)
    took = (time.perf_counter() - started) * 1e3
    return Finding("example", True, f"{found.display_name} holds {len(found.principals)} principals, in {took:.1f} ms")
