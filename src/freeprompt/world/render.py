"""From a scene to pixels: background, sprite, style."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from freeprompt.world import styles
from freeprompt.world.places import background
from freeprompt.world.sprites import drawn_sprite, picture
from freeprompt.world.vocab import NIGHT, PIXEL_ART, SKETCH

if TYPE_CHECKING:
    from freeprompt.world.scene import Scene

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
_NIGHT_LIGHT = np.array([0.88, 0.88, 0.94], np.float32)
_FAINTEST = 0.12  # fainter fringes would widen the mask beyond what an eye sees
_SOLID = 0.35  # a pixel of pixel art belongs to the sprite from this cover on
_RIM = 2  # empty pixels kept around a sprite, where outlines are looked for


def render_scene(scene: "Scene", size: int) -> tuple[Pixels, Mask]:
    """Draw a scene.

    Args:
        scene: What to draw.
        size: Height and width in pixels.

    Returns:
        RGB picture (size, size, 3) and the subject's mask (size, size).
    """
    if scene.style == PIXEL_ART:
        image, mask = _composed(scene, styles.PIXELS, hard=True)
        return styles.enlarged(image, size), styles.enlarged(mask, size)
    return _composed(scene, size)


def _composed(scene: "Scene", size: int, *, hard: bool = False) -> tuple[Pixels, Mask]:
    """Put the sprite on the background; `hard` makes every pixel wholly one or the other."""
    image = background(scene.place, scene.seed, size)
    if scene.style == SKETCH:
        image = styles.sketched_background(image)
    mask = np.zeros((size, size), bool)
    color, alpha, (left, top) = _sprite(scene, size)
    alpha = np.where(alpha < (_SOLID if hard else _FAINTEST), 0, 1 if hard else alpha)
    if scene.place == NIGHT and scene.style != SKETCH:
        color = color * _NIGHT_LIGHT
    part = np.s_[top : top + len(alpha), left : left + alpha.shape[1]]
    image[part] = image[part] * (1 - alpha) + np.minimum(color, 255) * alpha + 0.5
    mask[part] = alpha[..., 0] > 0
    return image, mask


def _sprite(scene: "Scene", size: int) -> tuple[Floats, Floats, tuple[int, int]]:
    """Colour (h, w, 3) in 0..255 and cover (h, w, 1) in 0..1 of the sprite, and its corner."""
    sketch = scene.style == SKETCH
    layer, corner = _layer(scene, scene.color, size, gray=sketch)
    alpha = (layer[..., 3:] / 255).astype(np.float32)
    color = (layer[..., :3] / np.maximum(alpha, 1 / 255)).astype(np.float32)
    if sketch:
        own, _ = _layer(scene, None, size, gray=True)
        color = styles.sketched_sprite(own, color if scene.color else None, size)
    return color, alpha, corner


def _layer(
    scene: "Scene", color: str | None, size: int, *, gray: bool
) -> tuple[Pixels, tuple[int, int]]:
    """The part of the frame around the sprite: (h, w, 4), colour times alpha; and its corner."""
    sprite = picture(drawn_sprite(scene.subject, scene.design, scene.style), color, gray=gray)
    ratio = scene.scale * size / max(sprite.size)
    width, height = (max(1, round(side * ratio)) for side in sprite.size)
    small = sprite.resize((width, height), Image.Resampling.HAMMING)
    if scene.flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    x = round(scene.x * size - width / 2)
    y = round((scene.y + scene.scale / 2) * size) - height
    left, right = max(0, x - _RIM), min(size, x + width + _RIM)
    top, bottom = max(0, y - _RIM), min(size, y + height + _RIM)
    part = Image.new("RGBa", (max(0, right - left), max(0, bottom - top)))
    part.paste(small, (x - left, y - top))
    return np.asarray(part), (left, top)
