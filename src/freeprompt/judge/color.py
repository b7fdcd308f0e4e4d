"""Distances between colours as people see them."""

import numpy as np
import numpy.typing as npt

_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def to_lab(rgb: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Convert sRGB in 0..255, shape (..., 3), to CIE L*a*b* (D65)."""
    value = np.asarray(rgb, np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    scaled = linear @ _TO_XYZ.T / _WHITE
    root = np.where(scaled > 216 / 24389, np.cbrt(scaled), (24389 / 27 * scaled + 16) / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def delta_e(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Compute the CIE 1976 difference of sRGB colours in 0..255; about 2 is just visible.

    Args:
        first: Colours, (..., 3).
        second: Colours that broadcast against `first`.

    Returns:
        Differences, (...), 0 or more; red and green are 170 apart.
    """
    difference: npt.NDArray[np.float64] = np.linalg.norm(to_lab(first) - to_lab(second), axis=-1)
    return difference
