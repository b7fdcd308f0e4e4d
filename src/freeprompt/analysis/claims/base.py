"""What a claim is: what the paper says, how it is tested, and the rule that gives the verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from freeprompt.analysis.interventions import PLAIN, Cell
from freeprompt.analysis.laboratory import Laboratory, Row
from freeprompt.analysis.scoring import Scorer
from freeprompt.analysis.statistics import Estimate, difference, rate
from freeprompt.analysis.studies import chosen, estimates
from freeprompt.analysis.tasks import Attribute, Case, edit_cases
from freeprompt.errors import ConfigError
from freeprompt.images import save_png
from freeprompt.models import UNetModel
from freeprompt.models.fingerprint import fingerprint

Figure = Estimate | float | str
Progress = Callable[[str, int, int], None]
ENOUGH_PAIRS = 200


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is measured.

    Attributes:
        quick: Whether this is the small run; the document says so.
        pairs: (source, target) pairs, half of them colours, half animals.
        curve: Pairs of curves over layers and late windows, on which no verdict rests.
        per_source: Targets of one source.
        steps: Denoising steps.
        seeds: Seeds of the probes; each gives one sample a class.
        probed: So many steps are probed.
        layers: Layers probed; None means all.
        folds: Parts that the seeds are split into.
        updates: Updates of a probe's training.
        stride: Only every so many layers in the layer study.
        images: Real images inverted.
        searched: Pairs of the search.
        shares: Shares of the steps in the sweeps.
    """

    quick: bool = False
    pairs: int = 200
    curve: int = 48
    per_source: int = 4
    steps: int = 50
    seeds: int = 40
    probed: int = 3
    layers: tuple[int, ...] | None = None
    folds: int = 5
    updates: int = 300
    stride: int = 1
    images: int = 20
    searched: int = 64
    shares: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


QUICK = Budget(
    quick=True,
    pairs=8,
    per_source=2,
    steps=10,
    seeds=4,
    probed=2,
    layers=(6, 7, 16),
    folds=4,
    updates=100,
    stride=8,
    images=1,
    searched=8,
    shares=(0.0, 0.4, 0.8, 1.0),
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Measured figures: rows by label, each with figures by name."""

    title: str
    rows: Mapping[str, Mapping[str, Figure]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rows = {
            label: {k: v.to_dict() if isinstance(v, Estimate) else v for k, v in figures.items()}
            for label, figures in self.rows.items()
        }
        return {"title": self.title, "rows": rows}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Table":
        """Build from what `to_dict` gave."""
        rows = {
            label: {
                k: Estimate.from_dict(v) if isinstance(v, dict) else v for k, v in figures.items()
            }
            for label, figures in values["rows"].items()
        }
        return cls(title=values["title"], rows=rows)


@dataclass(frozen=True)
class Tables:
    """The tables of a claim, looked up by title, row and figure."""

    tables: Sequence[Table]

    def figure(self, title: str, label: str, name: str) -> Estimate:
        """Return a figure; plain numbers become estimates without an interval.

        Raises:
            ConfigError: if there is none.
        """
        for table in self.tables:
            if table.title == title and name in table.rows.get(label, {}):
                found = table.rows[label][name]
                if isinstance(found, Estimate):
                    return found
                value = float(found)
                return Estimate(value=value, low=value, high=value, count=1, seeds=1)
        raise ConfigError(f"The results have no {name!r} of {label!r} in {title!r}.")

    def labels(self, title: str) -> list[str]:
        """Return the row labels of a table."""
        return [label for t in self.tables if t.title == title for label in t.rows]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One statement that is true or not of the figures."""

    statement: str
    holds: bool


Checks = list[Check]


def below(lower: Estimate, higher: Estimate) -> bool:
    """Tell whether a figure is lower than another one by more than chance: neither is inside the
    other's interval.
    """
    return lower.high < higher.value and lower.value < higher.low


def verdict(checks: Sequence[Check]) -> str:
    """Return the verdict: all, some or none of the checks hold."""
    held = sum(check.holds for check in checks)
    if checks and held == len(checks):
        return "holds"
    return "holds in part" if held else "does not hold"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of the paper.

    Attributes:
        name: `R0` to `R11`, or `search`.
        title: In a few words.
        counterpart: Which of the paper's tables or figures this is ours of; empty for none.
        says: What the paper says, in our words.
        method: What is done here.
        measure: Measures it, and may draw pictures.
        rule: What must be true of the figures, checked one by one.
        exact: Whether a few pairs decide it as well as many.
    """

    name: str
    title: str
    counterpart: str = ""
    says: str
    method: str
    measure: Callable[["Context"], list[Table]]
    rule: Callable[[Tables], Checks]
    exact: bool = False


@dataclass(kw_only=True)
class Context:
    """What experiments share: model, budget, cases, and where things are kept.

    Attributes:
        model: The model.
        scorer: Scores edits.
        budget: How much is measured.
        work: Folder of what makes a run resumable; not part of the results.
        images: Folder of the document's pictures.
        progress: Told (what, done, all).
    """

    model: UNetModel
    scorer: Scorer
    budget: Budget
    work: Path
    images: Path
    progress: Progress
    _labs: dict[int, Laboratory] = field(default_factory=dict)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The pairs of the edits, the paper's own first."""
        return edit_cases(self.budget.pairs, per_source=self.budget.per_source)

    @property
    def folder(self) -> Path:
        """Where this model's work at this number of steps is kept; other weights, other folder."""
        name = f"{fingerprint(self.model.pipe)[:12]}-{self.budget.steps}-steps"
        return self.work / name

    def laboratory(self, pairs: int | None = None) -> Laboratory:
        """Return the laboratory of all edits, or of fewer pairs; all share their scores."""
        pairs = self.budget.pairs if pairs is None else pairs
        if pairs not in self._labs:
            self._labs[pairs] = Laboratory(
                self.model,
                edit_cases(pairs, per_source=self.budget.per_source),
                scorer=self.scorer,
                folder=self.folder / f"edits-{self.budget.per_source}",
                steps=self.budget.steps,
            )
        return self._labs[pairs]

    def tell(self, what: str) -> Callable[[int, int], None]:
        """Return a callback that reports under a name."""
        return lambda done, total: self.progress(what, done, total)

    def keep(self, picture: Image.Image, name: str) -> None:
        """Write a picture of the document."""
        save_png(picture, self.images / f"{name}.png", {})


GROUPS: tuple[tuple[str, Attribute | None, bool], ...] = (
    ("", None, False),
    (", colour", "color", False),
    (", animals", "subject", False),
    (", recognised sources", None, True),
)
RECOGNISED = "sources that show their prompt, as the judge reads them"


def edits_table(
    context: Context,
    title: str,
    cells: Sequence[Cell],
    *,
    baseline: Cell | None = None,
    measures: Sequence[str] = ("success", "iou", "stays"),
    curve: bool = False,
) -> list[Table]:
    """Run cells on all pairs, and return tables of their measures.

    One table for all pairs, one for each attribute, and one for the pairs whose source shows what
    its prompt says. With a baseline, rows have the paired differences in `measures` to it. A curve
    takes fewer pairs, and has only the first table.
    """
    budget = context.budget
    lab = context.laboratory(min(budget.curve, budget.pairs) if curve else None)
    every = [*cells, *([baseline] if baseline is not None else [])]
    results = lab.run(every, callback=context.tell(title))
    tables = []
    for suffix, attribute, recognised in GROUPS[:1] if curve else GROUPS:
        other = None if baseline is None else chosen(results.rows(baseline), attribute, recognised)
        rows = {
            cell.label: _figures(
                chosen(results.rows(cell), attribute, recognised), other, measures, context
            )
            for cell in cells
        }
        tables.append(Table(title=f"{title}{suffix}", rows=rows))
    return tables


def recognised_table(context: Context) -> Table:
    """Return how many sources show what their prompt says, over pairs."""
    lab = context.laboratory()
    rows = lab.run([PLAIN]).rows(PLAIN)
    found: dict[str, dict[str, Figure]] = {}
    for name, attribute in (("all", None), ("colour", "color"), ("animals", "subject")):
        part = chosen(rows, attribute)  # type: ignore[arg-type]
        shown = [row.scores["recognised"] for row in part]
        found[name] = {"rate": rate(shown, [row.seed for row in part]), "pairs": float(len(part))}
    return Table(title=RECOGNISED, rows=found)


def _figures(
    rows: Sequence[Row],
    baseline: Sequence[Row] | None,
    measures: Sequence[str],
    context: Context,
) -> dict[str, Figure]:
    found = estimates(rows, context.scorer)
    figures: dict[str, Figure] = {}
    for name in dict.fromkeys((*measures, "kept", "wanted")):
        figures[name] = found[name]
        if baseline is not None and name in measures:
            figures[f"Δ {name}"] = difference(
                [row.scores[name] for row in rows],
                [row.scores[name] for row in baseline],
                [row.seed for row in rows],
            )
    return {**figures, "pairs": float(len(rows))}
