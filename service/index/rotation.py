"""The constant random rotation in front of the codes: it spreads what a vector says evenly over its dimensions.

Four rounds; in each, the signs of some dimensions are flipped and a Walsh-Hadamard transform goes over the first or,
in every second round, the last power of two of them. Orthogonal, so cosines stay what they are.

# INVARIANT: a vector's rotation does not depend on what is rotated beside it. A matrix product does, in the last bits,
# because of how it is cut into blocks; sums and differences element by element do not.

SOURCE: the fast Johnson-Lindenstrauss transform (Ailon and Chazelle, 2006); rounds as in RaBitQ's own library.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

_SEED: Final = 20261125
_ROUNDS: Final = 4


class Rotation:
    """A rotation of `dimension` dimensions. matrix: such that `vector @ matrix` is it, for one vector at a time."""

    def __init__(self, dimension: int) -> None:
        draw = np.random.default_rng(_SEED)
        self._signs = draw.choice(np.array([-1, 1], np.float32), (_ROUNDS, dimension))
        self._span = 1 << (dimension.bit_length() - 1)
        self.matrix = self.apply(np.eye(dimension, dtype=np.float32))

    def apply(self, vectors: Vectors) -> Vectors:
        """Rotate vectors, shape (n, dimension)."""
        rotated = np.array(vectors, np.float32)
        for number, signs in enumerate(self._signs):
            rotated *= signs
            part = rotated[:, -self._span :] if number % 2 else rotated[:, : self._span]
            part[...] = _transformed(np.ascontiguousarray(part))
        return rotated


def _transformed(part: Vectors) -> Vectors:
    """The orthonormal Walsh-Hadamard transform of each row; their length is a power of two."""
    count, span = part.shape
    half = 1
    while half < span:
        pairs = part.reshape(count, span // (2 * half), 2, half)
        part = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        half *= 2
    scaled: Vectors = part.reshape(count, span) * np.float32(span**-0.5)
    return scaled
