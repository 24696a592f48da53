"""`remit directory`: what an administrator sees of directories that answer, and of those that do not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli.root import app
from tests.service.test_cli import Running, lay_out, running, served
from tests.support.servers import free_port
from tests.support.slapd import PASSWORD, READER, SUFFIX, Slapd

__all__ = ["running"]

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


def test_a_person_is_shown_with_the_way_to_each_principal(running: Running) -> None:
    """By login name or by id, to an auditor, who is told which record it is; others are refused."""
    for user in ("alice", "u-1001"):
        found = running.json("directory", "resolve", user, "--as", "adam")
        assert isinstance(found, dict)
        assert {one["token"]: one["path"] for one in found["principals"]}["static:people:group-operators"] == [
            "alice",
            "operators",
        ]
        assert found["complete_realms"] == ["posix:corp", "static:people"]
        assert found["roles"] == ["key-admin", "operator"]
    shown = running.run("directory", "resolve", "bob", "--as", "adam")
    assert "Bob Berg" in shown.stdout
    assert "posix:corp:uid-20002" in shown.stdout
    record = shown.stdout.strip().rpartition("record ")[2]
    assert "ResolveUser" in running.run("audit", "show", record, "--as", "adam").stdout
    for user, person in (("alice", "bob"), ("nobody", "adam"), ("alice", "alice")):
        assert running.run("directory", "resolve", user, "--as", person).returncode == 1
    assert running.run("directory", "resolve", "alice", "--directory", "peple", "--as", "adam").returncode == 1


def test_health_and_doctor_name_a_directory_that_is_down(tmp_path: Path) -> None:
    """The service goes on, and `remit doctor` says which directory it is; mended, it is well again."""
    lay_out(tmp_path)
    with served(tmp_path) as service:
        path = tmp_path / "people.yaml"
        whole = path.read_text()

        def complaints() -> list[str]:
            found = json.loads(service.run("doctor", "--json").stdout.splitlines()[-1])
            return [one["what"] for one in found if one["level"] == "error"]

        token = json.loads(service.run("token", "bob", "--json").stdout)["token"]
        assert "directory `people` does not answer the running service" not in complaints()
        path.write_text("version: 1\n")
        assert service.run("whoami", "--token", token).returncode == 1
        eventually(lambda: "directory `people` does not answer the running service" in complaints())
        path.write_text(whole)
        assert service.run("whoami", "--token", token).returncode == 0
        eventually(lambda: "directory `people` does not answer the running service" not in complaints())


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.2)


@pytest.mark.live
def test_directories_are_checked_from_here(tmp_path: Path, slapd: Slapd) -> None:
    """How long it took to resolve somebody there; one that is down is named, and the check fails."""
    unit = slapd.unit("cli")
    user = slapd.user(unit, "alice-x", number=41001)
    slapd.group(unit, "cli-inner", user)
    up = UNIX.format(port=slapd.ldaps, ca=slapd.ca, bind=READER, base=SUFFIX)

    code, found = run(tmp_path, "check", more=up)
    assert {one["what"]: one["good"] for one in found["unix"]}["connection"]
    assert code == (0 if all(one["good"] for findings in found.values() for one in findings) else 1)
    code, found = run(tmp_path, "check", "--user", "alice-x", more=up)
    assert "principals, in " in next(one["detail"] for one in found["unix"] if one["what"] == "example")

    down = UNIX.format(port=free_port(), ca=slapd.ca, bind=READER, base=SUFFIX)
    code, found = run(tmp_path, "check", more=down)
    assert code == 1
    assert [one["good"] for one in found["unix"]] == [False]
