"""What an oracle makes of its judge's answers, and how people are named at a share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from remit.client.access_values import DocumentPlace

from acl.dialects.ntfs import READ_DATA, SYNCHRONIZE
from connectors.errors import FatalError, RetriableError
from connectors.smb import client
from connectors.smb.client import Login, NameFailedError, NotAdmittedError
from service.errors import StartError
from service.prove import oracle
from service.prove.report import Result, overall
from service.prove.share import Server, asked, logins_of, username


@pytest.mark.parametrize(
    ("own", "name", "expected"),
    [
        ("remit", "alice", "alice"),
        ("remit@CORP.EXAMPLE", "alice", "alice@CORP.EXAMPLE"),
        ("CORP\\remit", "alice", "CORP\\alice"),
        ("remit@CORP.EXAMPLE", "alice@OTHER", "alice@OTHER"),
        ("remit@CORP.EXAMPLE", "OTHER\\alice", "OTHER\\alice"),
    ],
)
def test_people_are_named_as_the_sources_account_is(own: str, name: str, expected: str) -> None:
    """With its domain, unless they have one."""
    assert username(name, own) == expected


@pytest.mark.parametrize("option", ["alice", "=file", "alice=", ""])
def test_a_login_is_a_name_and_a_file(option: str) -> None:
    """Anything else is refused, and its neighbour is not."""
    assert list(logins_of(["alice=file", "bob=a=b"])) == ["alice", "bob"]
    with pytest.raises(StartError, match="expected `NAME=FILE`"):
        logins_of([option])
    with pytest.raises(StartError, match="there twice"):
        logins_of(["alice=file", "alice=other"])


def test_who_is_named_and_has_no_login_is_no_pass() -> None:
    """Who only stands in a directory is counted."""
    logins = logins_of(["alice=file"])

    assert asked("drive", ["alice", "carol"], ["alice"], logins).result is Result.PASSED
    check = asked("drive", ["alice", "bob", "carol"], ["alice", "bob"], logins)
    assert (check.result, check.facts) == (Result.NOT_RUN, {"asked": 1, "not_asked": 1, "others": 1})
    assert "not asked: bob" in check.detail


class Door:
    """A share by its answers: each a bool, or what is raised. asked: by whom, and what for."""

    def __init__(self, answers: dict[str, object]) -> None:
        self.answers = answers
        self.logins: list[Login] = []
        self.asked: list[tuple[str, int]] = []

    def __call__(self, login: Login) -> Door:
        self.logins.append(login)
        if isinstance(refused := self.answers.get(login.username), Exception):
            raise refused
        return self

    def opens(self, path: str, access: int) -> bool:
        self.asked.append((path, access))
        found = self.answers[path]
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, bool)
        return found

    def close(self) -> None:
        self.logins.append(self.logins[-1])


def server(tmp_path: Path) -> Server:
    """A judge with a login of Alice."""
    password = tmp_path / "password"
    password.write_text("canary\n")
    password.chmod(0o600)
    options = {
        "server": "files",
        "share": "docs",
        "username": "remit",
        "domain_sid": "S-1-5-21-1-2-3",
        "rights": "data",
    }
    settings: Any = SimpleNamespace(base=tmp_path)
    source: Any = SimpleNamespace(options=options, place=lambda option: option)
    return Server(settings, source, logins_of([f"alice={password}"]))


def test_a_server_answers_yes_no_or_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is asked for with the source's rights alone; what is gone is neither, and the connection is closed."""
    door = Door({"a\\b.txt": True, "c.txt": False, "d.txt": NameFailedError("vanished")})
    monkeypatch.setattr(client, "Share", door)

    assert server(tmp_path).answers(["a/b.txt", "c.txt", "d.txt"]) == ["10?"]

    assert {login.username for login in door.logins} == {"alice"}
    assert door.asked == [(path, READ_DATA | SYNCHRONIZE) for path in ("a\\b.txt", "c.txt", "d.txt")]
    assert len(door.logins) == 2
    assert "canary" not in repr(door.logins)


def test_who_may_not_connect_is_refused_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's answer at the door is its answer about each file."""
    monkeypatch.setattr(client, "Share", Door({"alice": NotAdmittedError("no")}))

    assert server(tmp_path).answers(["a.txt", "b.txt"]) == ["00"]


@pytest.mark.parametrize(
    "answers",
    [
        {"alice": FatalError("the login is refused")},
        {"alice": RetriableError("it does not answer")},
        {"a.txt": NameFailedError("unreadable")},
        {"a.txt": NameFailedError("elsewhere")},
        {"a.txt": RetriableError("the line is cut")},
    ],
    ids=str,
)
def test_any_other_answer_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, object]
) -> None:
    """Neither a refusal nor a pass: the proof could not be made."""
    monkeypatch.setattr(client, "Share", Door(answers))

    with pytest.raises(StartError, match="`alice`"):
        server(tmp_path).answers(["a.txt"])


PLACES = [DocumentPlace(str(number), "drive", f"{number}.txt") for number in range(2)]


@pytest.mark.parametrize(
    ("answers", "aside", "expected"),
    [
        ([(True, True), (False, False)], 0, Result.PASSED),
        ([(True, True), (False, False)], 1, Result.NOT_RUN),
        ([(True, True), (True, True)], 0, Result.NOT_RUN),
        ([(False, False), (False, False)], 0, Result.NOT_RUN),
        ([(True, False), (False, False)], 1, Result.FAILED),
        ([], 2, Result.NOT_RUN),
    ],
)
def test_a_sample_passes_only_as_a_whole(answers: list[tuple[bool, bool]], aside: int, expected: Result) -> None:
    """What was set aside, a sample of one answer and an empty one are no pass; a difference fails whatever else is."""
    pairs = [oracle.Pair("alice", place, *both) for place, both in zip(PLACES, answers, strict=False)]
    there: Any = None

    checks = oracle._checks(there, "drive", "the server", oracle.Compared(pairs, aside, 0))

    assert overall(checks) is expected
