"""`remit access` against a running service, as an auditor would use it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service.test_cli import Running, running

__all__ = ["running"]


def told(running: Running, *args: str) -> dict[str, Any]:
    """What a command says to a machine."""
    found = running.json("access", *args, "--as", "adam")
    assert isinstance(found, dict)
    return found


def test_explain_says_why_and_what_would_have_to_change(running: Running) -> None:
    """For people: the verdict, each clause, and the change; the private plan is Alice's alone."""
    denied = running.run("access", "explain", "bob", "plan.md", "--as", "adam")
    allowed = running.run("access", "explain", "alice", "plan.md", "--as", "adam")

    assert (denied.returncode, allowed.returncode) == (0, 0), denied.stderr + allowed.stderr
    assert "denied  Bob Berg (people/u-1002)  plan.md of `company`" in denied.stdout
    assert "would let the person through" in denied.stdout
    assert "with posix:corp:uid-" in denied.stdout
    assert "rules verified" in denied.stdout
    assert "allowed  Alice Ahlgren" in allowed.stdout


def test_explain_speaks_to_machines(running: Running) -> None:
    """One JSON document, and the document may be named by its id."""
    by_place = told(running, "explain", "bob", "news.txt")
    by_id = told(running, "explain", "u-1002", by_place["document"]["document_id"])

    assert by_place["explanation"]["allowed"] is True
    assert by_id["explanation"]["clauses"] == by_place["explanation"]["clauses"]
    assert by_place["explanation"]["clauses"][-1]["principal"] == "posix:corp:other"


def test_who_names_people_and_rules(running: Running) -> None:
    """Everybody with a number reads the news; the plan is for one."""
    done = running.run("access", "who", "news.txt", "--as", "adam")

    assert done.returncode == 0, done.stderr
    assert "Alice Ahlgren" in done.stdout
    assert "Bob Berg" in done.stdout
    assert "Adam Audit" not in done.stdout
    assert [one["user"]["account"] for one in told(running, "who", "plan.md")["readers"]] == ["u-1001"]


def test_documents_review_and_diff(running: Running) -> None:
    """What somebody reads, rows for recertification, and a change that is not made."""
    listed = told(running, "documents", "bob")
    assert [one["location"] for one in listed["documents"]] == ["news.txt"]
    rows = running.run("access", "review", "--as", "adam", "--json")
    found = [json.loads(line) for line in rows.stdout.splitlines()]
    assert ("company", "posix:corp:other") in {(one["source"], one["principal"]) for one in found}
    changed = told(running, "diff", "--document", "plan.md", "--allow", "posix:corp:uid-20002")
    assert [(one["user"]["account"], one["lost"], one["gained"]) for one in changed["effects"]] == [("u-1002", 0, 1)]
    assert [one["user"]["account"] for one in told(running, "who", "plan.md")["readers"]] == ["u-1001"]
    for command in (["review"], ["documents", "bob"], ["diff", "--user", "alice", "--leaves", "operators"]):
        done = running.run("access", *command, "--as", "adam")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        (["explain", "nobody", "plan.md"], 1, "no enabled account with this name or id"),
        (["explain", "bob", "nowhere.md"], 2, "there is no document at `nowhere.md`"),
        (["explain", "bob", "."], 2, "a part of several locations"),
        (["explain", "bob", "A" * 24], 1, "no document with this id"),
        (["explain", "bob", "plan.md", "--directory", "x"], 1, "no directory with this name"),
        (["diff"], 2, "what would change?"),
        (["diff", "--user", "bob"], 2, "give `--leaves GROUP` or `--joins GROUP`"),
        (["diff", "--user", "bob", "--leaves", "operators"], 1, "not a direct member"),
        (["diff", "--document", "plan.md"], 2, "give at least one of"),
        (["diff", "--document", "plan.md", "--allow", "bob"], 2, "`allow` is outside its documented range"),
        (["diff", "--document", "plan.md", "--container", "x", "--allow", "ad:x"], 2, "its containers are"),
    ],
)
def test_mistakes_are_one_sentence(running: Running, args: list[str], code: int, sentence: str) -> None:
    """With the exit code of its kind, and never a traceback."""
    done = running.run("access", *args, "--as", "adam")

    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_others_may_not_ask(running: Running) -> None:
    """Without the role it is one sentence, too; about oneself nobody needs one."""
    done = running.run("access", "explain", "bob", "A" * 24, "--as", "bob")

    assert (done.returncode, "access-admin" in done.stderr) == (1, True)
