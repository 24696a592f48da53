"""Secrets by reference: a file that nobody else may read, or a sentence that never says what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.registry import OptionError, Options
from connectors.secret import EnvSecret, FileSecret, OptionSecret, SecretError, read_secret


@pytest.mark.parametrize(
    ("held", "mode", "said"),
    [
        (b"canary\n", 0o644, "open to everybody"),
        (b"\n", 0o600, "holds no secret"),
        (b"canary\0x", 0o600, "holds no secret"),
        (b"canary" * 20_000, 0o600, "holds no secret"),
        (b"canary\xff", 0o600, "is not text"),
    ],
)
def test_a_file_that_is_no_secret_is_refused(tmp_path: Path, held: bytes, mode: int, said: str) -> None:
    """Open, empty, too long or binary: one sentence without the content; a connector's names its option."""
    path = tmp_path / "password"
    path.write_bytes(held)
    path.chmod(mode)

    with pytest.raises(SecretError, match=said) as caught:
        read_secret(path)
    with pytest.raises(SecretError, match=rf"^`password_file`: .*{said}"):
        OptionSecret("password_file", FileSecret(path)).read()

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_secret_is_read_without_its_newline(tmp_path: Path, mode: int) -> None:
    """What a group of the service may read is no longer a secret of one account, but that is for its owner to say."""
    path = tmp_path / "password"
    path.write_text("grüße ü\r\n")
    path.chmod(mode)

    assert FileSecret(path).read() == read_secret(path) == "grüße ü"


def options(tmp_path: Path, **values: object) -> Options:
    return Options("smb", values, tmp_path, (), ("password",))


def test_a_secret_is_named_by_one_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file relative to the settings, a variable, or something that the service opens; errors name the option."""
    (tmp_path / "secret").write_text("from a file\n")
    (tmp_path / "secret").chmod(0o600)
    monkeypatch.setenv("REMIT_TEST_SECRET", "from the environment")

    assert options(tmp_path, password_file="secret").secret("password").read() == "from a file"
    assert options(tmp_path, password_env="REMIT_TEST_SECRET").secret("password").read() == "from the environment"
    opened = EnvSecret("REMIT_TEST_SECRET")
    assert options(tmp_path, password_sealed=opened).secret("password").read() == "from the environment"
    assert options(tmp_path).optional_secret("password") is None
    with pytest.raises(SecretError, match="`password_env`: there is no environment variable `REMIT_NONE`"):
        options(tmp_path, password_env="REMIT_NONE").secret("password").read()


@pytest.mark.parametrize(
    ("values", "option", "said"),
    [
        ({"password": "canary"}, "password", "a secret does not stand in the settings: name it by `password_file`"),
        ({"password": 12345}, "password", "a secret does not stand in the settings"),
        ({"password": EnvSecret("X")}, "password", "a secret does not stand in the settings"),
        ({}, "password_file", "`password_file` is missing"),
        ({"password_file": "a", "password_env": "B"}, "password_env", "there is `password_file` too"),
        ({"password_sealed": "a"}, "password_sealed", "opens with the service's keys, which are not there"),
        ({"password_vault": "canary"}, "password_vault", "opens with the service's keys, which are not there"),
        ({"passwort_file": "canary"}, "passwort_file", "unknown option `passwort_file`"),
    ],
)
def test_a_secret_that_is_not_named_rightly_is_refused(
    tmp_path: Path, values: dict[str, object], option: str, said: str
) -> None:
    """In the settings itself, not at all, twice, or where nobody opens it; the sentence does not say what it is."""
    with pytest.raises(OptionError, match=said) as caught:
        options(tmp_path, **values).secret("password")

    assert caught.value.option == option
    assert "canary" not in str(caught.value)
    assert "12345" not in str(caught.value)
