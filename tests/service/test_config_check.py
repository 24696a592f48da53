"""`remit config check`: every mistake at once, nothing connected without being asked, and its exit codes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.root import app
from service.sections import initial

SOURCE = "sources:\n  - {name: company, kind: filesystem, root: ./company, id_domain: corp}\n"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Right settings with one source."""
    initial.write(tmp_path)
    file = tmp_path / "remit.yaml"
    text = file.read_text()
    file.write_text(text[: text.rindex("\nsources:")] + "\n" + SOURCE)
    (tmp_path / "company").mkdir()
    return file


def check(settings: Path, *options: str) -> tuple[int, list[dict[str, str]]]:
    """The exit code and what was said."""
    done = CliRunner().invoke(app, ["--config", str(settings), "config", "check", "--json", *options])
    return done.exit_code, json.loads(done.stdout)


def test_right_settings_are_right_and_nothing_is_connected_to(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when what they name is down: that is what --connect is for."""

    def refuse(*_: object) -> None:
        raise AssertionError("something was connected to")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    text = settings.read_text().replace("    jwks: ./keys/dev.jwks.json\n", "")
    settings.write_text(text.replace("root: ./company", "root: ./nowhere"))

    assert check(settings) == (0, [])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("id_domain: corp}", "id_domian: corp}"), "sources[0].id_domian: unknown option"),
        (lambda text: text.replace("id_domain: corp}", "id_domain: ''}"), "sources[0].id_domain: "),
        (lambda text: text.replace("kind: filesystem", "kind: filesystm"), "sources[0].kind: there is no source of"),
        (lambda text: text.replace("path: ./people.yaml", "pth: ./people.yaml"), "directories[0]"),
        (lambda text: text.replace("path: ./people.yaml", "path: ./nobody.yaml"), "directories[0].path: "),
        (lambda text: text.replace("path: ./people.yaml", "path: ./remit.yaml"), "data: unknown key"),
        (lambda text: text.replace("./keys/remit.kek", "./keys/nothing.kek"), "nothing.kek"),
        (lambda text: text.replace("dev.jwks.json", "nothing.json"), "nothing.json"),
        (
            lambda text: text.replace("insecure_loopback: true", "tls: {certificate: ./no.pem, key: ./no.key}"),
            "no.pem",
        ),
    ],
)
def test_what_only_opening_shows_is_found_too(settings: Path, change: Callable[[str], str], says: str) -> None:
    """Options of connectors and directories, and the files that are named: exit code 2, and the neighbour is 0."""
    assert check(settings) == (0, [])
    settings.write_text(change(settings.read_text()))

    code, found = check(settings)

    assert code == 2
    assert any(says in one["what"] + one["advice"] for one in found), found


def test_mistakes_in_several_places_are_said_together(settings: Path) -> None:
    """Two options of two sources, which YAML alone does not show, in one go with their lines."""
    settings.write_text(settings.read_text() + "  - {name: b, kind: feed}\n  - {name: c, kind: feed, path: x}\n")

    code, found = check(settings)

    lines = len(settings.read_text().splitlines())
    assert code == 2
    assert [one["what"].partition("remit.yaml:")[2].split(": ")[0] for one in found] == [str(lines - 1), str(lines)]


def test_connect_says_what_is_answered(settings: Path) -> None:
    """A root that is not there is exit code 1, and one that is, 0."""
    good, _ = check(settings, "--connect")
    (settings.parent / "company").rmdir()
    bad, found = check(settings, "--connect")

    assert (good, bad) == (0, 1)
    assert any(one["level"] == "error" and "company" in one["what"] for one in found)
