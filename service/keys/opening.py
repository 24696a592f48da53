"""From the settings to the provider of the key-encryption key: the only place that knows which there are."""

from __future__ import annotations

from service.errors import StartError
from service.keys.file import FileKey, create_key_file
from service.keys.moving import Moving
from service.keys.provider import KeyProvider, ProviderError
from service.sections.keys import FileProvider, KeySettings, Pkcs11Provider, Provider, VaultProvider


def open_provider(settings: KeySettings) -> KeyProvider:
    """Open what holds the key, and what held it before. Raises StartError: without the key nothing starts."""
    current = _open(settings.provider)
    if settings.previous is None:
        return current
    try:
        return Moving(current, _open(settings.previous))
    except BaseException:
        current.close()
        raise


def create_key(settings: KeySettings) -> str:
    """Make the first key where the settings say; return its id. Raises StartError when there is one."""
    if isinstance(settings.provider, FileProvider):
        create_key_file(settings.provider.path)
    provider = _open(settings.provider, create=True)
    try:
        return provider.key_id
    finally:
        provider.close()


def _open(settings: Provider, *, create: bool = False) -> KeyProvider:
    try:
        match settings:
            case FileProvider(path=path):
                return FileKey(path)
            case Pkcs11Provider():
                # Imported when configured: both are optional.
                from service.keys.pkcs11 import Pkcs11Key

                return Pkcs11Key(settings, create=create)
            case VaultProvider():
                from service.keys.vault import VaultKey

                return VaultKey(settings, create=create)
    except ProviderError as err:
        raise StartError(f"the key-encryption key cannot be used: {err}") from err
