"""From rows to tables: who did how well on what."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from freeprompt.bench.contenders import BASELINES
from freeprompt.bench.scores import COST, SCORES, TRUTH
from freeprompt.bench.stats import Mean, Paired, bootstrap_mean, compare
from freeprompt.bench.store import Row
from freeprompt.errors import ConfigError, unknown

COUNTED_AS_WRONG = ("right", "success")
"""Scores that an edit which ended in an error gets zero for; it has no others."""


def value(row: Row, score: str) -> float | None:
    """Return a score of a row; None where it has none."""
    if row["error"] and score in COUNTED_AS_WRONG:
        return 0.0
    found = row["scores"].get(score)
    return None if found is None else float(found)


@dataclass(frozen=True)
class Results:
    """Rows, by contender.

    Attributes:
        rows: Of one track, or of whatever is looked at.
    """

    rows: tuple[Row, ...]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Contenders in order of appearance."""
        return tuple(dict.fromkeys(row["label"] for row in self.rows))

    @cached_property
    def cells(self) -> tuple[str, ...]:
        """Kinds of edits in order of appearance."""
        return tuple(dict.fromkeys(row["cell"] for row in self.rows))

    @cached_property
    def tracks(self) -> tuple[str, ...]:
        """Tracks in order of appearance."""
        return tuple(dict.fromkeys(row["track"] for row in self.rows))

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Methods in order of appearance, whatever their settings."""
        return tuple(dict.fromkeys(row["contender"]["method"] for row in self.rows))

    def using(self, method: str) -> "Results":
        """Keep one method with all its settings."""
        return self.where(lambda row: row["contender"]["method"] == method)

    @cached_property
    def scores(self) -> tuple[str, ...]:
        """Scores that at least one row has, in the order of `SCORES`."""
        there = {name for row in self.rows for name, v in row["scores"].items() if v is not None}
        return tuple(name for name in SCORES if name in there)

    @property
    def even(self) -> bool:
        """Whether every contender was tried on the same items."""
        return len({frozenset(r["item"] for r in self.by(name).rows) for name in self.labels}) <= 1

    @property
    def judged(self) -> bool:
        """Whether there is a truth to score against."""
        return "right" in self.scores

    def where(self, test: Callable[[Row], bool]) -> "Results":
        """Keep some rows."""
        return Results(tuple(row for row in self.rows if test(row)))

    def on(self, track: str) -> "Results":
        """Keep one track."""
        return self.where(lambda row: row["track"] == track)

    def by(self, label: str) -> "Results":
        """Keep one contender.

        Raises:
            ConfigError: if it is not there; the message lists those that are.
        """
        if label not in self.labels:
            raise unknown(ConfigError, "contender", label, self.labels)
        return self.where(lambda row: row["label"] == label)

    def of(self, cell: str) -> "Results":
        """Keep one kind of edit."""
        return self.where(lambda row: row["cell"] == cell)

    def values(self, score: str) -> list[float]:
        """All values of a score."""
        found = (value(row, score) for row in self.rows)
        return [v for v in found if v is not None]

    def mean(self, score: str) -> Mean | None:
        """Average a score; None if no row has it."""
        values = self.values(score)
        return bootstrap_mean(values) if values else None

    @property
    def errors(self) -> int:
        """Number of edits that ended in an error."""
        return sum(1 for row in self.rows if row["error"])

    @property
    def misses(self) -> Counter[str]:
        """How often each criterion was missed."""
        return Counter(name for row in self.rows for name in row["failed"])

    def ranked(self) -> tuple[str, ...]:
        """Contenders from the best on; baselines in between, where they belong."""
        return tuple(sorted(self.labels, key=self._rank, reverse=True))

    def _rank(self, label: str) -> tuple[float, ...]:
        mine, lowest = self.by(label), -float("inf")
        order = ("right", "success", "layout") if self.judged else ("clip", "clip_direction")
        found = [mine.values(score) for score in order]
        return tuple(sum(v) / len(v) if v else lowest for v in found)

    def compared(self, first: str, second: str, score: str) -> Paired:
        """Compare two contenders on the items that both have this score of.

        Raises:
            ConfigError: for an unknown contender or score, or if they share no item.
        """
        if score not in SCORES:
            raise unknown(ConfigError, "score", score, SCORES)
        mine, other = (self.by(label)._per_item(score) for label in (first, second))
        shared = [item for item in mine if item in other]
        if not shared:
            raise ConfigError(
                f"{first!r} and {second!r} have no item in common on which {score!r} is known. "
                f"Scores of this run: {', '.join(self.scores)}."
            )
        pairs = [mine[item] for item in shared], [other[item] for item in shared]
        return compare(*pairs, higher=SCORES[score].higher)

    def _per_item(self, score: str) -> dict[str, float]:
        found = ((row["item"], value(row, score)) for row in self.rows)
        return {item: v for item, v in found if v is not None}

    def examples(self, count: int) -> tuple[list[Row], list[Row]]:
        """Pick the best and the worst edits of all rows that have pictures, no cell twice in turn.

        Returns:
            The best, best first; the worst, worst first.
        """
        usable = [row for row in self.rows if row.get("pictures")]
        ordered = sorted(usable, key=_quality, reverse=True)
        return _varied(ordered, count), _varied(ordered[::-1], count)


def is_baseline(row: Row) -> bool:
    """Whether a row is of no method."""
    return row["contender"]["method"] in BASELINES


def _quality(row: Row) -> tuple[float, ...]:
    """How good an edit is, for picking examples: criteria met, then by how much."""
    scores = row["scores"]
    if "right" in scores:
        parts = [scores.get(name) for name in ("success", "kept", "layout")]
        return (-len(row["failed"]), sum(part for part in parts if part is not None))
    order = ("clip_direction", "clip", "psnr")
    return tuple(scores[name] for name in order if scores.get(name) is not None)


def _varied(rows: Sequence[Row], count: int) -> list[Row]:
    """Take rows in order, one of each cell before a second of any."""
    taken: list[Row] = []
    left = list(rows)
    while left and len(taken) < count:
        seen: set[str] = set()
        for row in [*left]:
            if row["cell"] not in seen and len(taken) < count:
                seen.add(row["cell"])
                taken.append(row)
                left.remove(row)
    return taken


def headline(results: Results) -> tuple[str, ...]:
    """Scores of the main table, those that there are."""
    wanted: Iterable[str] = (
        ("right", "success", "kept", "layout", "background_psnr", "ideal_psnr")
        if results.judged
        else [name for name in SCORES if name not in TRUTH and name not in COST]
    )
    cost = ("sample_forwards", "seconds")
    return tuple(name for name in (*wanted, *cost) if name in results.scores)


def others(results: Results) -> tuple[str, ...]:
    """Scores that the main table leaves out."""
    main: dict[str, Any] = dict.fromkeys(headline(results))
    return tuple(name for name in results.scores if name not in main)
