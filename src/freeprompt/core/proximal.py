"""Proximal guidance: guidance acts only where both halves differ by much."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from freeprompt.core.control import Control
from freeprompt.core.rows import Branch, Rows
from freeprompt.core.window import Window


def quantile(x: Float[Tensor, "items ..."], share: float) -> Float[Tensor, " items"]:
    """Return each item's quantile, interpolated linearly; in float32 at least, as torch wants."""
    return torch.quantile(x.flatten(1).to(torch.promote_types(x.dtype, torch.float32)), share, 1)


def soften(
    difference: Float[Tensor, "items channels height width"], share: float
) -> Float[Tensor, "items channels height width"]:
    """Move values towards 0 by their item's quantile of magnitudes, and stop there."""
    magnitude = difference.abs()
    cut = quantile(magnitude, share).to(difference).view(-1, 1, 1, 1)
    return difference.sign() * (magnitude - cut).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Proximal(Control):
    """Guide the target by `uncond + w soften(cond - uncond)`.

    Args:
        guidance: Scale w.
        share: Quantile of |cond - uncond| that is taken off.
        window: When.

    Source: Han et al., WACV 2024, arXiv:2306.05414, the proximal operator of the L1 norm.
    """

    guidance: float
    share: float
    window: Window = field()

    def guide(
        self,
        step: int,
        rows: Rows,
        state: Mapping[Branch, Tensor],
        noise: Tensor,
        guided: Mapping[Branch, Tensor],
    ) -> Mapping[Branch, Tensor]:
        cond, uncond = (noise[list(rows.targets(half))] for half in ("cond", "uncond"))
        if not len(uncond):
            return guided
        change = soften(cond - uncond, self.share)
        return {**guided, "target": uncond + self.guidance * change}
