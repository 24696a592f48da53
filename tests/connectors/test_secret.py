"""Secrets by reference: a file that nobody else may read, or a sentence that never says what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.errors import FatalError
from connectors.secret import SecretError, read_password, read_secret


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
    with pytest.raises(FatalError, match=rf"^`password_file`: .*{said}"):
        read_password(path)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_secret_is_read_without_its_newline(tmp_path: Path, mode: int) -> None:
    """What a group of the service may read is no longer a secret of one account, but that is for its owner to say."""
    path = tmp_path / "password"
    path.write_text("grüße ü\r\n")
    path.chmod(mode)

    assert read_password(path) == read_secret(path) == "grüße ü"
