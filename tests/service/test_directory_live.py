"""A running service with two realms, one of them an OpenLDAP server: what leaves it when people and servers change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from remit.client import Client

from tests.service.test_cli import ENVIRONMENT, remit
from tests.support.needs import need
from tests.support.slapd import PASSWORD, READER, SUFFIX, Slapd, running_slapd

UID, GID = 51001, 51200
MAX_AGE_S = 6
PEOPLE = f"""\
version: 1
id_domain: home
users:
  - {{id: u-1001, name: alice, display_name: Alice, uid: {UID}, gid: {UID}, groups: [operators]}}
  - {{id: u-1002, name: bob, display_name: Bob, uid: {UID + 1}, gid: {UID + 1}}}
groups:
  - {{id: operators}}
"""
DIRECTORY = """\
directories:
  - name: unix
    kind: ldap
    servers: [ldaps://127.0.0.1:{port}]
    ca: {ca}
    bind: {bind}
    password_file: ./password
    base: {base}
    id_domain: corp
    keep_for: 4s
    poll_every: 1s
    max_directory_age: {max_age}s
"""
LINK = "links:\n  - {from: people, fact: uid, to: unix, equals: uidNumber}\n"
SOURCES = """\
sources:
  - {name: share, kind: filesystem, root: ./share, id_domain: corp, ancestors_above_root: trust}
  - {name: local, kind: filesystem, root: ./local, id_domain: home, ancestors_above_root: trust}
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A service whose share belongs to a group of the server; `local` is everybody's with an account of the file."""

    slapd: Slapd
    client: Client
    user: str
    group: str

    def locations(self) -> set[str]:
        """What alice finds."""
        return {hit.chunk.document.location for hit in self.client.search("lighthouse").hits}

    def until(self, wanted: set[str]) -> float:
        """Wait for what alice finds; return the seconds that it took."""
        started = time.monotonic()
        while (found := self.locations()) != wanted:
            assert time.monotonic() - started < 60, found
            time.sleep(0.05)
        return time.monotonic() - started


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Both sources, synced once."""
    need(os.geteuid() == 0, "files of other people's groups need root")
    with running_slapd() as slapd:
        unit = slapd.unit("people")
        user = slapd.user(unit, "alice", number=UID)
        group = slapd.posix_group(unit, "keepers", GID, "alice")
        assert remit("init", folder=tmp_path).returncode == 0
        _lay_out(tmp_path, slapd)
        with _serving(tmp_path) as address:
            for source in ("share", "local"):
                done = remit("source", "sync", source, "--as", "alice", folder=tmp_path)
                assert done.returncode == 0, done.stderr + done.stdout
            token = remit("token", "alice", "--minutes", "60", folder=tmp_path).stdout.strip()
            with Client(address, token=token, insecure_loopback=True) as client:
                yield Served(slapd, client, user, group)


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_directory_says_is_in_force_and_what_it_cannot_say_is_withheld(served: Served) -> None:
    """Leave, come back, down, up, disabled: the share follows each time, and the other realm's document is served."""
    both, own = {"plan.md", "news.md"}, {"news.md"}
    served.until(both)
    assert not served.client.search("lighthouse").freshness.principals_incomplete

    served.slapd.change(served.group, "memberUid", remove="alice")
    served.until(own)
    served.slapd.change(served.group, "memberUid", add="alice")
    served.until(both)

    served.slapd.pause()
    try:
        served.until(own)
        caller = served.client.get_caller()
        assert "posix:home" in caller.complete_realms
        assert "posix:corp" not in caller.complete_realms
        assert served.client.search("lighthouse").freshness.principals_incomplete
    finally:
        served.slapd.resume()
    served.until(both)

    served.slapd.change(served.user, "pwdAccountLockedTime", replace="000001010000Z")
    served.until(own)


def _lay_out(folder: Path, slapd: Slapd) -> None:
    (folder / "people.yaml").write_text(PEOPLE)
    (folder / "password").touch(0o600)
    (folder / "password").write_text(PASSWORD)
    for name, file, mode, gid in (("share", "plan.md", 0o640, GID), ("local", "news.md", 0o644, 0)):
        (folder / name).mkdir(mode=0o755)
        path = folder / name / file
        path.write_text(f"# {name}\n\nThe lighthouse opens in May.\n")
        os.chown(path, 0, gid)
        path.chmod(mode)
    directory = DIRECTORY.format(port=slapd.ldaps, ca=slapd.ca, bind=READER, base=SUFFIX, max_age=MAX_AGE_S)
    settings = folder / "remit.yaml"
    text = settings.read_text().split("sources: []")[0]
    for old, new in (
        ("embedding: {kind: model}", "embedding: {kind: hash}"),
        ("7420", "0"),
        ("7421", "0"),
        ("directories:\n", directory),
        ("[group:", "[static:people:group-"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    settings.write_text(text + LINK + SOURCES)


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """A service in a folder; the address for callers."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--json"],
            cwd=folder,
            env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        assert line, (folder / "log").read_text()
        ports = json.loads(line)
        settings = folder / "remit.yaml"
        text = settings.read_text().replace("callers: 127.0.0.1:0", f"callers: {ports['callers']}")
        settings.write_text(text.replace("administrators: 127.0.0.1:0", f"administrators: {ports['administrators']}"))
        yield str(ports["callers"])
    finally:
        server.terminate()
        server.wait(timeout=60)
        server.stdout.close()
