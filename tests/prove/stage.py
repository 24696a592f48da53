"""A deployment in a folder of its own: real files with real lists, the real command line, a server with or without a
defect."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import jwt
from jwt.algorithms import OKPAlgorithm

from service import devissuer
from service.demo import layout, people
from service.demo.layout import Layout
from service.demo.stage import _CONFIGURATION, _free_addresses
from service.sections import initial

_ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("REMIT_")}
ISSUER: Final = "https://directory.test"
ROLES = ("--auditor", "judith", "--operator", "oskar")
SIDES = ("--allow", "sales", "--deny", "finance")


@dataclass
class Deployment:
    """base: the folder with the settings."""

    base: Path
    number: int = field(default=0, kw_only=True)

    def remit(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the settings."""
        return subprocess.run(
            [sys.executable, "-m", "service.cli", *args],
            cwd=self.base,
            env=_ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def prove(self, *args: str, **env: str) -> tuple[int, dict[str, Any], str]:
        """Run `remit prove …`; return the exit code, what it printed as JSON, and its standard error."""
        self.number += 1
        done = self.remit("prove", *args, "--json", "--out", f"report{self.number}", **env)
        return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


@dataclass
class Company(Deployment):
    """Over the demo's company."""

    files: Layout

    @property
    def canaries(self) -> list[Path]:
        """What was left behind."""
        return [*self.files.company.rglob("remit-canary-*")]


@contextmanager
def deployed(mode: str) -> Iterator[Company]:
    """A server over the demo's company, synced once, with the defect of that name."""
    files = layout.lay_out()
    try:
        initial.write(files.base)
        callers, administrators = _free_addresses()
        text = _CONFIGURATION.format(
            callers=callers,
            administrators=administrators,
            source="company",
            root=files.company,
            id_domain=people.ID_DOMAIN,
        )
        (files.base / "remit.yaml").write_text(text.replace("{kind: model}", "{kind: hash}"))
        people.write(files.base / "people.yaml")
        made = Company(files.base, files)
        with served(made, mode, "company"):
            yield made
    finally:
        files.remove()
        shutil.rmtree(files.base, ignore_errors=True)


def write_foreign(base: Path, directory: str, attribute: str, sources: str) -> None:
    """Settings with two issuers and two directories: who audits is of a file, who reads is of the other one.

    directory: the other one, as YAML. attribute: by which its accounts are found.
    """
    initial.write(base)
    devissuer.create_keys(base / "keys/domain.jwks.json")
    callers, administrators = _free_addresses()
    text = _CONFIGURATION.format(callers=callers, administrators=administrators, source="", root="", id_domain="")
    text = text.replace("{kind: model}", "{kind: hash}").partition("sources:\n")[0]
    text = text.replace("group:", "static:people:group-").replace(
        "directories:\n",
        f"  - {{issuer: {ISSUER}, audience: remit, jwks: ./keys/domain.jwks.json, claim: sub, directory: corp, "
        f"attribute: {attribute}}}\ndirectories:\n  - {directory}\n",
    )
    (base / "remit.yaml").write_text(f"{text}sources:\n{sources}")
    people.write(base / "people.yaml")


def foreign_token(base: Path, subject: str) -> str:
    """A token of somebody in the other directory."""
    private = json.loads(devissuer.private_key_path(base / "keys/domain.jwks.json").read_text())
    now = datetime.now(UTC)
    claims = {
        "iss": ISSUER,
        "aud": "remit",
        "sub": subject,
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(minutes=15)).timestamp()),
        "jti": f"{subject}-{now.timestamp()}",
    }
    headers = {"typ": "at+jwt", "kid": private["kid"]}
    key = OKPAlgorithm.from_jwk(private)
    return jwt.encode(claims, key, algorithm="EdDSA", headers=headers)  # type: ignore[arg-type]  # a private key


@contextmanager
def served(made: Deployment, mode: str, source: str) -> Iterator[None]:
    """The server of a deployment, with the defect of that name, and its source synced once."""
    log_file = made.base / "server.log"
    with log_file.open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.prove.leaky", mode, "--config", str(made.base / "remit.yaml"), "serve"],
            env=_ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + 60
        while (done := made.remit("source", "sync", source, "--as", "oskar")).returncode:
            assert server.poll() is None, log_file.read_text()
            assert time.monotonic() < until, done.stderr + log_file.read_text()[-2000:]
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
