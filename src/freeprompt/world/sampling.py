"""Random scenes for training and tests, and which combinations training never sees."""

import hashlib
from typing import Any, Literal

import numpy as np

from freeprompt.errors import ConfigError, unknown
from freeprompt.world.colors import COLORS
from freeprompt.world.scene import Scene
from freeprompt.world.sprites import design_like, designs
from freeprompt.world.vocab import (
    ANIMALS,
    FLOATING,
    OBJECTS,
    PAPER_ANIMALS,
    PARK,
    PLACES,
    STYLES,
)

Split = Literal["train", "held-out", "any"]
SPLITS = ("train", "held-out", "any")
_COLORED, _NO_PLACE, _NO_STYLE = 0.9, 0.2, 0.6
_CAR, _PAPER = 3.0, 1.5
_HELD_OUT, _SALT = 0.1, "emoji-world/1"


def is_held_out(scene: Scene) -> bool:
    """Whether training must not see this combination.

    About a tenth of the (object, colour, place) and of the (animal, place) combinations, by a hash
    that never changes. Never: scenes without a place ("a red car"), objects in their own colours,
    and animals in the park, because the paper's probe prompts are made of them.
    """
    if scene.place is None:
        return False
    if scene.subject in ANIMALS and scene.place == PARK:
        return False
    if scene.subject in OBJECTS and scene.color is None:
        return False
    key = f"{_SALT}|{scene.subject}|{scene.color}|{scene.place}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) < _HELD_OUT * 2**64


def random_scene(rng: np.random.Generator, *, split: Split = "train") -> Scene:
    """Draw a scene.

    Half are animals (the paper's ten 1.5 times as often as others), half objects (cars three times
    as often), of which 90 % have a colour. A fifth has no place, 60 % no style. The subject lies
    wholly in the frame.

    Args:
        rng: Source of chance.
        split: "train" leaves the held-out combinations out, "held-out" gives only those.

    Returns:
        A scene with random layout.

    Raises:
        ConfigError: for another split.
    """
    if split not in SPLITS:
        raise unknown(ConfigError, "split", split, SPLITS)
    while True:
        scene = _draw(rng)
        if split == "any" or is_held_out(scene) == (split == "held-out"):
            return scene


def random_layout(rng: np.random.Generator, subject: str, style: str | None) -> dict[str, Any]:
    """Draw design, position, scale, facing and background seed for a subject, as Scene's arguments.

    The square in which the subject stands is within the frame, its lower side on the ground;
    balloons, hearts and stars may hover.
    """
    sprites = designs()[subject]
    usable = sorted({design_like(s.set, subject, style) for s in sprites})
    scale = float(rng.uniform(0.45, 0.75))
    left = max(0.3, scale / 2 + 0.01)
    floor = float(rng.uniform(0.8, 0.95))
    y = float(rng.uniform(scale / 2 + 0.03, floor - scale / 2))
    return {
        "design": usable[int(rng.integers(len(usable)))],
        "x": float(rng.uniform(left, 1 - left)),
        "y": y if subject in FLOATING else floor - scale / 2,
        "scale": scale,
        "flip": bool(rng.random() < 0.5),
        "seed": int(rng.integers(2**31)),
    }


def _draw(rng: np.random.Generator) -> Scene:
    """Draw a scene of any split."""
    color = None
    if rng.random() < 0.5:
        subject = _weighted(rng, ANIMALS, PAPER_ANIMALS, _PAPER)
    else:
        subject = _weighted(rng, OBJECTS, ("car",), _CAR)
        if rng.random() < _COLORED:
            color = _one(rng, tuple(COLORS))
    place = None if rng.random() < _NO_PLACE else _one(rng, PLACES)
    style = None if rng.random() < _NO_STYLE else _one(rng, STYLES)
    layout = random_layout(rng, subject, style)
    return Scene(subject=subject, color=color, place=place, style=style, **layout)


def _one(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _weighted(
    rng: np.random.Generator, names: tuple[str, ...], favoured: tuple[str, ...], weight: float
) -> str:
    """One of the names; each of the favoured ones `weight` times as often as another."""
    weights = np.array([weight if name in favoured else 1.0 for name in names])
    at = np.searchsorted(np.cumsum(weights), rng.random() * weights.sum(), side="right")
    return names[int(at)]
