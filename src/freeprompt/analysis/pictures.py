"""Pictures of attention maps: overlays, layers by steps, components, points, clusters, films.

Needs matplotlib (extra `viz`).
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from freeprompt.analysis.maps import AttentionMaps, Selection, ranges, resample
from freeprompt.analysis.panels import (
    HEAT,
    MAX_CLUSTERS,
    OPACITY,
    Panel,
    check_name,
    draw,
    need_matplotlib,
)
from freeprompt.analysis.reduce import Array
from freeprompt.errors import ConfigError
from freeprompt.images import resize, side_by_side, write_whole

_FRAME = 160  # pixels high
_MILLISECONDS = 140


def overlays(
    maps: AttentionMaps, *, words: Sequence[str] | None = None, sites: Selection = None
) -> Any:
    """Draw each word's map over the picture, the mean over layers, steps and heads.

    One row a picture: the source, then each target.

    Args:
        maps: Cross-attention maps.
        words: Which words; None means all that were collected.
        sites: Which layers are averaged; None means all that were collected.
    """
    rows = []
    for one in _with_cross(maps):
        heat = [
            Panel(title=word, kind="heat", values=_over(one, word, sites), under=one.image)
            for word in _words(one, words)
        ]
        rows.append([Panel(title=_short(one.prompt), under=one.image, label=one.role), *heat])
    return draw(rows, "Where each word is looked at", _note(maps, sites))


def by_layer(
    maps: AttentionMaps, *, words: Sequence[str] | None = None, sites: Selection = None
) -> Any:
    """Draw each word's map at each layer: one row a picture and word, one column a layer."""
    rows = []
    for one in _with_cross(maps):
        chosen = [one.cross.sites[i] for i in one.cross.chosen(sites)]
        for word in _words(one, words):
            heat = [
                Panel(
                    title=f"layer {site.index} ({site.block})",
                    kind="heat",
                    values=_over(one, word, f"cross:{site.index}"),
                    under=one.image,
                )
                for site in chosen
            ]
            rows.append([Panel(title=one.role, under=one.image, label=word), *heat])
    return draw(rows, _title(maps, "Cross-attention by layer"), _note(maps, sites))


def layers_by_steps(
    maps: AttentionMaps, word: str, *, sites: Selection = None, columns: int = 6
) -> Any:
    """Draw one word's map at each layer (rows) and at some of the steps (columns).

    The steps are spread evenly, the first and the last among them. All panels of a layer share a
    scale, so that they can be compared.

    Raises:
        ConfigError: if the maps were averaged over steps, or the word has none.
    """
    one = next((m for m in _with_cross(maps) if word.lower() in map(str.lower, m.words)), maps)
    cross = one.cross
    if not cross.by_step:
        raise ConfigError("These maps were averaged over steps. Collect them with by_step=True.")
    rows = []
    for site in (cross.sites[i] for i in cross.chosen(sites)):
        here = f"cross:{site.index}"
        heat = {step: one.of(word, sites=here, step=step) for step in _spread(cross.steps, columns)}
        limits = min(h.min() for h in heat.values()), max(h.max() for h in heat.values())
        rows.append(
            [
                Panel(
                    title=f"step {step}",
                    kind="heat",
                    values=values,
                    under=one.image,
                    limits=(float(limits[0]), float(limits[1])),
                    label=f"layer {site.index}\n{site.block}" if number == 0 else "",
                )
                for number, (step, values) in enumerate(heat.items())
            ]
        )
    return draw(rows, f"{word!r} in {one.prompt!r}, by layer and step", _note(maps, sites))


def components(maps: AttentionMaps, count: int = 6, *, sites: Selection = None) -> Any:
    """Draw the principal components of self-attention; one row a picture."""
    rows = []
    for one in _with_self(maps):
        found = one.components(count, sites=sites)
        signed = [
            Panel(title=f"component {i + 1}: {share:.0%}", kind="signed", values=image)
            for i, (image, share) in enumerate(zip(found.images, found.shares, strict=True))
        ]
        rows.append([Panel(title=_short(one.prompt), under=one.image, label=one.role), *signed])
    note = f"{_where(maps, sites)}; per cent: share of the variance; the sign means nothing"
    return draw(rows, "Principal components of self-attention", note)


def point(maps: AttentionMaps, x: float, y: float, *, sites: Selection = None) -> Any:
    """Draw where the pixel (x, y) looks, and who looks at it; one row a picture."""
    rows = []
    for one in _with_self(maps):
        where = (x + 0.5) / one.image.width, (y + 0.5) / one.image.height
        shown = {
            "where it looks": one.looks_at(x, y, sites=sites),
            "who looks at it": one.seen_by(x, y, sites=sites),
        }
        heat = [
            Panel(title=title, kind="heat", values=values, under=one.image, point=where)
            for title, values in shown.items()
        ]
        first = Panel(title=_short(one.prompt), under=one.image, point=where, label=one.role)
        rows.append([first, *heat])
    return draw(rows, f"Self-attention at pixel ({x:g}, {y:g})", _where(maps, sites))


def clusters(maps: AttentionMaps, count: int = 5, *, sites: Selection = None, seed: int = 0) -> Any:
    """Draw groups of cells that look at the same; one row a picture.

    Raises:
        ConfigError: for more groups than there are colours to tell apart.
        MissingDependency: without scikit-learn.
    """
    check_clusters(count)
    rows = []
    for one in _with_self(maps):
        labels = one.clusters(count, seed=seed, sites=sites)
        rows.append(
            [
                Panel(title=_short(one.prompt), under=one.image, label=one.role),
                Panel(title="over the picture", kind="labels", values=labels, under=one.image),
                Panel(title=f"{count} clusters", kind="labels", values=labels),
            ]
        )
    return draw(rows, "Cells that look at the same", _where(maps, sites))


def check_clusters(count: int) -> None:
    """Refuse a number of clusters that cannot be shown.

    Raises:
        ConfigError: for less than two, or more than there are colours to tell apart.
    """
    if not 2 <= count <= MAX_CLUSTERS:
        raise ConfigError(
            f"Pictures show 2 to {MAX_CLUSTERS} clusters, at most as many as there are colours "
            f"that everybody can tell apart; got {count}. maps.clusters(...) gives any number."
        )


def film(
    maps: AttentionMaps,
    path: str | Path,
    *,
    words: Sequence[str] | None = None,
    sites: Selection = None,
) -> Path:
    """Write a GIF of each word's map, one frame a step, over the finished picture.

    Each word has one scale for the whole film.

    Raises:
        ConfigError: if the maps were averaged over steps, or the name does not end in `.gif`.
        MissingDependency: without matplotlib.
        SaveError: if it cannot be written.
    """
    check_name(path, ".gif")
    need_matplotlib()
    strips = [
        (f"{word} ({one.role})" if maps.targets else word, one, _over_steps(one, word, sites))
        for one in _with_cross(maps)
        for word in _words(one, words)
    ]
    steps = maps.pictures[-1].cross.steps
    frames = [
        side_by_side(
            [(f"step {step}", maps.pictures[-1].image)]
            + [(name, _heated(one.image, found, step)) for name, one, found in strips],
            height=_FRAME,
        ).quantize(128, dither=Image.Dither.NONE)
        for step in steps
    ]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0
    )
    write_whole(path, buffer.getvalue())
    return Path(path)


def _over_steps(maps: AttentionMaps, word: str, sites: Selection) -> dict[int, Array]:
    """Return one word's map of every step, scaled to [0, 1] over all of them."""
    cross = maps.cross
    if not cross.by_step:
        raise ConfigError("These maps were averaged over steps. Collect them with by_step=True.")
    found = {step: maps.of(word, sites=sites, step=step) for step in cross.steps}
    low = min(float(x.min()) for x in found.values())
    high = max(float(x.max()) for x in found.values())
    return {step: (x - low) / max(high - low, 1e-12) for step, x in found.items()}


def _heated(image: Image.Image, found: dict[int, Array], step: int) -> Image.Image:
    """Lay one step's map over a picture, magnified; grey where that step was not seen."""
    from matplotlib import colormaps

    wide = round(_FRAME * image.width / image.height), _FRAME
    under = np.asarray(resize(image.convert("L"), wide).convert("RGB"), dtype=np.float64)
    if step not in found:
        return Image.fromarray(under.astype(np.uint8))
    heat = colormaps[HEAT](resample(found[step], (wide[1], wide[0])))[..., :3] * 255
    mixed = OPACITY * heat + (1 - OPACITY) * under
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def _over(maps: AttentionMaps, word: str, sites: Selection) -> Array:
    return maps.of(word, sites=sites)


def _with_cross(maps: AttentionMaps) -> list[AttentionMaps]:
    """Return the pictures that have cross maps; the first one's error if none has."""
    found = [one for one in maps.pictures if one.cross_maps is not None]
    return found if found else [one for one in maps.pictures if one.cross]


def _with_self(maps: AttentionMaps) -> list[AttentionMaps]:
    found = [one for one in maps.pictures if one.self_maps is not None]
    return found if found else [one for one in maps.pictures if one.own]


def _words(maps: AttentionMaps, words: Sequence[str] | None) -> list[str]:
    have = {word.lower() for word in maps.words}
    return [word for word in (maps.words if words is None else words) if word.lower() in have]


def _spread(steps: Sequence[int], count: int) -> list[int]:
    places = np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)
    return [steps[i] for i in dict.fromkeys(places.tolist())]


def _short(text: str, width: int = 26) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _title(maps: AttentionMaps, what: str) -> str:
    return f"{what}: {' → '.join(repr(one.prompt) for one in maps.pictures)}"


def _note(maps: AttentionMaps, sites: Selection) -> str:
    cross = _with_cross(maps)[0].cross
    layers = ranges([cross.sites[i].index for i in cross.chosen(sites)])
    return (
        f"{maps.settings.get('model', '')}, layers {layers}, {len(cross.steps)} steps; "
        "probability from dark (lowest) to yellow (highest), range below each panel"
    )


def _where(maps: AttentionMaps, sites: Selection) -> str:
    own = _with_self(maps)[0].own
    _, grid = own.matrix(sites=sites)
    layers = [own.sites[i].index for i in own.chosen(sites) if own.grids[i] == grid]
    return (
        f"{maps.settings.get('model', '')}, mean of the self-attention layers "
        f"{ranges(layers)}, {grid[0]}x{grid[1]}, {len(own.steps)} steps"
    )
