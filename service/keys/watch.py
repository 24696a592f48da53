"""Looks whether the key-encryption key could be used now, beside everybody who goes on with the keys that are open."""

from __future__ import annotations

import threading
from typing import Final

import structlog

from service.keys.provider import KeyProvider, ProviderError

log = structlog.get_logger()

_EVERY_S: Final = 60.0


class KeyWatch:
    """A thread that asks the provider again and again. Nothing that is served waits for it."""

    def __init__(self, provider: KeyProvider, every_s: float = _EVERY_S) -> None:
        self._provider = provider
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)
        self.failure: str | None = None
        """Why the key cannot be used; None while it can."""

    def start(self) -> None:
        """Begin. The provider was opened a moment ago, so that the first question waits its turn."""
        self._thread.start()

    def close(self) -> None:
        """End. A question that is under way is not waited for: the provider's own time-out ends it."""
        self._ended.set()

    def look(self) -> None:
        """Ask once."""
        try:
            self._provider.check()
        except ProviderError as err:
            if self.failure is None:
                log.error("key_provider_failed", detail=str(err))
            self.failure = str(err)
        else:
            if self.failure is not None:
                log.info("key_provider_answers")
            self.failure = None

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.look()
