"""Scatter plots as SVG, drawn by hand: no library, no font file, one text that goes anywhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 20, 52
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A contender in a plot: what it is called, where it is, whether it is only a baseline."""

    label: str
    x: float
    y: float
    baseline: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis: its title, and whether more is better."""

    title: str
    higher: bool = True


def pareto(points: Sequence[Point], x: Axis, y: Axis) -> list[Point]:
    """Points that no other beats on both axes, from left to right; baselines do not count."""

    def gain(p: Point) -> tuple[float, float]:
        return (p.x if x.higher else -p.x), (p.y if y.higher else -p.y)

    def beaten(p: Point) -> bool:
        return any(
            gain(q) != gain(p) and gain(q)[0] >= gain(p)[0] and gain(q)[1] >= gain(p)[1]
            for q in points
            if not q.baseline
        )

    return sorted((p for p in points if not p.baseline and not beaten(p)), key=lambda p: p.x)


def scatter(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Draw contenders and the line of those that nobody beats on both axes.

    Args:
        points: At least one.
        x: Horizontal axis.
        y: Vertical axis.

    Returns:
        An SVG element.
    """
    frame = _Frame(points)
    front = [frame.at(p) for p in pareto(points, x, y)]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in front)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *frame.grid(),
        f'<polyline points="{line}" fill="none" stroke="#888" stroke-dasharray="4 3"/>',
        *_marks(points, frame),
        *_titles(x, y),
        "</svg>",
    ]
    return "\n".join(parts)


class _Frame:
    """From values to positions."""

    def __init__(self, points: Sequence[Point]):
        self.x = _span([p.x for p in points])
        self.y = _span([p.y for p in points])

    def at(self, p: Point) -> tuple[float, float]:
        across = (p.x - self.x[0]) / (self.x[1] - self.x[0])
        up = (p.y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    def grid(self) -> list[str]:
        """Some lines each way, at round values."""
        parts = []
        for value in ticks(*self.x):
            x, _ = self.at(Point(label="", x=value, y=self.y[0]))
            parts += [
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
                'stroke="#eee"/>',
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" '
                f'fill="#555">{value:.4g}</text>',
            ]
        for value in ticks(*self.y):
            _, y = self.at(Point(label="", x=self.x[0], y=value))
            parts += [
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>',
                f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555">'
                f"{value:.4g}</text>",
            ]
        return parts


def ticks(low: float, high: float) -> list[float]:
    """Return two to five round values from `low` to `high`, which is greater."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value with some room; never of no width."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.06
    return low - room, high + room


def _marks(points: Sequence[Point], frame: _Frame) -> list[str]:
    """A disc for each method, a grey square for each baseline, and their names without overlap."""
    parts = []
    for number, p in enumerate(points):
        px, py = frame.at(p)
        color = "#999" if p.baseline else COLORS[number % len(COLORS)]
        shape = (
            f'<rect x="{px - 4:.1f}" y="{py - 4:.1f}" width="8" height="8" fill="{color}"/>'
            if p.baseline
            else f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{color}"/>'
        )
        parts.append(shape)
    for p, (tx, ty) in zip(points, _label_positions(points, frame), strict=True):
        parts.append(f'<text x="{tx:.1f}" y="{ty:.1f}" fill="#222">{escape(p.label)}</text>')
    return parts


def _label_positions(points: Sequence[Point], frame: _Frame) -> list[tuple[float, float]]:
    """Right of each point, pushed down where another name is in the way."""
    placed: list[tuple[float, float, float]] = []
    positions: dict[int, tuple[float, float]] = {}
    for number in sorted(range(len(points)), key=lambda i: frame.at(points[i])[1]):
        px, py = frame.at(points[number])
        x, y, width = px + 8, py + 4, 6.0 * len(points[number].label)
        while any(abs(y - b) < 11 and x < a + w and a < x + width for a, b, w in placed):
            y += 2
        placed.append((x, y, width))
        positions[number] = (x, y)
    return [positions[i] for i in range(len(points))]


def _titles(x: Axis, y: Axis) -> list[str]:
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    across = LEFT + (WIDTH - LEFT - RIGHT) / 2
    return [
        f'<text x="{across}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x.title)}</text>',
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.title)}</text>",
    ]
