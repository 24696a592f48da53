"""`remit config …`: whether the settings are right, and putting changed ones into force without a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from service.cli import doctor
from service.cli.connect import As, Json, Token, context
from service.cli.doctor import Result
from service.cli.screen import complain, out, print_json
from service.errors import RemitError, StartError
from service.sections.keys import KeySettings
from service.settings import DirectorySettings, Settings, SettingsError, load

app = typer.Typer(no_args_is_help=True, help="The settings: check them, reload them.", rich_markup_mode=None)

_KEPT: Final = "nothing changed: the settings from before are still in force"

Connect = Annotated[
    bool, typer.Option("--connect", help="Also connect to issuers, directories and sources, and say what they answer.")
]


@app.command()
def check(ctx: typer.Context, connect: Connect = False, json: Json = False) -> None:
    """Say every mistake in the settings, with its place. Changes nothing; connects to nothing without --connect.

    Exit code 2 for a mistake, 1 when all is right and something does not answer.
    """
    wrong, answers = _check(context(ctx).config, connect)
    if json:
        print_json([*wrong, *answers])
    else:
        doctor.show([*wrong, *answers])
        if not wrong:
            out.print("the settings are right" + ("" if connect else "; `--connect` also asks what they name"))
    if wrong:
        raise typer.Exit(2)
    if any(one.level == "error" for one in answers):
        raise typer.Exit(1)


@app.command()
def reload(ctx: typer.Context, token: Token = "", person: As = "", json: Json = False) -> None:
    """Have the service put the settings of its file into force: all that differs, or nothing (role `operator`).

    Sources with their schedules, roles and limits can change while it runs. SIGHUP does the same.
    """
    try:
        with context(ctx).admin(token, person) as admin:
            answer = admin.reload_settings()
    except SettingsError as err:
        # The service's address and the issuer stand in the same file: with both given, it is not read here.
        raise SettingsError(*err.mistakes, _KEPT) from err
    if json:
        print_json(answer)
    elif answer.in_force:
        out.print(f"in force: {', '.join(answer.changed)}" if answer.changed else "nothing differs", markup=False)
    else:
        for problem in answer.problems:
            complain(problem)
        complain(_KEPT)
    if not answer.in_force:
        raise typer.Exit(2)


def _check(path: Path, connect: bool) -> tuple[list[Result], list[Result]]:
    """What is wrong with the settings, and what those answer whom they name."""
    from service.sections import secret_options

    try:
        settings = secret_options.bound(load(path))
    except SettingsError as err:
        return [Result("error", mistake) for mistake in err.mistakes], []
    wrong = list(_files(settings))
    if wrong or not connect:
        return wrong, []
    return [], [
        *doctor.issuer_results(settings),
        *doctor.directory_results(settings),
        *doctor.source_results(settings),
    ]


def _files(settings: Settings) -> Iterator[Result]:
    """What is wrong with the options, and with the files that the settings name."""
    from connectors import registry
    from service.audit import AuditKey
    from service.authn import Authenticator
    from service.sync import leases

    for one in settings.sources:
        try:
            registry.build(one.kind, one.options, settings.base).close()
        except registry.OptionError as err:
            yield Result("error", f"{one.place(err.option)}: {err}")
    reads: list[Callable[[], object]] = [
        partial(_opens, settings.keys),
        partial(AuditKey.load, settings.keys.audit),
        *(partial(_directory, one, settings.base) for one in settings.directories),
        *(partial(Authenticator, [one]) for one in settings.issuers),
    ]
    for read in reads:
        try:
            read()
        except RemitError as err:
            yield Result("error", str(err))
    yield from (one for one in doctor.tls_results(settings) if one.level == "error")
    yield from (Result("error", one) for one in leases.too_short(settings.sources, leases.measured(_catalog(settings))))


def _catalog(settings: Settings) -> Path:
    return settings.data / "catalog.sqlite"


def _directory(one: DirectorySettings, base: Path) -> None:
    """Read the file of a directory that is one; nothing is asked of any other."""
    from connectors.directories.base import Telling
    from service.identity import directories

    directory = directories.build(one, base)
    why = directory.failure() if isinstance(directory, Telling) else None
    if why is not None:
        raise StartError(f"{one.place('path')}: {why}")


def _opens(keys: KeySettings) -> None:
    from service.keys import open_provider

    open_provider(keys).close()
