"""`remit prove oracle` beside the server of a share: its own users' logins are the judges."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.acl.descriptors import descriptor
from tests.prove.stage import ROLES, Deployment, foreign_token, served, write_foreign
from tests.prove.test_prove import failed
from tests.support.samba import BASE, PASSWORD
from tests.support.samba_share import ADDRESS, FULL, Client, FileServer, running_share

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.oracle, pytest.mark.timeout(300)]

SETTINGS: Final = """\
  - name: drive
    kind: smb
    server: {server}
    share: docs
    username: Administrator
    password_file: ./admin.password
    domain_sid: {domain}
    auth: ntlm
    max_permissions_age: 24h
"""


@dataclass
class Drive(Deployment):
    """A deployment over a share with two people. group: the SID of what Ann is in and Bob is not. dns: by name."""

    server: FileServer
    group: str
    people: dict[str, str] = field(default_factory=dict)
    dns: dict[str, str] = field(default_factory=dict, kw_only=True)

    @property
    def domain(self) -> str:
        """The SID of the domain."""
        return self.group.rpartition("-")[0]

    def token(self, name: str) -> str:
        """A token of somebody in the domain."""
        return foreign_token(self.base, self.people[name])

    def oracle(self, *args: str) -> tuple[int, dict[str, Any], str]:
        """Run the oracle about Ann."""
        ann = next(iter(self.people))
        return self.prove("oracle", "--as", ann, *ROLES, *args, REMIT_TOKEN=self.token(ann))


@pytest.fixture(scope="module")
def drive() -> Iterator[Drive]:
    """A share with a file for all, one for a group, and one for nobody. Nothing serves it yet."""
    with running_share() as server, tempfile.TemporaryDirectory(prefix="remit-drive-") as folder:
        base = Path(folder)
        unit = server.unit("drive")
        dns = [server.user(unit, name, password=PASSWORD) for name in ("ann", "bob")]
        group = server.sid(server.group(unit, "sales", dns[:1]))
        server.set_share("D:(A;;0x1f01ff;;;WD)")
        admin = Client("Administrator")
        admin.folder("Sales")
        for path, who in {"all.txt": "S-1-1-0", "Sales\\plan.txt": group, "none.txt": "S-1-5-18"}.items():
            admin.write(path, f"About {path}".encode())
            # The account that reads is let in, too.
            reader = server.sid(f"CN=Administrator,CN=Users,{BASE}")
            admin.set_descriptor(path, descriptor([(0, 0, FULL, who), (0, 0, FULL, reader)], "S-1-5-18"))
        admin.close()
        made = Drive(base, server, group, {server.login(dn): server.sid(dn) for dn in dns})
        configure(base, server, made.domain)
        yield made


def configure(base: Path, server: FileServer, domain: str) -> None:
    """Settings with two issuers and two directories: who audits is of a file, who reads is of the domain."""
    sources = SETTINGS.format(server=ADDRESS, domain=domain)
    write_foreign(
        base,
        f"{{name: corp, kind: active_directory, servers: [ldaps://{ADDRESS}], ca: {server.ca}, "
        f"bind: {server.admin}, password_file: ./admin.password}}",
        "objectSid",
        sources,
    )
    for name, password in {"admin": PASSWORD, "person": PASSWORD, "wrong": "Another-Password-1"}.items():
        (base / f"{name}.password").write_text(f"{password}\n")
        (base / f"{name}.password").chmod(0o600)


def logins(drive: Drive) -> list[str]:
    """Options with everybody's password."""
    return [option for name in drive.people for option in ("--login", f"{name}=person.password")]


@pytest.fixture(scope="module")
def sound(drive: Drive) -> Iterator[Drive]:
    """The deployment, served without a defect."""
    with served(drive, "sound", "drive"):
        yield drive


def test_decisions_are_held_beside_the_servers(sound: Drive) -> None:
    """Two people, three files, no difference; what cannot be asked is no pass, and says so in a sentence."""
    ann, bob = sound.people
    code, answer, said = sound.oracle(*logins(sound))
    assert (code, failed(answer)) == (0, set()), (said, answer)
    (part,) = answer["parts"]
    assert {row["person"]: (row["pairs"], row["source opens"]) for row in part["tables"]["people"]} == {
        ann: (3, 2), bob: (3, 1),
    }  # fmt: skip

    # Ann is who is examined: an answer about Bob alone is not all of it.
    code, answer, said = sound.oracle("--login", f"{bob}=person.password")
    assert (code, answer["result"], failed(answer)) == (2, "not_run", set()), said
    assert f"not asked: {ann}" in json.dumps(answer)
    code, answer, said = sound.oracle()
    assert (code, answer["result"], failed(answer)) == (2, "not_run", set()), said

    mistakes = {
        ("--login", f"{ann}=wrong.password"): f"asked as `{ann}`: `username`: `{ADDRESS}` refuses the login",
        ("--login", f"{ann}=absent.password"): "absent.password cannot be read",
        ("--login", ann): "expected `NAME=FILE`",
        ("--login", f"{ann}=wrong.password", "--login", f"{ann}=person.password"): "is there twice",
    }
    for args, sentence in mistakes.items():
        code, answer, said = sound.oracle(*args)
        lines = [line for line in said.splitlines() if not line.startswith("examining")]
        assert (code, answer, len(lines)) == (2, {}, 1), said
        assert sentence in lines[0]
        assert "Another-Password" not in said


def test_a_file_that_went_away_is_set_aside_and_no_pass(sound: Drive) -> None:
    """Nobody syncs after a removal: the pair is counted, and the whole is not called held."""
    assert sound.remit("source", "sync", "drive", "--as", "oskar").returncode == 0
    path = sound.server.root / "none.txt"
    elsewhere = sound.server.folder / "none.txt"
    path.rename(elsewhere)
    try:
        ann = next(iter(sound.people))
        code, answer, said = sound.prove(
            "oracle", "--as", ann, "--auditor", "judith", *logins(sound), REMIT_TOKEN=sound.token(ann)
        )
    finally:
        elsewhere.rename(path)
    assert (code, answer["result"], failed(answer)) == (2, "not_run", set()), said
    assert [c["facts"]["aside"] for c in answer["parts"][0]["checks"] if "aside" in c["facts"]] == [2]


def test_who_may_not_connect_to_the_share_reads_nothing_of_it(sound: Drive) -> None:
    """What the server says at the door is its answer about every file, and the service says the same."""
    bob = sound.people[list(sound.people)[1]]
    sound.server.set_share(f"D:(D;;0x1f01ff;;;{bob})(A;;0x1f01ff;;;WD)")
    try:
        code, answer, said = sound.oracle(*logins(sound))
    finally:
        sound.server.set_share("D:(A;;0x1f01ff;;;WD)")
    assert (code, failed(answer)) == (0, set()), (said, answer)
    (part,) = answer["parts"]
    assert [row["source opens"] for row in part["tables"]["people"]] == [2, 0]


@pytest.mark.parametrize(
    ("sign", "claim"),
    [
        ("+", "`drive`: nothing is readable here that the server refuses"),
        ("-", "`drive`: nothing is refused here that the server opens, unless it is withheld for a reason"),
    ],
)
def test_a_wrong_lookup_is_found_either_way(drive: Drive, tmp_path: Path, sign: str, claim: str) -> None:
    """Everybody is taken for a member, or nobody: the server knows better, and the exit code is 1."""
    configure(tmp_path, drive.server, drive.domain)
    leaky = replace(drive, base=tmp_path)
    with served(leaky, f"{sign}{drive.group}", "drive"):
        code, answer, said = leaky.oracle(*logins(leaky))

        assert (code, failed(answer)) == (1, {claim}), (said, answer)
