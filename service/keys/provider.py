"""What holds the key-encryption key: what every provider does, wherever the key is.

A provider wraps and unwraps the keys of sources, which happens at start and when keys are rotated, never in a search.
It may hold several versions: the newest wraps, the older ones unwrap what is still under them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

from service.errors import UnavailableError


class ProviderError(UnavailableError):
    """The provider does not answer, or does not have the key. One sentence for people, without a secret."""


class Wrapped(NamedTuple):
    """A wrapped key with the id of the key-encryption key that wraps it."""

    kek: str
    wrapped: bytes


class KeyProvider(Protocol):
    """Holds a key-encryption key and uses it, without giving it away. Safe to use from several threads."""

    @property
    def key_id(self) -> str:
        """Names the version that wraps now, without telling anything about it. Asks nobody."""

    @property
    def described(self) -> str:
        """Where the key is, for people."""

    def has(self, kek: str) -> bool:
        """Whether `kek` is a version of this key, as far as is known without asking."""

    def wrap(self, key: bytes, place: bytes) -> Wrapped:
        """Encrypt a key, bound to its place. Raises ProviderError."""

    def unwrap(self, kek: str, wrapped: bytes, place: bytes) -> bytes:
        """Decrypt what `wrap` made. Raises UnsealError, and ProviderError when the version is not there."""

    def rotate(self) -> None:
        """Make a new version, durably, and wrap with it from now on. Raises ProviderError; then the older one wraps."""

    def retire(self, in_use: Collection[str]) -> tuple[str, ...]:
        """Set aside the versions that wrap nothing of this key store any more; return their ids."""

    def check(self) -> None:
        """Find out whether the key could be used now. Raises ProviderError with what is wrong."""

    def close(self) -> None:
        """Let go of what was opened."""


def other_key(kek: str, provider: KeyProvider) -> ProviderError:
    """The error of a version that a provider does not have."""
    return ProviderError(
        f"it was made with key `{kek}`, and the configured key is `{provider.key_id}` in {provider.described}: "
        "restore the right key, or name where it was as `previous`"
    )
