"""Part 5: what the audit log says about the first answer, and what it says after one bit of it was changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Final

from service import audit_keys
from service.audit import AuditKey, Opener, Verifier, find, segments, verify
from service.audit.bodies import HEAD_BYTES
from service.demo.screen import BrokenClaimError, Screen
from service.demo.stage import Stage
from service.keys import FileKey
from service.keys.envelope import HEAD_BYTES as SEAL_BYTES

_FINGERPRINT: Final = 16


def audit(screen: Screen, stage: Stage, response_id: str) -> None:
    """Show a record, verify the log, change one bit in a copy and see it found. Raises BrokenClaimError."""
    folder, key, bodies = _log(stage), _key(stage), _bodies(stage)
    record = find(folder, response_id, bodies)
    if record is None:
        raise BrokenClaimError(f"the audit log has no record of the answer {response_id}")
    screen.say(f"Record {record.index}: the answer to Alice, written before it left. (Shortened.)")
    screen.say()
    screen.show(_pretty(_shorten(record.record)))
    screen.say()

    whole = verify(folder, key, bodies)
    screen.claim(
        f"the log is whole: {whole.records} records, each naming the one before it",
        whole.ok and whole.records > record.index,
        f"the audit log does not verify: {whole.problem}",
    )

    copy = stage.files.base / "audit-copy"
    shutil.copytree(folder, copy)
    before, after = _flip(copy, record.index, bodies)
    screen.say()
    screen.say("In a copy of the log one bit of that record is changed: another group seems to have allowed it.")
    screen.say()
    screen.show(f"{before}\n{after}")
    screen.say()
    found = verify(copy, key, bodies).problem
    screen.claim(
        f"the verifier finds it: {found}",
        found is not None and found.index == record.index,
        f"one bit of record {record.index} was changed and the verifier said: {found or 'nothing is wrong'}",
    )
    screen.claim(
        "the log itself still verifies", verify(folder, key, bodies).ok, "the log itself does not verify any more"
    )


def closed(screen: Screen, stage: Stage) -> None:
    """Verify the log of the server that was stopped. Raises BrokenClaimError."""
    report = verify(_log(stage), _key(stage), _bodies(stage))
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


def _bodies(stage: Stage) -> Opener:
    base = stage.files.base
    key, provider = AuditKey.load(base / "keys" / "audit.key"), FileKey(base / "keys" / "remit.kek")
    return audit_keys.opener(base / "keystore", provider, key)


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


def _flip(copy: Path, index: int, bodies: Opener) -> tuple[str, str]:
    """Change the lowest bit of one digit in a record; return what stood there and what would be read there now.

    The cipher turns a flipped bit of what is stored into the same bit of what is read, were it not for its tag.
    """
    for place, stored in segments.read_from(copy, segments.place_before(copy, index), index + 1):
        if place.index < index:
            continue
        data = bodies.open(index, stored)
        mark = b'"principal":"'
        start = data.find(mark) if isinstance(data, bytes) else -1
        if start < 0 or not isinstance(data, bytes):
            break
        end = data.index(b'"', start + len(mark))
        changed = data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:]
        with (copy / "segments" / f"{place.segment:012d}.seg").open("r+b") as file:
            file.seek(place.offset + segments.stored_bytes(stored) - len(stored) + HEAD_BYTES + SEAL_BYTES + end - 1)
            digit = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([digit[0] ^ 1]))
        return data[start : end + 1].decode(), changed[start : end + 1].decode()
    raise BrokenClaimError("the record of the answer names no principal, so it does not say why it was allowed")
