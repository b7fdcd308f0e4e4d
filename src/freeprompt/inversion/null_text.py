"""Null-text inversion: an unconditional embedding a step, so that guidance leads back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from freeprompt.core import DDIM, Control, Model, Text, Trajectory
from freeprompt.core.loop import Callback, Progress
from freeprompt.core.params import param
from freeprompt.inversion.base import INVERSIONS
from freeprompt.inversion.ddim import DDIMInversion


@INVERSIONS.register("null-text")
@dataclass(frozen=True, kw_only=True)
class NullTextInversion(DDIMInversion):
    """Invert by DDIM, then optimise the unconditional embedding of every step.

    The latents of a DDIM inversion at guidance 1 are the pivots. From the noise on, each guided
    step is made to end at its pivot by gradient descent on that step's unconditional embedding;
    the next step starts from the embedding found and from where the guided step really ended.

    The result holds for the guidance scale and the negative prompt (from whose embedding the
    search starts) that it was made for. Gradients go to the embedding alone; the weights and what
    they ask for are left as they were.

    Source: Mokady et al., CVPR 2023, arXiv:2211.09794, algorithm 1; rates and early stop of the
    released code, whose rate falls by a hundredth each of 50 steps: here by half over all steps.
    """

    inner_steps: int = param(
        10,
        "Gradient steps on each embedding, at most; one sample-forward and one backward each",
        low=0,
        high=1000,
        source="released code",
    )
    rate: float = param(
        1e-2, "Learning rate of Adam at the first step", low=0, source="released code"
    )
    enough: float = param(
        1e-5,
        "Mean squared error of the latent at which a step stops early; 2e-5 more at each step",
        low=0,
        source="released code",
    )

    gives = ("null",)
    needs_prompt = True
    tuned = True

    @torch.no_grad()
    def __call__(
        self,
        model: Model,
        clean: Tensor,
        *,
        steps: int,
        prompt: str = "",
        guidance: float = 7.5,
        negative: str = "",
        seed: int = 0,
        controls: Sequence[Control] = (),
        callback: Callback | None = None,
    ) -> Trajectory:
        path = super().__call__(
            model, clean, steps=steps, prompt=prompt, controls=controls, callback=callback
        )
        schedule, text = model.schedule(steps), model.encode_text([prompt])
        null, x, found = model.encode_text([negative]), path.start, []
        for i in range(steps):
            step = _GuidedStep(model, schedule, text, guidance, i, x)
            null = self._optimised(step, null, path.after(i))
            found.append(null.states)
            x = step.end(null)
            if callback is not None:
                callback(Progress("optimise", i, steps, {"source": x}))
        return replace(path, null=torch.cat(found), guidance=guidance, negative=negative)

    def _optimised(self, step: "_GuidedStep", null: Text, pivot: Tensor) -> Text:
        """Return the embedding with which a guided step ends at `pivot`."""
        states = null.states.detach().float().clone().requires_grad_()
        rate = self.rate * (1 - step.index / (2 * step.schedule.steps))
        adam = torch.optim.Adam([states], lr=rate)
        for _ in range(self.inner_steps):
            loss, states.grad = _slope(step, null, states, pivot)
            adam.step()
            if loss < self.enough + step.index * 2e-5:
                break
        return replace(null, states=states.detach().to(null.states))


@torch.enable_grad()
def _slope(step: "_GuidedStep", null: Text, states: Tensor, pivot: Tensor) -> tuple[float, Tensor]:
    """Return the mean squared error of a guided step's end, and its gradient to the embedding.

    A mean over a whole latent has gradients that float16 rounds to zero, so their sum is taken to
    the embedding; the factor is a power of two, which changes no bit in wider numbers.
    """
    scale = 2.0 ** round(math.log2(pivot.numel()))
    end = step.end(replace(null, states=states.to(null.states)))
    loss = F.mse_loss(end.float(), pivot.float())
    # to the embedding alone: backward() would also fill the weights' gradients
    (gradient,) = torch.autograd.grad(loss * scale, states)
    return loss.item(), gradient / scale


class _GuidedStep:
    """Denoising step `index` from `x`, as a function of the unconditional embedding."""

    def __init__(
        self, model: Model, schedule: DDIM, text: Text, guidance: float, index: int, x: Tensor
    ):
        self.model, self.schedule, self.guidance = model, schedule, guidance
        self.index, self.x = index, x
        self.conditional = self._noise(text)

    def end(self, null: Text) -> Tensor:
        """Return the latent at which the step ends."""
        uncond = self._noise(null)
        guided = uncond + self.guidance * (self.conditional - uncond)
        return self.schedule.step(self.x, guided, self.index)

    def _noise(self, text: Text) -> Tensor:
        answer = self.model.predict(self.x, self.schedule.timesteps[self.index], text)
        return self.schedule.noise(self.x, answer, self.index)
