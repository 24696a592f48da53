"""What is shipped for running it: a unit that systemd judges, a Dockerfile and a compose file that hold their word."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.support.needs import need

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/remit.service"
MOST_EXPOSED = 20
"""Tenths, of a scale to 100. It is at 14."""


def analyze(*args: str) -> subprocess.CompletedProcess[str]:
    need(shutil.which("systemd-analyze") is not None, "systemd-analyze is missing: run deploy/test-deps.sh")
    return subprocess.run(["systemd-analyze", *args], capture_output=True, text=True, timeout=60, check=False)


def installed(folder: Path, text: str) -> Path:
    """The unit with a program that exists here."""
    unit = folder / "remit.service"
    unit.write_text(text.replace("/opt/remit/bin/remit", sys.executable))
    return unit


def test_the_unit_is_right(tmp_path: Path) -> None:
    """systemd has nothing to say about it; a misspelt line is told, so that silence means something."""
    text = UNIT.read_text()

    good = analyze("verify", "--man=no", str(installed(tmp_path, text)))
    assert (good.returncode, good.stderr) == (0, "")

    bad = analyze("verify", "--man=no", str(installed(tmp_path, text.replace("ProtectClock=", "ProtectClocks="))))
    assert "ProtectClocks" in bad.stderr


def test_the_unit_is_hardened(tmp_path: Path) -> None:
    """Its exposure stays low; one without its restrictions does not."""
    judge = ("security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}")

    good = analyze(*judge, str(UNIT))
    assert good.returncode == 0, good.stdout[-300:]

    weak = re.sub(r"^(Protect|Private|Restrict|Capability|NoNew|SystemCall)\w+=.*\n", "", UNIT.read_text(), flags=re.M)
    assert analyze(*judge, str(installed(tmp_path, weak))).returncode != 0


def test_the_unit_keeps_what_rules_rest_on() -> None:
    """Owners of files are read as they are, it speaks with nobody by default, and wrong settings are not retried."""
    lines = UNIT.read_text().splitlines()

    assert not any(line.startswith(("PrivateUsers=", "DynamicUser=")) for line in lines)
    for line in ("IPAddressDeny=any", "IPAddressAllow=localhost", "LimitCORE=0", "RestartPreventExitStatus=2"):
        assert line in lines
    assert [line for line in lines if line.startswith("IPAddressAllow=")] == ["IPAddressAllow=localhost"]


def test_the_image_runs_without_root_and_without_what_built_it() -> None:
    """The last stage has a numbered user, and takes the environment from the first, and nothing of the folder."""
    text = (ROOT / "deploy/Dockerfile").read_text()
    last = text[text.rindex("\nFROM ") :]

    users = re.findall(r"^USER (.*)$", last, re.M)
    assert users == ["10001:10001"]
    assert last.index("USER ") < last.index("ENTRYPOINT")
    assert re.findall(r"^COPY (.*)$", last, re.M) == ["--from=build /opt/remit /opt/remit"]
    assert not re.search(r"^ADD |:latest|curl |wget ", text, re.M)
    assert not re.search(r"^(ENV|ARG) .*(PASSWORD|SECRET|TOKEN)", text, re.M | re.I)


def test_what_the_image_copies_is_let_in_and_nothing_else() -> None:
    """The context holds the sources and no environment, settings or keys; every `COPY` finds its file."""
    ignored = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    text = (ROOT / "deploy/Dockerfile").read_text()
    build = text[: text.rindex("\nFROM ")]

    copied = {name for line in re.findall(r"^COPY (.*)$", build, re.M) for name in line.split()[:-1]}

    assert "*" in ignored
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


@pytest.fixture
def compose() -> dict[str, dict[str, dict[str, object]]]:
    found = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    assert isinstance(found, dict)
    return found


def test_the_compose_file_follows_the_specification(compose: dict[str, dict[str, dict[str, object]]]) -> None:
    """By the schema that Compose itself used; a misspelt key is refused by it."""
    schema = json.loads((Path(__file__).parent / "compose-spec.schema.json").read_text())
    validator = jsonschema.Draft201909Validator(schema)
    validator.validate(compose)

    compose["services"]["remit"]["red_only"] = True
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(compose)


def test_every_container_is_hardened_and_holds_no_secret(compose: dict[str, dict[str, dict[str, object]]]) -> None:
    """A read-only root, no capability, no way to gain one, no port beyond this machine, a named version."""
    assert set(compose["services"]) == {"remit", "postgres", "qdrant"}
    for name, one in compose["services"].items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "network_mode", "pid", "ipc", "cap_add", "devices"} & set(one), name
        ports = one.get("ports", [])
        assert isinstance(ports, list)
        assert all(str(port).startswith("127.0.0.1:") for port in ports), name
        assert not str(one["image"]).endswith(":latest"), name
        assert ":" in str(one["image"]), name
        environment = one.get("environment", {})
        assert isinstance(environment, dict)
        for key, value in environment.items():
            if re.search(r"PASSWORD|KEY|TOKEN|SECRET", key):
                assert str(value).startswith(("/run/secrets/", "${")), key
    assert compose["networks"]["sources"] == {"internal": True}
    assert compose["services"]["qdrant"]["environment"]["QDRANT__TELEMETRY_DISABLED"] == "true"  # type: ignore[index]
