"""Pictures of results: heat maps and curves (matplotlib), and grids of images (Pillow)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from freeprompt.errors import MissingDependency
from freeprompt.images import save_png

Grid = tuple[list[str], list[str], list[list[float]]]
_GAP, _FONT = 6, 13
# Okabe and Ito's colours, told apart by colour-blind readers
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def pyplot() -> Any:
    """Return matplotlib's figure class, drawing to files only.

    Raises:
        MissingDependency: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            "Charts are drawn by matplotlib, which is not installed. Install it with: "
            'pip install "freeprompt[viz]"'
        ) from error
    return Figure


def panels(
    grids: Sequence[tuple[str, Grid]],
    path: Path,
    *,
    across: str,
    down: str,
    span: tuple[float, float],
    columns: int = 6,
) -> None:
    """Draw heat maps side by side on one scale, each cell with its number in percent.

    Args:
        grids: Heading and (row names, column names, values) of each.
        path: PNG to write.
        across: What the columns are.
        down: What the rows are.
        span: Values of the two ends of the colours.
        columns: Panels in a row.
    """
    columns = min(columns, len(grids))
    lines = -(-len(grids) // columns)
    height = max(len(grid[0]) for _, grid in grids) * 0.22 + 1.1
    figure = pyplot()(figsize=(2.6 * columns, height * lines), layout="constrained")
    for axes in (all_axes := figure.subplots(lines, columns, squeeze=False).ravel()):
        axes.set_visible(False)
    for axes, (heading, (rows, names, values)) in zip(all_axes, grids, strict=False):
        axes.set_visible(True)
        axes.imshow(values, vmin=span[0], vmax=span[1], cmap="cividis", aspect="auto")
        axes.set_title(heading, fontsize=7)
        axes.set_xticks(range(len(names)), names, fontsize=7)
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
        axes.set_xlabel(across, fontsize=7)
        axes.set_ylabel(down, fontsize=7)
        _write_numbers(axes, values, span)
    _save(figure, path)


def _write_numbers(axes: Any, values: list[list[float]], span: tuple[float, float]) -> None:
    middle = sum(span) / 2
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            ink = "black" if value > middle else "white"
            axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=6, color=ink)


def curves(
    charts: Sequence[tuple[str, list[str], dict[str, list[tuple[float, float, float]]]]],
    path: Path,
    *,
    label: str = "",
) -> None:
    """Draw curves with their intervals, a chart a series of interventions.

    Args:
        charts: Heading, names along the axis, and for each curve (value, low, high) at each name.
        path: PNG to write.
        label: Of the vertical axis.
    """
    figure = pyplot()(figsize=(5.2 * len(charts), 3.8), layout="constrained")
    for axes, (heading, names, lines) in zip(
        figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True
    ):
        for color, (name, points) in zip(COLORS, lines.items(), strict=False):
            values, lows, highs = zip(*points, strict=True)
            axes.plot(range(len(names)), values, "o-", ms=3, color=color, label=name)
            axes.fill_between(range(len(names)), lows, highs, color=color, alpha=0.15, lw=0)
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
        axes.set_ylim(-0.02, 1.02)
        axes.set_title(heading, fontsize=9)
        axes.set_ylabel(label, fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    _save(figure, path)


def scatter(
    points: Sequence[tuple[str, float, float, str]],
    front: Sequence[tuple[float, float]],
    path: Path,
    *,
    across: str,
    up: str,
) -> None:
    """Draw named points in two dimensions and the front through the best of them.

    Args:
        points: Name (drawn if not empty), horizontal and vertical value, and group.
        front: The front's points.
        path: PNG to write.
        across: Horizontal axis.
        up: Vertical axis.
    """
    figure = pyplot()(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for color, group in zip(COLORS, dict.fromkeys(p[3] for p in points), strict=False):
        of_group = [p for p in points if p[3] == group]
        axes.scatter(
            [p[1] for p in of_group], [p[2] for p in of_group], s=18, color=color, label=group
        )
    for name, x, y, _ in points:
        if name:
            axes.annotate(name, (x, y), fontsize=6, xytext=(3, 3), textcoords="offset points")
    if front:
        axes.plot(*zip(*sorted(front), strict=True), "--", color="gray", lw=1, zorder=0)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    buffer.seek(0)
    save_png(Image.open(buffer), path, {})


def picture_grid(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Image.Image | None]]], side: int = 72
) -> Image.Image:
    """Set pictures out in a table, column names above and row names to the left.

    Args:
        columns: Names, wrapped to the width of a picture.
        rows: Name and pictures of each row; None leaves a gap.
        side: Pictures are brought to this many pixels a side.
    """
    font = ImageFont.load_default(size=_FONT)
    left = max(round(font.getlength(name)) for name, _ in rows) + 2 * _GAP
    heads = [_lines(name, side, font) for name in columns]
    top = max(len(lines) for lines in heads) * (_FONT + 3) + 2 * _GAP
    step = side + _GAP
    sheet = Image.new("RGB", (left + step * len(columns), top + step * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for j, lines in enumerate(heads):
        draw.multiline_text((left + j * step, _GAP), "\n".join(lines), "black", font, spacing=2)
    for i, (name, pictures) in enumerate(rows):
        y = top + i * step
        draw.text((_GAP, y + side // 2 - _FONT // 2), name, "black", font)
        for j, picture in enumerate(pictures):
            if picture is not None:
                sheet.paste(_square(picture, side), (left + j * step, y))
    return sheet


def _square(picture: Image.Image, side: int) -> Image.Image:
    return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def _lines(text: str, width: int, font: Any) -> list[str]:
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
