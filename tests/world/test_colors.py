from functools import cache

import numpy as np
import pytest

from freeprompt.world import COLORS, OBJECTS, Rendered, Scene
from freeprompt.world.colors import METALS, shades
from freeprompt.world.sprites import designs

# Colours that nobody confuses; neighbours such as navy and indigo are left to finer measures.
DISTINCT = ("red", "green", "blue", "yellow", "purple", "black", "white", "cyan", "magenta", "gray")


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB 0..255, last axis 3."""
    linear = np.where(rgb <= 10.31475, rgb / 3294.6, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.array(matrix).T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@cache
def olive(scene: Scene) -> Rendered:
    """The same scene in a colour that is not asked about."""
    return scene.render(64)


def named(subject: str, color: str, design: int, names: tuple[str, ...], **more: object) -> str:
    """The name nearest to what most of the recoloured pixels are."""
    scene = Scene(subject=subject, color=color, design=design, scale=0.9, y=0.5)
    scene = scene.edited(**more)
    picture, other = scene.render(64), olive(scene.edited(color="olive"))
    changed = picture.image.astype(int) != other.image.astype(int)
    pixels = picture.image[changed.any(-1)].astype(float)
    anchors = lab(np.maximum(np.array([COLORS[name] for name in names], float), 24))
    return names[int(np.argmin(np.linalg.norm(lab(np.median(pixels, axis=0)) - anchors, axis=-1)))]


@pytest.mark.parametrize("color", DISTINCT)
def test_every_object_shows_the_named_color(color: str) -> None:
    # A bicycle's tubes are too thin for a measure that takes in the pixels at their edges.
    wrong = [
        (subject, design)
        for subject in OBJECTS
        for design in range(len(designs()[subject]) if subject != "bicycle" else 0)
        if named(subject, color, design, DISTINCT) != color
    ]
    assert not wrong


def test_all_28_colors_on_every_car() -> None:
    names = tuple(COLORS)
    shown = {(c, d): named("car", c, d, names) for c in names if c != "olive" for d in range(4)}
    assert {key: name for key, name in shown.items() if key[0] != name} == {}


def test_colors_can_be_named_at_night() -> None:
    for color in DISTINCT:
        assert named("car", color, 0, DISTINCT, place="at night") == color


def test_much_of_every_object_takes_the_color() -> None:
    for subject in OBJECTS:
        for design in range(len(designs()[subject])):
            scene = Scene(subject=subject, color="red", design=design)
            red, blue = scene.render(64), scene.edited(color="blue").render(64)
            changed = (np.abs(red.image.astype(int) - blue.image).max(-1) > 80)[red.mask].mean()
            assert changed > (0.2 if subject == "bicycle" else 0.28), (subject, design)


def test_shades_go_from_dark_to_light_through_the_color() -> None:
    for name, value in COLORS.items():
        table = shades(name).astype(int)
        assert (np.diff(table, axis=0) >= 0).all()
        assert table[128].tolist() == [max(24, v) for v in value]
    assert np.ptp(shades("gold")[64:192].astype(int)) > np.ptp(shades("yellow")[64:192].astype(int))
    assert set(COLORS) >= METALS
