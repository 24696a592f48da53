"""Samba's own access check judges the NTFS dialect."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from acl.decide import Allowed, decide
from acl.dialects import ntfs
from acl.model import Acl, Caller, Unknown
from acl.principal import Realm
from tests.acl.descriptors import Entry, descriptor
from tests.strategies import FAR, START
from tests.support.needs import need

_PYTHON = "/usr/bin/python3"
_AD = Realm("ad")
_DOMAIN = "S-1-5-21-1-2-3"
_EVERYONE = "S-1-1-0"
_HELD = [f"{_DOMAIN}-{n}" for n in (1000, 1001, 1002, 1103, 1104, 1105, 1106)] + ["S-1-5-11", "S-1-5-32-545"]
_TRUSTEES = [*_HELD, _EVERYONE, "S-1-3-4", "S-1-3-0", f"{_DOMAIN}-512"]
_MASKS = [0x1, 0x80, 0x100000, 0x8, 0x20000, 0x2, 0x120089, 0x120116, 0x1200A9, 0x1F01FF, 0x1301BF, 0x100081, 0x40000]
_GENERIC = [0x80000000, 0x10000000, 0x40000000, 0xE0000000]
_WANTED = [ntfs.READ, ntfs.READ, ntfs.GENERIC_READ, ntfs.READ_DATA, ntfs.READ_DATA | ntfs.READ_CONTROL]
_DESCRIPTORS = 100_000


def _samba_is_there() -> bool:
    if not Path(_PYTHON).exists():
        return False
    return (
        subprocess.run([_PYTHON, "-c", "import samba.dcerpc.security"], capture_output=True, check=False).returncode
        == 0
    )


def _judge(tokens: list[list[str]], records: list[tuple[int, int, bytes]]) -> bytes:
    sent = json.dumps(tokens).encode() + b"\n"
    sent += b"".join(struct.pack("<III", token, wanted, len(data)) + data for token, wanted, data in records)
    script = Path(__file__).with_name("samba_judge.py")
    return subprocess.run([_PYTHON, str(script)], input=sent, capture_output=True, check=True, timeout=100).stdout


def _caller(number: int, held: list[str]) -> Caller:
    name = ntfs.named_in(_AD)
    return Caller(f"u{number}", frozenset(map(name, held)), frozenset({_AD}), START, FAR)


def _read(data: bytes, caller: Caller, wanted: int) -> bool:
    found = ntfs.file_clauses(data, ntfs.named_in(_AD), wanted)
    if isinstance(found, Unknown):
        return False
    return all(isinstance(decide(Acl(None, clause), caller, START + timedelta(1)), Allowed) for clause in found.clauses)


def _random_entries(pick: random.Random) -> list[Entry]:
    return [
        (
            pick.choices([0, 1, 2], [60, 37, 3])[0],
            pick.choice([0, 0, 0, 0x10, 0x10, 0x08, 0x0B, 0x13, 0x03]),
            pick.choice(_MASKS)
            | (pick.choice(_MASKS) if pick.random() < 0.4 else 0)
            | (pick.choice(_GENERIC) if pick.random() < 0.05 else 0),
            pick.choice(_TRUSTEES),
        )
        for _ in range(pick.choice([0, 1, 2, 3, 3, 4, 5, 6, 8]))
    ]


@pytest.mark.oracle
def test_decisions_equal_sambas_access_check() -> None:
    """On 100,000 random descriptors and tokens the dialect decides as Samba's access check does."""
    need(_samba_is_there(), "python3-samba is not installed: apt-get install python3-samba")
    pick = random.Random(20261122)
    tokens = [[_EVERYONE, *pick.sample(_HELD, pick.randrange(len(_HELD)))] for _ in range(60)]
    callers = [_caller(number, held) for number, held in enumerate(tokens)]
    records = []
    for _ in range(_DESCRIPTORS):
        shape = pick.random()
        data = descriptor(
            None if shape < 0.03 else _random_entries(pick),
            pick.choice(_TRUSTEES[:9]),
            present=not 0.02 <= shape < 0.03,
        )
        records.append((pick.randrange(len(tokens)), pick.choice(_WANTED), data))

    answers = _judge(tokens, records)

    assert len(answers) == len(records)
    assert 2 not in answers
    assert 0.15 < answers.count(1) / len(answers) < 0.85
    for (token, wanted, data), answer in zip(records, answers, strict=True):
        assert _read(data, callers[token], wanted) is bool(answer), (data.hex(), tokens[token], hex(wanted))


@pytest.mark.oracle
def test_damaged_descriptors_are_never_wider_than_samba() -> None:
    """With random bytes changed, cut or of another kind of entry, nobody reads who could not read through Samba."""
    need(_samba_is_there(), "python3-samba is not installed: apt-get install python3-samba")
    pick = random.Random(7)
    tokens = [[_EVERYONE, *pick.sample(_HELD, pick.randrange(len(_HELD)))] for _ in range(30)]
    callers = [_caller(number, held) for number, held in enumerate(tokens)]
    records = []
    for _ in range(15_000):
        damaged = bytearray(descriptor(_random_entries(pick)))
        for _ in range(pick.randrange(1, 4)):
            damaged[pick.randrange(len(damaged))] = pick.choice([0, 1, 5, 6, 9, 10, 255, pick.randrange(256)])
        if pick.random() < 0.2:
            del damaged[pick.randrange(len(damaged)) :]
        records.append((pick.randrange(len(tokens)), ntfs.READ, bytes(damaged)))

    answers = _judge(tokens, records)

    for (token, wanted, data), answer in zip(records, answers, strict=True):
        if _read(data, callers[token], wanted):
            assert answer == 1, (data.hex(), tokens[token])
    assert answers.count(1) > 500
