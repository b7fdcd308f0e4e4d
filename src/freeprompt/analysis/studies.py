"""The paper's studies as lists of interventions: layers, windows and words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from freeprompt.analysis.interventions import PLAIN, WORDS, Cell, intervene
from freeprompt.analysis.laboratory import Results, Row
from freeprompt.analysis.scoring import Scorer
from freeprompt.analysis.statistics import Estimate, mean, rate
from freeprompt.analysis.tasks import Attribute
from freeprompt.core import Site
from freeprompt.errors import ConfigError

RANDOM_SETS = 3
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class Series:
    """Interventions along one axis: a curve, and a row of pictures."""

    title: str
    cells: tuple[Cell, ...]


Study = tuple[Series, ...]


def layer_study(
    sites: Sequence[Site],
    *,
    kind: str = "self",
    share: float = 0.8,
    words: str = "all",
    every: int = 1,
    random_sets: int = RANDOM_SETS,
) -> Study:
    """Return single layers, layers added from either end, and sets of layers.

    Args:
        sites: All sites of the model.
        kind: `self` or `cross`.
        share: Share of the steps, from the noisiest on, in which maps are replaced.
        words: At cross-attention, whose maps.
        every: Take only every so many layers along the axes, for a quick look.
        random_sets: So many random sets of as many layers as there are below the top.
    """
    of_kind = [site for site in sites if site.kind == kind]
    count, shown = len(of_kind), [*range(1, len(of_kind) + 1, every)]

    def cell(label: str, expression: str) -> Cell:
        return intervene(label, f"{kind}:{expression}", stop=share, words=words)

    below = [site.index for site in of_kind if site.scale > 1]
    rng = np.random.default_rng(0)
    random = [
        ",".join(str(i) for i in sorted(rng.permutation(count)[: len(below)] + 1))
        for _ in range(random_sets)
    ]
    sets = [PLAIN, cell("top", "top"), cell("below-top", "below-top"), cell("all", "all")]
    sets += [cell(f"random {i + 1}", chosen) for i, chosen in enumerate(random)]
    return (
        Series(title="one layer", cells=tuple(cell(str(i), str(i)) for i in shown)),
        Series(title="layers 1 to", cells=tuple(cell(f"1-{i}", f"1-{i}") for i in shown)),
        Series(
            title="layers to the last, from",
            cells=tuple(cell(f"{i}-{count}", f"{i}-{count}") for i in shown),
        ),
        Series(title="sets", cells=tuple(sets)),
    )


def window_study(sites: str = "self:below-top", shares: Sequence[float] = SHARES) -> Study:
    """Return windows that start with the noise, that end with the picture, and that slide."""
    inner = list(shares)
    return (
        Series(
            title="first steps, share",
            cells=tuple(intervene(f"{t:g}", sites, stop=t) for t in inner),
        ),
        Series(
            title="last steps, from",
            cells=tuple(intervene(f"{t:g}", sites, start=t) for t in inner),
        ),
        Series(
            title="steps within",
            cells=tuple(
                intervene(f"{a:g}-{b:g}", sites, start=a, stop=b) for a, b in pairwise(inner)
            ),
        ),
    )


def cross_study(
    sites: str = "cross:all",
    words: Sequence[str] = WORDS,
    shares: Sequence[float] = SHARES,
) -> Study:
    """Return, for each kind of word, the source's cross maps for a growing share of the steps.

    Raises:
        ConfigError: for a kind of word that there is not.
    """
    for kind in words:
        if kind not in WORDS:
            raise ConfigError(f"words must be among {', '.join(WORDS)}; got {kind!r}.")
    return tuple(
        Series(
            title=f"maps of words: {kind}",
            cells=tuple(intervene(f"{t:g}", sites, stop=t, words=kind) for t in shares),
        )
        for kind in words
    )


def cells_of(study: Study) -> list[Cell]:
    """Return all cells of a study."""
    return [cell for series in study for cell in series.cells]


def chosen(
    rows: Sequence[Row], attribute: Attribute | None = None, recognised: bool = False
) -> list[Row]:
    """Return the pairs of one attribute, or those whose source shows what its prompt says."""
    return [
        row
        for row in rows
        if (attribute is None or row.attribute == attribute)
        and (not recognised or row.scores.get("recognised", 1.0) == 1.0)
    ]


def estimates(rows: Sequence[Row], scorer: Scorer) -> dict[str, Estimate]:
    """Return every measure with its interval over seeds."""
    seeds = [row.seed for row in rows]
    return {
        # a score that was added later is unknown of older rows
        name: (rate if kind == "rate" else mean)(
            [row.scores.get(name, math.nan) for row in rows], seeds
        )
        for name, kind in scorer.measures.items()
    }


def summary(results: Results, study: Study) -> list[dict[str, Any]]:
    """Return the study as plain values: series, cells, and estimates by group of pairs.

    Groups are `all`, `color` and `subject`, each also `recognised`: the pairs whose source shows
    what its prompt says, as the judge reads it.
    """
    return [
        {"title": series.title, "cells": [_cell(results, cell) for cell in series.cells]}
        for series in study
    ]


def _cell(results: Results, cell: Cell) -> dict[str, Any]:
    return {"label": cell.label, "key": cell.key, "groups": groups(results, cell)}


def groups(results: Results, cell: Cell) -> dict[str, dict[str, Any]]:
    """Return a cell's estimates by group of pairs, as plain values."""
    rows, scorer = results.rows(cell), results.lab.scorer
    present = dict.fromkeys(row.attribute for row in rows)
    out: dict[str, dict[str, Any]] = {}
    for attribute in (None, *present):
        for recognised in (False, True) if "recognised" in scorer.measures else (False,):
            name = f"{attribute or 'all'}{' recognised' if recognised else ''}"
            found = estimates(chosen(rows, attribute, recognised), scorer)  # type: ignore[arg-type]
            out[name] = {measure: e.to_dict() for measure, e in found.items()}
    return out


def draw_curves(
    series: Sequence[dict[str, Any]], measures: Sequence[str], path: Path, group: str = "all"
) -> None:
    """Draw a summary's measures along each series.

    Raises:
        MissingDependency: without matplotlib.
    """
    from freeprompt.analysis.figures import curves

    charts = []
    for one in series:
        labels = [cell["label"] for cell in one["cells"]]
        lines = {name: [_point(cell, group, name) for cell in one["cells"]] for name in measures}
        charts.append((one["title"], labels, lines))
    curves(charts, path, label=f"{group} pairs")


def _point(cell: dict[str, Any], group: str, name: str) -> tuple[float, float, float]:
    e = Estimate.from_dict(cell["groups"][group][name])
    return e.value, e.low, e.high


def draw_grid(results: Results, series: Series, examples: int = 2) -> Image.Image:
    """Draw a series as the paper's Figures 4 and 5: a row a pair, a column an intervention."""
    from freeprompt.analysis.figures import picture_grid

    lab = results.lab
    rows: list[tuple[str, list[Image.Image | None]]] = []
    for case in results.cases[:examples]:
        pictures = [lab.example(case, None), lab.example(case, PLAIN)]
        pictures += [lab.example(case, cell) for cell in series.cells]
        rows.append((f"{case.value} > {case.wanted[0]}", pictures))
    return picture_grid(["source", "target alone", *(c.label for c in series.cells)], rows)
