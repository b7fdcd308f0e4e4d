"""Means with their uncertainty, and differences of two contenders on the same items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freeprompt.errors import ConfigError

RESAMPLES = 2000
FEWEST = 6  # items: of 5, all go one way by chance in one of 16 comparisons
LEVEL = 0.95
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean, the interval that holds it 19 times out of 20, and how many values it is of.

    Of equal values the interval has no width; a rate of 0 or 1 may still be off by 3 / `count`.
    """

    value: float
    low: float
    high: float
    count: int


def bootstrap_mean(values: Sequence[float], *, seed: int = 0) -> Mean:
    """Average values, with a percentile bootstrap interval.

    Args:
        values: At least one finite number.
        seed: Of the resampling: the same values give the same interval.

    Raises:
        ConfigError: if there is no value.

    Source: Efron, Annals of Statistics 7(1), 1979; 2000 resamples, 95 % percentile interval.
    """
    if not len(values):
        raise ConfigError("There are no values to average. Check which items have this score.")
    data = np.asarray(values, np.float64)
    low, high = _interval(_resampled(data, seed))
    return Mean(value=float(data.mean()), low=low, high=high, count=len(data))


def _resampled(data: Floats, seed: int) -> Floats:
    """Means of resamples with replacement, in portions that fit into memory."""
    rng = np.random.default_rng(seed)
    portion = max(1, 2_000_000 // len(data))
    means = [
        data[rng.integers(len(data), size=(min(portion, RESAMPLES - start), len(data)))].mean(1)
        for start in range(0, RESAMPLES, portion)
    ]
    return np.concatenate(means)


def _interval(means: Floats) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two contenders on the same items.

    Attributes:
        first, second: Their means.
        difference: Mean of first minus second, with its interval.
        wins: Items on which the first is better.
        losses: Items on which the second is.
        ties: All others.
    """

    first: float
    second: float
    difference: Mean
    wins: int
    losses: int
    ties: int

    @property
    def clear(self) -> bool:
        """Whether the interval of the difference leaves zero out, and is of enough items."""
        apart = self.difference.low > 0 or self.difference.high < 0
        return apart and self.difference.count >= FEWEST


def compare(
    first: Sequence[float], second: Sequence[float], *, higher: bool = True, seed: int = 0
) -> Paired:
    """Compare two contenders item by item; whole pairs are resampled.

    Args:
        first: Scores of one, an item each.
        second: Scores of the other, of the same items in the same order.
        higher: Whether more is better, for counting wins.
        seed: Of the resampling.

    Raises:
        ConfigError: if they are not as many, or none.
    """
    if len(first) != len(second):
        raise ConfigError(f"{len(first)} values cannot be paired with {len(second)}.")
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    better = (a > b) if higher else (a < b)
    ties = int((a == b).sum())
    wins = int(better.sum())
    return Paired(
        difference=bootstrap_mean((a - b).tolist(), seed=seed),
        first=float(a.mean()),
        second=float(b.mean()),
        wins=wins,
        losses=len(a) - wins - ties,
        ties=ties,
    )
