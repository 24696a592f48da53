"""Isolation: somebody who should see one area and not another asks for both, live, with a real token.

1. a canary is planted in each area, with the rights of a neighbour, and the source is read
2. the allowed one must be found, or nothing that follows would mean anything; the denied one must be readable to others
3. the person asks for the canaries and for real documents of both areas, by words and by meaning, by id and by list
4. every passage that comes back is looked at: one from the denied area is a leak
5. the decisions are explained clause by clause, and every answer is looked up in the audit log
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from remit.client import NotFoundError, RemitError, SearchMode
from remit.client.access_values import DocumentPlace, Explanation

from service.errors import StartError
from service.prove.areas import Area, find, within
from service.prove.deployment import Deployment
from service.prove.grounds import Ground, ground_of
from service.prove.grounds.base import Canary
from service.prove.hands import Hands
from service.prove.putting_back import putting_back
from service.prove.report import Check, Part, Result, claim

_AIMED = 40
"""Real documents of each area that are asked for by their names."""
_DEPTH = 100
_BATCH = 100
_WAIT_S = 120.0
_SHOWN = 5


@dataclass
class _Asked:
    """What came back. leaks: places in the denied area, with how they came. rows: for the report."""

    denied: Area
    leaks: list[str] = field(default_factory=list)
    rows: list[dict[str, object]] = field(default_factory=list)
    hits: int = 0


def prove(there: Deployment, allow: str, deny: str, user: str, hands: Hands) -> Part:
    """All of it. Raises StartError when it cannot be made. user: the person, for questions of the auditor."""
    documents = there.documents()
    allowed, denied = find(allow, documents), find(deny, documents)
    if allowed.source == denied.source and (allowed.holds(denied.source, f"{denied.folder}/") or not allowed.folder):
        raise StartError(f"`{denied}` lies in `{allowed}`: nobody can be allowed the one and denied the other")
    readable = _readable(there, user)
    grounds = {source: ground_of(there.settings, source, hands) for source in {allowed.source, denied.source}}
    for ground in grounds.values():
        there.say(f"isolation writes {ground.writes}")
    with putting_back(there, list(grounds.values()), list(grounds)) as left:
        canaries = {
            "allowed": _plant(grounds[allowed.source], allowed, readable, opens=True),
            "denied": _plant(grounds[denied.source], denied, readable, opens=False),
        }
        for source in grounds:
            there.sync(source)
        ids = {
            kind: there.located(area.source, canaries[kind].location, wait_s=_WAIT_S).document_id
            for kind, area in (("allowed", allowed), ("denied", denied))
        }
        documents = there.documents()
        allowed = within(allowed.source, allowed.folder, documents)
        denied = within(denied.source, denied.folder, documents)
        found = _examine(there, user, allowed, denied, canaries, ids)
    return replace(found, checks=[*found.checks, *left])


def _plant(ground: Ground, area: Area, readable: set[str], *, opens: bool) -> Canary:
    """Beside a document that the person may read, or may not."""
    # Where there is none, the rights are those of another kind, and the checks will say so.
    like = next((d for d in area.documents if (d.document_id in readable) is opens), area.documents[0])
    return ground.plant(like.location)


def _readable(there: Deployment, user: str) -> set[str]:
    """What the service says that the person may read."""
    found: set[str] = set()
    token = ""
    while True:
        page = there.reviewer.list_user_documents(user, page_size=1000, page_token=token)
        found |= {one.document_id for one in page.documents}
        token = page.next_page_token
        if not token:
            return found


def _examine(
    there: Deployment, user: str, allowed: Area, denied: Area, canaries: dict[str, Canary], ids: dict[str, str]
) -> Part:
    first = len(there.asked)
    asked = _Asked(denied)
    found = {kind: _search_canary(there, asked, kind, canaries[kind], ids[kind]) for kind in ("allowed", "denied")}
    recall = _aim(there, asked, allowed, "allowed")
    _aim(there, asked, denied, "denied")
    checks = [
        claim(
            "the canary of the allowed side is found, in every mode of searching",
            all(found["allowed"].values()),
            f"found by {_modes(found['allowed'])}",
            **{mode.value: hit for mode, hit in found["allowed"].items()},
        ),
        _control(there, ids["denied"], denied),
        claim(
            "the canary of the denied side is found in no mode",
            not any(found["denied"].values()),
            "not found" if not any(found["denied"].values()) else f"found by {_modes(found['denied'])}",
        ),
        claim(
            "no passage of the denied side came back, whatever was asked",
            not asked.leaks,
            f"{len(asked.rows)} searches gave {asked.hits} passages, {len(asked.leaks)} of them from {denied}"
            + (f": {', '.join(asked.leaks[:_SHOWN])}" if asked.leaks else ""),
            searches=len(asked.rows),
            passages=asked.hits,
            leaks=len(asked.leaks),
        ),
        *_by_id(there, user, allowed, denied),
        _listed(there, denied),
        claim(
            "real documents of the allowed side that may be read are found by their names",
            recall[0] > 0 and recall[0] * 2 >= recall[1],
            f"{recall[0]} of {recall[1]} were among the {_DEPTH} best passages",
            found=recall[0],
            asked=recall[1],
        ),
    ]
    explained, rows = _explained(there, user, ids)
    checks += explained
    audit_ids = there.asked[first:]
    checks.append(_recorded(there, audit_ids, {one.document_id for one in denied.documents}))
    return Part("isolation", checks, {"searches": asked.rows, "explanations": rows}, audit_ids)


def _modes(found: dict[SearchMode, bool]) -> str:
    return ", ".join(mode.value for mode, hit in found.items() if hit) or "none"


def _search_canary(
    there: Deployment, asked: _Asked, kind: str, canary: Canary, document_id: str
) -> dict[SearchMode, bool]:
    """Ask for a canary in every mode: by its word, and by all of its text."""
    found: dict[SearchMode, bool] = {}
    for mode in SearchMode:
        texts = (canary.word,) if mode is SearchMode.KEYWORD else (canary.word, canary.text)
        found[mode] = False
        for text in texts:
            hits = _search(there, asked, f"canary of the {kind} side", text, mode)
            found[mode] |= document_id in hits
    return found


def _search(there: Deployment, asked: _Asked, aim: str, text: str, mode: SearchMode) -> set[str]:
    """Ask as the person; note what came. Return the ids of the documents."""
    result = there.person.search(text, limit=_DEPTH, mode=mode)
    there.asked.append(result.response_id)
    leaks = 0
    for hit in result.hits:
        document = hit.chunk.document
        if asked.denied.holds(document.source, document.location):
            leaks += 1
            asked.leaks.append(f"`{document.location}` ({mode.value})")
    asked.hits += len(result.hits)
    asked.rows.append(
        {"aim": aim, "mode": mode.value, "passages": len(result.hits), "leaks": leaks, "audit": result.response_id}
    )
    return {hit.chunk.document.document_id for hit in result.hits}


def _aim(there: Deployment, asked: _Asked, area: Area, kind: str) -> tuple[int, int]:
    """Ask for real documents by the words of their names; return how many readable ones were found, of how many."""
    found = sought = 0
    readable = _checked(there, area.documents)
    for document in list(_sample(area.documents)):
        last = document.location.rpartition("/")[2] or document.location
        name = last.rpartition(".")[0] or last
        text = " ".join("".join(c if c.isalnum() else " " for c in name).split()) or name
        hits = _search(there, asked, f"document {document.document_id} of the {kind} side", text, SearchMode.HYBRID)
        if readable.get(document.document_id):
            sought += 1
            found += document.document_id in hits
    return found, sought


def _sample(documents: Sequence[DocumentPlace]) -> Iterator[DocumentPlace]:
    return iter(documents if len(documents) <= _AIMED else secrets.SystemRandom().sample(documents, _AIMED))


def _checked(there: Deployment, documents: Sequence[DocumentPlace]) -> dict[str, bool]:
    """What the person is told by CheckAccess."""
    found: dict[str, bool] = {}
    ids = [one.document_id for one in documents]
    for start in range(0, len(ids), _BATCH):
        answer = there.person.check_access(ids[start : start + _BATCH])
        there.asked.append(answer.response_id)
        found |= answer.readable
    return found


def _by_id(there: Deployment, user: str, allowed: Area, denied: Area) -> Iterable[Check]:
    """Every id of both sides, as if the person had learned them all."""
    told = _checked(there, denied.documents)
    opened = [one.location for one in _sample(denied.documents) if there.reads(one.document_id)]
    yield claim(
        "no id of the denied side opens anything",
        not any(told.values()) and not opened,
        f"{len(told)} ids were checked, {sum(told.values())} are said to be readable; "
        f"{min(len(denied.documents), _AIMED)} were asked for, {len(opened)} opened",
        checked=len(told),
        readable=sum(told.values()),
        opened=len(opened),
    )
    absent = "".join(reversed(denied.documents[0].document_id))
    yield claim(
        "a hidden id and one that does not exist are refused alike",
        _refusal(there, denied.documents[0].document_id) == _refusal(there, absent),
        "the same kind of refusal with the same text",
    )
    mine = _checked(there, allowed.documents)
    yield claim(
        "something of the allowed side opens by its id",
        any(there.reads(one.document_id) for one in allowed.documents if mine[one.document_id]),
        f"{sum(mine.values())} of {len(mine)} documents of {allowed} may be read by {user}",
        readable=sum(mine.values()),
        documents=len(mine),
    )


def _refusal(there: Deployment, document_id: str) -> tuple[str, str]:
    try:
        there.asked.append(there.person.get_document(document_id).response_id)
    except RemitError as err:
        return type(err).__name__, str(err)
    return "", ""


def _listed(there: Deployment, denied: Area) -> Check:
    token, count, wrong = "", 0, 0
    while True:
        page = there.person.list_readable_documents(page_size=1000, page_token=token)
        there.asked.append(page.response_id)
        count += len(page.documents)
        wrong += sum(denied.holds(one.source, one.location) for one in page.documents)
        token = page.next_page_token
        if not token:
            break
    return claim(
        "the list of what may be read names nothing of the denied side",
        wrong == 0,
        f"{count} documents are listed, {wrong} of them in {denied}",
        listed=count,
        wrong=wrong,
    )


def _control(there: Deployment, document_id: str, denied: Area) -> Check:
    """Somebody must be able to read the denied canary: that nobody finds what nobody may read proves nothing."""
    text = "somebody else does read the canary of the denied side"
    readers = there.reviewer.list_readers(document_id)
    count = len(readers.readers) + readers.more_readers
    if there.witness is not None:
        try:
            there.asked.append(there.witness.get_document(document_id).response_id)
        except NotFoundError:
            return Check(text, Result.NOT_RUN, f"the witness does not read {denied}: choose somebody who does")
        return Check(text, Result.PASSED, f"the witness was given it; {count} people may read it", {"readers": count})
    if not readers.listed:
        why = "the directory cannot say who reads it: name somebody who does with `--witness`"
        return Check(text, Result.NOT_RUN, why)
    if count == 0:
        return Check(
            text, Result.NOT_RUN, f"nobody may read the canary in {denied}, so that nobody finds it says nothing"
        )
    return Check(text, Result.PASSED, f"{count} people may, by the rules of the source", {"readers": count})


def _explained(there: Deployment, user: str, ids: dict[str, str]) -> tuple[list[Check], list[dict[str, object]]]:
    checks: list[Check] = []
    rows: list[dict[str, object]] = []
    for kind, wanted in (("allowed", True), ("denied", False)):
        found = there.reviewer.explain_user_access(user, ids[kind]).explanation
        checks.append(
            claim(f"the decision about the {kind} canary is explained as such", found.allowed is wanted, _why(found))
        )
        rows += [
            {
                "side": kind,
                "clause": verdict.clause,
                "passed": verdict.passed,
                "reason": verdict.reason.value,
                "principal": verdict.principal,
                "path": " → ".join(verdict.path),
            }
            for verdict in found.clauses
        ]
    return checks, rows


def _why(found: Explanation) -> str:
    stopped = next((v for v in found.clauses if not v.passed), None)
    if found.allowed or stopped is None:
        return f"{found.reason.value}, by {len(found.clauses)} clauses"
    return f"{stopped.reason.value} in `{stopped.clause}`"


def _recorded(there: Deployment, audit_ids: Sequence[str], denied: set[str]) -> Check:
    missing, wrong = 0, 0
    for response_id in audit_ids:
        try:
            records = there.auditor.get_audit_record(response_id)
        except NotFoundError:
            missing += 1
            continue
        for one in records:
            body = one.record["body"]
            wrong += sum(passage["document_id"] in denied for passage in body.get("returned", ()))
    witnessed = 1 if there.witness is not None else 0
    return claim(
        "every answer is in the audit log, and none of its records names a passage of the denied side",
        missing == 0 and wrong <= witnessed,
        f"{len(audit_ids)} answers, {missing} without a record, {max(wrong - witnessed, 0)} passages of the other side",
        answers=len(audit_ids),
        missing=missing,
    )
