"""A process that makes an index anew and is killed on the way: `python -m tests.service.swap_kill FOLDER POINT`.

Run by `test_index_generations`, which looks at what is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from service.files import durable_file
from service.index.edge import EdgeIndex
from service.index.follow import RenewingFollower
from tests.service.test_index_edge import Feed, add
from tests.service.test_index_generations import MATRIX, opened, remove

POINTS: Final = ("building", "built", "named", "closing", "sweeping", "swept")
COUNT: Final = 600
GONE: Final = 200


def end() -> None:
    """As `kill -9` does, to the whole process."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(work: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    """Do `work`, but end instead when its arguments are those."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            end()
        return work(*args, **kwargs)

    return wrapped


def feed() -> Feed:
    """What the index is made of: some rows, of which the first are removed again."""
    made = Feed(add(range(COUNT), MATRIX), step=100)
    remove(made, range(GONE))
    return made


def main(folder: Path, point: str) -> None:
    """Fill an index, make it anew, and be killed at `point`."""
    index = opened(folder)
    follower = RenewingFollower(feed(), index)
    follower.start()
    match point:
        case "building":
            # Only the new one is filled from the beginning.
            EdgeIndex.apply = before(EdgeIndex.apply, lambda self, items: self.applied_seq > 300)  # type: ignore[method-assign]
        case "built":
            durable_file.replace = before(durable_file.replace, lambda path, data: path.name == "current")
        case "named":
            replace = durable_file.replace

            def named(path: Path, data: bytes) -> None:
                replace(path, data)
                if path.name == "current":
                    end()

            durable_file.replace = named
        case "closing":
            EdgeIndex.close = before(EdgeIndex.close, lambda self: True)  # type: ignore[method-assign]
        case "sweeping":
            shutil.rmtree = before(shutil.rmtree, lambda path, **_: Path(path).name == "g1")  # type: ignore[assignment]
        case _:
            pass  # once all is done
    follower.renew()
    end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
