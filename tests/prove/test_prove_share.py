"""`remit prove` at a share and in its Windows domain: descriptors, a move, a removal, a group, taken away for real."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.acl.descriptors import descriptor
from tests.prove.stage import ROLES, served
from tests.prove.test_oracle_share import Drive, configure
from tests.prove.test_prove import failed
from tests.prove.test_prove_sources import ways
from tests.support.samba import BASE, PASSWORD
from tests.support.samba_share import FULL, Client, running_share

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(300)]

KINDS = {"grant", "deny", "inherit", "move", "delete", "group"}
SALES = ("--allow", "drive:Sales")


@pytest.fixture(scope="module")
def drive() -> Iterator[Drive]:
    """A share with a folder for each of two groups, and an account that may write into both and reads nothing else."""
    with running_share() as server, tempfile.TemporaryDirectory(prefix="remit-drive-") as folder:
        unit = server.unit("drive")
        dns = {name: server.user(unit, name, password=PASSWORD) for name in ("ann", "bob", "prover")}
        sales = server.group(unit, "sales", [dns["ann"]])
        finance = server.group(unit, "finance", [dns["bob"]])
        server.set_share("D:(A;;0x1f01ff;;;WD)")
        reader, prover = server.sid(f"CN=Administrator,CN=Users,{BASE}"), server.sid(dns["prover"])
        admin = Client("Administrator")
        for area, group in {"Sales": server.sid(sales), "Finance": server.sid(finance)}.items():
            entries = [(0, 3, FULL, one) for one in (group, reader, prover)]
            admin.folder(area)
            admin.set_descriptor(area, descriptor(entries, reader))
            for number in range(8):
                path = f"{area}\\report {number}.txt"
                admin.write(path, f"{area} wrote report {number}.".encode())
                admin.set_descriptor(path, descriptor([(0, 0, FULL, one) for one in (group, reader, prover)], reader))
        admin.close()
        people = {server.login(dns[name]): server.sid(dns[name]) for name in ("ann", "bob")}
        named = {**dns, "unit": unit, "sales": sales, "finance": finance, "prover": server.login(dns["prover"])}
        made = Drive(Path(folder), server, server.sid(sales), people, dns=named)
        configure(made.base, server, made.domain)
        yield made


def hands(drive: Drive) -> tuple[str, ...]:
    """Who writes to the share."""
    return "--share-login", f"{drive.dns['prover']}=person.password"


def in_domain(drive: Drive, *where: str) -> tuple[str, ...]:
    """Who changes the directory, and what there."""
    return "--directory-login", f"{drive.server.admin}=admin.password", *where


def proved(drive: Drive, *args: str) -> tuple[int, dict[str, Any], str]:
    """Run a proof about Ann, with Bob as the witness."""
    ann, bob = drive.people
    tokens = {"REMIT_TOKEN": drive.token(ann), "REMIT_WITNESS_TOKEN": drive.token(bob)}
    return drive.prove(*args, "--as", ann, *ROLES, **tokens)


def canaries(drive: Drive) -> list[Path]:
    """What was left on the share."""
    return list(drive.server.root.rglob("remit-canary-*"))


def children(drive: Drive) -> Sequence[str]:
    """What is in the unit of the tests."""
    connection = drive.server.connection
    connection.search(drive.dns["unit"], "(objectClass=*)", attributes=["cn"])
    return sorted(one["dn"] for one in connection.response if "dn" in one)


@pytest.fixture(scope="module")
def sound(drive: Drive) -> Iterator[Drive]:
    """The deployment, served without a defect."""
    with served(drive, "sound", "drive"):
        yield drive


def test_every_kind_of_change_at_a_share_and_in_its_domain_is_measured(sound: Drive) -> None:
    """Entries, inheritance, a move, a removal, and a throw-away group; nothing of it is left."""
    before = children(sound)

    code, answer, said = proved(
        sound, "revocation", *SALES, *hands(sound), *in_domain(sound, "--directory-unit", sound.dns["unit"]),
        "--rounds", "1",
    )  # fmt: skip

    assert code == 0, (said, answer)
    assert ways(answer) == {kind: ["passed"] for kind in KINDS}
    assert canaries(sound) == []
    assert children(sound) == before
    assert "Inheritance".casefold() in (sound.base / answer["report"]).with_suffix(".html").read_text().casefold()


def test_a_named_group_has_its_member_again_afterwards(sound: Drive) -> None:
    """Ann is taken out of Sales for a moment and put back; of Finance she is no member, and is not made one."""
    without = [option for kind in KINDS - {"group"} for option in ("--without", kind)]
    member = sound.server.raw(sound.dns["sales"], "member")

    code, answer, said = proved(
        sound, "revocation", *SALES, *hands(sound), *in_domain(sound, "--directory-group", sound.dns["sales"]),
        "--rounds", "2", *without,
    )  # fmt: skip
    assert code == 0, (said, answer)
    assert sound.server.raw(sound.dns["sales"], "member") == member

    code, answer, said = proved(
        sound, "revocation", *SALES, *hands(sound), *in_domain(sound, "--directory-group", sound.dns["finance"]),
        *without,
    )  # fmt: skip
    assert (code, ways(answer)["group"]) == (2, ["not_run"])
    assert "nobody is given a group that they had not" in said
    assert [one.decode() for one in sound.server.raw(sound.dns["finance"], "member")["member"]] == [sound.dns["bob"]]


def test_isolation_holds_on_a_share(sound: Drive) -> None:
    """Ann finds the canary of Sales and none of Finance, which Bob reads."""
    code, answer, said = proved(sound, "isolation", *SALES, "--deny", "drive:Finance", *hands(sound))

    assert (code, failed(answer)) == (0, set()), (said, answer)
    assert canaries(sound) == []


def test_who_may_not_write_writes_nothing_and_a_group_nobody_may_change_is_no_pass(sound: Drive) -> None:
    """Without a login or with a wrong one it is one sentence and code 2; where it may not write nothing was run."""
    prover = sound.dns["prover"]
    mistakes = {
        (): "Give an account that may, with `--share-login NAME=FILE`",
        ("--share-login", f"{prover}=wrong.password"): "refuses the login",
        ("--share-login", prover): "expected `NAME=FILE`",
    }
    for args, sentence in mistakes.items():
        code, answer, said = proved(sound, "isolation", *SALES, "--deny", "drive:Finance", *args)
        assert (code, answer) == (2, {}), said
        assert sentence in said.splitlines()[-1]
        assert "Another-Password" not in said
    bob = list(sound.people)[1]
    code, answer, said = proved(sound, "revocation", *SALES, "--share-login", f"{bob}=person.password", "--rounds", "1")
    assert (code, answer["result"], failed(answer)) == (2, "not_run", set()), said
    assert ways(answer) == {kind: ["not_run"] for kind in KINDS}
    assert canaries(sound) == []


def test_a_membership_that_is_wrong_and_a_right_that_lasts_are_found(drive: Drive, tmp_path: Path) -> None:
    """Everybody taken for one of Finance fails isolation; what was once returned and is returned again, revocation."""
    configure(tmp_path, drive.server, drive.domain)
    leaky = replace(drive, base=tmp_path)
    with served(leaky, f"+{drive.server.sid(drive.dns['finance'])}", "drive"):
        code, answer, said = proved(leaky, "isolation", *SALES, "--deny", "drive:Finance", *hands(leaky))
        assert code == 1, said
        assert "the canary of the denied side is found in no mode" in failed(answer)
    with served(leaky, "cache", "drive"):
        code, answer, said = proved(
            leaky, "revocation", *SALES, *hands(leaky), *in_domain(leaky, "--directory-unit", leaky.dns["unit"]),
            "--rounds", "1", "--within", "1", "--without", "deny", "--without", "inherit", "--without", "move",
        )  # fmt: skip
        assert code == 1, said
        assert {kind for kind, results in ways(answer).items() if results == ["failed"]} == {"grant", "delete", "group"}
    assert canaries(leaky) == []
