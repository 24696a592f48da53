"""Secrets that open with the service's keys: sealed files and fields in Vault, and that none of any form is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.registry import OptionError, build, build_directory
from connectors.secret import SecretError
from service import settings
from service.errors import StartError
from service.keys import Custody, KeyStore, ProviderError, create_key, open_provider
from service.keys.sealed import SealedSecret, seal_secret
from service.sections import initial, secret_options
from service.settings import Settings, SettingsError
from tests.service.test_cli import lay_out, remit, served
from tests.support.vault_stub import Vault, vault

CANARY = "canary-7f3a9c51"

SHARE = """
sources:
  - name: share
    kind: smb
    server: files.example
    share: docs
    username: remit
    domain_sid: S-1-5-21-1-2-3
    PASSWORD
"""


def configured(folder: Path, password: str) -> Settings:
    """Settings with one share whose password is named so."""
    if not (folder / "remit.yaml").exists():
        initial.write(folder)
    text = (folder / "remit.yaml").read_text().partition("\nsources:")[0]
    (folder / "remit.yaml").write_text(text + SHARE.replace("PASSWORD", password))
    return settings.load(folder / "remit.yaml")


def read(config: Settings) -> str:
    """What the share's password is."""
    (source,) = config.sources
    value = source.options["password_sealed" if "password_sealed" in source.options else "password_vault"]
    assert not isinstance(value, str)
    found = value.read()  # type: ignore[attr-defined]
    assert isinstance(found, str)
    return found


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Vault]:
    (tmp_path / "vault").mkdir()
    with vault(tmp_path / "vault") as made:
        yield made


def test_a_sealed_secret_opens_with_the_key_alone(tmp_path: Path) -> None:
    """Its file is private and tells nothing; connectors take it; changed or under another key it is refused."""
    config = configured(tmp_path, "password_sealed: ./share.sealed")
    provider = open_provider(config.keys)
    blob = tmp_path / "share.sealed"
    seal_secret(provider, CANARY, blob, replace=False)

    bound = secret_options.bound(config)

    assert read(bound) == CANARY
    assert CANARY not in repr(bound)
    assert blob.stat().st_mode & 0o777 == 0o600
    assert CANARY.encode() not in blob.read_bytes()
    build("smb", bound.sources[0].options, tmp_path).close()
    with pytest.raises(OptionError, match="not there"):
        build("smb", config.sources[0].options, tmp_path)
    good = blob.read_text()
    for broken in (good[:-6] + "AAAA\n", good.replace("sealed secret 1", "sealed secret 2"), "", CANARY):
        blob.write_text(broken)
        with pytest.raises(SecretError) as caught:
            read(secret_options.bound(config))
        assert CANARY not in str(caught.value)
    blob.write_text(good)
    (tmp_path / "keys" / "remit.kek").unlink()
    create_key(config.keys)
    with pytest.raises(SecretError, match="made with key"):
        read(secret_options.bound(config))


def test_a_rotation_keeps_the_key_that_a_secret_is_sealed_with(tmp_path: Path) -> None:
    """Until it is sealed again; then the next one sets the older key aside."""
    config = configured(tmp_path, "password_sealed: ./share.sealed")
    provider = open_provider(config.keys)
    first = provider.key_id
    seal_secret(provider, CANARY, tmp_path / "share.sealed", replace=False)
    bound = secret_options.bound(config, lambda: provider)
    store = KeyStore(tmp_path / "keys.sqlite", provider)
    store.add_source("a")
    custody = Custody(store, lambda: secret_options.versions_in_use(bound))

    assert custody.rotate() == ()
    assert read(secret_options.bound(config)) == CANARY
    doctor = remit("doctor", folder=tmp_path)
    assert "is under an older key" in doctor.stdout.replace("\n", " ")
    done = remit("keys", "seal-secret", "share.sealed", "--again", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    second = provider.key_id
    assert custody.rotate() == (first,)
    assert provider.has(second)
    assert read(secret_options.bound(config)) == CANARY

    (tmp_path / "share.sealed").write_text("lost")
    with pytest.raises(ProviderError, match="cannot be found out"):
        custody.rotate()
    assert provider.has(second)
    store.close()


def test_a_secret_in_vault_is_read_by_its_field(stub: Vault, tmp_path: Path) -> None:
    """Where the key is in Vault too; absent, denied and empty are sentences; a second read asks nobody."""
    config = configured(tmp_path, "password_vault: 'secret/remit/share#password'")
    config = replace(config, keys=replace(config.keys, provider=stub.settings))
    create_key(config.keys)
    stub.kv["remit/share"] = {"password": CANARY, "other": ""}

    bound = secret_options.bound(config)
    assert read(bound) == CANARY
    asked = len(stub.asked)
    assert read(bound) == CANARY
    assert len(stub.asked) == asked
    assert CANARY not in repr(bound)
    moving = replace(config, keys=replace(config.keys, previous=configured(tmp_path, "password_env: X").keys.provider))
    assert read(secret_options.bound(moving)) == CANARY, "while the key moves from a file, too"

    for change in ({"remit/share": {"other": "x"}}, {"remit/share": {"password": ""}}, {}):
        stub.kv.clear()
        stub.kv.update(change)
        with pytest.raises(SecretError, match=r"does not exist|has no text in its field `password`"):
            read(secret_options.bound(config))
    stub.denied = {"secret/"}
    with pytest.raises(SecretError, match="its policy does not allow this"):
        read(secret_options.bound(config))


@pytest.mark.parametrize(
    ("password", "said"),
    [
        (f"password: {CANARY}", "`password`: a secret does not stand in the settings: name it by `password_file`"),
        (f"password_vault: {CANARY}", "expected a field in Vault such as `secret/remit/share#password`"),
        ("password_vault: 'secret/../sys#x'", "expected a field in Vault"),
        ("password_sealed: [a]", "expected text that says where the secret is"),
        (f"password_sealed: ./none\n    password: {CANARY}", "a secret does not stand in the settings"),
    ],
)
def test_a_secret_that_is_not_named_rightly_is_refused_with_its_line(tmp_path: Path, password: str, said: str) -> None:
    """File, line and key, and never what was written there."""
    from service.app.opening import connector

    config = configured(tmp_path, password)

    with pytest.raises(SettingsError, match=r"remit\.yaml:\d+: sources\[0\]\.password") as caught:
        connector(secret_options.bound(config).sources[0], tmp_path)

    assert said in str(caught.value)
    assert CANARY not in str(caught.value)


def test_vault_fields_need_the_key_in_vault(tmp_path: Path) -> None:
    """One sentence where the key is in a file."""
    config = configured(tmp_path, "password_vault: 'secret/remit/share#password'")

    with pytest.raises(SecretError, match=r"where `keys\.provider` is `vault`"):
        read(secret_options.bound(config))


def test_a_directory_takes_its_password_sealed(tmp_path: Path) -> None:
    """The option is read and checked as `password_file` is."""
    config = configured(tmp_path, "password_sealed: ./share.sealed")
    provider = open_provider(config.keys)
    (tmp_path / "ca.pem").write_text("no certificate")
    options: dict[str, object] = {
        "servers": ["ldaps://dc.example"],
        "ca": "ca.pem",
        "bind": "cn=reader",
        "password_sealed": SealedSecret(tmp_path / "none.sealed", lambda: provider),
    }

    with pytest.raises(OptionError) as caught:
        build_directory("corp", "active_directory", options, tmp_path)
    assert caught.value.option == "ca"
    with pytest.raises(OptionError, match="a secret does not stand in the settings"):
        build_directory("corp", "active_directory", options | {"password": CANARY}, tmp_path)


def test_the_command_seals_what_it_is_given(tmp_path: Path) -> None:
    """From standard input, once; nothing is overwritten without being asked, and nothing empty is sealed."""
    config = configured(tmp_path, "password_sealed: ./share.sealed")
    blob = tmp_path / "share.sealed"

    done = remit("keys", "seal-secret", "share.sealed", folder=tmp_path, stdin=f"{CANARY}\n")
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert read(secret_options.bound(config)) == CANARY
    first = blob.read_bytes()
    done = remit("keys", "seal-secret", "share.sealed", folder=tmp_path, stdin="other")
    assert (done.returncode, "--replace" in done.stderr) == (2, True), done.stderr
    assert blob.read_bytes() == first
    done = remit("keys", "seal-secret", "share.sealed", "--replace", folder=tmp_path, stdin="other")
    assert done.returncode == 0, done.stderr
    assert read(secret_options.bound(config)) == "other"
    done = remit("keys", "seal-secret", "empty.sealed", folder=tmp_path, stdin="\n")
    assert done.returncode == 2
    assert not (tmp_path / "empty.sealed").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_secret_of_any_form_is_written(tmp_path: Path) -> None:
    """A service with secrets by file, environment and key runs and logs; none is in the catalog, a log or an answer."""
    folder = tmp_path / "remit"
    folder.mkdir()
    lay_out(folder)
    forms = {"file": f"{CANARY}-file", "env": f"{CANARY}-env", "sealed": f"{CANARY}-sealed"}
    (folder / "share.password").write_text(forms["file"])
    (folder / "share.password").chmod(0o600)
    done = remit("keys", "seal-secret", "share.sealed", folder=folder, stdin=forms["sealed"])
    assert done.returncode == 0, done.stderr
    values = {"file": "./share.password", "env": "SHARE_PASSWORD", "sealed": "./share.sealed"}
    text = (folder / "remit.yaml").read_text()
    for form, value in values.items():
        one = SHARE.partition("sources:\n")[2].replace("name: share", f"name: share-{form}")
        one = one.replace("files.example", "127.0.0.1").replace("PASSWORD", f"password_{form}: {value}")
        text += one
    (folder / "remit.yaml").write_text(text)
    env = {"SHARE_PASSWORD": forms["env"]}

    said = ""
    with served(folder, env) as service:
        assert service.run("source", "sync", "company", "--as", "alice").returncode == 0
        for form in forms:
            for command in (["source", "check"], ["source", "sync"])[form != "sealed" :]:
                done = service.run(*command, f"share-{form}", "--as", "alice")
                assert done.returncode == 1, done.stderr
                said += done.stdout + done.stderr
        said += str(service.json("source", "list", "--as", "alice"))
    doctor = remit("doctor", folder=folder, env=env)
    said += doctor.stdout + doctor.stderr

    written = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert (folder / "log").read_text()
    assert CANARY not in said
    assert [path.name for path, data in written.items() if CANARY.encode() in data] == ["share.password"]
    assert os.environ.get("SHARE_PASSWORD") is None


def test_a_wrong_place_is_an_error_of_the_start(tmp_path: Path) -> None:
    """A service does not start with a secret that it cannot name."""
    configured(tmp_path, f"password: {CANARY}")

    done = remit("serve", folder=tmp_path)

    assert done.returncode == 2
    assert "a secret does not stand in the settings" in done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert issubclass(SettingsError, StartError)
