"""Oracle: what the service decides beside what the source itself says, for pairs of people and documents.

Who says it for a source is a judge: the running kernel for a file system, the server for a share.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from remit.client.access_values import AccessReason, DocumentPlace

from connectors.secret import Secret
from service.errors import StartError
from service.prove.deployment import Deployment
from service.prove.kernel import Kernel
from service.prove.report import Check, Part, Result, claim
from service.prove.share import Server, asked
from service.settings import SourceSettings

_BATCH: Final = 100
_SHOWN: Final = 5
_KINDS: Final = ("filesystem", "smb")
_BY_DESIGN: Final = frozenset({AccessReason.NO_TEXT, AccessReason.STALE, AccessReason.UNKNOWN_RULES})
"""Why the service withholds what the source would show: it says so, and it is no other decision."""


class Judge(Protocol):
    """A source's own answers. called: the judge, for sentences. people: whom it answers about."""

    @property
    def called(self) -> str: ...

    @property
    def people(self) -> Sequence[str]: ...

    def answers(self, locations: Sequence[str]) -> list[str]:
        """For each person a string that has for each place `1` opened, `0` refused, or `?` neither.

        Raises StartError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Examined:
    """Who is examined. everybody: all who can be listed. named: who must be asked about. logins: by name."""

    everybody: Sequence[str]
    named: Sequence[str]
    logins: Mapping[str, Secret]


@dataclass(frozen=True, slots=True)
class Pair:
    """A person and a document: what the service decides and what the source says."""

    person: str
    document: DocumentPlace
    decided: bool
    opened: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """A sample. aside: how many pairs the source has no answer about. escaped: documents that were not drawn."""

    pairs: Sequence[Pair]
    aside: int
    escaped: int


def prove(there: Deployment, who: Examined, pairs: int, seed: int) -> Part:
    """Compare some pairs. Raises StartError when the source cannot be asked."""
    sources = [one for one in there.settings.sources if one.kind in _KINDS]
    kinds = {one.kind for one in there.settings.sources}
    if not sources:
        others = ", ".join(sorted(kinds))
        raise StartError(f"no source can be asked: an oracle is there for `filesystem` and `smb`, not for {others}")
    if who.logins and "smb" not in kinds:
        raise StartError("`--login` is for sources of the kind `smb`, and the settings have none")
    if "filesystem" in kinds and os.geteuid() != 0:
        raise StartError("the kernel can be asked for other people by root only: run `remit prove oracle` as root")
    checks: list[Check] = []
    rows: list[dict[str, object]] = []
    for source in sources:
        if source.kind == "smb":
            checks.append(asked(source.name, who.everybody, who.named, who.logins))
            if not who.logins:
                continue
        judge = _judge(there, source, who)
        there.sync(source.name)
        found = _compare(there, source.name, judge, pairs, seed)
        checks += _checks(there, source.name, judge.called, found)
        rows += _rows(source.name, found.pairs)
    return Part("oracle", checks, {"people": rows})


def _judge(there: Deployment, source: SourceSettings, who: Examined) -> Judge:
    if source.kind == "smb":
        return Server(there.settings, source, who.logins)
    return Kernel(there.settings, source.name, who.everybody)


def _compare(there: Deployment, source: str, judge: Judge, pairs: int, seed: int) -> Compared:
    documents = list(there.reviewer.list_documents(sources=[source]))
    # What is shown with escapes is not what the source calls it.
    plain = [one for one in documents if "\\" not in one.location]
    people = judge.people
    if not people or not plain:
        raise StartError(f"nobody, or nothing, to compare in `{source}`: {len(people)} people, {len(plain)} documents")
    each = max(1, min(len(plain), pairs // len(people)))
    chosen = sorted(random.Random(seed).sample(plain, each), key=lambda one: one.location)
    answers = judge.answers([one.location for one in chosen])
    found: list[Pair] = []
    for person, said in zip(people, answers, strict=True):
        readable: dict[str, bool] = {}
        for start in range(0, len(chosen), _BATCH):
            part = [one.document_id for one in chosen[start : start + _BATCH]]
            readable |= there.reviewer.check_user_access(person, part).readable
        found += [
            Pair(person, document, readable[document.document_id], answer == "1")
            for document, answer in zip(chosen, said, strict=True)
            if answer != "?"
        ]
    return Compared(found, len(people) * len(chosen) - len(found), len(documents) - len(plain))


def _checks(there: Deployment, source: str, called: str, found: Compared) -> list[Check]:
    judged = found.pairs
    opened = sum(one.opened for one in judged)
    checks = _differences(there, source, called, judged) if judged else []
    checks.append(
        Check(
            f"`{source}`: the sample holds both answers",
            Result.PASSED if 0 < opened < len(judged) else Result.NOT_RUN,
            f"{called} opens {opened} of {len(judged)}"
            + (f"; {found.escaped} documents whose names do not print were not drawn" if found.escaped else ""),
        )
    )
    if found.aside:
        checks.append(
            Check(
                f"`{source}`: {called} has an answer about every pair",
                Result.NOT_RUN,
                f"{found.aside} pairs were set aside: {called} has no such file for that person, or not any more",
                {"aside": found.aside},
            )
        )
    return checks


def _differences(there: Deployment, source: str, called: str, judged: Sequence[Pair]) -> list[Check]:
    wider = [one for one in judged if one.decided and not one.opened]
    narrower = [one for one in judged if one.opened and not one.decided]
    reasons = Counter(_reason(there, one) for one in narrower)
    other = sum(count for reason, count in reasons.items() if reason not in _BY_DESIGN)
    return [
        claim(
            f"`{source}`: nothing is readable here that {called} refuses",
            not wider,
            f"{len(judged)} pairs of people and files, {len(wider)} wider than {called}"
            + "".join(f"; {one.person} reads `{one.document.location}`" for one in wider[:_SHOWN]),
            pairs=len(judged),
            wider=len(wider),
            readable=sum(one.opened for one in judged),
        ),
        claim(
            f"`{source}`: nothing is refused here that {called} opens, unless it is withheld for a reason",
            other == 0,
            f"{len(narrower)} narrower: "
            + (", ".join(f"{count} {reason.value}" for reason, count in reasons.items()) or "none"),
            narrower=len(narrower),
            unexplained=other,
        ),
    ]


def _rows(source: str, judged: Sequence[Pair]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in sorted({one.person for one in judged}):
        mine = [one for one in judged if one.person == name]
        rows.append(
            {
                "source": source,
                "person": name,
                "pairs": len(mine),
                "source opens": sum(one.opened for one in mine),
                "service opens": sum(one.decided for one in mine),
                "wider": sum(one.decided and not one.opened for one in mine),
            }
        )
    return rows


def _reason(there: Deployment, pair: Pair) -> AccessReason:
    return there.reviewer.explain_user_access(pair.person, pair.document.document_id).explanation.reason
