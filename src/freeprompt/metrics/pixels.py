"""MSE and PSNR, of whole pictures and of regions."""

import math

from PIL import Image

from freeprompt.metrics.region import Region, Way, as_pair, as_region, check_way


def mse(
    a: Image.Image, b: Image.Image, region: Region | None = None, *, way: Way = "area"
) -> float:
    """Mean squared error of RGB values in [0, 1]; 0 is best, 1 is black against white.

    Args:
        a: One picture.
        b: Another of the same size.
        region: Bool, (height, width): what is measured; None for everything.
        way: See `freeprompt.metrics.region.Way`.

    Returns:
        The error; NaN if the region is empty and the way is `area`.

    Raises:
        ImageError: if sizes differ.
        ConfigError: for another way.
    """
    check_way(way)
    first, second = as_pair(a, b)
    mask = as_region(region, a)
    squared = ((first - second) ** 2).mean(1)[0]
    pixels = int(mask.sum()) if way == "area" else mask.numel()
    return float(squared[mask].sum()) / pixels if pixels else math.nan


def psnr(
    a: Image.Image, b: Image.Image, region: Region | None = None, *, way: Way = "area"
) -> float:
    """Peak signal-to-noise ratio in dB, -10 log10(MSE); higher is better, inf when equal.

    Arguments and errors are those of `mse`.
    """
    error = mse(a, b, region, way=way)
    return math.inf if error == 0 else -10 * math.log10(error)
