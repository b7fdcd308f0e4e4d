"""The training that both kinds share: which example when, gradients, and their losses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from freeprompt.core.fitting import Fit, Kept, fit_kept
from freeprompt.core.loop import Callback, Progress
from freeprompt.core.objective import Objective
from freeprompt.errors import ConfigError, UnsupportedModel
from freeprompt.models import UNetModel
from freeprompt.models.seam import held

DECAY, CLIP = 1e-2, 1.0  # as in diffusers' scripts


@dataclass(frozen=True)
class Example:
    """One picture to be rebuilt from noise under one prompt."""

    clean: Tensor
    prompt: str
    weight: float = 1.0


@dataclass
class Training:
    """Gradient steps on a few parameters of a model, from examples by the number of the step.

    Attributes:
        model: The model.
        parameters: What is trained, by name.
        examples: Called with the number of a step; returns its examples.
        seed: Of noise and timesteps.
        callback: Called after every step.
        losses: Weighted loss of each step of this run.
    """

    model: UNetModel
    parameters: Mapping[str, nn.Parameter]
    examples: Callable[[int], Sequence[Example]]
    seed: int
    callback: Callback | None = None
    losses: list[float] = field(default_factory=list)

    def run(self, steps: int, rate: float, kept: Kept | None, *, decay: float = DECAY) -> int:
        """Train up to `steps`; return how many there have been in all."""
        self._objective = Objective(schedule=self.model.schedule(1), seed=self.seed)
        start = {name: parameter.data for name, parameter in self.parameters.items()}
        fit = Fit(start, rate, decay=decay, clip=CLIP)
        for name, parameter in self.parameters.items():
            parameter.data = fit.values[name]  # shared: what the optimiser writes is used at once

        def told(step: int) -> None:
            if self.callback is not None:
                self.callback(Progress("tune", step, steps, {}))

        fit_kept(fit, kept, steps, self._gradients, told)
        return fit.steps

    def _gradients(self, step: int) -> list[Tensor]:
        wanted = list(self.parameters.values())
        sums, total = [torch.zeros_like(p) for p in wanted], 0.0
        examples = self.examples(step)
        with torch.enable_grad():
            for i, example in enumerate(examples):
                text = self.model.encode_text([example.prompt])
                draw = step * len(examples) + i
                loss = self._objective.loss(self.model, example.clean, text, draw) * example.weight
                found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
                torch._foreach_add_(sums, list(found))
                total += float(loss.detach())
        self.losses.append(total)
        return sums

    def mean_loss(self, *, first: bool) -> float:
        """Return the mean loss over the first or the last tenth of this run."""
        count = max(1, len(self.losses) // 10)
        some = self.losses[:count] if first else self.losses[-count:]
        return float(np.mean(some)) if some else float("nan")


def shuffled(count: int, seed: int, number: int) -> int:
    """Return which of `count` things is the `number`-th: all once, then all again, shuffled."""
    round_, place = divmod(number, count)
    order = np.random.default_rng([seed, 2, round_]).permutation(count)
    return int(order[place])


def check_trainable(model: UNetModel) -> None:
    """Check that a model can be trained at all.

    Raises:
        ConfigError: if it is loaded in float16, under CPU offload or with control networks.
        UnsupportedModel: if it is no text-to-image model.
    """
    if model.dtype == torch.float16:
        raise ConfigError(
            f"{model.name!r} is loaded in float16, in which the small steps of a training are "
            "lost. Load it in float32 or bfloat16: --dtype float32 (dtype='float32')."
        )
    if hasattr(getattr(model.pipe.unet, "_orig_mod", model.pipe.unet), "_hf_hook"):
        raise ConfigError(
            f"{model.name!r} is under CPU offload, which moves weights about while they are "
            "trained. Load it without --offload; --recompute needs less memory too."
        )
    if model.networks:
        raise ConfigError(
            f"{model.name!r} was loaded with a ControlNet or a T2I-Adapter, which training would "
            "not see. Load it without, and bring it to the edit."
        )
    config = model.pipe.unet.config
    if config.in_channels != model.pipe.vae.config.latent_channels:
        raise UnsupportedModel(
            f"{model.name!r} takes {config.in_channels} input channels, so it is no plain "
            "text-to-image model, and a subject cannot be taught to it. Use the checkpoint it was "
            "made from."
        )


@contextmanager
def frozen(model: UNetModel, *, recompute: bool) -> Iterator[None]:
    """Keep a pipeline's own weights from being trained, and other threads from using it."""
    pipe = model.pipe
    unet = getattr(pipe.unet, "_orig_mod", pipe.unet)
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    saved = [(p, p.requires_grad) for part in parts for p in part.parameters()]
    with held(unet, model.name), ExitStack() as undo:
        undo.callback(lambda: [p.requires_grad_(asked) for p, asked in saved])
        for parameter, _ in saved:
            parameter.requires_grad_(False)
        if recompute and not unet.is_gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            undo.callback(unet.disable_gradient_checkpointing)
        yield
