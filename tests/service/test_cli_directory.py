"""`remit directory`: what an administrator sees of directories that answer, and of those that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli.root import app
from service.errors import StartError, UnauthenticatedError
from tests.support.servers import free_port
from tests.support.slapd import PASSWORD, READER, SUFFIX, Slapd

SETTINGS = """\
version: 1
data: ./data
listen: {{callers: 127.0.0.1:7420, administrators: 127.0.0.1:7421, insecure_loopback: true}}
keys: {{provider: file, path: ./keys/remit.kek}}
issuers:
  - {{issuer: https://i, audience: remit, jwks: ./j, claim: sub, directory: people, attribute: id}}
directories:
  - {{name: people, kind: static, path: ./people.yaml}}
{more}
"""
UNIX = """\
  - name: unix
    kind: ldap
    servers: [ldaps://127.0.0.1:{port}]
    ca: {ca}
    bind: {bind}
    password_file: ./password
    base: {base}
links:
  - {{from: people, fact: uid, to: unix, equals: uidNumber}}
"""
PEOPLE = """\
version: 1
id_domain: corp
users:
  - {id: u-1, name: alice, display_name: Alice, uid: 41001, gid: 41001, groups: [sales]}
  - {id: u-2, name: bob, enabled: false}
groups:
  - {id: sales, member_of: [staff]}
  - {id: staff}
"""


def run(folder: Path, *args: str, more: str = "") -> tuple[int, Any]:
    """Run one command and return its exit code and its JSON."""
    (folder / "remit.yaml").write_text(SETTINGS.format(more=more))
    (folder / "people.yaml").write_text(PEOPLE)
    (folder / "password").touch(0o600)
    (folder / "password").write_text(PASSWORD)
    done = CliRunner().invoke(app, ["--config", str(folder / "remit.yaml"), "directory", *args, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def test_a_person_is_shown_with_the_way_to_each_principal(tmp_path: Path) -> None:
    """By login name or by id; who is unknown or disabled is said to be so."""
    for user in ("alice", "u-1"):
        code, found = run(tmp_path, "resolve", user)
        assert code == 0
        ways = {one["token"]: one["path"] for one in found["principals"]}
        assert ways["static:people:group-staff"] == ["alice", "sales", "staff"]
        assert found["complete_realms"] == ["posix:corp", "static:people"]
        assert found["subject"] == "people/u-1"
    for user in ("bob", "u-2", "nobody"):
        with pytest.raises(UnauthenticatedError, match="no enabled account"):
            run(tmp_path, "resolve", user)
    with pytest.raises(StartError, match="there is no directory `peple`, expected one of `people`"):
        run(tmp_path, "resolve", "alice", "--directory", "peple")


@pytest.mark.live
def test_linked_directories_are_shown_and_checked(tmp_path: Path, slapd: Slapd) -> None:
    """What is held there and how long it took; one that is down is named with the reason, and the check fails."""
    unit = slapd.unit("cli")
    user = slapd.user(unit, "alice-x", number=41001)
    inner = slapd.group(unit, "cli-inner", user)
    outer = slapd.group(unit, "cli-outer", inner)
    up = UNIX.format(port=slapd.ldaps, ca=slapd.ca, bind=READER, base=SUFFIX)

    code, found = run(tmp_path, "resolve", "alice", more=up)
    assert code == 0
    assert f"ldap:unix:group-{slapd.uuid(outer)}" in {one["token"] for one in found["principals"]}
    assert found["left_out"] == {}
    code, found = run(tmp_path, "resolve", "alice-x", "--directory", "unix", more=up)
    ways = {one["token"]: one["path"] for one in found["principals"]}
    assert ways[f"ldap:unix:group-{slapd.uuid(outer)}"] == ["alice-x", "cli-inner", "cli-outer"]

    code, found = run(tmp_path, "check", more=up)
    assert {one["what"]: one["good"] for one in found["unix"]}["connection"]
    assert code == (0 if all(one["good"] for findings in found.values() for one in findings) else 1)
    code, found = run(tmp_path, "check", "--user", "alice-x", more=up)
    assert "principals, in " in next(one["detail"] for one in found["unix"] if one["what"] == "example")

    down = UNIX.format(port=free_port(), ca=slapd.ca, bind=READER, base=SUFFIX)
    code, found = run(tmp_path, "resolve", "alice", more=down)
    assert code == 0
    assert "cannot be reached" in found["left_out"]["unix"]
    assert found["complete_realms"] == ["posix:corp", "static:people"]
    code, found = run(tmp_path, "check", more=down)
    assert code == 1
    assert [one["good"] for one in found["unix"]] == [False]
