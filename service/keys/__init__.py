"""Keys and envelope encryption: a provider's key opens source keys, these open document keys, these open content."""

from service.keys.custody import Backup, Custody, SourceStatus, Status
from service.keys.envelope import UnsealError, associated
from service.keys.file import FileKey, create_key_file
from service.keys.opening import create_key, open_provider
from service.keys.provider import KeyProvider, ProviderError
from service.keys.store import DocumentKeyId, KeyExhaustedError, KeyStore

__all__ = [
    "Backup",
    "Custody",
    "DocumentKeyId",
    "FileKey",
    "KeyExhaustedError",
    "KeyProvider",
    "KeyStore",
    "ProviderError",
    "SourceStatus",
    "Status",
    "UnsealError",
    "associated",
    "create_key",
    "create_key_file",
    "open_provider",
]
