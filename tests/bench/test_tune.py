"""Tuning: the same budget for every method, in the ranges it declares, on the other split."""

import tomllib
from dataclasses import replace

import pytest
from tests.bench.test_report import crash, row

from freeprompt.bench.contenders import Contender, grid
from freeprompt.bench.table import Results
from freeprompt.bench.tune import best_settings, candidates, tuned_toml, tuning_plan
from freeprompt.errors import ConfigError, UnknownMethod
from freeprompt.methods import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_the_same_budget_for_every_method(method) -> None:
    drawn = candidates(method, 6)
    tunable = [s for s in METHODS[method].specs().values() if None not in (s.low, s.high)]
    assert drawn[0] == {}
    assert len(drawn) == (6 if tunable else len(drawn))
    assert drawn == candidates(method, 6)
    assert drawn[1:] != candidates(method, 6, seed=1)[1:] or not tunable
    for settings in drawn:
        METHODS[method].build(settings)


def test_what_only_trades_cost_stays() -> None:
    assert not any("record" in settings for settings in candidates("fpe", 20))


def test_what_is_drawn_varies() -> None:
    shares = {settings["share"] for settings in candidates("fpe", 20)[1:]}
    assert len(shares) == 19
    assert min(shares) < 0.3 < 0.7 < max(shares)


def test_trials_are_run_on_the_other_split(plan) -> None:
    few = tuning_plan(plan, 3)
    assert few.data.split == "tune"
    assert few.data.limit == plan.data.limit
    assert {c.method for c in few.contenders} == {"fpe", "sdedit"}
    assert len(few.contenders) == 6
    assert all(c.steps == 2 for c in few.contenders)
    with pytest.raises(ConfigError, match="which has a split for it"):
        tuning_plan(replace(plan, data=replace(plan.data, name="car-fake")), 3)
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        candidates("fpe", 0)
    with pytest.raises(ConfigError, match="seed must be at least 0; got -1"):
        candidates("fpe", 2, seed=-1)
    with pytest.raises(UnknownMethod):
        candidates("fpee", 2)


def tried(method, settings, rights, track="real", errors=0):
    contender = Contender(method=method, parameters=settings)
    rows = [row(contender.label, str(i), right) for i, right in enumerate(rights)]
    rows += [crash(contender.label, str(len(rights) + i)) for i in range(errors)]
    return [{**r, "track": track, "contender": contender.to_dict()} for r in rows]


def test_the_best_on_each_track_is_kept() -> None:
    rows = (
        tried("fpe", {}, [1.0, 0.0])
        + tried("fpe", {"share": 0.4}, [1.0, 1.0])
        + tried("fpe", {"share": 0.1}, [1.0, 1.0], errors=1)
        + tried("fpe", {}, [1.0, 1.0], "generated")
        + tried("fpe", {"share": 0.4}, [1.0, 1.0], "generated")
    )
    chosen = best_settings(Results(tuple(rows)))
    assert chosen == {("fpe", "generated"): {}, ("fpe", "real"): {"share": 0.4}}


def missed(settings, *criteria):
    """Two edits, none of them right, that each miss these criteria."""
    return [{**r, "failed": list(criteria)} for r in tried("fpe", settings, [0.0, 0.0])]


def test_a_tie_is_won_neither_by_no_edit_nor_by_another_picture() -> None:
    unchanged, another = {"share": 1.0}, {"share": 0.1}
    rows = missed({}, "success") + missed(another, "kept", "layout", "background", "ideal")
    rows += [{**r, "failed": ["kept"]} for r in missed({"share": 0.5})]
    rows += missed(unchanged, "success")
    assert best_settings(Results(tuple(rows))) == {("fpe", "real"): {"share": 0.5}}


def test_the_choice_can_be_run() -> None:
    settings = {"share": 0.4, "half": "both", "replay": False}
    text = tuned_toml({("fpe", "real"): settings, ("sdedit", "generated"): {}}, ["by hand"])
    first, second = (
        contender for table in tomllib.loads(text)["grid"] for contender in grid(table)
    )
    assert first == Contender(method="fpe", parameters=settings, tag="tuned", tracks=("real",))
    assert first.label == "fpe (tuned)"
    assert second.tracks == ("generated",)
