"""What `freeprompt search` found, as a curve with the present choice on it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from freeprompt.core import Site, Sites, step_count

FILE = "search.json"
WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 44
RADIUS = 5


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Layers that take the source's maps, and in which steps.

    Attributes:
        layers: Their indices.
        start: Share of the steps before it, in [0, 1].
        stop: Share of the steps at which it ends, in [0, 1].
    """

    layers: frozenset[int]
    start: float
    stop: float

    def same(self, other: "Choice", steps: int) -> bool:
        """Whether the two are the same work in an edit of so many steps."""
        return self._work(steps) == other._work(steps)

    def distance(self, other: "Choice", layers: int) -> float:
        """Return how far the two are apart, in layers and window, each as a share."""
        apart = len(self.layers ^ other.layers) / layers
        return apart + abs(self.start - other.start) + abs(self.stop - other.stop)

    def _work(self, steps: int) -> tuple[Any, ...]:
        window = range(step_count(steps, self.start), step_count(steps, self.stop))
        return (self.layers, window) if self.layers and window else ()


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A candidate of a search.

    Attributes:
        choice: What it shares.
        label: Its name in the search.
        success: Mean edit success.
        preservation: Mean preservation of the rest.
        pairs: On how many pairs it was tried.
        on_front: Whether no other is better in both.
    """

    choice: Choice
    label: str
    success: float
    preservation: float
    pairs: int
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class Search:
    """What one search found for one model.

    Attributes:
        scorer: Who judged.
        steps: Steps of its edits.
        verdict: What it says of the paper's choice.
        tried: The candidates.
        layers: Number of self-attention layers of the model.
    """

    scorer: str
    steps: int
    verdict: str
    tried: tuple[Tried, ...]
    layers: int

    @property
    def front(self) -> list[Tried]:
        """The candidates on the front, the most preserving first."""
        best = [tried for tried in self.tried if tried.on_front]
        return sorted(best, key=lambda tried: (-tried.preservation, tried.success))

    def mark(self, choice: Choice) -> tuple[Tried, bool]:
        """Return the candidate that a choice is, or the nearest one; and whether it is the same."""
        for tried in self.tried:
            if tried.choice.same(choice, self.steps):
                return tried, True
        return min(self.tried, key=lambda t: t.choice.distance(choice, self.layers)), False


def found(folder: Path, model: str) -> list[str]:
    """Return the searches of a model below a folder, as paths relative to it."""
    if not folder.is_dir():
        return []
    paths = [path for path in sorted(folder.rglob(FILE)) if _of(path, model)]
    return [str(path.relative_to(folder)) for path in paths]


def _of(path: Path, model: str) -> bool:
    """Whether a file is a search of this model; other results have the same name."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("model") == model and bool(data.get("found"))


def read(path: Path, sites: Sequence[Site]) -> Search:
    """Read a search.

    Args:
        path: The file.
        sites: The model's sites.

    Raises:
        OSError: if it is not there any more.
        ValueError: if it is not what a search writes.
        FreepromptError: if it names layers that the model does not have.
    """
    data = json.loads(path.read_text("utf-8"))
    try:
        return Search(
            scorer=str(data["scorer"]),
            steps=int(data["steps"]),
            verdict=str(data["verdict"]),
            tried=tuple(_tried(one, sites) for one in data["found"]),
            layers=sum(site.kind == "self" for site in sites),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{error!r} is missing or of the wrong kind") from error


def _tried(one: dict[str, Any], sites: Sequence[Site]) -> Tried:
    what = {"sites": "none", "start": 0, "stop": 0, **json.loads(one["key"])}  # plain has none
    layers = Sites(what["sites"]).select(sites)
    return Tried(
        choice=Choice(
            layers=frozenset(site.index for site in layers),
            start=float(what["start"]),
            stop=float(what["stop"]),
        ),
        label=str(one["label"]),
        success=float(one["success"]),
        preservation=float(one["preservation"]),
        pairs=int(one["pairs"]),
        on_front=bool(one["on_front"]),
    )


def curve(search: Search, choice: Choice) -> str:
    """Draw edit success against preservation of all candidates, as HTML.

    Args:
        search: At least one candidate.
        choice: What is switched on now; marked by a ring.
    """
    mark, same = search.mark(choice)
    said = _said(mark, same)
    return (
        f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_summary(search))} {escape(said)}">{_inside(search, mark, same)}'
        f"</svg><figcaption><p>{escape(said)}</p><p>{escape(search.verdict)} "
        f"Scored by {escape(search.scorer)}, {search.steps} steps; small points were tried on "
        "fewer pairs.</p></figcaption></figure>"
    )


def _summary(search: Search) -> str:
    best = ", ".join(
        f"{t.label} (success {t.success:.2f}, preservation {t.preservation:.2f})"
        for t in search.front
    )
    return (
        f"Edit success against preservation of {len(search.tried)} candidates. On the front: "
        f"{best}."
    )


def _said(mark: Tried, same: bool) -> str:
    where = "on the front" if mark.on_front else "behind the front"
    values = f"success {mark.success:.2f}, preservation {mark.preservation:.2f}, {where}."
    if same:
        return f"The present choice is {mark.label}: {values}"
    return f"The present choice was not tried; the nearest that was is {mark.label}: {values}"


def _inside(search: Search, mark: Tried, same: bool) -> str:
    across = _span([t.preservation for t in search.tried])
    up = _span([t.success for t in search.tried])

    def at(tried: Tried) -> tuple[float, float]:
        x = (tried.preservation - across[0]) / (across[1] - across[0])
        y = (tried.success - up[0]) / (up[1] - up[0])
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    most = max(t.pairs for t in search.tried)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, search.front))
    x, y = at(mark)
    ring = "ring" if same else "ring near"
    points = "".join(_point(t, *at(t), t.pairs == most) for t in search.tried)
    return (
        f'{_axes(across, up)}<polyline class="front" points="{line}"/>{points}'
        f'<circle class="{ring}" cx="{x:.1f}" cy="{y:.1f}" r="{2 * RADIUS + 1}"/>'
    )


def _point(tried: Tried, x: float, y: float, whole: bool) -> str:
    kind = "point best" if tried.on_front else "point"
    title = (
        f"{tried.label}: success {tried.success:.2f}, preservation {tried.preservation:.2f}, "
        f"{tried.pairs} pairs"
    )
    radius = RADIUS if whole else RADIUS / 2
    return (
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
        f"<title>{escape(title)}</title></circle>"
    )


def _axes(across: tuple[float, float], up: tuple[float, float]) -> str:
    """Draw lines at round values each way, with the values, and what the axes are."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in _round_values(*across):
        x = LEFT + (value - across[0]) / (across[1] - across[0]) * (right - LEFT)
        parts += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>',
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>',
        ]
    for value in _round_values(*up):
        y = bottom - (value - up[0]) / (up[1] - up[0]) * (bottom - TOP)
        parts += [
            f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>',
        ]
    middle = (TOP + bottom) / 2
    parts += [
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">preservation</text>',
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        "edit success</text>",
    ]
    return "".join(parts)


def _round_values(low: float, high: float) -> list[float]:
    """Return between two and seven round values within a span.

    Example:
        >>> _round_values(0.13, 0.96)
        [0.2, 0.4, 0.6, 0.8]
    """
    least = (high - low) / 6
    size = 10.0 ** math.floor(math.log10(least))
    step = next(size * k for k in (1, 2, 5, 10) if size * k >= least)
    return [round(i * step, 6) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return lowest and highest value with some room; never of no width."""
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or 0.1
    return low - room, high + room
