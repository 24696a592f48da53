"""The bounded queue between two threads: what is heavy takes more of it, and nothing waits for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from connectors.testing.hostile import MemorySource
from service.embed.embedder import Vectors
from service.sync.channel import Channel
from tests.service.sync_support import allow, open_world


def test_heavy_values_take_more_of_the_room_and_one_always_fits() -> None:
    """What is heavier than the whole room goes in alone; the next one waits until it is out."""
    channel: Channel[str] = Channel(10, len)
    channel.put("x" * 50)
    put = threading.Event()

    def put_more() -> None:
        channel.put("y" * 6)
        channel.put("z" * 4)
        put.set()

    thread = threading.Thread(target=put_more)
    thread.start()
    assert not put.wait(0.05)
    assert channel.take() == "x" * 50
    assert put.wait(20)
    thread.join()
    assert (channel.take(), channel.take()) == ("y" * 6, "z" * 4)


def test_texts_of_many_passages_do_not_heap_up_before_the_model(tmp_path: Path) -> None:
    """While the model works on one of them, a few more are read and the rest waits in the source."""
    source, most = MemorySource(), 0
    with open_world(tmp_path, source) as world:
        for number in range(40):
            world.add(f"{number}", "\n\n".join(f"{number} {part}" for part in range(1000)), allow(1), None)
        embed = world.embedder.embed

        def slowly(texts: list[str]) -> Vectors:
            nonlocal most
            deadline_s = time.monotonic() + 0.3
            while len(world.extractor.extracted) < 40 and time.monotonic() < deadline_s and not most:
                time.sleep(0.01)
            most = most or len(world.extractor.extracted)
            return embed(texts)

        world.embedder.embed = slowly  # type: ignore[method-assign,assignment]  # the model's edge
        run = world.sync()

        assert (run.counts.stored, run.counts.chunks) == (40, 40_000)
        assert 1 <= most <= 10
