"""How commands reach the running service: its address, TLS, and the token that says who is asking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import StartError
from service.settings import Settings, load

if TYPE_CHECKING:
    from remit.client import AdminClient, AuditorClient, Client

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
    """

    config: Path
    address: str
    ca: Path | None

    @cached_property
    def settings(self) -> Settings:
        """The settings. Raises SettingsError."""
        return load(self.config)

    def client(self, token: str, person: str) -> Client:
        """A client of the callers' listener. Raises StartError."""
        from remit.client import Client

        where = self.address or str(self.settings.listen.callers)
        return Client(where, token=self._token(token, person), **self._security())

    def admin(self, token: str, person: str) -> AdminClient:
        """A client of the administrators' listener. Raises StartError."""
        from remit.client import AdminClient

        where = self.address or str(self.settings.listen.administrators)
        return AdminClient(where, token=self._token(token, person), **self._security())

    def auditor(self, token: str, person: str) -> AuditorClient:
        """A client of the audit log on the administrators' listener. Raises StartError."""
        from remit.client import AuditorClient

        where = self.address or str(self.settings.listen.administrators)
        return AuditorClient(where, token=self._token(token, person), **self._security())

    def _token(self, token: str, person: str) -> str | Callable[[], str]:
        if token and person:
            raise StartError("give either a token or `--as`, not both")
        if token:
            return token
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
        if self.ca is None and (not self.address or self.config.exists()) and self.settings.listen.tls is None:
            return {"insecure_loopback": True}
        try:
            return {"root_certificates": self.ca.read_bytes() if self.ca is not None else None}
        except OSError as err:
            raise StartError(f"{self.ca} cannot be read: {err.strerror}") from err


if TYPE_CHECKING:
    from typing import TypedDict

    class _Security(TypedDict, total=False):
        insecure_loopback: bool
        root_certificates: bytes | None


def context(ctx: typer.Context) -> Context:
    """The options before the command."""
    found = ctx.obj
    assert isinstance(found, Context)
    return found
