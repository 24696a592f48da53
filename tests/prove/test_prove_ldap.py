"""`remit prove` in an LDAP directory: a person leaves a group there, which the rules of an export name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.prove.stage import ROLES, Deployment, foreign_token, served, write_foreign
from tests.prove.test_prove_sources import ways
from tests.support.slapd import ADMIN, PASSWORD, Slapd

pytestmark = [pytest.mark.slow, pytest.mark.live]

WITHOUT = [option for kind in ("rules", "deny", "scope", "member", "move", "delete") for option in ("--without", kind)]


@dataclass
class Branch(Deployment):
    """A deployment over an export whose people are in an LDAP directory. unit, sales, other: DNs."""

    slapd: Slapd
    unit: str
    sales: str
    other: str
    alice: str

    def proved(self, *args: str) -> tuple[int, dict[str, Any], str]:
        """Measure how long Alice keeps what a group gave her."""
        return self.prove(
            *("revocation", "--allow", "wiki:Sales", "--as", "alice", *ROLES, "--rounds", "1", *WITHOUT, *args),
            REMIT_TOKEN=foreign_token(self.base, self.alice),
        )

    def entries(self) -> dict[str, list[bytes]]:
        """Everything below the unit with its members."""
        connection = self.slapd.connection
        connection.search(self.unit, "(objectClass=*)", attributes=["member", "memberUid"])
        return {
            one["dn"]: sorted(v for vs in one["raw_attributes"].values() for v in vs) for one in connection.response
        }


LOGIN = ("--directory-login", f"{ADMIN}=admin.password")


@pytest.fixture
def branch(slapd: Slapd, request: pytest.FixtureRequest) -> Iterator[Branch]:
    """Alice in Sales, an export with a scope for Sales, and no server yet. request: whether groups have numbers."""
    numbered: bool = request.param
    unit = slapd.unit(f"prove-{'numbers' if numbered else 'names'}-{request.node.name[:20].strip('[')}")
    alice = slapd.user(unit, "alice", number=31001 if numbered else 0)
    bob = slapd.user(unit, "bob")
    sales, other = slapd.group(unit, "sales", alice, bob), slapd.group(unit, "other", bob)
    with tempfile.TemporaryDirectory(prefix="remit-branch-") as folder:
        made = Branch(Path(folder), slapd, unit, sales, other, slapd.uuid(alice))
        configure(made, numbered=numbered)
        yield made


def configure(made: Branch, *, numbered: bool) -> None:
    """Write settings and export."""
    numbers = ", id_domain: branch" if numbered else ""
    directory = (
        f'{{name: corp, kind: ldap, servers: ["ldaps://127.0.0.1:{made.slapd.ldaps}"], ca: {made.slapd.ca}, '
        f'bind: "cn=reader,dc=remit,dc=test", password_file: ./admin.password, base: "{made.unit}"{numbers}}}'
    )
    wiki = '  - {name: wiki, kind: feed, path: ./feed.jsonl, audience: ["ldap:corp:members"]}\n'
    write_foreign(made.base, directory, "entryUUID", wiki)
    (made.base / "admin.password").write_text(PASSWORD)
    (made.base / "admin.password").chmod(0o600)
    rule = {"effect": "allow", "principals": [f"ldap:corp:group-{made.slapd.uuid(made.sales)}"]}
    lines: list[dict[str, object]] = [
        {"kind": "feed", "version": 1, "exported_at": datetime.now(UTC).isoformat(timespec="seconds")},
        {"kind": "scope", "id": "Sales", "location": "Sales", "rules": [{**rule, "principals": ["ldap:corp:members"]}]},
    ]
    for number in range(8):
        about = {"title": f"report {number}", "location": f"Sales/report {number}", "media_type": "text/plain"}
        rules = {"rules": [rule], "scope": "Sales", "modified_at": "2026-01-31T08:00:00Z", "text": f"Report {number}."}
        lines.append({"kind": "document", "id": f"report {number}", **about, **rules})
    lines.append({"kind": "end", "scopes": 1, "documents": 8})
    (made.base / "feed.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.mark.parametrize("branch", [False, True], indirect=True, ids=["names", "numbers"])
def test_a_group_of_the_directory_is_left_and_everything_is_as_before(branch: Branch) -> None:
    """A throw-away group, of names or of numbers, is deleted."""
    before = branch.entries()
    with served(branch, "sound", "wiki"):
        code, answer, said = branch.proved(*LOGIN, "--directory-unit", branch.unit)
        assert code == 0, (said, answer)
        assert ways(answer)["group"] == ["passed"]
        assert branch.entries() == before


@pytest.mark.parametrize("branch", [False], indirect=True)
def test_a_named_group_has_its_member_again_and_what_may_not_be_written_is_not(branch: Branch) -> None:
    """Alice is taken out of Sales and put back; no other group gets her, and a reader leaves nothing behind."""
    before = branch.entries()
    with served(branch, "sound", "wiki"):
        code, answer, said = branch.proved(*LOGIN, "--directory-group", branch.sales)
        assert code == 0, (said, answer)
        assert branch.entries() == before

        refusals = {
            (): "who changes it? Give `--directory-login",
            (*LOGIN, "--directory-group", branch.other): "nobody is given a group that they had not",
            (*LOGIN, "--directory-group", f"cn=absent,{branch.unit}"): "has no `cn=absent",
            (
                "--directory-login",
                f"{ADMIN}=feed.jsonl",
                "--directory-unit",
                branch.unit,
            ): "feed.jsonl is open to every",
            # May read and not write: nothing is left of what could not be made.
            ("--directory-login", "cn=reader,dc=remit,dc=test=admin.password", "--directory-unit", branch.unit): (
                "insufficientAccessRights"
            ),
        }
        for args, sentence in refusals.items():
            code, answer, said = branch.proved(*args)
            assert (code, ways(answer).get("group")) == (2, ["not_run"]), (said, answer)
            assert sentence in json.dumps(answer), (args, answer)
            assert "what was planted" not in json.dumps(answer)
            assert branch.entries() == before


@pytest.mark.parametrize("branch", [False], indirect=True)
def test_a_membership_that_outlives_its_end_is_found(branch: Branch) -> None:
    """A service that keeps what it returned once: exit code 1, and the group is gone all the same."""
    before = branch.entries()
    with served(replace(branch), "cache", "wiki"):
        code, answer, said = branch.proved(*LOGIN, "--directory-unit", branch.unit, "--within", "3")

    assert (code, ways(answer)["group"]) == (1, ["failed"]), (said, answer)
    assert branch.entries() == before
