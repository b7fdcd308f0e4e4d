"""Finding the layers and the share of a model: a Pareto front from few evaluations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from freeprompt.analysis.interventions import Cell, intervene
from freeprompt.analysis.laboratory import Laboratory
from freeprompt.analysis.scoring import Scorer
from freeprompt.analysis.statistics import difference
from freeprompt.analysis.studies import estimates
from freeprompt.analysis.tasks import Case
from freeprompt.core import Site
from freeprompt.errors import ConfigError

PAPER = intervene("self:below-top, 0.8", "self:below-top", stop=0.8)
Callback = Callable[[int, int], None]


def candidates(
    sites: Sequence[Site], shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0)
) -> list[Cell]:
    """Return what the search chooses from: contiguous self-attention layers x shares.

    Sets of sites: by grid (top, each lower one, below the top, all), by block (down, mid, up),
    and layers added from either end in steps of an eighth of the network. Sets that are the same
    layers by another name are tried once.
    """
    of_kind = [site for site in sites if site.kind == "self"]
    if not of_kind:
        raise ConfigError("This model has no self-attention sites to search among.")
    found: dict[frozenset[int], str] = {}
    for expression, numbers in _site_sets(of_kind).items():
        if numbers:
            found.setdefault(frozenset(numbers), f"self:{expression}")
    return [
        intervene(f"{expression}, {share:g}", expression, stop=share)
        for expression in found.values()
        for share in shares
    ]


def _site_sets(sites: Sequence[Site]) -> dict[str, list[int]]:
    """Return site expressions and the layers they select; the readable names come first."""
    count = len(sites)
    stride = max(1, count // 8)
    scales = sorted({site.scale for site in sites})
    sets = {
        "below-top": [s.index for s in sites if s.scale > 1],
        "all": [s.index for s in sites],
        "top": [s.index for s in sites if s.scale == 1],
    }
    sets |= {f"scale.{x}": [s.index for s in sites if s.scale == x] for x in scales}
    for block in ("down", "mid", "up"):
        sets[block] = [s.index for s in sites if s.block.split(".")[0] == block]
    for i in range(1 + stride, count, stride):
        sets[f"1-{i}"] = list(range(1, i + 1))
        sets[f"{i}-{count}"] = list(range(i, count + 1))
    return sets


@dataclass(frozen=True, kw_only=True)
class Found:
    """One candidate at the end of the search.

    Attributes:
        cell: What it is.
        success: Mean of the scorer's success on the pairs it was tried on.
        preservation: Mean of the scorer's preservation, likewise.
        pairs: On how many pairs it was tried.
        on_front: Whether no other candidate tried on as many pairs is better in both.
    """

    cell: Cell
    success: float
    preservation: float
    pairs: int
    on_front: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {k: v for k, v in self.__dict__.items() if k != "cell"}
        return {"label": self.cell.label, "key": self.cell.key, **values}


@dataclass(frozen=True, kw_only=True)
class Front:
    """What a search found.

    Attributes:
        found: All candidates, those tried longest first.
        evaluations: Number of (candidate, pair) edits that were scored.
        exhaustive: Number that trying every candidate on every pair takes.
        rungs: (candidates, pairs) of every rung.
        dominators: Candidates better than the paper's choice in both measures, with the paired
            differences in success and preservation.
    """

    found: tuple[Found, ...]
    evaluations: int
    exhaustive: int
    rungs: tuple[tuple[int, int], ...]
    dominators: tuple[dict[str, Any], ...]

    @property
    def paper(self) -> Found:
        """The paper's choice."""
        return next(f for f in self.found if f.cell.key == PAPER.key)

    @property
    def verdict(self) -> str:
        """Whether the paper's choice is on the front, in a sentence."""
        name = f"The paper's choice ({PAPER.label})"
        if self.paper.on_front:
            return f"{name} is on the front."
        surely = [d for d in self.dominators if d["surely"]]
        if surely:
            return f"{name} is not on the front: {surely[0]['label']} is better in both."
        return (
            f"{name} is not on the front, but within the error: no candidate is better in both "
            "with intervals clear of zero."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "verdict": self.verdict,
            "paper": self.paper.to_dict(),
            "evaluations": self.evaluations,
            "exhaustive": self.exhaustive,
            "rungs": self.rungs,
            "dominators": self.dominators,
            "found": [f.to_dict() for f in self.found],
        }


def search(
    lab: Laboratory,
    *,
    cells: Sequence[Cell] | None = None,
    first: int = 4,
    keep: float = 0.5,
    survivors: int = 8,
    callback: Callback | None = None,
) -> Front:
    """Search for the Pareto front of success against preservation by successive halving.

    All candidates are tried on a few cases; the better half by Pareto rank goes on to twice as
    many, until all cases are used or few are left. Equal ranks are broken by crowding distance,
    so the front stays spread out. The paper's choice always goes on.

    Args:
        lab: Model, cases and scorer.
        cells: Candidates; by default those of `candidates`.
        first: Number of cases in the first rung.
        keep: Share of the candidates that goes on.
        survivors: No rung goes below so many.
        callback: Called with (done, all) of the current rung.

    Raises:
        ConfigError: if a number makes no sense.

    Source: Jamieson & Talwalkar, arXiv:1502.07943 (successive halving); Deb et al., IEEE TEC 6(2),
    2002 (Pareto ranks and crowding).
    """
    if first < 1 or not 0 < keep < 1 or survivors < 1:
        raise ConfigError(
            "A search needs first >= 1, 0 < keep < 1 and survivors >= 1; got "
            f"{first}, {keep}, {survivors}."
        )
    alive = list(candidates(lab.model.sites) if cells is None else cells)
    if PAPER.key not in {cell.key for cell in alive}:
        alive.append(PAPER)
    total, size, rungs = len(alive), min(first, len(lab.cases)), []
    last: dict[str, Found] = {}
    evaluations: dict[str, int] = {}
    while True:
        cases = lab.cases[:size]
        lab.run(alive, cases, callback)
        points = [_point(lab, cell, cases) for cell in alive]
        pairs = sum(len(case.targets) for case in cases)
        ranks = pareto_ranks(points)
        for cell, (success, preservation), rank in zip(alive, points, ranks, strict=True):
            last[cell.key] = Found(
                cell=cell,
                success=success,
                preservation=preservation,
                pairs=pairs,
                on_front=rank == 0,
            )
            evaluations[cell.key] = pairs
        rungs.append((len(alive), pairs))
        if size == len(lab.cases):
            break
        alive = _survivors(alive, points, max(survivors, math.ceil(keep * len(alive))))
        size = min(2 * size, len(lab.cases))
    return _front(lab, alive, last, rungs, sum(evaluations.values()), total)


def _front(
    lab: Laboratory,
    alive: Sequence[Cell],
    last: dict[str, Found],
    rungs: list[tuple[int, int]],
    evaluations: int,
    total: int,
) -> Front:
    most = rungs[-1][1]
    # a candidate that fell out earlier was better on fewer pairs at best: it is off the front
    found = [
        f if f.pairs == most else Found(**{**f.__dict__, "on_front": False}) for f in last.values()
    ]
    return Front(
        found=tuple(sorted(found, key=lambda f: (-f.pairs, -f.success, -f.preservation))),
        evaluations=evaluations,
        exhaustive=total * most,
        rungs=tuple(rungs),
        dominators=tuple(_dominators(lab, alive)),
    )


def _dominators(lab: Laboratory, alive: Sequence[Cell]) -> list[dict[str, Any]]:
    """Compare every last candidate with the paper's choice, pair by pair."""
    mine, out = lab.rows(PAPER, lab.cases), []
    seeds = [row.seed for row in mine]
    for cell in alive:
        rows = lab.rows(cell, lab.cases)
        gains = [
            difference([r.scores[name] for r in rows], [r.scores[name] for r in mine], seeds)
            for name in (lab.scorer.success, lab.scorer.preservation)
        ]
        if all(g.value >= 0 for g in gains) and any(g.value > 0 for g in gains):
            surely = all(g.low >= 0 for g in gains) and any(g.low > 0 for g in gains)
            success, preservation = (g.to_dict() for g in gains)
            out.append(
                {
                    "label": cell.label,
                    "success": success,
                    "preservation": preservation,
                    "surely": surely,
                }
            )
    return sorted(out, key=lambda d: not d["surely"])


def _point(lab: Laboratory, cell: Cell, cases: Sequence[Case]) -> tuple[float, float]:
    found = estimates(lab.rows(cell, cases), lab.scorer)
    values = found[lab.scorer.success].value, found[lab.scorer.preservation].value
    return tuple(-1.0 if math.isnan(v) else v for v in values)  # type: ignore[return-value]


def _survivors(
    cells: Sequence[Cell], points: Sequence[tuple[float, float]], count: int
) -> list[Cell]:
    ranks, crowding = pareto_ranks(points), crowding_distances(points)
    order = sorted(
        range(len(cells)), key=lambda i: (cells[i].key != PAPER.key, ranks[i], -crowding[i], i)
    )
    return [cells[i] for i in sorted(order[:count])]


def pareto_ranks(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return 0 for points that no other dominates, 1 for those that only such dominate, ...

    A point dominates another if it is no worse in both coordinates and better in one.

    Example:
        >>> pareto_ranks([(1, 0), (0, 1), (0, 0), (1, 0)])
        [0, 0, 1, 0]
    """
    x = np.asarray(points, float)
    better = np.logical_and(
        np.all(x[:, None] >= x[None], axis=-1), np.any(x[:, None] > x[None], axis=-1)
    )
    ranks, rank = np.full(len(x), -1), 0
    while (ranks < 0).any():
        left = ranks < 0
        free = left & ~np.any(better[left], axis=0)
        ranks[free] = rank
        rank += 1
    return [int(r) for r in ranks]


def crowding_distances(points: Sequence[tuple[float, float]]) -> list[float]:
    """Return how far each point's neighbours are apart along both axes; infinite at the ends."""
    x = np.asarray(points, float)
    total = np.zeros(len(x))
    for axis in range(x.shape[1]):
        order = np.argsort(x[:, axis], kind="stable")
        span = x[order[-1], axis] - x[order[0], axis]
        total[order[[0, -1]]] = np.inf
        if span > 0 and len(x) > 2:
            total[order[1:-1]] += (x[order[2:], axis] - x[order[:-2], axis]) / span
    return [float(d) for d in total]


def draw(front: Front, scorer: Scorer, path: Path) -> None:
    """Draw all candidates, those on the front named, and the front.

    Raises:
        MissingDependency: without matplotlib.
    """
    from freeprompt.analysis.figures import scatter

    most, points = max(f.pairs for f in front.found), []
    for f in front.found:
        paper = f.cell.key == PAPER.key
        name = f.cell.label if f.on_front or paper else ""
        points.append((name, f.preservation, f.success, _group(f, paper, most)))
    best = [(f.preservation, f.success) for f in front.found if f.on_front]
    scatter(points, best, path, across=scorer.preservation, up=scorer.success)


def _group(found: Found, paper: bool, most: int) -> str:
    if paper:
        return "the paper's choice"
    if found.on_front:
        return "front"
    return "others" if found.pairs == most else f"dropped on fewer than {most} pairs"
