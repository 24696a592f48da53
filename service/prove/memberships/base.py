"""A group of a directory out of which the person is taken, to measure how long the membership lasts after that."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from acl.principal import Principal, Realm
from service.prove.grounds.base import Clearable


class Membership(Clearable, Protocol):
    """One group of one directory. Every method but `clear` raises StartError; `clear` puts everything back."""

    @property
    def directory(self) -> str:
        """The directory's name in the settings."""

    @property
    def realms(self) -> Collection[Realm]:
        """Of which realms a member holds something by the group."""

    @property
    def writes(self) -> str:
        """What will be written, and where, in a sentence for whoever allows it."""

    def join(self) -> Collection[Principal]:
        """See to it that the person is a member; return what is held by that."""

    def leave(self) -> None:
        """Take the person out."""
