"""The search for a Pareto front."""

import itertools

import pytest
import torch
from tests.api.samples import small_sd

from freeprompt.analysis.interventions import PLAIN, intervene
from freeprompt.analysis.laboratory import Row
from freeprompt.analysis.scoring import PixelScorer
from freeprompt.analysis.search import (
    PAPER,
    candidates,
    crowding_distances,
    draw,
    pareto_ranks,
    search,
)
from freeprompt.analysis.tasks import edit_cases
from freeprompt.errors import ConfigError
from freeprompt.models import adapt


@pytest.fixture(scope="module")
def model():
    return adapt(small_sd(), "small")


class Table:
    """A laboratory whose results are known: every candidate has one true point."""

    scorer = PixelScorer()

    def __init__(self, model, points, noise=0.0):
        self.model, self.points, self.noise = model, points, noise
        self.cases = edit_cases(64, per_source=2)
        self.tried = []

    def run(self, cells, cases, callback=None):
        self.tried.append((len(cells), len(cases)))

    def rows(self, cell, cases):
        success, preservation = self.points[cell.key]
        return [
            Row(
                cell=cell.key,
                case=case.name,
                target=i,
                attribute=case.attribute,
                seed=case.seed,
                scores={
                    "toward": success + self.noise * ((case.seed * 7 + i) % 5 - 2),
                    "edges": preservation,
                },
            )
            for case in cases
            for i in range(len(case.targets))
        ]


def plane(model, paper):
    """Candidates on a curve of best trade-offs, most of them moved inwards by their number."""
    cells = [c for c in candidates(model.sites) if c.key != PAPER.key]
    points = {}
    for i, cell in enumerate(cells):
        inward = 0.0 if i % 8 == 0 else 0.1 + 0.01 * (i % 7)
        x = i / len(cells)
        points[cell.key] = (x - inward, (1 - x) - inward)
    points[PAPER.key] = paper
    return [*cells, PAPER], points


def test_the_front_is_found_with_few_evaluations(model):
    cells, points = plane(model, (0.5, 0.5001))
    lab = Table(model, points)
    front = search(lab, cells=cells)
    best = {key for key, rank in zip(points, pareto_ranks(list(points.values()))) if rank == 0}  # noqa: B905
    found = {f.cell.key for f in front.found if f.on_front}
    assert found <= best
    assert len(found) >= 0.6 * len(best)
    assert front.evaluations < 0.6 * front.exhaustive
    assert len(front.found) == len(cells)
    assert [n for n, _ in front.rungs] == sorted((n for n, _ in front.rungs), reverse=True)
    assert front.rungs[-1][1] == 64
    assert "is on the front" in front.verdict


def test_a_paper_off_the_front_is_said_so(model):
    cells, points = plane(model, (0.1, 0.1))
    front = search(Table(model, points), cells=cells)
    assert not front.paper.on_front
    assert front.paper.pairs == 64  # it is always carried to the end
    assert "is better in both" in front.verdict
    assert front.dominators[0]["surely"]
    assert front.to_dict()["paper"]["label"] == PAPER.label


def test_a_near_miss_is_within_the_error(model):
    points = {PAPER.key: (0.5, 0.5)}
    rival = intervene("rival", "self:all", stop=0.4)
    lab = Table(model, points | {rival.key: (0.5, 0.5), PLAIN.key: (1, 0)}, noise=0.0)

    class Noisy(Table):
        def rows(self, cell, cases):
            rows = super().rows(cell, cases)
            if cell.key != rival.key:
                return rows
            return [
                type(r)(
                    **{
                        **r.__dict__,
                        "scores": {"toward": 0.501 + 0.3 * (-1) ** r.seed, "edges": 0.5},
                    }
                )
                for r in rows
            ]

    front = search(Noisy(model, lab.points), cells=[PAPER, rival, PLAIN])
    assert not front.paper.on_front
    assert "within the error" in front.verdict


def test_ranks_by_definition():
    grid = [(a, b) for a, b in itertools.product(range(4), range(4))]
    ranks = pareto_ranks(grid)
    assert ranks[grid.index((3, 3))] == 0
    assert ranks[grid.index((0, 0))] == max(ranks)
    for i, p in enumerate(grid):
        above = [q for q in grid if q != p and q[0] >= p[0] and q[1] >= p[1]]
        expected = 1 + max((ranks[grid.index(q)] for q in above), default=-1)
        assert ranks[i] == expected


def test_crowding_keeps_the_ends():
    distances = crowding_distances([(0, 1), (0.1, 0.9), (0.5, 0.5), (1, 0)])
    assert distances[0] == distances[-1] == float("inf")
    assert distances[2] > distances[1]


def test_candidates_are_different_layers(model):
    cells = candidates(model.sites, shares=(0.4, 0.8))
    sets = [frozenset(s.index for s in c.method.sites.select(model.sites)) for c in cells]
    assert len(set(sets)) == len(cells) / 2
    assert PAPER.key in {c.key for c in cells}
    with pytest.raises(ConfigError, match="no self-attention"):
        candidates([s for s in model.sites if s.kind == "cross"])


def test_numbers_that_make_no_sense(model):
    with pytest.raises(ConfigError, match="first >= 1"):
        search(Table(model, {}), first=0)


def test_a_real_search(model, tmp_path):
    """Three candidates on the small model, drawn."""
    from freeprompt.analysis.laboratory import Laboratory

    pytest.importorskip("matplotlib")
    with torch.no_grad():
        lab = Laboratory(
            model, edit_cases(4, per_source=2), scorer=PixelScorer(), folder=tmp_path, steps=2
        )
        front = search(lab, cells=[PLAIN, intervene("all", "self:all")], first=1, survivors=2)
    assert {f.cell.label for f in front.found} == {"none", "all", PAPER.label}
    assert front.found[0].pairs == 4
    draw(front, lab.scorer, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 5000
