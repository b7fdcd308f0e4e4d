"""How EmojiEdit-Bench was drawn. Its manifest is a file; this makes it, and a test compares.

The seeds are below one million, where nothing that is trained ever draws
(`freeprompt.train.data.Seeds`).
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from freeprompt.bench.truth import Thresholds
from freeprompt.judge import delta_e
from freeprompt.judge.labels import visible_style
from freeprompt.world import (
    ANIMALS,
    COLORS,
    OBJECTS,
    PLACES,
    STYLES,
    Scene,
    is_held_out,
    random_scene,
)

SEEDS = {"test": 510_000, "tune": 520_000}
COUNTS = {"test": 100, "tune": 20}
VERSION = 1
DISTINCT = 25.0
"""Colours nearer than this (CIE 1976) are not asked for: leaving the source would nearly do."""

Changes = dict[str, str]
Chance = np.random.Generator


def manifest() -> dict[str, Any]:
    """Draw the whole manifest: JSON types."""
    return {
        "name": "EmojiEdit-Bench",
        "version": VERSION,
        "seeds": SEEDS,
        "thresholds": asdict(Thresholds()),
        "splits": {split: rows(split) for split in SEEDS},
    }


def rows(split: str) -> list[dict[str, Any]]:
    """Draw one split: `COUNTS[split]` rows of each cell."""
    return [
        _row(SEEDS[split], number, cell, i)
        for number, cell in enumerate(CELLS)
        for i in range(COUNTS[split])
    ]


def _row(seed: int, number: int, cell: str, i: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, number, i])
    while True:
        scene = _rounded(random_scene(rng, split="any"))
        changes = None if _vague(scene) else CELLS[cell](rng, scene)
        if changes is not None:
            break
    noise = int(rng.integers(2**31))
    held_out = is_held_out(scene) or is_held_out(scene.edited(**changes))
    return {
        "id": f"{cell}/{i:03d}",
        "changes": changes,
        "seed": noise,
        "held_out": held_out,
        "scene": scene.to_dict(),
    }


def _rounded(scene: Scene) -> Scene:
    """The same scene in numbers that read well; nothing moves by a pixel."""
    rounded = {name: round(getattr(scene, name), 4) for name in ("x", "y", "scale")}
    return Scene(**{**scene.to_dict(), **rounded})


def _vague(scene: Scene) -> bool:
    """Whether the colour cannot be judged: an object in its sprite's own colours."""
    return scene.subject in OBJECTS and scene.color is None


def _other(rng: Chance, names: tuple[str, ...], *used: str | None) -> str:
    left = [name for name in names if name not in used]
    return left[int(rng.integers(len(left)))]


def _subject(rng: Chance, scene: Scene) -> Changes:
    kind = ANIMALS if scene.subject in ANIMALS else OBJECTS
    return {"subject": _other(rng, kind, scene.subject)}


def _animal(rng: Chance, scene: Scene) -> Changes | None:
    return _subject(rng, scene) if scene.subject in ANIMALS else None


def _object(rng: Chance, scene: Scene) -> Changes | None:
    return _subject(rng, scene) if scene.subject in OBJECTS else None


def _color(rng: Chance, scene: Scene) -> Changes | None:
    if scene.color is None:
        return None
    near = [c for c in COLORS if delta_e(COLORS[c], COLORS[scene.color]) < DISTINCT]
    return {"color": _other(rng, tuple(COLORS), *near)}


def _place(rng: Chance, scene: Scene) -> Changes | None:
    return None if scene.place is None else {"place": _other(rng, PLACES, scene.place)}


def _style(rng: Chance, scene: Scene) -> Changes | None:
    return None if scene.style is None else {"style": _other(rng, STYLES, visible_style(scene))}


def _two(rng: Chance, scene: Scene) -> Changes | None:
    """Two different attributes, each pair that the scene allows as likely as another."""
    possible = [make(rng, scene) for make in (_subject, _color, _place, _style)]
    made = [change for change in possible if change is not None]
    first, second = rng.permutation(len(made))[:2] if len(made) > 1 else (0, 0)
    return {**made[first], **made[second]} if first != second else None


def _none(rng: Chance, scene: Scene) -> Changes:
    return {}


CELLS: dict[str, Callable[[Chance, Scene], Changes | None]] = {
    "animal": _animal,
    "object": _object,
    "color": _color,
    "place": _place,
    "style": _style,
    "two": _two,
    "none": _none,
}
"""Kinds of edits, and how the wanted attributes are drawn; None if the scene does not allow it."""
