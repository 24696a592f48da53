"""Files that hold one secret: a password, or a private key."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from connectors.directories.base import DirectoryUnavailableError

_MAX_BYTES: Final = 64 * 1024


def read_secret(path: Path) -> str:
    """Return the secret, without the line's end. Raises DirectoryUnavailableError: empty, or open to everybody."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
            mode = path.stat().st_mode
        text = data.decode().rstrip("\r\n")
    except OSError as err:
        raise DirectoryUnavailableError(f"the password file {path} cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise DirectoryUnavailableError(f"the password file {path} is not text") from err
    if mode & 0o007:
        raise DirectoryUnavailableError(f"the password file {path} is open to everybody: `chmod o-rwx` it")
    if not text.strip() or "\0" in text or len(data) > _MAX_BYTES:
        raise DirectoryUnavailableError(f"the password file {path} holds no password")
    return text
