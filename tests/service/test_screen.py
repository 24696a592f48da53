"""What commands print: names and texts are other people's, and a terminal acts on none of them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from remit.client import Caller, Freshness, HeldPrincipal
from rich.markup import escape
from rich.table import Table

from service.cli import audit, people, screen

# Sets a title, clears the screen by one character of eight bits, turns what follows around.
EVIL = "plan\x1b]0;owned\x07 \x9b2J \u202egnp.exe"
SHOWN = "plan\ufffd]0;owned\ufffd \ufffd2J \ufffdgnp.exe"


def test_nothing_that_a_terminal_acts_on_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever name or text is printed, in a line, a table or an error, its control characters are shown, not sent."""
    table = Table("location", box=None)
    table.add_row(escape(EVIL))

    screen.out.print(escape(EVIL))
    screen.out.print(EVIL, markup=False)
    screen.out.print(table)
    screen.complain(EVIL)

    printed = capsys.readouterr()
    assert [line.strip() for line in printed.out.splitlines()] == [SHOWN, SHOWN, "location", SHOWN]
    assert printed.err == f"remit: {SHOWN}\n"


def test_what_is_ours_is_still_coloured() -> None:
    """On a terminal, colours of ours are sent, and lines and tabs are lines and tabs."""
    code = "from service.cli.screen import out\nout.print('[red]one[/]\\n\\ttwo \\x1b[31m')"
    env = {"PYTHONPATH": ":".join(sys.path), "FORCE_COLOR": "1", "TERM": "xterm"}

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)

    assert done.stdout == "\x1b[31mone\x1b[0m\n        two \ufffd[31m\n"


@pytest.mark.parametrize("printed", ["out.print('x')", "print_json({})"])
def test_a_process_without_an_output_prints_nothing(printed: str) -> None:
    """Started with its standard output closed, as some schedulers do: no traceback."""
    code = f"from service.cli.screen import *\n{printed}"
    closed = ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, code]

    done = subprocess.run(closed, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_json_is_the_same_and_as_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    """Machines read exactly what is there; on a terminal nothing acts."""
    screen.print_json({"location": EVIL, "name": "Jörg"})

    printed = capsys.readouterr().out
    assert json.loads(printed) == {"location": EVIL, "name": "Jörg"}
    assert "Jörg" in printed
    assert not set("\x1b\x07\x9b\u202e") & set(printed)


@pytest.mark.parametrize("token", ["static:school:group-x", "static:bank:group-100:key:"])
def test_a_token_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], token: str) -> None:
    """A realm whose name is that of a picture stays a word."""
    screen.out.print(token)

    assert capsys.readouterr().out == f"{token}\n"


def test_the_text_of_a_query_acts_on_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may search chooses what an auditor's terminal is sent."""
    monkeypatch.setattr(audit, "context", lambda ctx: SimpleNamespace(auditor=lambda *_: _Reading(EVIL)))

    audit.query_text(None, "response-1")  # type: ignore[arg-type]  # nothing of it is used

    assert capsys.readouterr().out == f"{SHOWN}\n"


class _Reading:
    """Stands for a client of the audit log, and one of callers."""

    def __init__(self, found: object) -> None:
        self._found = found

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, *_: object) -> None: ...

    def get_query_text(self, response_id: str) -> object:
        return self._found

    def get_caller(self) -> object:
        return self._found


def test_names_of_the_directory_are_not_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`remit whoami` prints a name with brackets, which ended in a traceback when they closed nothing."""
    caller = Caller(
        subject="corp/[u-1]",
        display_name="Bob [Sales] [/x]",
        principals=(HeldPrincipal("ad:S-1-1-0", ("Sales [EMEA]", "[/]")),),
        complete_realms=("ad",),
        roles=(),
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
        freshness=Freshness(sources=(), principals_resolved_at=datetime(2026, 1, 1, tzinfo=UTC)),
        response_id="r",
    )
    monkeypatch.setattr(people, "context", lambda ctx: SimpleNamespace(client=lambda *_: _Reading(caller)))

    people.whoami(None)  # type: ignore[arg-type]  # nothing of it is used

    printed = capsys.readouterr().out
    assert "Bob [Sales] [/x] (corp/[u-1])" in printed
    assert "Sales [EMEA] → [/]" in printed
