"""Access to the sprite atlas: which designs a subject has, and their pictures in any colour.

The atlas (folder `atlas`, built by `tools/build_atlas.py`) is read on first use and kept.
"""

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from freeprompt.world.colors import shades
from freeprompt.world.vocab import DRAWING, PHOTO

ATLAS = Path(__file__).parent / "atlas"
FLAT_SETS = ("flat", "twemoji", "noto")
_STYLE_SETS = {PHOTO: ("3d",), DRAWING: FLAT_SETS}
_NEAREST = {
    "3d": ("3d", "flat"),
    "flat": ("flat", "3d"),
    "twemoji": ("twemoji", "noto", "flat"),
    "noto": ("noto", "twemoji", "flat"),
}


@dataclass(frozen=True)
class Sprite:
    """One design of one subject in the atlas.

    Attributes:
        subject: The subject's name.
        set: The emoji set: "3d", "flat", "twemoji" or "noto".
        licence: SPDX name of the set's licence.
        box: Left, top, width and height in the sheet, in pixels; the longer side is 128.
        facing: "left", or "front" when the design has no side.
    """

    subject: str
    set: str
    licence: str
    box: tuple[int, int, int, int]
    facing: str


@cache
def designs() -> dict[str, tuple[Sprite, ...]]:
    """Every subject's designs, in the order of the sets ("3d" first)."""
    found: dict[str, tuple[Sprite, ...]] = {}
    for row in json.loads((ATLAS / "index.json").read_text(encoding="utf-8")):
        left, top, width, height = row["box"]
        sprite = Sprite(
            row["name"], row["set"], row["licence"], (left, top, width, height), row["facing"]
        )
        found[sprite.subject] = (*found.get(sprite.subject, ()), sprite)
    return found


def design_like(set_name: str, subject: str, style: str | None = None) -> int:
    """Find the design of `subject` that is nearest to a set and allowed in a style.

    Args:
        set_name: The emoji set that is wanted.
        subject: A subject of the vocabulary.
        style: A style of the vocabulary, or None, which allows every set.

    Returns:
        Index into `designs()[subject]`.
    """
    sets = [sprite.set for sprite in designs()[subject]]
    allowed = [name for name in _STYLE_SETS.get(style or "", sets) if name in sets]
    return sets.index(next(n for n in (*_NEAREST[set_name], *allowed) if n in allowed))


def drawn_sprite(subject: str, design: int, style: str | None) -> Sprite:
    """The sprite that is drawn: the design, or the one nearest to it that the style allows."""
    sprites = designs()[subject]
    return sprites[design_like(sprites[design].set, subject, style)]


@cache
def _sheet(name: str, mode: str) -> Image.Image:
    with Image.open(ATLAS / name) as picture:
        return picture.convert(mode)


def _cut(sheet: Image.Image, sprite: Sprite) -> Image.Image:
    left, top, width, height = sprite.box
    return sheet.crop((left, top, left + width, top + height))


@lru_cache(maxsize=512)
def picture(sprite: Sprite, color: str | None, *, gray: bool = False) -> Image.Image:
    """The sprite, recoloured if asked.

    Args:
        sprite: A design from `designs()`.
        color: Colour name for an object, or None for the sprite's own colours.
        gray: Whether everything that does not take the named colour becomes grey.

    Returns:
        Picture of mode RGBa (colour multiplied by alpha), as large as the sprite's box.
    """
    pixels = _cut(_sheet("sprites.webp", "RGBA"), sprite)
    alpha, own = pixels.getchannel("A"), pixels.convert("RGB")
    if gray:
        own = own.convert("L").convert("RGB")
    if color is not None:
        weight, shade, _ = _cut(_sheet("paint.webp", "RGB"), sprite).split()
        named = Image.fromarray(shades(color)[np.asarray(shade)])
        own = Image.composite(named, own, weight)
    own.putalpha(alpha)
    return own.convert("RGBa")
