"""The measures of the field, each of two pictures or of a picture and a prompt.

Pixels: `mse`, `psnr`, `ssim`. Networks, whose weights you point at: `LPIPS`, `Clip`, `Structure`.
Those that compare pictures take a `region` and one of two ways to measure inside it, `area` and
`pie`; `docs/metrics.md` says why there are two.
"""

from freeprompt.metrics.clip import Clip
from freeprompt.metrics.lpips import LPIPS, find_weights
from freeprompt.metrics.pixels import mse, psnr
from freeprompt.metrics.region import WAYS, Region, Way
from freeprompt.metrics.ssim import SSIM_VARIANTS, ssim
from freeprompt.metrics.structure import Structure

__all__ = [
    "LPIPS",
    "SSIM_VARIANTS",
    "WAYS",
    "Clip",
    "Region",
    "Structure",
    "Way",
    "find_weights",
    "mse",
    "psnr",
    "ssim",
]
