"""DiffEdit: find where two prompts disagree, and change the picture only there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from freeprompt.core import (
    TARGET,
    Control,
    Model,
    Rows,
    Text,
    Trajectory,
    Window,
    denoise,
    step_count,
)
from freeprompt.core.params import param
from freeprompt.core.rows import Branch
from freeprompt.methods.base import METHODS, Method, Outcome, Task, generated_source


@dataclass(frozen=True, kw_only=True)
class Keep(Control):
    """Keep a trajectory outside a mask, at the end of every step.

    Attributes:
        masks: 1 where the target may change, (targets, 1, height, width).
        trajectory: What to keep elsewhere.
    """

    masks: Tensor
    trajectory: Trajectory
    window: Window = field()

    def latents(
        self, step: int, rows: Rows, state: Mapping[Branch, Tensor]
    ) -> Mapping[Branch, Tensor]:
        kept, target = self.trajectory.after(step).to(state["target"]), state["target"]
        return {**state, "target": torch.where(self.masks > 0, target, kept)}


@METHODS.register("diffedit")
@dataclass(frozen=True, kw_only=True)
class DiffEdit(Method):
    """Change the picture only where source and target prompt predict different noise.

    The mask is the difference of the two predictions on the noised image, averaged over draws.
    Outside it, every step ends at the source's own trajectory, so the background is kept exactly.

    Preserves: everything outside the mask, to the bit of the latent.  Changes: what is inside.
    Fails when: the mask misses the object, or the object must grow beyond it.

    Source: Couairon et al., ICLR 2023, arXiv:2210.11427; defaults of diffusers' pipeline.
    """

    encode: float = param(
        0.8,
        "Share of the steps that are run again",
        low=0,
        high=1,
        unit="share",
        source="diffusers: inpaint_strength",
    )
    mask_level: float = param(
        0.5,
        "Noise level at which the mask is found, as a share of the steps",
        low=0,
        high=1,
        unit="share",
        source="diffusers: mask_encode_strength",
    )
    draws: int = param(10, "Noises that the mask is averaged over", low=1, source="diffusers")
    clamp: float = param(
        3.0, "Differences are cut at this many times their mean", low=0, source="diffusers"
    )
    threshold: float = param(
        0.5, "Of the mask, relative to its largest value", low=0, high=1, source="diffusers"
    )

    def __call__(self, model: Model, task: Task) -> Outcome:
        source = task.trajectory or generated_source(model, task)
        masks = self._masks(model, task, source.clean)
        start = task.steps - step_count(task.steps, self.encode)
        begin = source.latents[[task.steps - start]]
        keep = Keep(masks=masks, trajectory=source, window=Window(start, task.steps))
        done = denoise(
            model,
            model.schedule(task.steps),
            {"target": begin.expand(len(task.targets), -1, -1, -1)},
            text={"target": model.encode_text(task.targets)},
            null=model.encode_text([task.negative]),
            rows=task.shape(TARGET),
            controls=[keep],
            guidance=task.guidance,
            start=start,
            callback=task.callback,
        )
        return Outcome(
            targets=done.state["target"],
            source=None if task.trajectory else source.clean,
            edited=(),
            acted=start < task.steps and bool(masks.any()),
        )

    def _masks(self, model: Model, task: Task, clean: Tensor) -> Tensor:
        """Return 1 where the prompts disagree, (targets, 1, height, width)."""
        schedule = model.schedule(task.steps)
        step = min(task.steps - step_count(task.steps, self.mask_level), task.steps - 1)
        text = Text.stack([model.encode_text([task.source]), model.encode_text(task.targets)])
        total = torch.zeros(len(task.targets), 1, *clean.shape[-2:], device=clean.device)
        for noise in task.draw(clean, self.draws):
            batch = schedule.noised(clean, noise, step).expand(len(text), -1, -1, -1)
            answer = model.predict(batch, schedule.timesteps[step], text).float()
            total += (answer[1:] - answer[:1]).abs().mean(1, keepdim=True) / self.draws
        cut = torch.minimum(total, self.clamp * total.mean((1, 2, 3), keepdim=True))
        return (cut / cut.amax((1, 2, 3), keepdim=True).clamp(min=1e-12) > self.threshold).float()
