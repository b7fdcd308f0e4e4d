"""Structural similarity, in the variants that published tables are made with."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from freeprompt.errors import ConfigError, ImageError, unknown
from freeprompt.metrics.region import Region, Way, as_pair, as_region, check_way

_C1, _C2 = 0.01**2, 0.03**2  # for values in [0, 1]


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A window: its weights along one side, and what is done about variances and edges."""

    weights: tuple[float, ...]
    unbiased: bool = False
    reflected: bool = False

    @property
    def border(self) -> int:
        """Pixels along each edge that are no window's centre."""
        return 0 if self.reflected else len(self.weights) // 2


def _gaussian(size: int, sigma: float) -> tuple[float, ...]:
    values = [math.exp(-(((i - size // 2) / sigma) ** 2) / 2) for i in range(size)]
    return tuple(value / sum(values) for value in values)


_WINDOWS = {
    "gaussian": _Window(weights=_gaussian(11, 1.5)),
    "reflected": _Window(weights=_gaussian(11, 1.5), reflected=True),
    "uniform": _Window(weights=(1 / 7,) * 7, unbiased=True),
}
SSIM_VARIANTS: tuple[str, ...] = tuple(_WINDOWS)
"""`gaussian`: an 11 x 11 window of sigma 1.5 wholly within the picture, as in the paper of SSIM.
So does torchmetrics until late 2024, with which PIE-Bench's tables were made. `reflected`: the same
at every pixel of the picture, continued by reflection beyond its edges, as torchmetrics does since
(its issue 2718). `uniform`: 7 x 7 within the picture with sample
covariances, scikit-image's default."""


def ssim(
    a: Image.Image,
    b: Image.Image,
    region: Region | None = None,
    *,
    way: Way = "area",
    variant: str = "gaussian",
) -> float:
    """Mean structural similarity of RGB pictures, channel by channel; 1 is best.

    Within a region, the way `area` weighs only the window's pixels that belong to it and averages
    over windows whose centre does, so that nothing outside has a say.

    Args:
        a: One picture, at least as large as the window.
        b: Another of the same size.
        region: Bool, (height, width): what is measured; None for everything.
        way: See `freeprompt.metrics.region.Way`.
        variant: One of `SSIM_VARIANTS`.

    Returns:
        The similarity, at most 1; NaN if no window has its centre in the region.

    Raises:
        ImageError: if sizes differ or the picture is smaller than the window.
        ConfigError: for another way or variant.

    Source: Wang et al., IEEE Transactions on Image Processing 13(4), 2004.
    """
    check_way(way)
    if variant not in _WINDOWS:
        raise unknown(ConfigError, "variant of SSIM", variant, _WINDOWS)
    window = _WINDOWS[variant]
    first, second = as_pair(a, b)
    mask = as_region(region, a)
    if min(a.size) < len(window.weights):
        raise ImageError(
            f"The pictures are {a.width} × {a.height}, smaller than the window of SSIM "
            f"({variant}: {len(window.weights)} pixels). Compare larger ones."
        )
    if way == "pie":
        return float(_similarity(first * mask, second * mask, mask | True, window).mean())
    edge = window.border
    centres = mask[edge : mask.shape[0] - edge, edge : mask.shape[1] - edge]
    if not bool(centres.any()):
        return math.nan
    return float(_similarity(first, second, mask, window)[0][:, centres].mean())


def _similarity(
    a: Float[Tensor, "1 c h w"],
    b: Float[Tensor, "1 c h w"],
    region: Bool[Tensor, "h w"],
    window: _Window,
) -> Tensor:
    """SSIM at every position of the window, from the region's pixels; (1, channels, y, x)."""
    weights = region.to(a)[None, None]
    cover = _blur(weights, window)

    def mean(x: Tensor) -> Tensor:
        return _blur(x * weights, window) / cover.clamp(min=1e-12)

    count = cover * len(window.weights) ** 2
    scale = count / (count - 1).clamp(min=1) if window.unbiased else torch.ones_like(cover)
    mean_a, mean_b = mean(a), mean(b)
    var_a = (mean(a * a) - mean_a**2) * scale
    var_b = (mean(b * b) - mean_b**2) * scale
    both = (mean(a * b) - mean_a * mean_b) * scale
    above = (2 * mean_a * mean_b + _C1) * (2 * both + _C2)
    return above / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))


def _blur(x: Tensor, window: _Window) -> Tensor:
    """Weigh every neighbourhood."""
    if window.reflected:
        x = functional.pad(x, (len(window.weights) // 2,) * 4, mode="reflect")
    side = torch.tensor(window.weights, dtype=x.dtype)
    kernel = (side[:, None] * side)[None, None].expand(x.shape[1], 1, -1, -1)
    return functional.conv2d(x, kernel, groups=x.shape[1])
