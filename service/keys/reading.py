"""Reading keys out of a key store that another process may have open. Nothing is written, and no lock is taken."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import StartError
from service.keys.envelope import UnsealError, unseal
from service.keys.provider import KeyProvider, ProviderError
from service.keys.store import document_place, source_place
from service.keys.tables import OWN


def read_keys(path: Path, provider: KeyProvider, source: str) -> dict[str, AESGCM]:
    """The keys of all documents of a source in the store at `path`. Raises StartError."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            db.execute("BEGIN").close()
            asked = "SELECT generation, kek, wrapped FROM source_keys WHERE source = ? AND generation <> ?"
            wrapping = {
                generation: AESGCM(provider.unwrap(kek, wrapped, source_place(source, generation)))
                for generation, kek, wrapped in db.execute(asked, (source, OWN))
            }
            rows = db.execute("SELECT document, generation, wrapped FROM documents WHERE source = ?", (source,))
            return {
                document: AESGCM(unseal(wrapping[generation], wrapped, document_place(source, document)))
                for document, generation, wrapped in rows
            }
    except sqlite3.Error as err:
        raise StartError(f"the key store `{path}` cannot be read: {err}") from err
    except (ProviderError, UnsealError) as err:
        raise StartError(f"the key store `{path}` cannot be opened: {err}") from err
