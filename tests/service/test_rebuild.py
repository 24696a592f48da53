"""Making the indexes anew when somebody asks: one at a time, followed by whoever asks meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from remit.v1.index_pb2 import RebuildIndexResponse

from service.errors import StartError
from service.upkeep.rebuild import Progress, Rebuilds
from tests.service.harness import SALES, allow, serving


class Part:
    """Something that is made anew once it is let go. fails: instead of being made."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.began, self.go, self.times = threading.Event(), threading.Event(), 0

    alone = True

    def renew(
        self, tell: Callable[[int, int], None] = lambda done, last: None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """See `Renewable`."""
        self.times += 1
        tell(3, 7)
        self.began.set()
        assert self.go.wait(20)
        if self.fails:
            raise StartError("no room")


def ended(rebuilds: Rebuilds) -> Progress:
    """Wait for the end."""
    for _ in range(2_000):
        if rebuilds.progress.ended:
            break
        threading.Event().wait(0.01)
    return rebuilds.progress


def test_who_asks_while_one_is_under_way_follows_that_one() -> None:
    """Parts come in their order, say how far they are, and are made once."""
    vectors, words = Part(), Part()
    rebuilds = Rebuilds({"vectors": vectors, "words": words})

    rebuilds.start()
    assert vectors.began.wait(20)
    rebuilds.start()

    assert rebuilds.progress == Progress("vectors", 3, 7)
    assert not words.began.is_set()
    vectors.go.set()
    assert words.began.wait(20)
    assert rebuilds.progress == Progress("words", 3, 7)
    words.go.set()
    assert ended(rebuilds) == Progress(ended=True)
    assert (vectors.times, words.times) == (1, 1)
    rebuilds.start()
    assert ended(rebuilds) == Progress(ended=True)
    assert (vectors.times, words.times) == (2, 2)


def test_one_that_fails_says_so_and_the_next_one_works() -> None:
    """What comes after the part that failed is not begun."""
    vectors, words = Part(fails=True), Part()
    rebuilds = Rebuilds({"vectors": vectors, "words": words})
    for part in (vectors, words):
        part.go.set()

    rebuilds.start()
    assert ended(rebuilds) == Progress(ended=True, failed=True)
    assert words.times == 0
    vectors.fails = False
    rebuilds.start()

    assert ended(rebuilds) == Progress(ended=True)
    assert words.times == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_the_api_follows_it_to_its_end(tmp_path: Path, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator sees how far it is and how it ended."""
    part = Part(fails=fails)
    part.go.set()
    monkeypatch.setattr("tests.service.harness.Rebuilds", lambda parts: Rebuilds({"vectors": part}))
    async with serving(tmp_path / "remit") as service:
        service.add("plan", "the plan", allow(SALES))
        service.sync()
        outcome = await service.call("IndexService/RebuildIndex", token=service.token("olga"))

    assert outcome.code == ("UNAVAILABLE" if fails else "OK")
    assert part.times == 1
    if not fails:
        assert RebuildIndexResponse.FromString(outcome.message).chunks == 1
