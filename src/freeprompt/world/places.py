"""Backgrounds: six places and the plain one, drawn with a few shapes from a seed.

Coordinates are fractions of the frame from its top left corner, colours sRGB 0..255. A picture is
drawn at least twice as large as asked and averaged, so that edges are smooth at any size.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from freeprompt.world.vocab import BEACH, DESERT, NIGHT, PARK, SNOW, STREET

Color = tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """A frame to draw on, in fractions, with its own source of chance."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        self.rng = rng
        self.image = Image.new("RGB", (size, size))
        self._draw = ImageDraw.Draw(self.image)

    def chance(self, low: float, high: float) -> float:
        """A number between two bounds."""
        return low + (high - low) * float(self.rng.random())

    def pick(self, options: Sequence[Color]) -> Color:
        """One of several colours."""
        return options[int(self.rng.integers(len(options)))]

    def spread(self, count: int, width: float) -> list[float]:
        """Positions across the frame, at most one in each of `count` columns, in random columns."""
        columns = self.rng.permutation(max(4, count + 1))[:count]
        room = 1 / max(4, count + 1)
        return [float(c) * room + room / 2 + self.chance(-width, width) for c in sorted(columns)]

    def fade(self, top: float, bottom: float, upper: Color, lower: Color) -> None:
        """A vertical gradient over the full width."""
        first, last = int(top * self.size), int(np.ceil(bottom * self.size))
        column = np.linspace(upper, lower, max(1, last - first))[:, None]
        strip = Image.fromarray((column + 0.5).astype(np.uint8))
        self.image.paste(
            strip.resize((self.size, len(column)), Image.Resampling.NEAREST), (0, first)
        )

    def disc(self, x: float, y: float, radius: float, color: Color) -> None:
        """A filled circle."""
        self.oval(x - radius, y - radius, x + radius, y + radius, color)

    def oval(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        """A filled ellipse by its bounds."""
        s = self.size
        self._draw.ellipse((left * s, top * s, right * s, bottom * s), fill=color)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        """A filled rectangle."""
        x0, y0, x1, y1 = (side * self.size for side in (left, top, right, bottom))
        self._draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), fill=color)

    def shape(self, points: Sequence[Point], color: Color) -> None:
        """A filled polygon."""
        self._draw.polygon([(x * self.size, y * self.size) for x, y in points], fill=color)

    def cloud(self, x: float, y: float, size: float, color: Color) -> None:
        """Three discs in a row."""
        for shift, radius in ((-0.9, 0.55), (0.0, 0.8), (0.9, 0.6)):
            self.disc(x + shift * size, y, radius * size, color)


def _tree(canvas: Canvas, x: float, ground: float) -> None:
    size = canvas.chance(0.075, 0.11)
    leaves = canvas.pick([(44, 122, 52), (56, 138, 60), (36, 108, 58)])
    canvas.box(x - 0.014, ground - size * 1.4, x + 0.014, ground + 0.02, (112, 76, 44))
    for shift_x, shift_y in ((-0.6, 1.5), (0.6, 1.5), (0.0, 2.2)):
        canvas.disc(x + shift_x * size, ground - shift_y * size, size * 0.85, leaves)


def _fir(canvas: Canvas, x: float, ground: float) -> None:
    size = canvas.chance(0.07, 0.1)
    canvas.box(x - 0.012, ground - 0.02, x + 0.012, ground + 0.02, (92, 70, 58))
    for level in range(3):
        top = ground - size * (3.2 - level * 0.9)
        half = size * (0.55 + 0.2 * level)
        canvas.shape(
            [(x, top), (x - half, top + size * 1.3), (x + half, top + size * 1.3)], (42, 92, 78)
        )
        canvas.shape(
            [(x, top), (x - half * 0.4, top + size * 0.5), (x + half * 0.4, top + size * 0.5)],
            (240, 246, 252),
        )


def _palm(canvas: Canvas, x: float, ground: float) -> None:
    height, lean = canvas.chance(0.3, 0.38), canvas.chance(-0.04, 0.04)
    top = ground - height
    canvas.shape(
        [
            (x - 0.018, ground + 0.03),
            (x + 0.018, ground + 0.03),
            (x + lean + 0.01, top),
            (x + lean - 0.01, top),
        ],
        (142, 100, 58),
    )
    for tip_x, tip_y in ((-0.15, 0.06), (-0.11, -0.06), (0.11, -0.06), (0.15, 0.06)):
        tip = (x + lean + tip_x, top + tip_y)
        middle = (x + lean + tip_x * 0.5, top + tip_y * 0.5 - 0.05)
        canvas.shape([(x + lean, top + 0.025), middle, tip], (48, 140, 66))


def _cactus(canvas: Canvas, x: float, ground: float) -> None:
    size = canvas.chance(0.1, 0.14)
    green: Color = (66, 128, 72)
    wide = size * 0.16
    foot = ground + canvas.chance(0.0, 0.05)
    canvas.box(x - wide, foot - size * 1.8, x + wide, foot, green)
    canvas.disc(x, foot - size * 1.8, wide, green)
    for side, low, high in ((-1, 0.7, 1.3), (1, 0.9, 1.5)):
        arm = x + side * size * 0.5
        canvas.box(min(x, arm), foot - size * low - wide, max(x, arm), foot - size * low, green)
        canvas.box(arm - wide * 0.8, foot - size * high, arm + wide * 0.8, foot - size * low, green)


def _sun(canvas: Canvas) -> None:
    x = canvas.chance(0.08, 0.2) if canvas.rng.random() < 0.5 else canvas.chance(0.8, 0.92)
    canvas.disc(x, canvas.chance(0.1, 0.18), 0.075, (255, 226, 96))


def _park(canvas: Canvas) -> None:
    ground = canvas.chance(0.5, 0.62)
    canvas.fade(0, ground, (112, 186, 244), (196, 228, 250))
    for _ in range(int(canvas.rng.integers(1, 3))):
        canvas.cloud(canvas.chance(0.1, 0.9), canvas.chance(0.08, 0.2), 0.06, (250, 252, 255))
    canvas.fade(ground, 1, (138, 202, 98), (104, 176, 76))
    for x in canvas.spread(int(canvas.rng.integers(3, 5)), 0.04):
        _tree(canvas, x, ground)


def _beach(canvas: Canvas) -> None:
    ground = canvas.chance(0.56, 0.66)
    sea = ground - canvas.chance(0.12, 0.18)
    canvas.fade(0, sea, (96, 196, 246), (190, 236, 252))
    _sun(canvas)
    canvas.fade(sea, ground, (24, 112, 196), (40, 160, 214))
    canvas.box(0, ground - 0.015, 1, ground + 0.02, (226, 246, 250))
    canvas.fade(ground + 0.01, 1, (242, 222, 162), (226, 200, 136))
    side = canvas.chance(0.06, 0.12)
    _palm(canvas, side if canvas.rng.random() < 0.5 else 1 - side, ground)


def _snow(canvas: Canvas) -> None:
    ground = canvas.chance(0.52, 0.62)
    canvas.fade(0, ground + 0.03, (164, 184, 208), (208, 220, 234))
    canvas.oval(-0.3, ground - 0.05, 0.6, ground + 0.3, (238, 243, 250))
    canvas.oval(0.4, ground - 0.03, 1.4, ground + 0.3, (238, 243, 250))
    for x in canvas.spread(int(canvas.rng.integers(3, 5)), 0.04):
        _fir(canvas, x, ground + 0.01)
    canvas.fade(ground + 0.02, 1, (242, 246, 252), (222, 230, 242))
    for x, y in canvas.rng.random((22, 2)):
        canvas.disc(float(x), float(y) * ground, 0.011, (255, 255, 255))


def _night(canvas: Canvas) -> None:
    ground = canvas.chance(0.54, 0.66)
    canvas.fade(0, ground, (12, 16, 52), (38, 46, 98))
    for x, y in canvas.rng.random((20, 2)):
        canvas.disc(float(x), float(y) * ground * 0.9, 0.009, (236, 238, 255))
    moon = canvas.chance(0.12, 0.88), canvas.chance(0.1, 0.18)
    canvas.disc(*moon, 0.085, (250, 240, 190))
    canvas.disc(moon[0] + 0.035, moon[1] - 0.02, 0.072, (18, 22, 62))
    canvas.oval(-0.3, ground - 0.08, 0.7, ground + 0.2, (34, 42, 72))
    canvas.fade(ground, 1, (66, 76, 108), (46, 54, 84))


def _desert(canvas: Canvas) -> None:
    ground = canvas.chance(0.52, 0.64)
    canvas.fade(0, ground + 0.04, (250, 178, 110), (255, 232, 190))
    _sun(canvas)
    shift = canvas.chance(-0.2, 0.2)
    canvas.oval(shift - 0.4, ground - 0.1, shift + 0.6, ground + 0.4, (232, 176, 112))
    canvas.oval(shift + 0.4, ground - 0.07, shift + 1.5, ground + 0.4, (224, 164, 100))
    canvas.fade(ground + 0.03, 1, (242, 200, 138), (226, 174, 108))
    for x in canvas.spread(int(canvas.rng.integers(2, 4)), 0.05):
        _cactus(canvas, x, ground + 0.04)


def _building(canvas: Canvas, left: float, right: float, ground: float) -> None:
    walls = [(172, 142, 130), (146, 158, 176), (186, 170, 140), (150, 134, 152), (164, 176, 164)]
    top = ground - canvas.chance(0.2, 0.42)
    canvas.box(left, top, right, ground, canvas.pick(walls))
    step = (right - left) / 3
    for row in range(int((ground - top) / 0.085)):
        for column in range(2):
            x, y = left + step * (column + 0.75), top + 0.03 + row * 0.085
            canvas.box(x, y, x + step * 0.6, y + 0.045, (244, 232, 178))


def _street(canvas: Canvas) -> None:
    ground = canvas.chance(0.54, 0.62)
    canvas.fade(0, ground, (174, 202, 226), (218, 228, 236))
    left = -canvas.chance(0.0, 0.12)
    while left < 1:
        right = left + canvas.chance(0.16, 0.24)
        _building(canvas, left, right, ground)
        left = right
    canvas.box(0, ground, 1, ground + 0.06, (198, 196, 192))
    canvas.fade(ground + 0.05, 1, (110, 112, 118), (92, 94, 100))
    line, offset = ground + canvas.chance(0.2, 0.26), canvas.chance(-0.2, 0)
    for mark in range(6):
        x = offset + mark * 0.24
        canvas.box(x, line, x + 0.13, line + 0.025, (246, 244, 236))


def _plain(canvas: Canvas) -> None:
    tint = canvas.rng.random(3) * 26
    light = (tint + 218 - tint.mean() * 0.5).clip(0, 255)
    red, green, blue = (int(v) for v in light)
    canvas.fade(0, 1, (red + 6, green + 6, blue + 6), (red - 6, green - 6, blue - 6))


_DRAW: dict[str | None, Callable[[Canvas], None]] = {
    None: _plain,
    PARK: _park,
    BEACH: _beach,
    SNOW: _snow,
    NIGHT: _night,
    DESERT: _desert,
    STREET: _street,
}


def background(place: str | None, seed: int, size: int) -> npt.NDArray[np.uint8]:
    """Draw a background.

    Args:
        place: One of `PLACES`, or None for a plain light colour.
        seed: Decides the horizon, the trees and so on, 0 or more.
        size: Height and width in pixels.

    Returns:
        RGB, (size, size, 3), 0..255. The ground reaches from 0.68 of the height or above to the
        lower edge.
    """
    times = max(2, -(-128 // size))
    canvas = Canvas(times * size, np.random.default_rng(seed))
    _DRAW[place](canvas)
    return np.array(canvas.image.reduce(times))
