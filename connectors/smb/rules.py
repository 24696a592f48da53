"""Security descriptors as clauses that a stored ACL can carry, and which SIDs of a server count. Pure.

1. SIDs of the domain, and those that every login over a network has or never has, are principals of realm `ad`.
2. Groups of the server itself are principals of the source's own realm, when it is known who is in them.
3. Other SIDs are somebody's that no directory here knows: groups of another domain, of a kind of login. An allow of
   theirs gives nothing, and nobody gets past a deny of theirs.
4. A document has one clause of its own. Where a descriptor decides its bits differently, the others go around it as
   scopes, addressed by what they say: equal ones are one, and none ever changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from acl.dialects.ntfs import READ, READ_DATA, SYNCHRONIZE, Translation, file_clauses, share_clauses
from acl.errors import InvalidValueError
from acl.model import Clause, Effect, Rule, ScopeId, Unknown
from acl.normalize import fingerprint
from acl.principal import Principal, Realm
from connectors.directories.sids import is_account_sid

AD: Final = Realm("ad")
SHARE: Final = ScopeId("share")
DOMAIN: Final = re.compile(r"S-1-5-21(-(?:0|[1-9][0-9]{0,9})){3}")

Rights = Literal["open", "data"]
BITS: Final[dict[Rights, int]] = {"open": READ, "data": READ_DATA | SYNCHRONIZE}
"""What reading is: what an ordinary open asks for, or the least by which content is read."""

# SOURCE: [MS-DTYP] 2.4.2.4. Everyone, the creators that stand for nobody on the object itself, NETWORK, INTERACTIVE,
# Authenticated Users, This Organization, SYSTEM: each is held by every login of a person over a network, or by none.
_KNOWN: Final = frozenset({"S-1-1-0", "S-1-3-0", "S-1-3-1", "S-1-5-2", "S-1-5-4", "S-1-5-11", "S-1-5-15", "S-1-5-18"})
_ELSEWHERE: Final = Realm("smb")
_MAX_DESCRIPTORS: Final = 100_000


# SOURCE: [MS-DTYP] 2.4.2.4. What no person of a domain has who comes over a network: dial-up,
# batch, service, anonymous, proxy, domain controllers, terminal servers, IUSR, the system's own, local accounts.
_NEVER: Final = frozenset(f"S-1-5-{number}" for number in (1, 3, 6, 7, 8, 9, 12, 13, 14, 17, 19, 20, 113, 114))
_SERVICES: Final = "S-1-5-80-"


@dataclass(frozen=True, slots=True)
class Own:
    """Which SIDs are accounts of the server itself, and in which realm they are principals.

    sids: exactly these. under: and all that begin so, such as `S-1-5-32-`.
    """

    realm: Realm
    sids: frozenset[str] = frozenset()
    under: tuple[str, ...] = ()

    def has(self, sid: str) -> bool:
        """Whether a SID is one of them."""
        return sid in self.sids or sid.startswith(self.under)


def local_members(sids: Iterable[str], domain_sid: str, own: Own) -> frozenset[Principal] | Unknown:
    """Return who is in a group of a server, given the SIDs that it lists.

    A SID of any domain is a principal of the directory's realm: it is held by whom the directory says. What nobody can
    be who is resolved here is left out; anything else could be anybody.
    """
    found: set[Principal] = set()
    for sid in sids:
        if own.has(sid) and not sid.startswith(f"{domain_sid}-"):
            found.add(Principal(own.realm, sid))
        elif sid in _KNOWN or is_account_sid(sid):
            found.add(Principal(AD, sid))
        elif sid not in _NEVER and not sid.startswith(_SERVICES):
            return Unknown(f"it has the member {sid}, and nobody here can tell who that is")
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Rules:
    """A descriptor's clauses: the own one, and those around it, outermost first, each with its id."""

    own: Clause | Unknown
    around: tuple[tuple[ScopeId, Clause], ...]


class Translator:
    """Descriptors of one server to rules; equal descriptors share one. Safe to use from several threads."""

    def __init__(self, domain_sid: str, rights: Rights, own: Own | None = None) -> None:
        """domain_sid: of the domain whose member the server is. Raises InvalidValueError when it is none.

        own: the server's own groups, None: nobody knows who is in them.
        """
        if not DOMAIN.fullmatch(domain_sid):
            raise InvalidValueError(f"`{domain_sid}` is not a domain's SID, such as S-1-5-21-1-2-3")
        self.domain_sid: Final = domain_sid
        self._prefix: Final = f"{domain_sid}-"
        self._rights: Final = rights
        self._required: Final = BITS[rights]
        self._own: Final = own
        self._cached = lru_cache(maxsize=_MAX_DESCRIPTORS)(self._file)

    def knowing(self, own: Own) -> Translator:
        """Return a translator that knows the server's own groups."""
        return Translator(self.domain_sid, self._rights, own)

    def file(self, descriptor: bytes | str) -> Rules:
        """The rules of a file; text is why there is no descriptor."""
        return Rules(Unknown(descriptor), ()) if isinstance(descriptor, str) else self._cached(descriptor)

    def share(self, descriptor: bytes) -> tuple[Clause, ...] | Unknown:
        """The clauses of a share."""
        return self._known(share_clauses(descriptor, self._name, self._required))

    def _file(self, descriptor: bytes) -> Rules:
        found = self._known(file_clauses(descriptor, self._name, self._required))
        if isinstance(found, Unknown):
            return Rules(found, ())
        around: list[tuple[ScopeId, Clause]] = []
        for clause in found[:-1]:
            # The id says what is around it too: a scope has one parent.
            digest = fingerprint(clause).hex()
            inside = around[-1][0] if around else SHARE
            around.append((ScopeId(f"{inside}/{digest}"), clause))
        return Rules(found[-1], tuple(around))

    def _known(self, translation: Translation | Unknown) -> tuple[Clause, ...] | Unknown:
        if isinstance(translation, Unknown):
            return translation
        return tuple(dict.fromkeys(_without_strangers(clause) for clause in translation.clauses))

    def _name(self, sid: str) -> Principal:
        if sid in _KNOWN or sid.startswith(self._prefix):
            return Principal(AD, sid)
        if self._own is not None and self._own.has(sid):
            return Principal(self._own.realm, sid)
        return Principal(_ELSEWHERE, sid)


def _without_strangers(clause: Clause) -> Clause:
    rules: list[Rule] = []
    for rule in clause.rules:
        known = frozenset(principal for principal in rule.principals if principal.realm != _ELSEWHERE)
        if rule.effect is Effect.DENY and known != rule.principals:
            break
        if known:
            rules.append(Rule(rule.effect, known))
    return Clause(tuple(rules))
