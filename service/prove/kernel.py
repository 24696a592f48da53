"""The running kernel as a judge of a file system: a child becomes each person, with their numbers as the directory has
them, and opens each file. Paths are opened from the source's root, as `ancestors_above_root: trust` counts them, or
from `/`, as `enforce` does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from acl.principal import Realm
from connectors.directories.base import DirectoryError, Findable
from service.errors import StartError
from service.identity import directories
from service.prove.grounds.filesystem import root_of
from service.settings import Settings

_JUDGE: Final = """
import json, os, sys
question = json.load(sys.stdin)
if question["root"]:
    os.chdir(question["root"])
answers = []
for who in question["who"]:
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups(who["groups"])
            os.setresgid(who["gid"], who["gid"], who["gid"])
            os.setresuid(who["uid"], who["uid"], who["uid"])
            said = bytearray()
            for path in question["paths"]:
                try:
                    os.close(os.open(os.fsencode(path), os.O_RDONLY | os.O_NONBLOCK))
                    said += b"1"
                except PermissionError:
                    said += b"0"
                except OSError:
                    said += b"?"
            os.write(into, said)
            code = 0
        finally:
            os._exit(code)
    os.close(into)
    with open(out, "rb") as answered:
        said = answered.read().decode()
    if os.waitpid(child, 0)[1] != 0 or len(said) != len(question["paths"]):
        sys.exit(1)
    answers.append(said)
json.dump(answers, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody's name for questions, and their numbers in one id domain."""

    name: str
    uid: int
    gids: tuple[int, ...]


class Kernel:
    """Answers about the people who have a number in the source's id domain. See `service.prove.oracle.Judge`."""

    called: Final = "the kernel"

    def __init__(self, settings: Settings, source: str, names: Sequence[str]) -> None:
        """Raises StartError."""
        configured, root = root_of(settings, source)
        self._numbers: Final = numbers(settings, names, str(configured.options["id_domain"]))
        self._root: Final = root
        self._trusted: Final = configured.options.get("ancestors_above_root", "enforce") == "trust"
        self.people: Final = [one.name for one in self._numbers]

    def answers(self, locations: Sequence[str]) -> list[str]:
        """See `service.prove.oracle.Judge`."""
        paths = [one if self._trusted else str(self._root.resolve() / one) for one in locations]
        return _kernel(self._numbers, paths, self._root if self._trusted else None)


def _kernel(people: Sequence[Person], paths: Sequence[str], root: Path | None) -> list[str]:
    question = {
        "root": None if root is None else str(root),
        "paths": list(paths),
        "who": [{"uid": p.uid, "gid": p.gids[0] if p.gids else p.uid, "groups": list(p.gids)} for p in people],
    }
    done = subprocess.run(
        [sys.executable, "-c", _JUDGE], input=json.dumps(question), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StartError("the kernel could not be asked: a child could not become one of the people")
    answers: list[str] = json.loads(done.stdout)
    return answers


def numbers(settings: Settings, names: Sequence[str], id_domain: str) -> list[Person]:
    """People with their numbers in an id domain, as their directory says; those without one are left out."""
    realm = Realm(f"posix:{id_domain}")
    found: list[Person] = []
    for name in names:
        for one in settings.directories:
            directory = directories.build(one, settings.base)
            try:
                account = directory.find(name) if isinstance(directory, Findable) else None
                if account is None:
                    continue
                held = directory.resolve("id", account).principals
            except DirectoryError:
                continue
            ids = [p.id for p in held if p.realm == realm]
            uids = [int(i.removeprefix("uid-")) for i in ids if i.startswith("uid-")]
            gids = sorted(int(i.removeprefix("gid-")) for i in ids if i.startswith("gid-"))
            if len(uids) == 1:
                found.append(Person(name, uids[0], tuple(gids)))
                break
    return found
