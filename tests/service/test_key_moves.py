"""A whole service moves its key-encryption key from a file to a token or to Vault, through the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.secret import FileSecret
from service.key_settings import Pkcs11Provider, VaultProvider
from tests.service.test_cli import lay_out, remit, served
from tests.support.softhsm import PIN, token
from tests.support.vault_stub import TOKEN, vault

WAS = "keys: {provider: file, path: ./keys/remit.kek, store: ./keystore}"
FILE = "{provider: file, path: ./keys/remit.kek}"


@pytest.fixture(params=[pytest.param("pkcs11", marks=pytest.mark.live), "vault"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The section `keys` of the target, without its closing brace."""
    folder = tmp_path / "target"
    folder.mkdir()
    if request.param == "pkcs11":
        with token(folder) as made:
            yield _pkcs11(made.settings)
    else:
        with vault(folder) as stub:
            yield _vault(stub.settings)


def _pkcs11(settings: Pkcs11Provider) -> str:
    assert isinstance(settings.pin, FileSecret)
    return f"{{provider: pkcs11, library: {settings.library}, token: {settings.token}, pin_file: {settings.pin.path}"


def _vault(settings: VaultProvider) -> str:
    assert isinstance(settings.login, FileSecret)
    return f"{{provider: vault, address: '{settings.address}', ca: {settings.ca}, token_file: {settings.login.path}"


@pytest.mark.slow
def test_a_service_moves_its_key_and_goes_on(tmp_path: Path, target: str) -> None:
    """Status, rotation, re-wrapping and shredding work with each; then the file is not needed; no secret is logged."""
    folder = tmp_path / "remit"
    folder.mkdir()
    lay_out(folder)
    settings, env = folder / "remit.yaml", {key: os.environ[key] for key in ("SOFTHSM2_CONF",) if key in os.environ}
    with served(folder, env) as service:
        assert service.run("source", "sync", "company", "--as", "alice").returncode == 0
    moving = f"{target}, previous: {FILE}}}"
    text = settings.read_text()
    assert text.count(WAS) == 1
    settings.write_text(text.replace(WAS, f"keys: {moving}"))
    made = remit("keys", "create", folder=folder, env=env)
    assert made.returncode == 0, made.stderr

    with served(folder, env) as service:
        status = service.json("keys", "status", "--as", "alice")
        assert isinstance(status, dict)
        assert status["older_source_keys"] > 0
        assert service.run("keys", "rotate", "--as", "alice").returncode == 0
        assert service.run("keys", "rewrap", "--as", "alice").returncode == 0
        found = service.json("search", "lighthouse", "--as", "alice")
        assert isinstance(found, dict)
        assert len(found["hits"]) == 2
        document = found["hits"][0]["chunk"]["document"]["document_id"]
        asked = service.json("keys", "shred", document, "--yes", "--as", "alice")
        assert isinstance(asked, dict)
        assert document in service.run("keys", "requests", "--as", "carol").stdout.replace("\n", "")
        approval = ("keys", "approve", asked["request_id"], document, "--yes")
        refused = service.run(*approval, "--as", "alice")
        assert (refused.returncode, "another person" in refused.stderr) == (1, True), refused.stderr
        done = service.run(*approval, "--as", "carol")
        assert done.returncode == 0, done.stderr
        assert "asked for by people/u-1001, approved by people/u-1004" in done.stdout

    settings.write_text(settings.read_text().replace(f", previous: {FILE}", ""))
    (folder / "keys" / "remit.kek").unlink()
    with served(folder, env) as service:
        status = service.json("keys", "status", "--as", "alice")
        assert isinstance(status, dict)
        assert status["older_source_keys"] == 0
        left = service.json("search", "lighthouse", "--as", "alice")
        assert isinstance(left, dict)
        assert len(left["hits"]) == 1
        rotated = service.run("keys", "rotate", "--as", "alice")
        assert rotated.returncode == 0, rotated.stderr
        assert "was set aside" in rotated.stdout
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not any(secret.encode() in written for secret in (PIN, TOKEN))
