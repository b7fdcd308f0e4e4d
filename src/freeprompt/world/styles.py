"""What a style does to the pixels: pencil sketches and pixel art."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Floats = npt.NDArray[np.float32]
PIXELS = 24
"""Pixel art is this many pixels across."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_PAPER, _PENCIL = 246.0, 70.0


def enlarged(grid: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Enlarge a square picture or mask to `size` without blending (nearest neighbour)."""
    at = np.arange(size) * grid.shape[0] // size
    result: npt.NDArray[Any] = grid[at][:, at]
    return result


def _lines(gray: Floats, strength: float) -> Floats:
    """Where a pencil would draw a line, 0..1: steep changes of a grey picture 0..255."""
    tall = np.abs(np.diff(gray, axis=0, append=gray[-1:]))
    wide = np.abs(np.diff(gray, axis=1, append=gray[:, -1:]))
    return np.clip((np.maximum(tall, wide) - 6) * strength / 255, 0, 1).astype(np.float32)


def sketched_background(ground: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Draw a background as faint pencil lines with a trace of its shading on paper.

    Args:
        ground: RGB, (height, width, 3), 0..255.

    Returns:
        Grey, same shape, 0..255.
    """
    gray = ground.astype(np.float32) @ _LUMA
    light = 205 + gray * (_PAPER - 205) / 255
    drawn = (light - _lines(gray, 5) * 90).astype(np.uint8)
    return np.repeat(drawn[..., None], 3, axis=-1)


def sketched_sprite(layer: npt.NDArray[np.uint8], color: Floats | None, size: int) -> Floats:
    """Draw a sprite in pencil: outline, inner lines, light shading; tinted if it has a colour.

    The lines come from the sprite's own colours, so that a change of colour moves no line.

    Args:
        layer: The sprite in its own colours, grey, (height, width, 4), colour times alpha, 0..255.
        color: The recoloured sprite (height, width, 3), 0..255, or None for no tint.
        size: Height of the whole frame, which sets the pencil's width.

    Returns:
        RGB, (height, width, 3), float 0..255; meaningful where the sprite is.
    """
    alpha = layer[..., 3].astype(np.float32)
    gray = layer[..., 0] + (255 - alpha)
    inner = Image.fromarray(layer[..., 3]).filter(ImageFilter.MinFilter(2 * (size // 160) + 3))
    outline = np.asarray(inner) < 128
    shading = (170 + gray * (_PAPER + 4 - 170) / 255)[..., None]
    base = shading if color is None else color * 0.8 + shading * 0.2
    lines = np.maximum(_lines(gray, 4), outline.astype(np.float32))[..., None]
    drawn = base * (1 - lines) + _PENCIL * lines
    return np.broadcast_to(drawn, (*alpha.shape, 3)).astype(np.float32)
