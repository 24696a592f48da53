"""Part 4: somebody leaves a group, then a folder loses an entry, and both are in force on the next question."""

from __future__ import annotations

import time
from typing import Final

from remit.client import SyncRun, SyncState

from service.demo import people
from service.demo.calls import Outcome
from service.demo.question import OPEN_TO_ALL, QUESTION, Found, documents
from service.demo.screen import BrokenClaimError, Screen
from service.demo.stage import Stage
from service.files import facl

FOLDER: Final = "Sales/Helios"
ENTRY: Final = facl.group(people.SALES, "r-x")


def revoke(screen: Screen, stage: Stage, tokens: dict[str, str], before: dict[str, list[Found]]) -> None:
    """Take access away in two ways and ask again. Raises BrokenClaimError."""
    _leave_group(screen, stage, tokens["bob"], before["bob"])
    screen.say()
    _close_folder(screen, stage, tokens, before["alice"])


def _leave_group(screen: Screen, stage: Stage, token: str, before: list[Found]) -> None:
    screen.say("Bob leaves fin-emea: one word less in people.yaml. He asks the same question again.")
    screen.say()
    wanted = next(one for one in before if one.folder not in OPEN_TO_ALL)

    begun = time.perf_counter()
    people.write(stage.people, people.without("bob", "fin-emea"))
    after = documents(stage.ask("bob", QUESTION))
    elapsed = _milliseconds(begun)

    _table(screen, before, after)
    gone = stage.calls.document(token, wanted.document_id)
    screen.claim(
        f"Finance was his through fin-emea alone, and is gone on the next question: {elapsed:.0f} ms with the edit",
        all(one.folder in OPEN_TO_ALL for one in after),
        f"Bob left the group and was still given {[one.place for one in after if one.folder not in OPEN_TO_ALL]}",
    )
    _require_not_found(gone, wanted.place)
    screen.claim(
        f"what is for everybody stays his: {after[0].place if after else 'nothing'} comes first now",
        bool(after),
        "Bob lost a group and with it what everybody may read",
    )


def _close_folder(screen: Screen, stage: Stage, tokens: dict[str, str], before: list[Found]) -> None:
    screen.say(f"The folder {FOLDER} loses its entry `{ENTRY}`. No file in it is touched. Alice asks again.")
    screen.say()
    lost = next(one for one in before if one.folder == FOLDER)

    begun = time.perf_counter()
    facl.remove(stage.files.company / FOLDER, ENTRY)
    run = sync(stage)
    synced = _milliseconds(begun)
    after = documents(stage.ask("alice", QUESTION))
    elapsed = _milliseconds(begun)

    _table(screen, before, after)
    gone = stage.calls.document(tokens["alice"], lost.document_id)
    kept = [one for one in after if one.folder in OPEN_TO_ALL | {"Sales"}]
    screen.claim(
        f"everything in the folder is gone on the next question: {elapsed:.0f} ms, of which the sync took {synced:.0f}",
        all(one.folder != FOLDER for one in after),
        f"the folder was closed to Sales and Alice was still given {[o.place for o in after if o.folder == FOLDER]}",
    )
    _require_not_found(gone, lost.place)
    screen.claim(
        f"the sync read no text again: {run.counts.stored} stored, {run.counts.unchanged} unchanged",
        run.counts.stored == 0 and run.counts.unchanged > 0,
        f"a change of rules alone made the sync store {run.counts.stored} documents again",
    )
    screen.claim(
        f"Alice keeps what lies beside it, such as {kept[0].place if kept else 'nothing'}",
        bool(kept) and kept == after,
        "Alice lost more than the folder, or kept something else",
    )
    neighbour = stage.calls.document(tokens["grace"], lost.document_id)
    screen.claim(
        f"Grace, whose group the folder still names, reads on: {neighbour.title}",
        neighbour.code == "OK",
        f"Grace may still read {lost.place} and was answered with {neighbour.code}",
    )


def _require_not_found(outcome: Outcome, place: str) -> None:
    if outcome.code != "NOT_FOUND":
        raise BrokenClaimError(f"{place} is gone from the answers and its id is still answered with {outcome.code}")


def sync(stage: Stage) -> SyncRun:
    """Run a sync to its end. Raises BrokenClaimError when it fails."""
    *_, run = stage.sync()
    if run.state is not SyncState.SUCCEEDED:
        raise BrokenClaimError(f"the sync did not succeed: {run.failure or 'it ended without saying why'}")
    return run


def _table(screen: Screen, before: list[Found], after: list[Found]) -> None:
    left = {one.place for one in after}
    for one in before:
        stays = one.place in left
        screen.say(f"    {'stays' if stays else 'gone ':<6} {one.place}", "" if stays else "red")
    more = len(left - {one.place for one in before})
    screen.say(f"    {more} other documents, less near to the question, take their places", "dim")
    screen.say()


def _milliseconds(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000
