"""What a run calls things by: keyed hashes of native ids, versions and places, which tell a stolen disk nothing.

Two values of one kind and source have the same name exactly when they are equal; nobody without the source's key can
test a guess.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from acl.model import Clause, ScopeId, Unknown
from acl.normalize import fingerprint
from connectors.base import Upsert
from service.keys.store import KeyStore

_REMEMBERED_CLAUSES: Final = 10_000


class Names:
    """The names within one source. Not thread-safe but for `content`."""

    def __init__(self, keys: KeyStore, source: str) -> None:
        self._keys = keys
        self._source = source
        self._scopes: dict[ScopeId, ScopeId] = {}
        self._digests: dict[int, tuple[Clause, bytes]] = {}

    def document(self, native_id: str) -> bytes:
        """Name a document by its native id."""
        return self._keys.name(self._source, "document", native_id)

    def version(self, upsert: Upsert) -> bytes:
        """Name a document's version."""
        return self._keys.name(self._source, "version", upsert.version)

    def facts(self, upsert: Upsert, quarantine: str) -> bytes:
        """Name everything about a document but its rules and its version."""
        modified_us = int(upsert.modified_at.timestamp() * 1e6)
        return self._keys.name(
            self._source, "facts", upsert.name, upsert.location, upsert.media_type, modified_us, quarantine
        )

    def withheld(self, reason: str) -> bytes:
        """Name what stands in place of the facts of a document that is withheld."""
        return self._keys.name(self._source, "withheld", reason)

    def content(self, data: bytes, media_type: str) -> bytes:
        """Name a content, read as one media type."""
        return self._keys.name(self._source, "content", sha256(data).hexdigest(), media_type)

    def scope(self, native_id: ScopeId) -> ScopeId:
        """Return the catalog's id of a container: within the source, and not telling its native one."""
        found = self._scopes.get(native_id)
        if found is None:
            found = ScopeId(f"{self._source}/{self._keys.name(self._source, 'scope', native_id).hex()}")
            self._scopes[native_id] = found
        return found

    def group(self, token: str) -> str:
        """Return the catalog's id of a group that the source has itself."""
        return f"{self._source}/{self._keys.name(self._source, 'group', token).hex()}"

    def group_facts(self, body: str) -> bytes:
        """Name everything about a group."""
        return self._keys.name(self._source, "group facts", body)

    def member(self, group: str, member: str, joins: bool) -> bytes:
        """Name that somebody joins a group or leaves it."""
        return self._keys.name(self._source, "member", group, member, int(joins))

    def scope_facts(self, parent: ScopeId | None, clause: Clause | Unknown, location: str) -> bytes:
        """Name everything about a container."""
        match clause:
            case Clause():
                rules = self.digest(clause).hex()
            case Unknown(reason):
                rules = f"unknown {reason}"
        return self._keys.name(self._source, "scope facts", parent or "", rules, location)

    def digest(self, clause: Clause) -> bytes:
        """Return a clause's fingerprint. Connectors send the same object many times, so objects are remembered."""
        found = self._digests.get(id(clause))
        if found is None:
            if len(self._digests) >= _REMEMBERED_CLAUSES:
                self._digests.clear()
            # The clause is kept with it: an id belongs to another object as soon as this one is gone.
            found = self._digests[id(clause)] = (clause, fingerprint(clause))
        return found[1]
