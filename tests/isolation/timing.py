"""Two kinds of call, timed in turns, and how far their times lie apart.

The measure is Cliff's delta: the probability that a call of one kind takes longer than one of the other, less the
probability of the reverse; 0 when nothing tells them apart, 1 or -1 when one look does. It looks at ranks alone, so
that a pause of the machine moves it by one pair and not by its length.

The kinds alternate within each pair, in an order that is drawn, so that whatever slows the machine slows both. A
measurement is taken again when it exceeds the bound, five times at most: a channel is there every time, a burst of
load is not. What the tests bound is the smallest of the five.
"""

from __future__ import annotations

import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

TRIES: Final = 5
_WARM: Final = 20

Ask = Callable[[], Awaitable[object]]


def cliffs_delta(one: Sequence[float], other: Sequence[float]) -> float:
    """P(one > other) - P(one < other), over all pairs."""
    ordered = sorted(other)
    wins = sum(bisect_left(ordered, value) for value in one)
    losses = sum(len(ordered) - bisect_right(ordered, value) for value in one)
    return (wins - losses) / (len(one) * len(other))


async def delta(one: Ask, other: Ask, *, pairs: int, seed: int) -> float:
    """Time both in turns and return how far apart they lie."""
    random_ = random.Random(seed)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(_WARM + pairs):
        order = [0, 1] if random_.random() < 0.5 else [1, 0]
        for kind in order:
            began = time.perf_counter()
            await (one, other)[kind]()
            if number >= _WARM:
                times[kind].append(time.perf_counter() - began)
    return cliffs_delta(*times)


async def smallest_delta(one: Ask, other: Ask, *, pairs: int, bound: float, seed: int) -> tuple[float, list[float]]:
    """Measure until it is within the bound, `TRIES` times at most; return the smallest size, and all of them."""
    found: list[float] = []
    while len(found) < TRIES and (not found or abs(found[-1]) > bound):
        found.append(await delta(one, other, pairs=pairs, seed=seed + len(found)))
    return min(abs(size) for size in found), found
