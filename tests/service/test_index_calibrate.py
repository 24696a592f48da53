"""The measurement that proposes how to tune the index."""

from __future__ import annotations

import numpy as np
import pytest

from service.index.calibrate import Step, calibrate, clustered
from service.index.planner import MAX_BITS


@pytest.mark.slow
def test_a_calibration_proposes_settings_that_are_allowed_and_says_what_it_measured() -> None:
    """Whatever the machine is, the proposal is within the ranges of the settings, and its reasons are told."""
    told: list[Step] = []

    found = calibrate(5_000, 32, 2, told.append, queries=4)

    assert 1 <= found.bits <= MAX_BITS
    assert 50 <= found.candidates <= 500
    assert found.candidates <= found.exact_below
    assert 0 < found.masked_above <= 1
    assert {step.name.split()[-1] for step in told} == {"candidates", "permitted"}


def test_made_vectors_are_the_same_for_the_same_seed() -> None:
    """Unit vectors, so many as asked for; another seed gives others."""
    made = np.concatenate(list(clustered(10_050, 16, seed=1)))

    assert made.shape == (10_050, 16)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert np.array_equal(made, np.concatenate(list(clustered(10_050, 16, seed=1))))
    assert not np.array_equal(made[:10], next(clustered(10, 16, seed=2)))
