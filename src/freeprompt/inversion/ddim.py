"""DDIM inversion, with optional fixed-point refinement."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freeprompt.core import DDIM, SOURCE, Control, Model, Run, Text, Trajectory
from freeprompt.core.loop import Callback, Progress
from freeprompt.core.params import param
from freeprompt.inversion.base import INVERSIONS, Inversion


@INVERSIONS.register("ddim")
@dataclass(frozen=True, kw_only=True)
class DDIMInversion(Inversion):
    """Run DDIM backwards, assuming that the noise predicted before a step holds after it.

    Guidance is 1, so each step costs one sample-forward. The assumption is the only error; each
    refinement iteration evaluates the noise again where the step has led to, and so solves the
    step's implicit equation by fixed-point iteration, at one more sample-forward a step.

    Source: Song et al., arXiv:2010.02502, eq. 12 solved for x_t; empty prompt as in FPE,
    arXiv:2403.03431; fixed point: Pan et al., arXiv:2309.04907.
    """

    iterations: int = param(
        0,
        "Fixed-point iterations a step; on a trained network 3 make the inversion nearly exact",
        low=0,
        high=100,
        source="FPE uses none",
    )

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
        schedule = model.schedule(steps)
        text = model.encode_text([prompt])
        latents = [clean]
        with model.attach(controls, SOURCE) as run:
            for done, i in enumerate(reversed(range(steps))):
                latents.append(self._one_step(model, schedule, latents[-1], i, text, run))
                if callback is not None:
                    callback(Progress("invert", done, steps, {"source": latents[-1]}))
        return Trajectory(
            latents=torch.cat(latents), prompt=prompt, provenance={"steps": steps, **self.to_dict()}
        )

    def _one_step(
        self, model: Model, schedule: DDIM, x: Tensor, i: int, text: Text, run: Run
    ) -> Tensor:
        """Move `x` to the beginning of denoising step `i`."""
        there = x
        for _ in range(1 + self.iterations):
            with run.at(i, (x.shape[-2], x.shape[-1])):
                prediction = model.predict(there, schedule.timesteps[i], text)
            noise = self._cleaned(schedule.noise(there, prediction, i), i)
            there = schedule.unstep(x, noise, i)
        return there

    def _cleaned(self, noise: Tensor, step: int) -> Tensor:
        """Return what goes into the step for the noise predicted; here, that noise."""
        return noise
