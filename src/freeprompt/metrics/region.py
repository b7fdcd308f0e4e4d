"""Pictures as tensors, and the part of them that is measured."""

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from freeprompt.errors import ConfigError, ImageError, unknown

Way = Literal["area", "pie"]
"""How a region is measured.

`area`: over its own pixels, and no other pixel has a say. `pie`: as PIE-Bench's evaluator does it:
everything else is painted black in both pictures, and the mean is taken over the whole frame, where
the black pixels count as perfect ones.
"""

WAYS: tuple[str, ...] = get_args(Way)
Region = npt.NDArray[np.bool_]


def as_tensor(picture: Image.Image) -> Float[Tensor, "1 3 height width"]:
    """Turn a picture into RGB in [0, 1], float64, NCHW."""
    return torch.from_numpy(np.array(picture.convert("RGB"), np.float64) / 255).permute(2, 0, 1)[
        None
    ]


def as_pair(
    a: Image.Image, b: Image.Image
) -> tuple[Float[Tensor, "1 3 height width"], Float[Tensor, "1 3 height width"]]:
    """Turn two pictures of one size into tensors.

    Raises:
        ImageError: if the sizes differ.
    """
    if a.size != b.size:
        raise ImageError(
            f"The pictures to compare are {_size(a)} and {_size(b)}. They must be of one size. "
            "Resize one of them."
        )
    return as_tensor(a), as_tensor(b)


def _size(picture: Image.Image) -> str:
    return f"{picture.width} × {picture.height}"


def as_region(region: Any, picture: Image.Image) -> Bool[Tensor, "height width"]:
    """Check a region against the picture that it is a part of; None is the whole of it.

    Raises:
        ImageError: if its shape is not (height, width) of the picture.
    """
    shape = picture.height, picture.width
    if region is None:
        return torch.ones(shape, dtype=torch.bool)
    mask = torch.from_numpy(np.array(region, dtype=bool))
    if tuple(mask.shape) != shape:
        raise ImageError(
            f"The region has the shape {tuple(mask.shape)}, the picture (height, width) = {shape}. "
            "They must be equal."
        )
    return mask


def check_way(way: str) -> None:
    """Refuse a way that does not exist.

    Raises:
        ConfigError: naming the ways.
    """
    if way not in WAYS:
        raise unknown(ConfigError, "way to measure a region", way, WAYS)
