"""The ground of a proof: where canaries are planted in a source, and how rights are taken away there.

Every kind of source has a ground of its own, and `service.prove.grounds` names them. What holds for all of them:

1. Only canaries are changed, removed or moved, and what was made around them; nothing that was there before.
2. A canary has the rights of a neighbour, or is for the person who is examined alone: it opens to nobody else.
3. A ground says what it will write before it does, and `clear` puts everything back, or says what it could not.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

from remit.client import Caller

from acl.principal import Principal, Realm

PREFIX: Final = "remit-canary-"
_LETTERS: Final = "bcdfghjklmnpqrstvwxz"
_VOWELS: Final = "aeiou"


@dataclass(frozen=True, slots=True)
class Canary:
    """A planted document. location: as the service knows it. word: stands nowhere else. text: all of it."""

    location: str
    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Who:
    """Whom a proof is about. held: every principal. own: those that are nobody else's."""

    name: str
    held: frozenset[Principal]
    own: tuple[Principal, ...]

    @classmethod
    def of(cls, name: str, caller: Caller) -> Self:
        """By what the service says of the person's own token."""
        held = {Principal.parse(one.token): one.path for one in caller.principals}
        own = sorted(one for one, path in held.items() if len(path) == 1 and not one.is_class)
        return cls(name, frozenset(held), tuple(own))


@dataclass(frozen=True, slots=True)
class Way:
    """One kind of change. prepare: plant. revoke: take the right away. runs: whether a run has to bring it in."""

    kind: str
    what: str
    prepare: Callable[[], Canary]
    revoke: Callable[[Canary], None]
    runs: bool = True

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.kind}: {self.what}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A kind of change that cannot be tried here: why, and what would have to be given."""

    kind: str
    what: str
    why: str

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.kind}: {self.what}"


class Clearable(Protocol):
    """Something that puts back what it changed."""

    def clear(self) -> list[str]:
        """Put everything back; return a sentence for each thing that is left. May be called twice."""


class Ground(Clearable, Protocol):
    """The ground of one source. Every method but `clear` raises StartError."""

    @property
    def writes(self) -> str:
        """What will be written, and where, in a sentence for whoever allows it."""

    def names(self, realm: Realm) -> bool:
        """Whether rules of this source can name principals of a realm."""

    def plant(self, like: str) -> Canary:
        """A canary beside the document at the location `like`, with its rights."""

    def plant_for(self, like: str, group: Collection[Principal]) -> Canary:
        """A canary beside `like` that is for one group. group: its principals; one of a realm that `names`."""

    def ways(self, like: str, who: Who) -> Sequence[Way | Skipped]:
        """Every kind of change that this source knows. Nothing is written yet."""


def word() -> str:
    """A word that nobody wrote before and that is spelled in letters alone."""
    return "".join(secrets.choice(_LETTERS) + secrets.choice(_VOWELS) for _ in range(9))


def text_of(canary: str) -> str:
    """What a canary says. canary: its word."""
    return (
        f"The word of this canary is {canary}. It was planted by `remit prove` to see who can read it, "
        "it holds nothing, and it may be deleted at any time."
    )


def beside(like: str, name: str) -> str:
    """The place of something in the folder of `like`."""
    folder, separator, _ = like.rpartition("/")
    return f"{folder}{separator}{name}"
