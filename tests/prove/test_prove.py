"""`remit prove` against running deployments: one that is sound, and ones with a defect that it has to find."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prove.stage import ROLES, SIDES, Company, deployed
from tests.support.needs import need

pytestmark = [pytest.mark.slow, pytest.mark.live]


@pytest.fixture(scope="module")
def sound() -> Iterator[Company]:
    """A deployment without a defect."""
    with deployed("sound") as made:
        yield made


def failed(answer: dict[str, object]) -> set[str]:
    """The claims that did not hold."""
    parts = answer["parts"]
    assert isinstance(parts, list)
    return {check["claim"] for part in parts for check in part["checks"] if check["result"] == "failed"}


def test_a_sound_deployment_passes_isolation_and_leaves_a_signed_report(sound: Company) -> None:
    """Exit code 0; the report verifies, is on record by its digest, and nothing that was planted is left."""
    code, answer, said = sound.prove("isolation", *SIDES, "--as", "alice", *ROLES, "--witness", "heidi")

    assert (code, answer["result"], failed(answer)) == (0, "passed", set()), said
    report = sound.base / answer["report"]
    assert sound.remit("prove", "verify", str(report)).returncode == 0
    record = json.loads(sound.remit("audit", "show", answer["record"], "--as", "judith", "--json").stdout)["record"]
    assert record["class"] == "control"
    digest = hashlib.sha256(report.read_bytes()).hexdigest()
    assert record["body"]["conditions"] == {
        "proof": "isolation", "result": "passed", "report_sha256": digest, "checks": "12", "failed": "0",
    }  # fmt: skip
    assert sound.canaries == []
    body = json.loads(report.read_bytes())
    for audit_id in body["parts"][0]["audit_ids"]:
        assert re.fullmatch(r"[0-9a-f]{32}", audit_id)
    # The picture is that of the rules on disk: Alice is in Sales, and of Finance nothing is hers.
    (row,) = (row for row in body["matrix"]["people"] if row["person"] == "alice")
    shares = {a["folder"]: n for a, n in zip(body["matrix"]["areas"], row["counts"], strict=True)}
    assert (shares["Sales"] > 0, shares["Finance"]) == (True, 0)
    page = (report.with_suffix(".html")).read_text()
    assert digest in page
    assert "Alice Ahlgren" in page
    assert not re.search(r"<script|src=|href=|url\(|@import", page), "nothing is fetched"


def test_a_claim_that_is_the_wrong_way_round_fails(sound: Company) -> None:
    """Alice allowed Finance and denied Sales: that is not so, and it says what was found."""
    code, answer, _ = sound.prove("isolation", "--allow", "finance", "--deny", "sales", "--as", "alice", *ROLES)

    assert code == 1
    assert {
        "no passage of the denied side came back, whatever was asked",
        "no id of the denied side opens anything",
        "the canary of the allowed side is found, in every mode of searching",
    } <= failed(answer)
    assert sound.canaries == []


def test_every_kind_of_change_at_the_source_is_measured(sound: Company) -> None:
    """Each way is granted, found, revoked and refused; the directory is byte for byte what it was."""
    before = (sound.base / "people.yaml").read_bytes()

    code, answer, said = sound.prove("revocation", "--allow", "sales", "--as", "alice", *ROLES, "--rounds", "2")

    ways = {check["claim"].partition(":")[0]: check for check in answer["parts"][0]["checks"]}
    expected = {"chmod", "setfacl", "chgrp", "move", "delete", "folder", "group"}
    assert ways.keys() == expected, said
    held = {name for name, check in ways.items() if check["result"] == "passed"}
    # Another group needs the right to give files away: without it the way could not be tried, and that is no pass.
    assert held >= expected - {"chgrp"}, answer
    assert code == (0 if held == expected else 2)
    for name in held:
        facts = ways[name]["facts"]
        assert 0 < facts["p50_s"] <= facts["p95_s"] <= facts["max_s"] < 60
    assert (sound.base / "people.yaml").read_bytes() == before
    assert sound.canaries == []


@pytest.mark.oracle
def test_decisions_are_held_beside_the_kernels(sound: Company) -> None:
    """All people and all files: no difference, and both answers occur."""
    need(os.geteuid() == 0, "the kernel answers for other people to root only")

    code, answer, said = sound.prove("oracle", "--as", "alice", *ROLES)

    assert (code, failed(answer)) == (0, set()), said
    (compared,) = (c["facts"] for c in answer["parts"][0]["checks"] if "pairs" in c["facts"])
    assert compared["pairs"] > 400
    assert 0 < compared["readable"] < compared["pairs"]


def test_everything_in_one_report_for_a_schedule(sound: Company) -> None:
    """Three parts; one that cannot be made is written down as not run, and then the whole is no pass."""
    need(os.geteuid() == 0, "the kernel answers for other people to root only")

    code, answer, said = sound.prove("all", *SIDES, "--as", "alice", *ROLES, "--rounds", "1")

    assert [part["proof"] for part in answer["parts"]] == ["isolation", "revocation", "oracle"]
    assert (code, failed(answer)) == (0, set()), said


def test_what_nobody_reads_proves_nothing(sound: Company) -> None:
    """A denied area that is closed to everybody: Alice finds nothing there, and that is not called a pass."""
    shut = sound.files.company / "Finance" / "EMEA"
    mode = shut.stat().st_mode
    attribute = os.getxattr(shut, "system.posix_acl_access")
    try:
        os.setxattr(shut, "system.posix_acl_access", attribute)
        os.removexattr(shut, "system.posix_acl_access")
        shut.chmod(0o700)
        code, answer, _ = sound.prove("isolation", "--allow", "sales", "--deny", "EMEA", "--as", "alice", *ROLES)
    finally:
        shut.chmod(mode)
        os.setxattr(shut, "system.posix_acl_access", attribute)

    assert (code, answer["result"]) == (2, "not_run")
    assert failed(answer) == set()


MISTAKES = {
    "an unknown person": (("--as", "mallory", *ROLES), "no enabled account called `mallory`"),
    "an unknown area": (("--as", "alice", "--deny", "treasury", *ROLES), "no document lies in `treasury`"),
    "an area within the other": (("--as", "alice", "--deny", "Sales/Helios", *ROLES), "lies in `company:Sales`"),
    "nobody who audits": (("--as", "alice", "--operator", "oskar"), "who audits?"),
    "an auditor who is none": (("--as", "alice", "--auditor", "bob"), "`auditor`"),
    "an operator who is none": (("--as", "alice", "--auditor", "judith", "--operator", "bob"), "role"),
    "a token that is none": (("--as", "alice", "--token", "x.y.z", *ROLES), "token is missing, expired"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_what_cannot_be_proved_is_one_sentence_and_code_2(sound: Company, what: str) -> None:
    """Never a pass, never a traceback; nothing is planted or left."""
    args, sentence = MISTAKES[what]

    code, answer, said = sound.prove("isolation", "--allow", "sales", "--deny", "finance", *args)

    # What will be written is said before whoever starts runs is asked for.
    lines = [line for line in said.splitlines() if not line.startswith(("examining", "isolation writes"))]
    assert (code, answer) == (2, {}), said
    assert len(lines) == 1, said
    assert sentence in lines[0], said
    assert sound.canaries == []


def test_a_token_of_somebody_else_is_code_2(sound: Company) -> None:
    """Live answers to Bob and explanations about Alice would prove nothing about either; her own token does."""
    tokens = {name: sound.remit("token", name).stdout.strip() for name in ("alice", "bob")}

    code, answer, said = sound.prove("isolation", *SIDES, "--as", "alice", *ROLES, REMIT_TOKEN=tokens["bob"])
    assert (code, answer) == (2, {})
    assert "the token is that of" in said
    code, _, said = sound.prove("isolation", *SIDES, "--as", "alice", *ROLES, REMIT_TOKEN=tokens["alice"])
    assert code == 0, said


def test_a_report_is_its_provers_unchanged_and_of_this_deployment(sound: Company, tmp_path: Path) -> None:
    """Changed in a word, signed by another key, about another deployment, no report: one sentence each, code 1."""
    _, answer, _ = sound.prove("oracle", "--as", "alice", *ROLES, "--pairs", "20")
    good = (sound.base / answer["report"]).read_bytes()

    def verified(data: bytes, *args: str) -> tuple[int, str]:
        path = tmp_path / "report.json"
        path.write_bytes(data)
        done = sound.remit("prove", "verify", str(path), *args)
        assert len(done.stderr.splitlines()) == (done.returncode != 0), done.stderr
        return done.returncode, done.stderr

    assert verified(good)[0] == 0
    result = b'"result": "' + answer["result"].encode()
    for changed in (
        good.replace(result, b'"result": "failed'),
        good.replace(b"alice", b"carol"),
    ):
        assert changed != good
        code, said = verified(changed)
        assert (code, "does not verify" in said) == (1, True)
    for broken in (b"", b"{}", good[:-200], b"\xff" + good, good.replace(b'"format": 1', b'"format": 1, "format": 1')):
        code, said = verified(broken)
        assert (code, "is no report" in said) == (1, True), said
    with_other = sound.remit("prove", "oracle", "--as", "alice", *ROLES, "--key", str(tmp_path / "other.key"), "--json",
                             "--pairs", "20", "--out", "other")  # fmt: skip
    other = (sound.base / json.loads(with_other.stdout)["report"]).read_bytes()
    assert verified(other)[0] == 1
    assert verified(other, "--key", str(tmp_path / "other.pub"))[0] == 0
    audit = sound.base / "keys" / "audit.pub"
    own = audit.read_text()
    try:
        # As on the machine of another deployment, whose auditors have the prover's public key.
        audit.write_text((tmp_path / "other.pub").read_text())
        code, said = verified(good)
    finally:
        audit.write_text(own)
    assert (code, "of another deployment" in said) == (1, True)
    assert sound.remit("prove", "verify", str(tmp_path / "absent.json")).returncode == 2


def test_a_service_that_does_not_run_is_code_2(sound: Company, tmp_path: Path) -> None:
    """One sentence, and no report."""
    done = sound.remit(
        "--address", "127.0.0.1:1", "prove", "isolation", *SIDES, "--as", "alice", *ROLES, "--out", "none"
    )

    assert done.returncode == 2
    assert "could not be proved" in done.stderr
    assert not (sound.base / "none").exists()


def test_a_wrong_lookup_is_found_by_isolation_and_by_the_oracle() -> None:
    """A service that takes everybody for a member of Finance: live questions find the passages, the kernel says no."""
    with deployed("directory") as leaky:
        code, answer, _ = leaky.prove("isolation", *SIDES, "--as", "alice", *ROLES)
        assert code == 1
        assert {
            "the canary of the denied side is found in no mode",
            "no passage of the denied side came back, whatever was asked",
            "no id of the denied side opens anything",
            "the list of what may be read names nothing of the denied side",
        } <= failed(answer)
        page = (leaky.base / answer["report"]).with_suffix(".html").read_text()
        assert "Something did not hold" in page
        assert leaky.remit("prove", "verify", answer["report"]).returncode == 0
        if os.geteuid() == 0:
            code, answer, _ = leaky.prove("oracle", "--as", "alice", *ROLES)
            assert (code, failed(answer)) == (1, {"`company`: nothing is readable here that the kernel refuses"})


def test_a_right_that_outlives_its_end_is_found_by_revocation() -> None:
    """A service that keeps what it returned once: every kind of change is too late."""
    with deployed("cache") as leaky:
        code, answer, _ = leaky.prove(
            "revocation", "--allow", "sales", "--as", "alice", *ROLES, "--rounds", "1", "--within", "1.5"
        )

        assert code == 1
        assert {one.partition(":")[0] for one in failed(answer)} >= {"chmod", "setfacl", "move", "delete", "group"}
        assert leaky.canaries == []
