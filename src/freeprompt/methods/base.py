"""What a method is, and the registry of methods."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freeprompt.core import TARGET, Control, Model, Rows, Site, Tape, Trajectory, denoise
from freeprompt.core.loop import Callback, Progress
from freeprompt.core.params import Parameters
from freeprompt.core.registry import Registry
from freeprompt.errors import UnknownMethod


@dataclass(frozen=True, kw_only=True)
class Task:
    """One source and the edits wanted of it, as a method sees them.

    Attributes:
        targets: Target prompts, at least one.
        source: Source prompt; empty where nothing is known of a real image.
        start: Start noise, (1, channels, height, width), unit variance.
        steps: Number of denoising steps.
        guidance: Guidance scale; at 1 or below there are no unconditional rows.
        negative: Prompt of the unconditional rows.
        trajectory: Inversion of a real image, or None for a generated one.
        tape: What was recorded during the inversion, or None.
        mask: Where the targets may differ from the source, 1 or 0, (1, 1, height, width) on the
            latent grid; None for everywhere.
        seed: For whatever else a method draws; the start noise of a generated source has it too.
        callback: Called after every step.
    """

    targets: tuple[str, ...]
    source: str
    start: Tensor
    steps: int
    guidance: float
    negative: str = ""
    trajectory: Trajectory | None = None
    tape: Tape | None = None
    mask: Tensor | None = None
    seed: int = 0
    callback: Callback | None = None

    def shape(self, rows: Rows) -> Rows:
        """Fit a batch layout to the number of targets, without unconditional rows if unguided."""
        rows = rows.without(half="uncond") if self.guidance <= 1 else rows
        return rows.with_targets(len(self.targets))

    def draw(self, like: Tensor, count: int) -> list[Tensor]:
        """Draw `count` noises in the shape of `like`, other than the start noise.

        On the CPU in float32, so that a seed means the same on every device.
        """
        generator = torch.Generator("cpu").manual_seed(self.seed)
        drawn = [torch.randn(like.shape, generator=generator) for _ in range(count + 1)]
        return [noise.to(like) for noise in drawn[1:]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a method returns.

    Attributes:
        targets: Edited latents, (targets, channels, height, width).
        source: Latent of the generated source, or None for a real image.
        edited: The (step, site) pairs at which the edit acted; empty for methods without controls.
        acted: Whether anything was edited at all.
    """

    targets: Tensor
    source: Tensor | None
    edited: tuple[tuple[int, Site], ...]
    acted: bool


@dataclass(frozen=True, kw_only=True)
class Method(Parameters):
    """Base of all methods.

    Attributes:
        inverts: Whether a real image must be inverted; if not, only its own latent is needed.
        reads_prompts: Whether the controls depend on the prompts.
        uses_mask: Whether a mask that the user gives means something to it.
    """

    inverts: ClassVar[bool] = True
    reads_prompts: ClassVar[bool] = False
    uses_mask: ClassVar[bool] = False

    def __call__(self, model: Model, task: Task) -> Outcome:
        """Carry out the edit."""
        raise TypeError(f"{type(self).__name__} does not say how it edits.")

    def controls(self, model: Model, task: Task) -> list[Control]:
        """Return what the method attaches."""
        return []

    def while_inverting(self, tape: Tape, steps: int) -> list[Control]:
        """Return observers for the inversion; none unless the method wants a recording."""
        return []


METHODS: Registry[Method] = Registry("method", UnknownMethod)


def generated_source(model: Model, task: Task) -> Trajectory:
    """Generate the source plainly from the task's start noise, for methods that edit its latents.

    Returns:
        The latents it went through, the clean one first; unlike an inversion, they are exact.
    """
    latents = [task.start]

    def remember(progress: Progress) -> None:
        latents.append(progress.state["target"])
        if task.callback is not None:
            task.callback(progress)

    denoise(
        model,
        model.schedule(task.steps),
        {"target": task.start},
        text={"target": model.encode_text([task.source])},
        null=model.encode_text([task.negative]),
        rows=TARGET.without(half="uncond") if task.guidance <= 1 else TARGET,
        guidance=task.guidance,
        phase="source",
        callback=remember,
    )
    return Trajectory(latents=torch.cat(latents[::-1]), prompt=task.source)
