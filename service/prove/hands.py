"""Whose hands a proof writes with: logins that whoever runs it gives for this, never those of the settings.

What is not given here is not written to: a share, a database and a directory are changed by accounts that are named on
the command line, and the accounts by which the service reads stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.secret import FileSecret, Secret
from service.errors import StartError


@dataclass(frozen=True, slots=True)
class Login:
    """An account, and the file with its password."""

    name: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Hands:
    """What may be written by whom.

    share: an account of a share's server. database: where the URL of a connection is that may write.
    directory: an account of the directory called `directory_name`, or of the only one that is asked over LDAP.
    unit: where a throw-away group may be made; group: a group out of which the person may be taken; at most one.
    without: kinds of changes that are not tried, on purpose.
    """

    share: Login | None = None
    database: Secret | None = None
    directory: Login | None = None
    directory_name: str = ""
    unit: str = ""
    group: str = ""
    without: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Raises StartError."""
        if self.unit and self.group:
            raise StartError("give `--directory-unit` or `--directory-group`, not both")
        if (self.unit or self.group or self.directory_name) and self.directory is None:
            raise StartError("who changes the directory? Give `--directory-login NAME=FILE`")
        if self.directory is not None and not (self.unit or self.group):
            raise StartError(
                "`--directory-login`: where may it write? Name `--directory-unit DN` for a throw-away group, or "
                "`--directory-group DN`, a group out of which the person is taken and put back"
            )


def hands_of(
    share: str, database: Path | None, directory: str, name: str, unit: str, group: str, without: Sequence[str]
) -> Hands:
    """Read the options. Raises StartError."""
    return Hands(
        share=_login("--share-login", share) if share else None,
        database=FileSecret(database) if database is not None else None,
        directory=_login("--directory-login", directory) if directory else None,
        directory_name=name,
        unit=unit,
        group=group,
        without=frozenset(without),
    )


def _login(option: str, text: str) -> Login:
    # From the right: a DN has such signs itself.
    name, separator, path = text.rpartition("=")
    if not name or not separator or not path:
        raise StartError(f"`{option}`: expected `NAME=FILE`, an account and the file that holds its password")
    return Login(name, FileSecret(Path(path)))
