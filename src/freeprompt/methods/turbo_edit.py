"""TurboEdit: edit-friendly noise in a few steps, for models that draw in a few steps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from freeprompt.core import TARGET, Model, Stochastic, denoise
from freeprompt.core.params import param
from freeprompt.errors import ConfigError
from freeprompt.methods.base import METHODS, Method, Outcome, Task, generated_source

MOST_STEPS = 8


@METHODS.register("turbo-edit")
@dataclass(frozen=True, kw_only=True)
class TurboEdit(Method):
    """Edit in a few steps with the noises that would lead back to the source.

    As in edit-friendly DDPM editing, a noise map z for each step makes the source's prompt return
    to the source; the target's prompt takes the same steps with the same z. With few steps the
    noises have the wrong statistics, so the source is noised to the *next* level under the label of
    this one. `contrast` weighs the target's prompt against the source's; it takes the place of
    guidance, which few-step models do without.

    Preserves: whatever the two prompts agree on, in detail.  Changes: what they differ in.
    Fails when: the model is no few-step model (SDXL-Turbo, SD-Turbo, LCM): then a few steps draw
    nothing well, whatever the edit.

    Source: Deutch et al., SIGGRAPH Asia 2024, arXiv:2408.00735; defaults of the released code
    (4 steps over the lower 80 % of the noise levels, shift of one step).
    """

    inverts = False
    own_steps = 4
    reads_prompts = True

    contrast: float = param(
        1.5,
        "How much more of the target's prompt than of the source's; 0 gives the source back",
        low=0,
        high=20,
        source="released code: w1",
    )
    span: float = param(
        0.8,
        "Share of the noise levels, from the clean end, that the steps are laid over",
        low=0.01,
        high=1,
        unit="share",
        source="released code: first timestep 799",
    )
    shift: bool = param(
        True, "Noise the source to the next step's level instead of its own", source="paper: 3.2"
    )
    longest: float = param(
        15.5, "Largest norm of the last noise map", low=0, source="released code: clip"
    )

    def check_steps(self, steps: int) -> None:
        if steps > MOST_STEPS:
            raise ConfigError(
                f"turbo-edit is a few-step method and got {steps} steps. Allowed: 1 to "
                f"{MOST_STEPS}, 4 is usual, with a model made for it (SDXL-Turbo, SD-Turbo, LCM). "
                "For other models the same idea with many steps is edit-friendly."
            )

    def __call__(self, model: Model, task: Task) -> Outcome:
        clean = (task.trajectory or generated_source(model, task)).clean
        schedule = self._schedule(model, task, clean)
        source, start = model.encode_text([task.source]), self._noised(schedule, task, clean, 0)
        done = denoise(
            model,
            schedule,
            {"target": start.expand(len(task.targets), -1, -1, -1)},
            text={"target": model.encode_text(task.targets)},
            null=source,
            rows=TARGET.with_targets(len(task.targets)),
            guidance=self.contrast,
            callback=task.callback,
        )
        return Outcome(
            targets=done.state["target"],
            source=None if task.trajectory else clean,
            edited=(),
            acted=self.contrast > 0,
        )

    def _schedule(self, model: Model, task: Task, clean: Tensor) -> Stochastic:
        """Find the noise that each step must add for the source's prompt to return to it."""
        base = model.schedule(task.steps).over(self.span)
        blank = Stochastic(base=base, noises=torch.zeros(task.steps, *clean.shape[1:]))
        text, noises = model.encode_text([task.source]), []
        for i, label in enumerate(base.timesteps):
            here = self._noised(blank, task, clean, i)
            there = self._noised(blank, task, clean, i + 1) if i + 1 < task.steps else clean
            predicted = blank.noise(here, model.predict(here, label, text), i)
            noises.append(blank.noise_between(here, there, predicted, i))
        length = float(noises[-1].norm())
        noises[-1] = noises[-1] * min(1.0, self.longest / max(length, 1e-12))
        return Stochastic(base=base, noises=torch.cat(noises))

    def _noised(self, schedule: Stochastic, task: Task, clean: Tensor, step: int) -> Tensor:
        """Return the source with noise of its own for each step."""
        noise = task.draw(clean, task.steps)[step]
        alpha = schedule.base.levels(step)[1 if self.shift else 0]
        noised: Tensor = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
        return noised
