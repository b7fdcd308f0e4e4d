"""Intervals and paired differences against theory."""

import numpy as np
import pytest

from freeprompt.bench.stats import bootstrap_mean, compare
from freeprompt.errors import ConfigError


def test_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    mean, error = bootstrap_mean(values), values.std() / 20
    assert mean.value == pytest.approx(values.mean())
    assert mean.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error * 2)
    assert mean.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error * 2)
    assert mean.count == 400


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        mean = bootstrap_mean((rng.random(60) < 0.3).astype(float))
        inside += mean.low <= 0.3 <= mean.high
    assert 0.88 <= inside / 200 <= 0.99


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(3).normal(size=30)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)
    one = bootstrap_mean([2.0])
    assert (one.value, one.low, one.high) == (2, 2, 2)


def test_pairs_see_what_means_do_not() -> None:
    """A small gain on every item is clear, however different the items are."""
    hard = np.random.default_rng(2).normal(0, 10, 100)
    paired = compare(hard + 0.1, hard)
    assert paired.clear
    assert paired.difference.value == pytest.approx(0.1)
    assert (paired.wins, paired.losses, paired.ties) == (100, 0, 0)
    alone = bootstrap_mean(hard + 0.1)
    assert alone.low < bootstrap_mean(hard).high  # without pairing nothing could be said


def test_wins_follow_the_direction_of_the_score() -> None:
    first, second = [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0]
    up, down = compare(first, second), compare(first, second, higher=False)
    assert (up.wins, up.losses, up.ties) == (2, 1, 1)
    assert (down.wins, down.losses, down.ties) == (1, 2, 1)
    assert not up.clear


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="no values"):
        bootstrap_mean([])
    with pytest.raises(ConfigError, match="2 values cannot be paired with 1"):
        compare([1.0, 2.0], [1.0])


def test_a_few_items_decide_nothing() -> None:
    assert not compare([1.0] * 5, [0.0] * 5).clear
    assert compare([1.0] * 6, [0.0] * 6).clear
    assert compare([0.0] * 6, [1.0] * 6).clear
    assert not compare([1.0] * 6, [1.0] * 6).clear
