"""The server of a share as a judge: it is asked by each person's own login to open each file, and nothing is read.

A login is a person's name and a file with their password. The name is taken in the form in which the settings name the
account of the source: `alice` beside `remit@CORP.EXAMPLE` logs in as `alice@CORP.EXAMPLE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from connectors.errors import ConnectorError
from connectors.registry import OptionError, smb_login
from connectors.secret import FileSecret, Secret, SecretError
from service.errors import StartError
from service.prove.report import Check, Result
from service.settings import Settings, SourceSettings

if TYPE_CHECKING:
    from connectors.smb.client import Share

_SHOWN: Final = 10


def logins_of(options: Sequence[str]) -> dict[str, Secret]:
    """Read `NAME=FILE`, one for each person. Raises StartError."""
    found: dict[str, Secret] = {}
    for option in options:
        name, separator, path = option.partition("=")
        if not name or not separator or not path:
            raise StartError("`--login`: expected `NAME=FILE`, a login name and the file that holds its password")
        if name in found:
            raise StartError(f"`--login`: `{name}` is there twice")
        found[name] = FileSecret(Path(path))
    return found


def asked(source: str, people: Sequence[str], named: Sequence[str], logins: Mapping[str, Secret]) -> Check:
    """Whether everybody who was named can be asked about; who only stands in a directory is counted."""
    missing = sorted(set(named) - set(logins))
    others = len(set(people) - set(logins) - set(named))
    said = f"asked as {len(logins)} people; {others} more of the directories have no login, and nothing is said of them"
    if missing:
        names = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
        said = f"not asked: {names}: give each a `--login NAME=FILE`; {said}"
    return Check(
        f"`{source}`: the server is asked as everybody who is named",
        Result.NOT_RUN if missing else Result.PASSED,
        said,
        {"asked": len(logins), "not_asked": len(missing), "others": others},
    )


class Server:
    """Answers about the people who have a login. See `service.prove.oracle.Judge`."""

    called: Final = "the server"

    def __init__(self, settings: Settings, source: SourceSettings, logins: Mapping[str, Secret]) -> None:
        """Raises StartError."""
        from connectors.smb.rules import BITS

        try:
            self._login, rights = smb_login(source.options, settings.base)
        except OptionError as err:
            raise StartError(f"{source.place(err.option)}: {err}") from err
        self._access: Final = BITS[rights]
        self._logins: Final = logins
        self.people: Final = sorted(logins)

    def answers(self, locations: Sequence[str]) -> list[str]:
        """See `service.prove.oracle.Judge`."""
        return [self._answers(name, locations) for name in self.people]

    def _answers(self, name: str, locations: Sequence[str]) -> str:
        from connectors.smb.client import NotAdmittedError, Share

        login = replace(self._login, username=username(name, self._login.username))
        try:
            password = self._logins[name].read()
            with closing(Share(replace(login, password=password))) as share:
                return "".join(self._answer(share, name, location) for location in locations)
        except NotAdmittedError:
            return "0" * len(locations)
        except ConnectorError as err:
            raise StartError(f"the server cannot be asked as `{name}`: {err.detail}") from err
        except SecretError as err:
            raise StartError(f"`--login` of `{name}`: {err}") from err

    def _answer(self, share: Share, name: str, location: str) -> str:
        from connectors.smb.client import NameFailedError

        try:
            return "1" if share.opens(location.replace("/", "\\"), self._access) else "0"
        except NameFailedError as err:
            # A server may also call a name unknown that it hides: neither yes nor no.
            if err.reason == "vanished":
                return "?"
            raise StartError(
                f"the server says neither yes nor no of `{location}` to `{name}` ({err.reason}): try again"
            ) from err


def username(name: str, own: str) -> str:
    """The name as the server knows it, by how the source's own account is named."""
    if "@" in name or "\\" in name:
        return name
    domain, separator, _ = own.partition("\\")
    if separator:
        return domain + separator + name
    return f"{name}@{own.rpartition('@')[2]}" if "@" in own else name
