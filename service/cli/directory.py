"""`remit directory check` and `remit directory resolve`: what the directories say, asked from here.

They use the settings and the passwords that the service uses, so whoever may read those files may ask.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service.cli.connect import Json, context
from service.cli.screen import out, print_json
from service.errors import StartError

if TYPE_CHECKING:
    from connectors.directories.base import Directory, Finding
    from service.identity import Resolved
    from service.settings import Settings

app = typer.Typer(help="Directories: can they be read, and what does somebody hold?", no_args_is_help=True)

From = Annotated[str, typer.Option("--directory", help="A directory of the settings; else the first.")]


@app.command("check")
def check(
    ctx: typer.Context,
    user: Annotated[str, typer.Option(help="A login name to resolve, with the time that it takes.")] = "",
    json: Json = False,
) -> None:
    """Connect to every directory and say what can be read there. Exit code 1 when something must be done."""
    from connectors.directories.base import DirectoryError, Finding, Watched
    from service import directories, secret_options

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
    json: Json = False,
) -> None:
    """Show everything that somebody holds, in every linked directory, with the way to each."""
    from connectors.directories.base import DirectoryError, Watched

    settings = context(ctx).settings
    names = [one.name for one in settings.directories]
    name = directory or names[0]
    if name not in names:
        raise StartError(f"there is no directory `{name}`, expected one of {', '.join(f'`{one}`' for one in names)}")
    with ExitStack() as closing:
        opened = _open(settings, closing)
        attribute, value = _named(opened[name], next(o.kind for o in settings.directories if o.name == name), user)
        started = time.perf_counter()
        found = _resolve(settings, opened, name, attribute, value)
        took = time.perf_counter() - started
        paths = dict(found.resolution.paths)
        own = opened[name]
        if isinstance(own, Watched):
            try:
                paths.update(own.explain(attribute, value).paths)
            except DirectoryError as err:
                raise StartError(err.detail) from err
    held = sorted((principal.token, path) for principal, path in paths.items())
    if json:
        print_json(
            {
                "subject": found.caller.subject,
                "display_name": found.resolution.display_name,
                "principals": [{"token": token, "path": path} for token, path in held],
                "complete_realms": sorted(found.caller.complete),
                "left_out": dict(found.left_out),
                "resolved_at": found.caller.resolved_at,
                "took_ms": round(took * 1e3, 1),
            }
        )
        return
    out.print(f"[bold]{escape(found.resolution.display_name)}[/] ({escape(found.caller.subject)})")
    table = Table("principal", "by", box=None, pad_edge=False)
    for token, path in held:
        table.add_row(escape(token), escape(" → ".join(path)))
    out.print(table)
    out.print(f"known in full: {', '.join(sorted(found.caller.complete)) or 'no realm'}")
    for left, reason in found.left_out.items():
        out.print(f"[red]left out[/] {escape(left)}: {escape(reason)}")
    out.print(f"resolved at {found.caller.resolved_at:%H:%M:%S %Z} in {took * 1e3:.1f} ms")


def _open(settings: Settings, closing: ExitStack) -> dict[str, Directory]:
    from connectors.directories.base import Watched
    from service import directories, secret_options

    settings = secret_options.bound(settings)
    opened: dict[str, Directory] = {}
    for one in settings.directories:
        opened[one.name] = found = directories.build(one, settings.base)
        if isinstance(found, Watched):
            closing.callback(found.close)
    return opened


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


def _resolve(settings: Settings, opened: dict[str, Directory], name: str, attribute: str, value: str) -> Resolved:
    from service.authn import Subject
    from service.identity import Identity
    from service.roles import Roles

    expires = datetime.now(UTC) + timedelta(minutes=1)
    subject = Subject("", value, name, attribute, value, expires, "")
    return Identity(opened, Roles(settings.roles), links=settings.links).resolve(subject)


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
