"""Moving from one provider to another: the new one wraps, and the previous one opens what is still under it.

`remit keys rotate` wraps everything with the new one, and goes on where it was broken off; then the settings need not
name the previous one any more.
"""

from __future__ import annotations

from collections.abc import Collection

from service.keys.provider import KeyProvider, Wrapped


class Moving:
    """See `KeyProvider`."""

    def __init__(self, current: KeyProvider, previous: KeyProvider) -> None:
        self._current = current
        self._previous = previous

    @property
    def current(self) -> KeyProvider:
        """The new one."""
        return self._current

    @property
    def key_id(self) -> str:
        """See `KeyProvider`."""
        return self._current.key_id

    @property
    def described(self) -> str:
        """See `KeyProvider`."""
        return f"{self._current.described} (before: {self._previous.described})"

    def has(self, kek: str) -> bool:
        """See `KeyProvider`."""
        return self._current.has(kek) or self._previous.has(kek)

    def wrap(self, key: bytes, place: bytes) -> Wrapped:
        """See `KeyProvider`."""
        return self._current.wrap(key, place)

    def unwrap(self, kek: str, wrapped: bytes, place: bytes) -> bytes:
        """See `KeyProvider`."""
        mine = self._previous if self._previous.has(kek) and not self._current.has(kek) else self._current
        return mine.unwrap(kek, wrapped, place)

    def rotate(self) -> None:
        """See `KeyProvider`."""
        self._current.rotate()

    def retire(self, in_use: Collection[str]) -> tuple[str, ...]:
        """See `KeyProvider`. The previous provider's key is left as it is: backups of the key store may need it."""
        left = () if self._previous.key_id in in_use else (self._previous.key_id,)
        return (*self._current.retire(in_use), *left)

    def check(self) -> None:
        """See `KeyProvider`. The previous one is not needed but at a start."""
        self._current.check()

    def close(self) -> None:
        """See `KeyProvider`."""
        self._current.close()
        self._previous.close()
