"""A mask that the user gives: where the picture may change."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from freeprompt.errors import ConfigError
from freeprompt.methods import METHODS, Method
from freeprompt.picture import ImageInput, Picture, open_image

OFF_ASPECT = 0.02  # relative difference of aspect ratios that rounding to pixels can explain


def check_uses_mask(method: Method) -> None:
    """Check that a mask means something to a method.

    Raises:
        ConfigError: naming the methods to which it does.
    """
    if not method.uses_mask:
        able = ", ".join(name for name in METHODS if METHODS[name].uses_mask)
        raise ConfigError(
            f"{METHODS.name_of(method)} does not use a mask, so it would be ignored. Methods that "
            f"do: {able}."
        )


def opened_mask(mask: ImageInput, method: Method) -> Picture:
    """Read a mask for a method.

    Raises:
        ConfigError: if the method does not use one.
        ImageError: for a file that is no usable image.
    """
    check_uses_mask(method)
    return open_image(mask)


def latent_mask(mask: Picture, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Bring a mask to the latent grid.

    A latent cell may change if any pixel in it may: cutting an object's edge would show.

    Args:
        mask: Picture of any size with the aspect ratio of `size`; brighter than mid-grey means
            that the picture may change there.
        size: (width, height) of the picture that is edited.
        grid: (height, width) of its latent.

    Returns:
        1 where the picture may change, 0 elsewhere, (1, 1, height, width), float32.

    Raises:
        ConfigError: if the aspect ratios differ, or nothing may change.
    """
    pixels = bright_pixels(mask, size)
    # a mask smaller than the grid is enlarged first, so that every cell has a pixel
    scale = max(1, math.ceil(max(grid[0] / mask.size[1], grid[1] / mask.size[0])))
    return F.adaptive_max_pool2d(F.interpolate(pixels, scale_factor=scale), grid)


def bright_pixels(mask: Picture, size: tuple[int, int]) -> Tensor:
    """Return a mask's own pixels: 1 where it is bright, 0 elsewhere, (1, 1, height, width).

    Raises:
        ConfigError: if its shape is not that of a picture of `size`, or nothing is bright.
    """
    aspect = mask.size[0] / mask.size[1]
    if abs(math.log(aspect / (size[0] / size[1]))) > OFF_ASPECT:
        raise ConfigError(
            f"The mask has {mask.size[0]} x {mask.size[1]} pixels and the picture {size[0]} x "
            f"{size[1]}: another shape. Give a mask of the picture's own size."
        )
    bright = np.asarray(mask.image.convert("L")) > 127
    if not bright.any():
        raise ConfigError(
            "The mask is black everywhere, so nothing may change. Paint white where it may."
        )
    return torch.from_numpy(bright.astype(np.float32))[None, None]
