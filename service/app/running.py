"""The service while it runs: from its first call to its last."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import structlog

from service import condition
from service.api import tls
from service.api.evidence import LoggedCalls
from service.api.health import Health
from service.api.server import Server
from service.audit import AuditLog
from service.authn import Authenticator
from service.configuration import Configuration
from service.settings import Address, Settings
from service.sync.source_runs import SourceRuns

log = structlog.get_logger()

_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the service can be reached, with the ports that the system gave."""

    callers: Address
    administrators: Address
    services: Address | None


class App:
    """Everything that one process serves. Open it with `open_app`."""

    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator,
        server: Server,
        health: Health,
        audit: AuditLog,
        calls: LoggedCalls,
        runs: SourceRuns,
        parts: Mapping[str, condition.Failure],
        configuration: Configuration,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._server = server
        self._health = health
        self._audit = audit
        self._calls = calls
        self._runs = runs
        self._parts = parts
        self._configuration = configuration
        self.closing = ExitStack()

    async def serve(self, ready: Callable[[Listening], None]) -> None:
        """Listen until SIGTERM or SIGINT, then finish what is under way. SIGHUP reads the settings again.

        ready: called once calls are accepted. Raises StartError when an address cannot be used.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, self._configuration.reload)
        listen = self._settings.listen
        certificates = None if listen.tls is None else tls.Certificates(listen.tls)
        bound = await self._server.start(listen.callers, listen.administrators, certificates, listen.services)
        beside = [
            loop.create_task(
                self._health.watch(
                    lambda: self._audit.failure or self._authenticator.failure,
                    parts=self._parts,
                )
            ),
            loop.create_task(self._authenticator.follow()),
            loop.create_task(self._calls.summarize()),
        ]
        try:
            self._runs.begin()
            ready(Listening(*bound))
            await ended.wait()
            log.info("stopping")
            await self._health.close()
            # Runs before the listeners: they write for seconds, and a watch of one ends with it. Meanwhile whoever asks
            # for health is told, and everybody else is still answered.
            told = loop.create_task(asyncio.sleep(self._settings.listen.drain.total_seconds()))
            await loop.run_in_executor(None, self._runs.close)
            await told
        finally:
            for task in beside:
                task.cancel()
            await self._server.stop(_GRACE_S)
            await self._calls.flush()

    def close(self) -> None:
        """Close everything, the last opened first."""
        self.closing.close()
