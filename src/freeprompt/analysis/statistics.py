"""Rates and means with intervals over seeds: pictures of one seed are not independent."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from freeprompt.errors import ConfigError

LEVEL = 0.95
_Z = 1.959963984540054  # normal quantile of that level
_RESAMPLES = 2000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: The rate, mean or difference; nan without data.
        low: Lower end; nan where one seed alone leaves no interval.
        high: Upper end, likewise.
        count: Number of values.
        seeds: Number of seeds that they come from.
    """

    value: float
    low: float
    high: float
    count: int
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is not a number becomes None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Estimate":
        """Build from what `to_dict` gave."""
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**known)


def rate(values: Sequence[float], seeds: Sequence[int]) -> Estimate:
    """Estimate a rate from outcomes of 0 and 1.

    Wilson's interval, with as many trials as the outcomes are worth: the more alike those of one
    seed are, the fewer (the design effect of cluster sampling, never below 1). Unlike a bootstrap
    it stays honest at 0 and 1.

    Args:
        values: Outcomes; nan is left out.
        seeds: The seed of each outcome.

    Raises:
        ConfigError: if the lengths differ.

    Source: Wilson, JASA 22 (1927); Kish, Survey Sampling (1965), chapter 5.
    """
    x, g = _clean(values, seeds)
    if not len(x):
        return _nothing()
    p, n = float(x.mean()), len(x) / _design_effect(x, g)
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    # rounding must not push the rate itself out of its interval
    return Estimate(
        value=p, low=min(low, p), high=max(high, p), count=len(x), seeds=len(set(g.tolist()))
    )


def mean(values: Sequence[float], seeds: Sequence[int]) -> Estimate:
    """Estimate a mean; the interval is a percentile bootstrap over whole seeds.

    Args:
        values: Measurements; nan is left out.
        seeds: The seed of each.

    Raises:
        ConfigError: if the lengths differ.
    """
    x, g = _clean(values, seeds)
    if not len(x):
        return _nothing()
    names, index = np.unique(g, return_inverse=True)
    value = float(x.mean())
    if len(names) < 2:
        return Estimate(value=value, low=math.nan, high=math.nan, count=len(x), seeds=1)
    sums = np.bincount(index, x)
    sizes = np.bincount(index)
    drawn = np.random.default_rng(0).integers(len(names), size=(_RESAMPLES, len(names)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(value=value, low=float(low), high=float(high), count=len(x), seeds=len(names))


def difference(first: Sequence[float], second: Sequence[float], seeds: Sequence[int]) -> Estimate:
    """Estimate the mean of `first - second`, measured on the same pairs in the same order."""
    if len(first) != len(second):
        raise ConfigError(f"Paired values must be equally many, not {len(first)}, {len(second)}.")
    return mean([a - b for a, b in zip(first, second, strict=True)], seeds)


def _clean(values: Sequence[float], seeds: Sequence[int]) -> tuple[Floats, npt.NDArray[np.int64]]:
    if len(values) != len(seeds):
        raise ConfigError(f"{len(values)} values need as many seeds, not {len(seeds)}.")
    x, g = np.asarray(values, np.float64), np.asarray(seeds, np.int64)
    known = ~np.isnan(x)
    return x[known], g[known]


def _nothing() -> Estimate:
    return Estimate(value=math.nan, low=math.nan, high=math.nan, count=0, seeds=0)


def _design_effect(x: Floats, g: npt.NDArray[np.int64]) -> float:
    """Return variance of the mean under cluster sampling over that under simple sampling, >= 1."""
    p = float(x.mean())
    _, index = np.unique(g, return_inverse=True)
    clusters = int(index.max()) + 1
    if clusters < 2 or p in (0.0, 1.0):
        return 1.0
    residual = np.bincount(index, x - p)
    clustered = clusters / (clusters - 1) * float((residual**2).sum()) / len(x) ** 2
    return max(1.0, clustered / (p * (1 - p) / (len(x) - 1)))
