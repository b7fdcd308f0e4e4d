"""Intervals over seeds."""

import math

import numpy as np
import pytest

from freeprompt.analysis.statistics import Estimate, difference, mean, rate
from freeprompt.errors import ConfigError


def test_wilson_by_hand():
    # Wilson, 8 of 10: (0.490, 0.943), as in every table of binomial intervals
    found = rate([1] * 8 + [0] * 2, list(range(10)))
    assert (found.value, found.count, found.seeds) == (0.8, 10, 10)
    assert found.low == pytest.approx(0.4902, abs=1e-4)
    assert found.high == pytest.approx(0.9433, abs=1e-4)


def test_a_perfect_rate_is_not_certain():
    found = rate([1] * 20, list(range(20)))
    assert found.value == found.high == 1
    assert 0.8 < found.low < 0.9


def test_outcomes_that_follow_their_seed_are_worth_less():
    seeds = np.repeat(np.arange(10), 10)
    alike = rate((seeds % 2).tolist(), seeds.tolist())
    mixed = rate((np.arange(100) % 2).tolist(), seeds.tolist())
    assert alike.value == mixed.value == 0.5
    assert alike.high - alike.low > 2.5 * (mixed.high - mixed.low)
    # ten clusters of equal outcomes are ten trials (up to the n-1 of the cluster variance)
    ten = rate([0, 1] * 5, list(range(10)))
    assert alike.high - alike.low == pytest.approx(ten.high - ten.low, rel=0.06)


def test_intervals_cover():
    """Of 200 experiments with a true rate of 0.3 in clusters, about 95 % cover it."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        chance = rng.beta(3, 7, size=30)
        values = (rng.random((30, 4)) < chance[:, None]).ravel().astype(float)
        found = rate(values.tolist(), np.repeat(np.arange(30), 4).tolist())
        covered += found.low <= 0.3 <= found.high
    assert 180 <= covered <= 199


def test_a_mean_over_seeds():
    values = [1.0, 3.0, 2.0, 2.0, math.nan]
    found = mean(values, [0, 0, 1, 1, 1])
    assert (found.value, found.count) == (2.0, 4)
    assert found.low == found.high == 2.0  # every seed has this mean
    alone = mean([1.0, 2.0], [5, 5])
    assert math.isnan(alone.low)


def test_a_difference_is_paired():
    first, second = [10.0, 20.0, 30.0], [9.0, 19.0, 29.0]
    found = difference(first, second, [0, 1, 2])
    assert found.value == found.low == found.high == 1.0
    with pytest.raises(ConfigError, match="equally many"):
        difference([1.0], [1.0, 2.0], [0])


def test_nothing_to_estimate():
    for function in (rate, mean):
        assert math.isnan(function([math.nan], [0]).value)
    with pytest.raises(ConfigError, match="as many seeds"):
        rate([1.0], [])


def test_json_and_back():
    for estimate in (rate([1, 0], [0, 1]), mean([1.0], [0])):
        values = estimate.to_dict()
        assert str(Estimate.from_dict(values)) == str(estimate)
    assert mean([1.0], [0]).to_dict()["low"] is None
