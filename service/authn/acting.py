"""Who acts for the person that a token names: the chain of `act` claims, and what those actors may reach.

1. Without `act` the person acts, whatever client obtained the token.
2. Every actor of the chain must be one that the issuer's settings list, the chain no longer than CHAIN.
3. The sources are those that every one of them is allowed: an actor never sees more than the person, and less where it
   is allowed less.
4. Where the person says who may act (`may_act`), the current actor is that one.

Source: RFC 8693 sections 4.1 and 4.4. There only the outermost actor counts; here all do, which can only narrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from service.authn.subject import Acting, TokenRefusedError
from service.sections.issuers import IssuerSettings

CHAIN: Final = 3


def acting(claims: Mapping[str, object], issuer: IssuerSettings) -> Acting | None:
    """Read the chain; None when the person acts. Raises TokenRefusedError."""
    if "act" not in claims:
        return None
    found: list[str] = []
    sources: frozenset[str] | None = None
    link: object = claims["act"]
    while link is not None:
        if not isinstance(link, dict) or len(found) == CHAIN:
            raise TokenRefusedError("wrong actor")
        name = link.get("sub")
        # An actor of another issuer is another actor, whatever it is called.
        if not isinstance(name, str) or name not in issuer.actors or link.get("iss", issuer.issuer) != issuer.issuer:
            raise TokenRefusedError("unknown actor")
        allowed = issuer.actors[name]
        sources = allowed if sources is None else sources & allowed
        found.append(name)
        if "act" in link and link["act"] is None:
            raise TokenRefusedError("wrong actor")
        link = link.get("act")
    if sources is None:
        raise TokenRefusedError("wrong actor")
    if "may_act" in claims:
        named = claims["may_act"]
        if not isinstance(named, dict) or named.get("sub") != found[0]:
            raise TokenRefusedError("unknown actor")
    return Acting(tuple(found), sources)
