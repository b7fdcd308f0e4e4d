"""Where two prompts disagree: a mask without any annotation."""

import torch
from torch import Tensor

from freeprompt.core import Model, Text, step_count
from freeprompt.methods.base import Task


def noise_difference(
    model: Model,
    task: Task,
    clean: Tensor,
    *,
    level: float,
    draws: int,
    clamp: float,
    threshold: float,
) -> Tensor:
    """Find where source and target prompt predict different noise on the noised image.

    Args:
        model: The model.
        task: Its prompts, steps and seed are used.
        clean: The image's latent, (1, channels, height, width), scaled.
        level: Noise level, as a share of the steps, in [0, 1].
        draws: Noises to average over; each costs one sample-forward a prompt.
        clamp: Differences are cut at this many times their mean.
        threshold: Of the mask, relative to its largest value, in [0, 1].

    Returns:
        1 where the prompts disagree, 0 elsewhere, (targets, 1, height, width), float32.

    Source: Couairon et al., ICLR 2023, arXiv:2210.11427, section 3.2; arithmetic of diffusers'
    pipeline.
    """
    schedule = model.schedule(task.steps)
    step = min(task.steps - step_count(task.steps, level), task.steps - 1)
    text = Text.stack([model.encode_text([task.source]), model.encode_text(task.targets)])
    total = torch.zeros(len(task.targets), 1, *clean.shape[-2:], device=clean.device)
    for noise in task.draw(clean, draws):
        batch = schedule.noised(clean, noise, step).expand(len(text), -1, -1, -1)
        answer = model.predict(batch, schedule.timesteps[step], text).float()
        total += (answer[1:] - answer[:1]).abs().mean(1, keepdim=True) / draws
    cut = torch.minimum(total, clamp * total.mean((1, 2, 3), keepdim=True))
    return (cut / cut.amax((1, 2, 3), keepdim=True).clamp(min=1e-12) > threshold).float()
