"""The keys of one issuer as they are known now: from a file, or from what the issuer publishes.

Both fail closed: a file that cannot be used is no keys, and published keys count only up to an age. Verifying a token
never waits for a network; a token that names a key which is not known may ask, rarely, for a look at the newest.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

import structlog

from service.authn import keys
from service.authn.fetch import FetchError
from service.authn.keys import KeySetError, Trusted
from service.authn.subject import TokenRefusedError
from service.errors import StartError

log = structlog.get_logger()

REFRESH_S: Final = 600.0
"""How often published keys are fetched, so that a withdrawn key counts no longer than this."""

LEAST_PAUSE_S: Final = 60.0
"""The pause between two fetches, whoever asks and however they ended."""

_MAX_WAITING: Final = 64
_MAX_WAIT_S: Final = 10.0


class UnknownKeyError(TokenRefusedError):
    """The token's key is not known now; newer keys may have it."""


class KeySet(Protocol):
    """The keys of one issuer."""

    def key(self, key_id: str) -> Trusted:
        """Return the key of this id. Raises UnknownKeyError."""

    async def open(self) -> None:
        """Have the keys for the first time. Raises StartError."""

    async def follow(self) -> None:
        """Keep them fresh until cancelled."""

    async def renew(self) -> bool:
        """Wait until newer keys were looked for; False when that was done too recently, or too many wait."""

    def failure(self) -> str | None:
        """Why no token of this issuer verifies now; None while tokens do."""


class FileKeys:
    """Keys in a file, read again when it changes. Raises StartError when it cannot be used at the start."""

    def __init__(self, path: Path, algorithms: Collection[str]) -> None:
        self._path = path
        self._algorithms = algorithms
        self._seen: tuple[int, int, int, int] | None = None
        self._keys: Mapping[str, Trusted] = {}
        self._failure: str | None = None
        self._load()

    def key(self, key_id: str) -> Trusted:
        """See `KeySet`."""
        try:
            if self._stamp(os.stat(self._path)) != self._seen:  # noqa: PTH116  a third of the time, at every call
                self._load()
        except (OSError, StartError) as err:
            self._seen, self._keys, self._failure = None, {}, str(err)
            raise UnknownKeyError("no keys") from err
        if key_id not in self._keys:
            raise UnknownKeyError("unknown key")
        return self._keys[key_id]

    async def open(self) -> None:
        """Nothing to do: the file was read."""

    async def follow(self) -> None:
        """Nothing to do: every call looks at the file."""

    async def renew(self) -> bool:
        """Newer keys than those of the file there are none."""
        return False

    def failure(self) -> str | None:
        """See `KeySet`."""
        return self._failure

    def _load(self) -> None:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_mode & stat.S_IWOTH:
                    raise StartError(
                        f"the keys of the issuer, `{self._path}`, can be written by everybody, who could then be "
                        "anybody: `chmod o-w` it"
                    )
                data = file.read(keys.MAX_BYTES + 1)
        except FileNotFoundError as err:
            raise StartError(f"the keys of the issuer, `{self._path}`, do not exist") from err
        except OSError as err:
            raise StartError(f"the keys of the issuer, `{self._path}`, cannot be read: {err.strerror}") from err
        try:
            self._keys = keys.read(data, self._algorithms)
        except KeySetError as err:
            raise StartError(f"`{self._path}` {err}") from err
        self._failure = None
        # A file that was just written may be written again within the same tick of its clock: look again next time.
        settled = time.time_ns() - status.st_mtime_ns > 2_000_000_000
        self._seen = self._stamp(status) if settled else None

    @staticmethod
    def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _since_boot() -> float:
    # Unlike the monotonic clock it goes on while the machine sleeps, and unlike the system's nobody sets it back.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class PublishedKeys:
    """Keys that an issuer publishes. `follow` alone fetches them, so that there is never more than one fetch.

    1. Every REFRESH_S the set is fetched and takes the place of the one before, also when it has fewer keys.
    2. `renew` asks for a fetch at once; it starts at the earliest LEAST_PAUSE_S after the one before, and all who ask
       meanwhile share it. So nobody who invents ids of keys makes us ask the issuer more often.
    3. A fetch that fails changes nothing, and is repeated after LEAST_PAUSE_S.
    4. Keys older than `max_age` verify nothing.
    """

    def __init__(
        self,
        place: str,
        fetch: Callable[[], Awaitable[bytes]],
        algorithms: Collection[str],
        max_age: timedelta,
        *,
        clock: Callable[[], float] = _since_boot,
    ) -> None:
        """place: names the issuer in errors and logs. clock: seconds that nobody sets back."""
        self._place = place
        self._fetch = fetch
        self._algorithms = algorithms
        self._max_age_s = max_age.total_seconds()
        self._clock = clock
        self._keys: Mapping[str, Trusted] = {}
        self._fetched_at: float | None = None
        self._tried_at = float("-inf")
        self._failure: str | None = None
        self._wanted = asyncio.Event()
        self._done = asyncio.Condition()
        self._rounds = 0
        self._fetching = False
        self._waiting = 0

    def key(self, key_id: str) -> Trusted:
        """See `KeySet`."""
        if self._too_old():
            raise UnknownKeyError("no keys")
        if key_id not in self._keys:
            raise UnknownKeyError("unknown key")
        return self._keys[key_id]

    async def open(self) -> None:
        """See `KeySet`."""
        await self._round()
        if self._failure is not None:
            raise StartError(f"{self._place}: the keys of the issuer cannot be fetched: {self._failure}")

    async def follow(self) -> None:
        """See `KeySet`."""
        while True:
            pause = REFRESH_S if self._failure is None else LEAST_PAUSE_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            await self._round()

    async def renew(self) -> bool:
        """See `KeySet`."""
        due = self._fetching or self._wanted.is_set() or self._clock() - self._tried_at >= LEAST_PAUSE_S
        if not due or self._waiting >= _MAX_WAITING:
            return False
        before = self._rounds
        self._wanted.set()
        self._waiting += 1
        try:
            async with asyncio.timeout(_MAX_WAIT_S), self._done:
                await self._done.wait_for(lambda: self._rounds > before)
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True

    def failure(self) -> str | None:
        """See `KeySet`."""
        return (self._failure or "they are too old") if self._too_old() else None

    def _too_old(self) -> bool:
        return self._fetched_at is None or not 0 <= self._clock() - self._fetched_at <= self._max_age_s

    async def _round(self) -> None:
        """Fetch once. Whoever asks meanwhile waits for this fetch."""
        started = self._tried_at = self._clock()
        self._fetching = True
        try:
            found = keys.read_published(await self._fetch(), self._algorithms)
        except (FetchError, KeySetError) as err:
            self._failure = f"the key set {err}" if isinstance(err, KeySetError) else str(err)
            log.error("issuer_keys_unavailable", detail=f"{self._place}: {self._failure}")
        else:
            if found.keys() != self._keys.keys():
                log.info("issuer_keys_changed", detail=self._place, seen=len(found))
            # As old as the moment before they were asked for.
            self._keys, self._fetched_at, self._failure = found, started, None
        finally:
            self._fetching = False
        self._wanted.clear()
        self._rounds += 1
        async with self._done:
            self._done.notify_all()
