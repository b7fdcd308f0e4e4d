"""The paper's 28 colour names, their sRGB values, and how a colour is shaded."""

from functools import cache

import numpy as np
import numpy.typing as npt

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
    "pink": (255, 192, 203),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
    "brown": (165, 42, 42),
    "beige": (245, 245, 220),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "teal": (0, 128, 128),
    "lime": (0, 255, 0),
    "olive": (128, 128, 0),
    "navy": (0, 0, 128),
    "maroon": (128, 0, 0),
    "silver": (192, 192, 192),
    "gold": (255, 215, 0),
    "bronze": (205, 127, 50),
    "peach": (255, 218, 185),
    "coral": (255, 127, 80),
    "indigo": (75, 0, 130),
    "violet": (238, 130, 238),
    "turquoise": (64, 224, 208),
    "chocolate": (210, 105, 30),
}
"""Name -> sRGB 0..255, in the paper's order: CSS values, and bronze and peach, which CSS lacks."""

METALS = frozenset({"silver", "gold", "bronze"})
_BLACK = 24  # a pure black would swallow the sprite's shape
_DARKEST, _LIGHTEST, _METAL = 0.62, 0.5, 1.6


@cache
def shades(name: str) -> npt.NDArray[np.uint8]:
    """The colour at every shade of a sprite.

    Args:
        name: A key of `COLORS`.

    Returns:
        Table (256, 3), sRGB 0..255: row 128 is the colour itself, 0 its shadow, 255 its highlight.
        Metals have more contrast.
    """
    color = np.maximum(np.array(COLORS[name], np.float32), _BLACK)
    level = (np.arange(256, dtype=np.float32) - 128) / 128
    level = np.clip(level * (_METAL if name in METALS else 1), -1, 1)[:, None]
    dark = color * (1 + _DARKEST * level)
    # Half way to white, half to the same hue at its brightest: plain white would turn navy indigo.
    brightest = (255 + color * (255 / color.max())) / 2
    light = color + (brightest - color) * _LIGHTEST * level
    table = (np.where(level < 0, dark, light) + 0.5).astype(np.uint8)
    table.flags.writeable = False
    return table
