"""Part 5: what the audit log says about the first answer, and what it says after one bit of it was changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Final

from service.audit import Verifier, find, verify
from service.demo.screen import BrokenClaimError, Screen
from service.demo.stage import Stage

_FINGERPRINT: Final = 16


def audit(screen: Screen, stage: Stage, response_id: str) -> None:
    """Show a record, verify the log, change one bit in a copy and see it found. Raises BrokenClaimError."""
    folder, key = _log(stage), _key(stage)
    record = find(folder, response_id)
    if record is None:
        raise BrokenClaimError(f"the audit log has no record of the answer {response_id}")
    screen.say(f"Record {record.index}: the answer to Alice, written before it left. (Shortened.)")
    screen.say()
    screen.show(_pretty(_shorten(record.record)))
    screen.say()

    whole = verify(folder, key)
    screen.claim(
        f"the log is whole: {whole.records} records, each naming the one before it",
        whole.ok and whole.records > record.index,
        f"the audit log does not verify: {whole.problem}",
    )

    copy = stage.files.base / "audit-copy"
    shutil.copytree(folder, copy)
    before, after = _flip(copy, response_id)
    screen.say()
    screen.say("In a copy of the log one bit of that record is changed: another group seems to have allowed it.")
    screen.say()
    screen.show(f"{before}\n{after}")
    screen.say()
    found = verify(copy, key).problem
    screen.claim(
        f"the verifier finds it: {found}",
        found is not None and found.index == record.index,
        f"one bit of record {record.index} was changed and the verifier said: {found or 'nothing is wrong'}",
    )
    screen.claim("the log itself still verifies", verify(folder, key).ok, "the log itself does not verify any more")


def closed(screen: Screen, stage: Stage) -> None:
    """Verify the log of the server that was stopped. Raises BrokenClaimError."""
    report = verify(_log(stage), _key(stage))
    screen.claim(
        f"the server ended in order and signed its log: {report.covered} of {report.records} records under the root "
        f"{report.root.hex()[:_FINGERPRINT]}…",
        report.ok and report.covered == report.records,
        f"the server ended and its log is not signed to the end: {report.problem or report.covered}",
    )


def _log(stage: Stage) -> Path:
    return stage.files.base / "data" / "audit"


def _key(stage: Stage) -> Verifier:
    return Verifier.parse((stage.files.base / "keys" / "audit.pub").read_text("ascii").strip())


def _pretty(value: object, indent: int = 0, room: int = 92) -> str:
    """JSON in which everything that fits on a line stands on one."""
    line = json.dumps(value, ensure_ascii=False)
    pad = " " * (indent + 2)
    match value:
        case dict() if len(line) > room - indent:
            # The key takes room on the first line of its value.
            inner = [f"{pad}{json.dumps(k)}: {_pretty(v, indent + 2, room - len(k) - 4)}" for k, v in value.items()]
            return "{\n" + ",\n".join(inner) + "\n" + " " * indent + "}"
        case list() if len(line) > room - indent:
            return "[\n" + ",\n".join(pad + _pretty(v, indent + 2, room) for v in value) + "\n" + " " * indent + "]"
        case _:
            return line


def _shorten(value: object) -> object:
    """The record with long fingerprints cut and only the first of the passages, for a screen."""
    match value:
        case dict():
            return {key: _shorten(inner) for key, inner in value.items()}
        case [dict() as first, *more] if "chunk_id" in first and more:
            return [_shorten(first), f"… and {len(more)} more passages"]
        case list():
            return [_shorten(one) for one in value]
        case str():
            return re.sub(rf"([0-9a-f]{{{_FINGERPRINT}}})[0-9a-f]{{{_FINGERPRINT},}}", r"\1…", value)
        case _:
            return value


def _flip(copy: Path, response_id: str) -> tuple[str, str]:
    """Change the lowest bit of one digit in the record of an answer; return what stood there and what stands now."""
    for segment in sorted((copy / "segments").glob("*.seg")):
        data = bytearray(segment.read_bytes())
        # Keys are sorted, so the passages that were returned follow the id of the answer within its record.
        place = data.find(f'"response_id":"{response_id}"'.encode())
        if place < 0:
            continue
        mark = b'"principal":"'
        start = data.find(mark, place) if data.find(mark, place) > 0 else data.rfind(mark, 0, place)
        end = data.find(b'"', start + len(mark))
        if start < 0 or end < 0:
            break
        before = data[start : end + 1].decode()
        data[end - 1] ^= 1
        segment.write_bytes(data)
        return before, data[start : end + 1].decode()
    raise BrokenClaimError("the record of the answer names no principal, so it does not say why it was allowed")
