"""A SoftHSM token in a temporary folder: a PKCS#11 library like that of a hardware security module."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest import mock

from connectors.secret import FileSecret
from service.sections.keys import Pkcs11Provider
from tests.support.needs import need

LIBRARY: Final = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN: Final = "4711-pin"


@dataclass(frozen=True)
class Token:
    """An initialized token. tokens: the folder that stands for the device."""

    settings: Pkcs11Provider
    tokens: Path

    def pull(self) -> None:
        """Take it out."""
        self.tokens.rename(self.tokens.with_name("pulled"))


@contextmanager
def token(folder: Path) -> Iterator[Token]:
    """Make one in `folder`. Skips where SoftHSM is not installed."""
    need(LIBRARY.exists(), "SoftHSM is missing: run deploy/test-deps.sh, or install `softhsm2`")
    tokens, config, pin = folder / "tokens", folder / "softhsm2.conf", folder / "pin"
    tokens.mkdir()
    config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin.write_text(f"{PIN}\n")
    pin.chmod(0o600)
    with mock.patch.dict(os.environ, {"SOFTHSM2_CONF": str(config)}):
        name = f"remit-{os.urandom(4).hex()}"
        made = ("--init-token", "--free", "--label", name, "--pin", PIN, "--so-pin", "0815-officer")
        subprocess.run(["softhsm2-util", *made], check=True, capture_output=True)
        _reload()
        yield Token(Pkcs11Provider(LIBRARY, name, "remit", FileSecret(pin)), tokens)


def _reload() -> None:
    """Let the library read its configuration again: it is one for the process, and every test has its own."""
    import pkcs11

    pkcs11.lib(str(LIBRARY)).reinitialize()
