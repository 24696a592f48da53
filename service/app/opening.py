"""Opens the service, part by part."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import acl
import connectors
import service
from connectors import registry
from connectors.base import Connector
from service.app.ahead import Ahead
from service.app.answering import open_answering
from service.app.deciding import open_deciding
from service.app.ground import open_ground
from service.app.indexes import open_indexes
from service.app.running import App
from service.app.syncing import open_syncing
from service.authn import Authenticator
from service.configuration import Make
from service.embed.embedder import Embedder, open_embedder
from service.errors import StartError
from service.settings import Settings, SettingsError, SourceSettings


async def open_app(settings: Settings, connect: Make | None = None) -> App:
    """Open the data folder and everything in it, verify the audit log, and bring the index up to date.

    connect: in place of the registry of connectors.
    Raises StartError: one sentence for people.
    """
    _check_installation()
    authenticator = Authenticator(
        settings.issuers, settings.service_accounts, frozenset().union(*settings.roles.values())
    )
    await authenticator.open()
    with ExitStack() as closing:
        app = _assemble(settings, authenticator, closing, connect or connector)
        app.closing = closing.pop_all()
    return app


def _assemble(settings: Settings, authenticator: Authenticator, closing: ExitStack, make: Make) -> App:
    # The model and the audit log, all of which is verified, take the longest: the others are opened meanwhile.
    model = Ahead(lambda opened: _embedder(settings, opened), closing)
    ground = open_ground(settings, make, closing)
    embedder = model.get()
    ground.catalog.bind_model(embedder.digest, embedder.dimension)
    indexes = open_indexes(ground, embedder.dimension, closing)
    deciding = open_deciding(ground, closing)
    syncing = open_syncing(ground, embedder, indexes, closing)
    ground.configuration.follow(
        ground.catalog.add_source,
        ground.audit.append_blocking,
        # Before the roles: who becomes privileged is nobody's to act for from then on.
        lambda new: authenticator.privilege(frozenset().union(*new.roles.values())),
        deciding.use,
        syncing.use,
        refuse=syncing.too_short,
    )
    syncing.removals.start()
    deciding.warm()
    return open_answering(authenticator, ground, deciding, embedder, indexes, syncing, closing)


def _embedder(settings: Settings, closing: ExitStack) -> Embedder:
    embedder = open_embedder(settings.embedding)
    closing.callback(embedder.close)
    return embedder


def connector(source: SourceSettings, base: Path) -> Connector:
    """Make the connector of a source. Raises SettingsError with the option's place."""
    try:
        return registry.build(source.kind, source.options, base, source.name)
    except registry.OptionError as err:
        raise SettingsError(f"{source.place(err.option)}: {err}") from err


def _check_installation() -> None:
    """The packages have short names: make sure that nobody else's answer to them."""
    home = Path(service.__file__ or "").resolve().parent.parent
    for package in (acl, connectors):
        found = Path(package.__file__ or "").resolve().parent.parent
        if found != home:
            raise StartError(
                f"the package `{package.__name__}` comes from {found}, not from Remit in {home}: "
                "install Remit into an environment of its own"
            )
