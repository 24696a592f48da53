"""Callers of a running service, in a process of their own, so that they take no time from its interpreter.

Run as `python -m benchmarks.callers ADDRESS CALLERS SECONDS MODE` by `benchmarks.end_to_end`; the token comes on
standard input.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Final

from remit.client import AsyncClient
from remit.client.values import SearchMode

WORDS: Final = ("plan", "budget", "merger", "report", "quarter", "Berlin", "Helios", "contract", "invoice", "review")


async def _ask(address: str, callers: int, seconds: float, mode: SearchMode, token: str) -> None:
    """Search from so many callers for some seconds, each as soon as it has its answer; print what it took."""
    spent: list[float] = []

    async def one(number: int, client: AsyncClient, until: float) -> None:
        draw = random.Random(number)
        while time.perf_counter() < until:
            query = " ".join(draw.choices(WORDS, k=6))
            start = time.perf_counter()
            await client.search(query, mode=mode)
            spent.append((time.perf_counter() - start) * 1e3)

    async with AsyncClient(address, token=token, insecure_loopback=True) as client:
        for _ in range(20):
            await client.search("warm up", mode=mode)
        began = time.perf_counter()
        await asyncio.gather(*(one(number, client, began + seconds) for number in range(callers)))
        print(json.dumps({"spent_ms": spent, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    _address, _callers, _seconds, _mode = sys.argv[1:]
    asyncio.run(_ask(_address, int(_callers), float(_seconds), SearchMode(_mode), sys.stdin.read().strip()))
