"""Pictures to compare."""

import numpy as np
from PIL import Image


def photo(width=64, height=48, seed=0):
    """A picture of large soft blobs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def noisy(picture, strength=25.0, seed=1):
    """The same with noise on it."""
    pixels = np.asarray(picture, float)
    noise = np.random.default_rng(seed).normal(0, strength, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def inside_out(picture, region, value=200):
    """The same picture with everything outside a region painted over."""
    pixels = np.array(picture)
    pixels[~region] = value
    return Image.fromarray(pixels)


def unit(picture):
    return np.asarray(picture, float) / 255
