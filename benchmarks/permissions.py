"""An organisation to measure with: ACLs, callers whose permitted share is known, and where the permitted chunks lie.

There are 40,000 ACLs. Callers are nested: the one with a share of 1 % may read what the one with 0.1 % may, so an ACL
names a principal of each caller who may read it. Callers hold from 9 to 8,000 principals, most of which name nothing.

Three ways in which permissions lie over the chunks:

- random: an ACL's chunks are anywhere, and each caller's ACLs are anywhere
- folder: an ACL's chunks lie together and are of one topic, and a hundred such ACLs are permitted together
- hostile: ACLs as in `folder`, and what is permitted are the topics farthest from what is asked
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.vectors import SEED, Vectors, topics

Rows = NDArray[np.int64]
Kind = Literal["random", "folder", "hostile"]

ACLS: Final = 40_000
SHARES: Final[dict[Kind, tuple[float, ...]]] = {
    "random": (0.0001, 0.001, 0.01, 0.03, 0.08, 0.2, 0.5, 0.8, 1.0),
    "folder": (0.001, 0.01, 0.08, 0.2, 0.5),
    "hostile": (0.01, 0.08, 0.2, 0.5, 0.8),
}
_MOST_PRINCIPALS: Final = 8_000
_LEAST_PRINCIPALS: Final = 9
_TOGETHER: Final = 100
_TOPICS: Final = 100


@dataclass(frozen=True)
class Caller:
    """Somebody who may read `share` of everything. acls: the permitted ACL ids. principals: what is held."""

    name: str
    kind: Kind
    share: float
    acls: NDArray[np.int64]
    principals: NDArray[np.int64]


class Organisation:
    """For each chunk two ACLs: one of those whose chunks are `spread` anywhere, one of those whose lie `together`."""

    def __init__(self, vectors: Vectors, *, topic_sample: int = 50_000) -> None:
        self.count = len(vectors)
        self._draw = np.random.default_rng(SEED)
        _, self._centres = topics(np.array(vectors[:topic_sample]), _TOPICS, rounds=6)
        topic = np.empty(self.count, np.int64)
        for start in range(0, self.count, 50_000):
            topic[start : start + 50_000] = np.argmax(vectors[start : start + 50_000] @ self._centres.T, axis=1)
        evenly = np.arange(self.count) * ACLS // self.count
        self.spread = np.empty(self.count, np.int64)
        self.spread[self._draw.permutation(self.count)] = evenly
        self.together = np.empty(self.count, np.int64)
        self.together[np.argsort(topic, kind="stable")] = ACLS + evenly  # other ACLs than those of `spread`
        self._topic = topic

    @cached_property
    def callers(self) -> dict[str, Caller]:
        """Everybody, by name such as `random-0.01`."""
        anywhere = self._draw.permutation(ACLS)
        blocks = self._draw.permutation(ACLS // _TOGETHER)
        by_block = (blocks[:, None] * _TOGETHER + np.arange(_TOGETHER)).ravel()
        orders = {"random": anywhere, "folder": by_block, "hostile": self._farthest_first()}
        found: dict[str, Caller] = {}
        for kind, shares in SHARES.items():
            for place, share in enumerate(shares):
                acls = np.sort(orders[kind][: max(1, round(ACLS * share))]) + (0 if kind == "random" else ACLS)
                size = np.geomspace(_LEAST_PRINCIPALS, _MOST_PRINCIPALS, len(shares))[place]
                first = len(found) * _MOST_PRINCIPALS
                principals = np.arange(first, first + round(size))
                found[f"{kind}-{share:g}"] = Caller(f"{kind}-{share:g}", kind, share, acls, principals)
        return found

    def acl_of(self, kind: Kind) -> NDArray[np.int64]:
        """The ACL id of each chunk."""
        return self.spread if kind == "random" else self.together

    def rows(self, caller: Caller) -> Rows:
        """The chunks that somebody may read."""
        permitted = np.zeros(2 * ACLS, bool)
        permitted[caller.acls] = True
        return np.nonzero(permitted[self.acl_of(caller.kind)])[0]

    def entries(self) -> NDArray[np.int64]:
        """Which principals each ACL names, one of each caller who may read it: shape (n, 2), ACL id and principal."""
        pairs = [
            np.stack([caller.acls, caller.principals[np.arange(len(caller.acls)) % len(caller.principals)]], axis=1)
            for caller in self.callers.values()
        ]
        return np.concatenate(pairs)

    def queries(self, kind: Kind, count: int, made: Vectors) -> Vectors:
        """What is asked: `made` ones, or for `hostile` those of them that are nearest to one topic."""
        if kind != "hostile":
            return made[:count]
        return made[np.argsort(-(made @ self._centres[0]))[:count]]

    def _farthest_first(self) -> NDArray[np.int64]:
        # An ACL has the topic of most of its chunks: they lie in order of topic.
        topic = np.zeros(ACLS, np.int64)
        topic[self.together - ACLS] = self._topic
        return np.argsort(self._centres[topic] @ self._centres[0], kind="stable")
