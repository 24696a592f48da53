"""Keys and envelope encryption: a provider's key opens source keys, these open document keys, these open content."""

from service.keys.envelope import UnsealError, associated
from service.keys.provider import FileKey, KeyProvider, create_key_file
from service.keys.store import DocumentKeyId, KeyStore

__all__ = ["DocumentKeyId", "FileKey", "KeyProvider", "KeyStore", "UnsealError", "associated", "create_key_file"]
