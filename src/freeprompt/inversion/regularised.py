"""DDIM inversion whose predicted noise is pushed towards looking like noise."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from freeprompt.core.params import param
from freeprompt.inversion.base import INVERSIONS
from freeprompt.inversion.ddim import DDIMInversion

SMALLEST = 8  # side of the coarsest level of the pyramid, in latent cells


@INVERSIONS.register("regularised")
@dataclass(frozen=True, kw_only=True)
class RegularisedInversion(DDIMInversion):
    """Invert by DDIM, after each prediction removing structure that noise would not have.

    A few gradient steps on the predicted noise itself reduce its correlation with shifted copies of
    itself, on a pyramid of scales, and its distance from zero mean and unit variance. The network
    is not asked again, so the count of sample-forwards is that of DDIM. Reconstruction gets a
    little worse, editability better: the start noise looks like what the model was trained on.

    Source: Parmar et al., SIGGRAPH 2023, arXiv:2302.03027, section 3.1; defaults of the released
    code. Shifts are drawn from a generator seeded by the step, so that results repeat.
    """

    rounds: int = param(5, "Rounds of regularisation a step", low=0, source="released code")
    rolls: int = param(5, "Shifts tried a round", low=0, source="released code")
    pair_weight: float = param(
        20.0, "Weight of the autocorrelation", low=0, source="released code: lambda_ac"
    )
    kl_weight: float = param(
        20.0, "Weight of the divergence from unit noise", low=0, source="released code: lambda_kl"
    )

    def _cleaned(self, noise: Tensor, step: int) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(step)
        wide = noise.float()
        for _ in range(self.rounds):
            for _ in range(self.rolls):
                shifted = _gradient(lambda n: autocorrelation(n, generator), wide)
                wide = wide - self.pair_weight / self.rolls * shifted
            wide = wide - self.kl_weight * _gradient(divergence, wide)
        return wide.to(noise)


def _gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    with torch.enable_grad():
        x = at.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x), x)
    return gradient


def autocorrelation(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Sum squared correlations of each channel with itself, shifted, over a pyramid of scales.

    Args:
        noise: (batch, channels, height, width).
        generator: Draws the shifts, less than half the height each.
    """
    total = noise.new_zeros(())
    for channel in noise.flatten(0, 1):
        level = channel[None, None]
        while True:
            for dim in (2, 3):
                shift = int(torch.randint(max(level.shape[2] // 2, 1), (1,), generator=generator))
                total = total + (level * level.roll(shift, dims=dim)).mean().square()
            if min(level.shape[2:]) <= SMALLEST:
                break
            level = F.avg_pool2d(level, 2)
    return total


def divergence(noise: Tensor) -> Tensor:
    """Return twice the KL divergence of a normal of this mean and variance from unit noise."""
    mean, variance = noise.mean(), noise.var()
    return variance + mean.square() - 1 - torch.log(variance + 1e-7)
