"""The running kernel as a judge: who can open which file. Needs root, as it becomes other users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_JUDGE = """
import json, os, sys
question = json.load(sys.stdin)
paths = [os.fsencode(path) for path in question["paths"]]
for who in question["who"]:
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups(who["groups"])
            os.setresgid(who["gid"], who["gid"], who["gid"])
            os.setresuid(who["uid"], who["uid"], who["uid"])
            answers = bytearray()
            for path in paths:
                try:
                    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                    answers += b"1"
                except PermissionError:
                    answers += b"0"
            os.write(into, answers)
            code = 0
        finally:
            os._exit(code)
    os.close(into)
    with open(out, "rb") as answered:
        answers = answered.read().decode()
    if os.waitpid(child, 0)[1] != 0 or len(answers) != len(paths):
        sys.exit(f"the judge could not ask for {who}")
    print(answers)
"""


@dataclass(frozen=True, slots=True)
class Process:
    """A process's ids, as the kernel sees them."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def kernel_reads(who: Sequence[Process], paths: Sequence[Path]) -> list[list[bool]]:
    """Return for each process, and each path in order, whether an `open` for reading succeeds.

    At most 60,000 paths: a pipe's worth of answers.
    """
    question = {"who": [asdict(process) for process in who], "paths": [os.fspath(path) for path in paths]}
    command = [sys.executable, "-I", "-c", _JUDGE]
    answer = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return [[mark == "1" for mark in line] for line in answer.stdout.split()]
