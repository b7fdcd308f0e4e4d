"""Panels: what a figure of attention maps is made of, and drawing them.

Needs matplotlib (extra `viz`). Figures are made without pyplot, so nothing global is touched. Heat
is shown in viridis, signed components in PuOr and clusters in the colours of Okabe and Ito: all
can be told apart by colour-blind eyes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from freeprompt.errors import ConfigError, MissingDependency
from freeprompt.images import save_png

HEAT, SIGNED = "viridis", "PuOr"
OKABE_ITO = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000",
)  # fmt: skip
MAX_CLUSTERS = len(OKABE_ITO)
_CELL = 1.9  # inches
_DPI = 110
OPACITY = 0.72
Kind = Literal["picture", "heat", "signed", "labels"]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture in a figure.

    Attributes:
        title: Stands above it.
        kind: A picture as it is; heat over a picture; a signed map; or numbered groups.
        values: (height, width), unless it is a picture.
        under: The picture, or what the heat lies on.
        limits: Lowest and highest value of the scale; None means those of `values`.
        point: (x, y) in fractions of the picture, to be marked.
        label: Stands to the left.
    """

    title: str
    kind: Kind = "picture"
    values: Any = None
    under: Image.Image | None = None
    limits: tuple[float, float] | None = None
    point: tuple[float, float] | None = None
    label: str = ""

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest value of the scale."""
        if self.limits is not None:
            return self.limits
        if self.kind == "signed":
            peak = float(np.abs(self.values).max()) or 1.0
            return -peak, peak
        return float(self.values.min()), float(self.values.max())


def need_matplotlib() -> None:
    """Check that pictures can be drawn.

    Raises:
        MissingDependency: naming the extra.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            "Pictures of maps need matplotlib, which is not installed. Install it with "
            'pip install "freeprompt[viz]", or save the maps themselves with --save.'
        ) from error


def draw(rows: Sequence[Sequence[Panel]], title: str, note: str = "") -> Any:
    """Draw rows of panels.

    Args:
        rows: Panels; rows may have different lengths.
        title: Above everything.
        note: Below everything.

    Returns:
        A matplotlib figure; `to_image` and `save_figure` make a picture of it.

    Raises:
        MissingDependency: without matplotlib.
    """
    need_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = max(map(len, rows))
    tallest = max((_aspect(panel) for row in rows for panel in row), default=1.0)
    size = (max(_CELL * across + 0.6, 4.2), (_CELL * tallest + 0.42) * len(rows) + 0.75)
    figure = Figure(figsize=size, layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(note, fontsize=8, color="0.35")
    axes = figure.subplots(len(rows), across, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for place, panel in zip(line, row, strict=False):
            _fill(place, panel)
        for place in line[len(row) :]:
            place.set_axis_off()
    return figure


def _aspect(panel: Panel) -> float:
    if panel.under is not None:
        return panel.under.height / panel.under.width
    return float(panel.values.shape[0] / panel.values.shape[1])


def _fill(place: Any, panel: Panel) -> None:
    place.set_xticks([])
    place.set_yticks([])
    place.set_title(panel.title, fontsize=9)
    place.set_ylabel(panel.label, fontsize=9)
    for side in place.spines.values():
        side.set_visible(False)
    shape = {"extent": (0.0, 1.0, 1.0, 0.0), "aspect": _aspect(panel)}
    if panel.under is not None:
        shown = panel.under if panel.kind == "picture" else panel.under.convert("L").convert("RGB")
        place.imshow(np.asarray(shown), **shape)
    if panel.kind != "picture":
        alpha = 1.0 if panel.under is None else OPACITY
        place.imshow(panel.values, alpha=alpha, interpolation="nearest", **_colors(panel), **shape)
    if panel.kind == "heat":
        low, high = panel.scale
        place.set_xlabel(f"{low:.3f} to {high:.3f}", fontsize=7, color="0.35", labelpad=2)
    if panel.point is not None:
        x, y = panel.point
        place.plot([x], [y], marker="+", markersize=13, color="black", markeredgewidth=3.5)
        place.plot([x], [y], marker="+", markersize=11, color="white", markeredgewidth=1.5)


def _colors(panel: Panel) -> dict[str, Any]:
    """Return the colours of a panel's values, and which values their ends stand for."""
    from matplotlib.colors import ListedColormap

    if panel.kind == "labels":
        return {"cmap": ListedColormap(OKABE_ITO), "vmin": -0.5, "vmax": MAX_CLUSTERS - 0.5}
    low, high = panel.scale
    name = HEAT if panel.kind == "heat" else SIGNED
    # a map that is the same everywhere needs two ends all the same
    return {"cmap": name, "vmin": low, "vmax": max(high, low + 1e-12)}


def to_image(figure: Any) -> Image.Image:
    """Return a drawn figure as an RGB picture."""
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())


def save_figure(figure: Any, path: str | Path, text: dict[str, str] | None = None) -> Path:
    """Write a figure as PNG, whole or not at all.

    Raises:
        ConfigError: if the name does not end in `.png`.
        SaveError: if it cannot be written.
    """
    check_name(path, ".png")
    save_png(to_image(figure), path, text or {})
    return Path(path)


def check_name(path: str | Path, suffix: str) -> None:
    """Refuse a file name with another suffix.

    Raises:
        ConfigError: saying which one it must have.
    """
    if Path(path).suffix.lower() != suffix:
        raise ConfigError(f"This picture is written as {suffix}; got {str(path)!r}.")
