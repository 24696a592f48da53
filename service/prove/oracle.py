"""Oracle: what the service decides beside what the source itself says, for pairs of people and documents.

For a file system the source is the running kernel: a child becomes each person, with their numbers as the directory
has them, and opens each file. Paths are opened from the source's root, as `ancestors_above_root: trust` counts them,
or from `/`, as `enforce` does.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remit.client.access_values import AccessReason, DocumentPlace

from acl.principal import Realm
from connectors.directories.base import DirectoryError, Findable
from service import directories
from service.errors import StartError
from service.prove.deployment import Deployment
from service.prove.ground import root_of
from service.prove.report import Part, claim
from service.settings import Settings

_BATCH: Final = 100
_SHOWN: Final = 5
_BY_DESIGN: Final = frozenset({AccessReason.NO_TEXT, AccessReason.STALE, AccessReason.UNKNOWN_RULES})
"""Why the service withholds what the source would show: it says so, and it is no other decision."""

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


def prove(there: Deployment, people: Sequence[str], pairs: int, seed: int) -> Part:
    """Compare some pairs. Raises StartError when the source cannot be asked."""
    if os.geteuid() != 0:
        raise StartError("the kernel can be asked for other people by root only: run `remit prove oracle` as root")
    sources = [one for one in there.settings.sources if one.kind == "filesystem"]
    others = sorted({one.kind for one in there.settings.sources} - {"filesystem"})
    if not sources:
        raise StartError(f"no source can be asked: an oracle is there for `filesystem`, not for {', '.join(others)}")
    checks, rows = [], []
    for source in sources:
        there.sync(source.name)
        judged = _judge(there, source.name, people, pairs, seed)
        wider = [one for one in judged if one[2] and not one[3]]
        narrower = [one for one in judged if one[3] and not one[2]]
        reasons = Counter(_reason(there, person, document) for person, document, _, _ in narrower)
        other = sum(count for reason, count in reasons.items() if reason not in _BY_DESIGN)
        checks += [
            claim(
                f"`{source.name}`: nothing is readable here that the kernel refuses",
                bool(judged) and not wider,
                f"{len(judged)} pairs of people and files, {len(wider)} wider than the kernel"
                + "".join(f"; {person} reads `{document.location}`" for person, document, _, _ in wider[:_SHOWN]),
                pairs=len(judged),
                wider=len(wider),
                readable=sum(one[3] for one in judged),
            ),
            claim(
                f"`{source.name}`: nothing is refused here that the kernel opens, unless it is withheld for a reason",
                other == 0,
                f"{len(narrower)} narrower: "
                + (", ".join(f"{count} {reason.value}" for reason, count in reasons.items()) or "none"),
                narrower=len(narrower),
                unexplained=other,
            ),
            claim(
                f"`{source.name}`: the sample holds both answers",
                {one[3] for one in judged} == {True, False},
                f"the kernel opens {sum(one[3] for one in judged)} of {len(judged)}",
            ),
        ]
        for name in sorted({one[0] for one in judged}):
            mine = [one for one in judged if one[0] == name]
            rows.append(
                {
                    "source": source.name,
                    "person": name,
                    "pairs": len(mine),
                    "kernel opens": sum(one[3] for one in mine),
                    "service opens": sum(one[2] for one in mine),
                    "wider": sum(one[2] and not one[3] for one in mine),
                }
            )
    return Part("oracle", checks, {"people": rows})


_Judged = tuple[str, DocumentPlace, bool, bool]


def _judge(there: Deployment, source: str, names: Sequence[str], pairs: int, seed: int) -> list[_Judged]:
    """Pairs with what the service decides and what the kernel says."""
    configured, root = root_of(there.settings, source)
    people = numbers(there.settings, names, str(configured.options["id_domain"]))
    random_ = random.Random(seed)
    documents = list(there.reviewer.list_documents(sources=[source]))
    if not people or not documents:
        raise StartError(
            f"nobody, or nothing, to compare in `{source}`: {len(people)} people, {len(documents)} documents"
        )
    each = max(1, min(len(documents), pairs // len(people)))
    chosen = sorted(random_.sample(documents, each), key=lambda one: one.location)
    trusted = configured.options.get("ancestors_above_root", "enforce") == "trust"
    paths = [one.location if trusted else str(root.resolve() / one.location) for one in chosen]
    answers = _kernel(people, paths, root if trusted else None)
    found: list[_Judged] = []
    for person, said in zip(people, answers, strict=True):
        readable: dict[str, bool] = {}
        for start in range(0, len(chosen), _BATCH):
            part = [one.document_id for one in chosen[start : start + _BATCH]]
            readable |= there.reviewer.check_user_access(person.name, part).readable
        # A file that went away meanwhile is no question.
        found += [
            (person.name, document, readable[document.document_id], answer == "1")
            for document, answer in zip(chosen, said, strict=True)
            if answer != "?"
        ]
    return found


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


def _reason(there: Deployment, person: str, document: DocumentPlace) -> AccessReason:
    return there.reviewer.explain_user_access(person, document.document_id).explanation.reason
