"""Settings for every method by the same budget, chosen on a split that scores nothing.

Each method is tried with its defaults and with draws from the ranges that its own parameters
declare; the best on each track is kept.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np

from freeprompt.bench.items import TRACKS
from freeprompt.bench.plan import Plan
from freeprompt.bench.table import Results, value
from freeprompt.bench.truth import CRITERIA
from freeprompt.core import Sites
from freeprompt.core.params import Spec
from freeprompt.errors import ConfigError
from freeprompt.methods import METHODS

Settings = dict[str, Any]

SELECTIONS = ("self:below-top", "self:all", "self:top", "self:after.0.5")
"""Self-attention layers that are tried beside a method's own."""


def candidates(method: str, trials: int, seed: int = 0) -> list[Settings]:
    """Draw settings of a method: the defaults, then random ones.

    Numbers with a lower and an upper bound are drawn evenly between them, choices and switches
    evenly, selections of self-attention layers from the default and `SELECTIONS`. Texts, other
    layers and numbers without an upper bound stay at their defaults, as do parameters that trade
    cost for exactness (`Method.untuned`).

    Args:
        method: Name of a method.
        trials: How many, 1 or more. A method without such parameters has one.
        seed: Of the draws; each method has its own stream.

    Returns:
        Settings beyond the defaults, without repeats.

    Raises:
        ConfigError: for an unknown method or no trial.
    """
    if trials < 1:
        raise ConfigError(f"The number of trials must be at least 1; got {trials}.")
    if seed < 0:
        raise ConfigError(f"The seed must be at least 0; got {seed}.")
    rng = np.random.default_rng([seed, *method.encode()])
    ranges = _ranges(method)
    drawn: list[Settings] = [{}]
    attempts = 0
    while ranges and len(drawn) < trials and attempts < 50 * trials:
        attempts += 1
        settings = {name: _draw(rng, spec, default) for name, (spec, default) in ranges.items()}
        if settings not in drawn and _accepted(method, settings):
            drawn.append(settings)
    return drawn


def _ranges(method: str) -> dict[str, tuple[Spec, Any]]:
    defaults = {f.name: f.default for f in fields(METHODS[method])}
    specs = METHODS[method].specs()
    return {
        name: (spec, defaults[name])
        for name, spec in specs.items()
        if _bounded(spec, defaults[name]) and name not in METHODS[method].untuned
    }


def _bounded(spec: Spec, default: Any) -> bool:
    number = isinstance(default, int | float) and None not in (spec.low, spec.high)
    return isinstance(default, bool) or bool(spec.choices) or number or _selects(default)


def _selects(default: Any) -> bool:
    """Whether a parameter selects layers of self-attention."""
    return isinstance(default, Sites) and str(default).startswith("self:")


def _draw(rng: np.random.Generator, spec: Spec, default: Any) -> Any:
    if isinstance(default, bool):
        return bool(rng.integers(2))
    if spec.choices or _selects(default):
        choices = spec.choices or tuple(dict.fromkeys([str(default), *SELECTIONS]))
        return choices[int(rng.integers(len(choices)))]
    assert spec.low is not None and spec.high is not None
    if isinstance(default, int):
        return int(rng.integers(int(spec.low), int(spec.high) + 1))
    return round(float(rng.uniform(spec.low, spec.high)), 3)


def tuning_plan(plan: Plan, trials: int, seed: int = 0) -> Plan:
    """Turn a plan into one that tries settings of its methods on the split for tuning.

    Steps, guidance and inversion of each method stay as the plan has them.

    Raises:
        ConfigError: for a data set without such a split.
    """
    if plan.data.name != "emojiedit":
        raise ConfigError(
            f"Settings are tuned on EmojiEdit-Bench, which has a split for it; got "
            f"{plan.data.name!r}."
        )
    trying = [
        replace(contender, parameters={**contender.parameters, **settings})
        for contender in plan.contenders
        if contender.edits
        for settings in candidates(contender.method, trials, seed)
    ]
    return replace(plan, contenders=tuple(trying), data=replace(plan.data, split="tune"))


def _accepted(method: str, settings: Settings) -> bool:
    """Whether the method takes these settings together; some exclude each other."""
    try:
        METHODS[method].build(settings)
    except ConfigError:
        return False
    return True


def best_settings(results: Results) -> dict[tuple[str, str], Settings]:
    """Choose settings from the results of a tuning plan.

    The headline rate decides, then the smaller of how often the edit succeeds and how much of the
    other criteria is met (so that neither an unchanged source nor a new picture wins a tie), then
    whoever came first, which is the defaults. Settings that ended in an error anywhere lose to
    those that did not.

    Returns:
        By method and track, what to set.
    """
    chosen: dict[tuple[str, str], Settings] = {}
    for track in TRACKS:
        there = results.on(track)
        for method in there.methods:
            mine = there.using(method)
            best = max(mine.labels, key=partial(_merit, mine))
            chosen[method, track] = mine.by(best).rows[0]["contender"]["parameters"]
    return chosen


def _merit(everyone: Results, label: str) -> tuple[float, float, float]:
    results = everyone.by(label)
    right = [value(row, "right") or 0.0 for row in results.rows]
    return -float(results.errors), sum(right) / len(right), _balance(results)


def _balance(results: Results) -> float:
    """Return the smaller of the shares of edits that succeed, and of other criteria met."""
    met = [set() if row["error"] else set(CRITERIA) - set(row["failed"]) for row in results.rows]
    edited = sum("success" in one for one in met)
    kept = sum(len(one - {"success"}) for one in met) / (len(CRITERIA) - 1)
    return min(edited, kept) / len(met)


def tuned_toml(chosen: dict[tuple[str, str], Settings], about: Sequence[str]) -> str:
    """Write the choice as a file that a plan can include."""
    lines = [f"# {line}" for line in about]
    for (method, track), settings in chosen.items():
        lines += ["", "[[grid]]", f'method = "{method}"', f'tracks = ["{track}"]', 'tag = "tuned"']
        lines += ["[grid.set]"] if settings else []
        lines += [f"{name} = {_toml(setting)}" for name, setting in settings.items()]
    return "\n".join(lines) + "\n"


def _toml(setting: Any) -> str:
    if isinstance(setting, bool):
        return str(setting).lower()
    return str(setting) if isinstance(setting, int | float) else f'"{setting}"'
