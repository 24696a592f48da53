"""A whole service moves its key-encryption key from a file to a token and on to Vault, through the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connectors.secret import FileSecret
from service.sections.keys import Pkcs11Provider, VaultProvider
from tests.service.test_cli import Running, lay_out, remit, served
from tests.support.softhsm import PIN, token
from tests.support.vault_stub import TOKEN, vault

WAS = "{provider: file, path: ./keys/remit.kek, store: ./keystore}"
FILE = "{provider: file, path: ./keys/remit.kek}"


def _pkcs11(settings: Pkcs11Provider) -> str:
    assert isinstance(settings.pin, FileSecret)
    return f"{{provider: pkcs11, library: {settings.library}, token: {settings.token}, pin_file: {settings.pin.path}"


def _vault(settings: VaultProvider) -> str:
    assert isinstance(settings.login, FileSecret)
    return f"{{provider: vault, address: '{settings.address}', ca: {settings.ca}, token_file: {settings.login.path}"


@pytest.mark.slow
@pytest.mark.live
@pytest.mark.timeout(400)
def test_a_service_moves_its_key_and_goes_on(tmp_path: Path) -> None:
    """Status, rotation, re-wrapping and shredding work with each; what held the key before is not needed any more."""
    for name in ("remit", "hsm", "vault"):
        (tmp_path / name).mkdir()
    folder = tmp_path / "remit"
    lay_out(folder)
    with token(tmp_path / "hsm") as hsm, vault(tmp_path / "vault") as stub:
        env = {"SOFTHSM2_CONF": os.environ["SOFTHSM2_CONF"]}
        on_token, in_vault = _pkcs11(hsm.settings), _vault(stub.settings)
        with served(folder, env) as service:
            done = service.run("source", "sync", "company", "--as", "alice")
            assert done.returncode == 0, done.stderr

        move(folder, env, WAS, f"{on_token}, previous: {FILE}}}")
        with served(folder, env) as service:
            assert older(service) > 0
            rotated_and_rewrapped(service)

        (folder / "keys" / "remit.kek").unlink()
        move(folder, env, f"{on_token}, previous: {FILE}}}", f"{in_vault}, previous: {on_token}}}}}")
        with served(folder, env) as service:
            assert older(service) > 0
            rotated_and_rewrapped(service)
            hsm.pull()
            assert older(service) == 0
            shredded_by_two(service)
            again = service.run("keys", "rotate", "--as", "alice")
            assert "was set aside" in again.stdout, again.stderr
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not any(secret.encode() in written for secret in (PIN, TOKEN))


def move(folder: Path, env: dict[str, str], before: str, after: str) -> None:
    """Name another provider, and make its key."""
    settings = folder / "remit.yaml"
    text = settings.read_text()
    assert text.count(f"keys: {before}") == 1
    settings.write_text(text.replace(f"keys: {before}", f"keys: {after}"))
    made = remit("keys", "create", folder=folder, env=env)
    assert made.returncode == 0, made.stderr


def older(service: Running) -> int:
    """How many keys of sources are under another key."""
    status = service.json("keys", "status", "--as", "alice")
    assert isinstance(status, dict)
    return int(status["older_source_keys"])


def rotated_and_rewrapped(service: Running) -> None:
    """Nothing is under an older key then, and everything is found."""
    for command in ("rotate", "rewrap"):
        done = service.run("keys", command, "--as", "alice")
        assert done.returncode == 0, done.stderr
    assert older(service) == 0


def shredded_by_two(service: Running) -> None:
    """One asks and cannot approve, another one approves; one document of two is left."""
    found = service.json("search", "lighthouse", "--as", "alice")
    assert isinstance(found, dict)
    assert len(found["hits"]) == 2
    document = found["hits"][0]["chunk"]["document"]["document_id"]
    asked = service.json("keys", "shred", document, "--yes", "--as", "alice")
    assert isinstance(asked, dict)
    approval = ("keys", "approve", asked["request_id"], document, "--yes")
    refused = service.run(*approval, "--as", "alice")
    assert (refused.returncode, "another person" in refused.stderr) == (1, True), refused.stderr
    done = service.run(*approval, "--as", "carol")
    assert done.returncode == 0, done.stderr
    assert "asked for by people/u-1001, approved by people/u-1004" in done.stdout
    left = service.json("search", "lighthouse", "--as", "alice")
    assert isinstance(left, dict)
    assert len(left["hits"]) == 1
