"""A group in the file of a `static` directory, new for the proof, and gone with the end of each round.

The file is byte for byte what it was afterwards. One that somebody else wrote meanwhile is theirs, and stays.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

import yaml

from acl.principal import Principal, Realm, realm
from connectors.directories.static_file import People, read_people
from connectors.yaml_file import YamlFileError
from service.errors import StartError
from service.prove.grounds.base import PREFIX, Who, word

_FRESH_GID: Final = 2_000_000_000


class StaticMembership:
    """See `service.prove.memberships.base.Membership`."""

    def __init__(self, directory: str, path: Path, who: Who) -> None:
        """Nothing is written yet. Raises StartError when the file cannot be read."""
        self.directory: Final = directory
        self._path: Final = path
        self._who: Final = who
        self._before = b""
        self._ours: bytes | None = None
        self._people: Final = self._read()

    @property
    def realms(self) -> Collection[Realm]:
        """See `Membership`."""
        own = realm("static", self.directory)
        return [own] if self._people.posix is None else [own, self._people.posix]

    @property
    def writes(self) -> str:
        """See `Membership`."""
        return f"a group `{PREFIX}…` with {self._who.name} in {self._path}, which is afterwards what it was"

    def has_person(self) -> bool:
        """Whether the directory has an account of the person, whatever it is called."""
        return any(map(self._is_person, self._people.users))

    def _is_person(self, account: str) -> bool:
        return Principal(realm("static", self.directory), f"user-{account}") in self._who.held

    def join(self) -> Collection[Principal]:
        """See `Membership`."""
        self._read()
        name, gid = f"{PREFIX}{word()}", _FRESH_GID + int.from_bytes(os.urandom(3))
        data = yaml.safe_load(self._before)
        number = {"gid": gid} if self._people.posix is not None else {}
        data["groups"] = [*data.get("groups", ()), {"id": name, **number}]
        for user in data["users"]:
            if self._is_person(user["id"]):
                user["groups"] = [*user.get("groups", ()), name]
        ours = yaml.safe_dump(data, allow_unicode=True, sort_keys=False).encode()
        self._ours = ours
        self._replace(ours)
        group = Principal(realm("static", self.directory), f"group-{name}")
        return [group] if self._people.posix is None else [group, Principal(self._people.posix, f"gid-{gid}")]

    def leave(self) -> None:
        """See `Membership`."""
        if self._ours is None:
            return
        if self._bytes() == self._ours:
            self._replace(self._before)
        elif PREFIX.encode() in self._bytes():
            raise StartError(f"{self._path} was written by somebody else, and still has a group `{PREFIX}…`: remove it")
        self._ours = None

    def clear(self) -> list[str]:
        """See `Clearable`."""
        try:
            self.leave()
        except StartError as err:
            return [str(err)]
        return []

    def _read(self) -> People:
        """The file as it is now, unless it is ours."""
        data = self._bytes()
        if data != self._ours:
            self._before, self._ours = data, None
        try:
            return read_people(self._before, self._path.name)
        except YamlFileError as err:
            raise StartError(str(err)) from err

    def _bytes(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as err:
            raise StartError(f"{self._path} cannot be read: {err.strerror}") from err

    def _replace(self, data: bytes) -> None:
        """Put other bytes into the file at once, with its owner and mode."""
        fresh = self._path.with_name(f".{self._path.name}.{PREFIX}new")
        try:
            status = self._path.stat()
            fresh.write_bytes(data)
            fresh.chmod(status.st_mode & 0o777)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(fresh, status.st_uid, status.st_gid)
            fresh.replace(self._path)
        except OSError as err:
            raise StartError(f"{self._path} cannot be written: {err.strerror}") from err
        finally:
            fresh.unlink(missing_ok=True)
