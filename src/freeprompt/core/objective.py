"""What a diffusion model is trained on: telling noise from a latent, at every noise level."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from freeprompt.core.model import Model
from freeprompt.core.rows import Text
from freeprompt.core.schedule import DDIM, wide_dtype

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of one latent at drawn noise, as a pure function of the number of the draw.

    Noise is drawn anew each time. Timesteps follow a golden-ratio sequence from a random start:
    uniform over training's 1000, as in the papers, and any few draws in a row are spread over all
    of them, which is worth much in a training of a hundred steps.

    Args:
        schedule: The checkpoint's noise levels and what its network predicts.
        seed: Of all draws.

    Source: Ho et al., arXiv:2006.11239, algorithm 1 (noise); Salimans & Ho, arXiv:2202.00512,
    appendix D (velocity).
    """

    schedule: DDIM
    seed: int

    def timestep(self, draw: int) -> int:
        """Return the label of a draw, 0 .. 999 for a model of 1000 timesteps."""
        begin = np.random.default_rng([self.seed, 0]).random()
        share = (begin + draw * GOLDEN) % 1.0
        return int(share * self.schedule.train_steps)

    def noise(self, like: Tensor, draw: int) -> Tensor:
        """Return the noise of a draw in the shape of `like`; the same on every device."""
        key = np.random.SeedSequence([self.seed, 1, draw]).generate_state(1, np.uint64)[0]
        generator = torch.Generator("cpu").manual_seed(int(key) >> 1)
        return torch.randn(like.shape, generator=generator).to(like)

    def loss(
        self,
        model: Model,
        clean: Tensor,
        text: Text,
        draw: int,
    ) -> Tensor:
        """Return the mean squared error of the network's answer, a float32 scalar.

        Costs one sample-forward; its gradient about as much again, twice.

        Args:
            model: The model.
            clean: The latent, (1, channels, height, width), scaled.
            text: Its prompt, one item.
            draw: Number of the draw, from 0.
        """
        t = self.timestep(draw)
        alpha, wide = self.schedule.alphas_cumprod[t], wide_dtype(clean)
        x, noise = clean.to(wide), self.noise(clean, draw).to(wide)
        noisy = alpha**0.5 * x + (1 - alpha) ** 0.5 * noise
        wanted = noise
        if self.schedule.prediction == "v_prediction":
            wanted = alpha**0.5 * noise - (1 - alpha) ** 0.5 * x
        answer = model.predict(noisy.to(clean.dtype), t, text)
        return F.mse_loss(answer.float(), wanted.float())
