"""How commands reach the running service: its address, TLS, and the token that says who is asking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import StartError
from service.settings import Address, Settings, load

if TYPE_CHECKING:
    from remit.client import AdminClient, AuditorClient, Client, ReviewClient

Token = Annotated[str, typer.Option("--token", envvar="REMIT_TOKEN", help="An access token.", show_default=False)]
As = Annotated[
    str,
    typer.Option("--as", help="Mint a token for this person with the development issuer's key.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@dataclass(frozen=True)
class Context:
    """What the options before the command say.

    address: host:port, or empty for that of the settings. ca: a PEM file to verify the server by, or None.
    certificate, key: PEM files of a service account's client certificate, or None.
    """

    config: Path
    address: str
    ca: Path | None
    certificate: Path | None = None
    key: Path | None = None

    @cached_property
    def settings(self) -> Settings:
        """The settings. Raises SettingsError."""
        return load(self.config)

    def client(self, token: str, person: str) -> Client:
        """A client of the callers' listener. Raises StartError."""
        from remit.client import Client

        where = self.address or str(self._services() or self.settings.listen.callers)
        return Client(where, token=self._token(token, person), **self._security())

    def admin(self, token: str, person: str) -> AdminClient:
        """A client of the administrators' listener. Raises StartError."""
        from remit.client import AdminClient

        where = self.address or str(self._services() or self.settings.listen.administrators)
        return AdminClient(where, token=self._token(token, person), **self._security())

    def auditor(self, token: str, person: str) -> AuditorClient:
        """A client of the audit log on the administrators' listener. Raises StartError."""
        from remit.client import AuditorClient

        where = self.address or str(self._services() or self.settings.listen.administrators)
        return AuditorClient(where, token=self._token(token, person), **self._security())

    def reviewer(self, token: str, person: str) -> ReviewClient:
        """A client for questions about the access of others. Raises StartError."""
        from remit.client import ReviewClient

        where = self.address or str(self._services() or self.settings.listen.administrators)
        return ReviewClient(where, token=self._token(token, person), timeout_s=600.0, **self._security())

    def _services(self) -> Address | None:
        return self.settings.listen.services if self.certificate is not None else None

    def _token(self, token: str, person: str) -> str | Callable[[], str] | None:
        if token and person:
            raise StartError("give either a token or `--as`, not both")
        if token:
            return token
        if not person and self.certificate is not None:
            return None
        if not person:
            raise StartError(
                "who is asking? Give a token with `--token` or in REMIT_TOKEN; "
                "with the development issuer `--as NAME` mints one"
            )
        from service import devissuer

        settings = self.settings
        devissuer.mint(settings, person)  # a mistake is told before anything is sent
        return lambda: devissuer.mint(settings, person)

    def _security(self) -> _Security:
        # Without settings nothing is known of the listeners: then TLS.
        known = not self.address or self.config.exists()
        if self.ca is None and self.certificate is None and known and self.settings.listen.tls is None:
            return {"insecure_loopback": True}
        found: _Security = {"root_certificates": None if self.ca is None else _read(self.ca)}
        if self.certificate is not None and self.key is not None:
            found["certificate"] = (_read(self.certificate), _read(self.key))
        elif self.certificate is not None or self.key is not None:
            raise StartError("`--certificate` and `--key` belong together")
        return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise StartError(f"{path} cannot be read: {err.strerror}") from err


if TYPE_CHECKING:
    from typing import TypedDict

    class _Security(TypedDict, total=False):
        insecure_loopback: bool
        root_certificates: bytes | None
        certificate: tuple[bytes, bytes]


def context(ctx: typer.Context) -> Context:
    """The options before the command."""
    found = ctx.obj
    assert isinstance(found, Context)
    return found
