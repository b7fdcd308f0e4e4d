"""Sampling with noise at every step, the noises being given: DDIM with eta, DDPM, multistep LCM."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from freeprompt.core.schedule import DDIM, wide_dtype
from freeprompt.errors import ConfigError

Renewal = Literal["posterior", "full"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stochastic:
    """A schedule whose step i adds `sigma(i) * noises[i]`; as pure a function of i as DDIM.

    With a and a' the cumulative alphas before and after the step, e the predicted noise and x0 the
    clean latent that it implies, a step ends at

        sqrt(a') x0 + sqrt(1 - a' - sigma^2) e + sigma z.

    Args:
        base: The noise levels.
        noises: z of each step in denoising order, unit variance.
        eta: How much of the full sigma is used, in [0, 1]; 0 is DDIM.
        renewal: What the full sigma is. `posterior` is DDPM's, sqrt((1-a')/(1-a)) sqrt(1-a/a').
            `full` is sqrt(1-a'): at eta 1 the direction towards e vanishes and all noise is
            renewed, as in multistep consistency sampling and InfEdit's DDCM.

    Raises:
        ConfigError: if there is not one noise a step, or eta is out of range.

    Source: Song et al., arXiv:2010.02502, eq. 12 and 16; `full`: Xu et al., arXiv:2312.04965.

    Example:
        >>> ddim = DDIM(steps=4); z = torch.randn(4, 4, 8, 8)
        >>> x, e = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
        >>> plain = Stochastic(base=ddim, noises=z, eta=0.0)
        >>> torch.equal(plain.step(x, e, 2), ddim.step(x, e, 2))
        True
    """

    base: DDIM
    noises: Float[Tensor, "steps channels height width"]
    eta: float = 1.0
    renewal: Renewal = "posterior"

    def __post_init__(self) -> None:
        if len(self.noises) != self.base.steps:
            raise ConfigError(
                f"There are {len(self.noises)} noises for {self.base.steps} steps; each step "
                "needs one of its own."
            )
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta must be a number from 0 (DDIM) to 1; got {self.eta!r}.")

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return self.base.steps

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Label for the network at each step."""
        return self.base.timesteps

    def sigma(self, step: int) -> float:
        """Return the scale of the noise that a step adds.

        Raises:
            ConfigError: if `step` is outside 0..steps-1.
        """
        before, after = self.base.levels(step)
        if self.renewal == "full":
            return float(self.eta * (1 - after) ** 0.5)
        return float(self.eta * ((1 - after) / (1 - before) * (1 - before / after)) ** 0.5)

    def noise(self, x: Tensor, prediction: Tensor, step: int) -> Tensor:
        """Turn the network's raw answer into predicted noise, as `DDIM.noise` does."""
        return self.base.noise(x, prediction, step)

    def mean(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        """Return where a step would end without its noise; wide, for what is computed from it."""
        before, after = self.base.levels(step)
        wide = wide_dtype(x)
        x, noise = x.to(wide), noise.to(wide)
        clean = (x - (1 - before) ** 0.5 * noise) / before**0.5
        mean: Tensor = after**0.5 * clean + self._direction(step) * noise
        return mean

    def step(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        """Move a latent one step towards the image, for given predicted noise."""
        return self.step_with(x, noise, self.noises[step], step)

    def step_with(self, x: Tensor, noise: Tensor, z: Tensor, step: int) -> Tensor:
        """Likewise, adding `z` instead of the schedule's own noise."""
        mean = self.mean(x, noise, step)
        return (mean + self.sigma(step) * z.to(mean)).to(x.dtype)

    def unstep(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        """Move a latent one step towards noise: the exact inverse of `step` for the same noise."""
        before, after = self.base.levels(step)
        wide = wide_dtype(x)
        there, noise = x.to(wide), noise.to(wide)
        there = there - self.sigma(step) * self.noises[step].to(there)
        clean = (there - self._direction(step) * noise) / after**0.5
        start: Tensor = before**0.5 * clean + (1 - before) ** 0.5 * noise
        return start.to(x.dtype)

    def noise_between(self, x: Tensor, there: Tensor, noise: Tensor, step: int) -> Tensor:
        """Return the z that a step from `x` would have to add to end at `there`.

        Args:
            x: Latent at the beginning of the step, (1, channels, height, width).
            there: Where it should end.
            noise: Noise predicted at `x`.
            step: Index of the step. Where it adds no noise (sigma 0), z is 0.
        """
        sigma = self.sigma(step)
        if sigma == 0:
            return torch.zeros_like(x)
        mean = self.mean(x, noise, step)
        return ((there.to(mean) - mean) / sigma).to(x.dtype)

    def _direction(self, step: int) -> float:
        _, after = self.base.levels(step)
        return float(max(1 - after - self.sigma(step) ** 2, 0.0) ** 0.5)
