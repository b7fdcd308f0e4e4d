"""What a method is, and the registry of methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from freeprompt.core import (
    TARGET,
    Control,
    Model,
    Rows,
    Schedule,
    Site,
    Tape,
    Text,
    Trajectory,
    Window,
    denoise,
)
from freeprompt.core.loop import Callback, Progress
from freeprompt.core.params import Parameters
from freeprompt.core.proximal import Proximal
from freeprompt.core.registry import Registry
from freeprompt.errors import MissingSource, UnknownMethod


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
        keep: Folder where a method that trains keeps what it has learnt, or None for nowhere.
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
    keep: Path | None = None
    callback: Callback | None = None

    def shape(self, rows: Rows, branches: int = 1) -> Rows:
        """Fit a batch layout to the targets, without unconditional rows if unguided.

        Args:
            rows: The layout for one target.
            branches: Items that a target takes.
        """
        rows = rows.without(half="uncond") if self.guidance <= 1 else rows
        return rows.with_targets(len(self.targets) * branches)

    @property
    def first(self) -> int:
        """Denoising step to begin with."""
        return 0 if self.trajectory is None else self.trajectory.first

    def schedule(self, model: Model) -> Schedule:
        """Return how to denoise: with the inversion's own noises, if it found some."""
        base = model.schedule(self.steps)
        return base if self.trajectory is None else self.trajectory.schedule(base)

    def null(self, model: Model) -> Text | list[Text]:
        """Return the unconditional embedding, or one a step where the inversion found some."""
        path = self.trajectory
        if path is None or path.null is None:
            return model.encode_text([self.negative])
        return path.nulls(model.encode_text([path.negative]))

    def guides(self) -> list[Control]:
        """Return what the inversion wants done to the target's guidance."""
        share = None if self.trajectory is None else self.trajectory.proximal
        if share is None:
            return []
        window = Window(0, self.steps)
        return [Proximal(guidance=self.guidance, share=share, window=window)]

    def noisy(self) -> Trajectory:
        """Return the trajectory, for methods that are nothing without its noises.

        Raises:
            MissingSource: if there is none.
        """
        if self.trajectory is None or self.trajectory.noises is None:
            raise MissingSource(
                "This method edits with the noises of an inversion such as 'edit-friendly', and "
                "the task has none. Editor.edit finds them; here give a trajectory with noises."
            )
        return self.trajectory

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
        inversion: Name of the inversion that is used unless the user names another.
        inversion_settings: Parameters of that inversion where they differ from its defaults.
        uses: What the method makes use of beyond latents if an inversion gives it: `null`
            (unconditional embeddings), `noises`.
        needs: What of these it cannot do without. A generated source is then inverted too.
        guided: Whether it is nothing without guidance above 1.
        reads_prompts: Whether the controls depend on the prompts.
        uses_mask: Whether a mask that the user gives means something to it.
        object_words: Name of the parameter for the words of the edited object, if it has one.
        instructs: Whether prompts are instructions, for models that see the picture to change.
        untuned: Parameters that trade cost for exactness, which a search for the best leaves alone.
        own_steps: Number of steps it is made for, if that is not everyone's.
        seeded: Whether edits of an inverted image depend on the seed; if not, edits with different
            seeds may be made together.
        trains: Whether it trains on the source, which takes long and can be kept.
    """

    inverts: ClassVar[bool] = True
    inversion: ClassVar[str] = "ddim"
    inversion_settings: ClassVar[Mapping[str, Any]] = {}
    uses: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    guided: ClassVar[bool] = False
    reads_prompts: ClassVar[bool] = False
    uses_mask: ClassVar[bool] = False
    object_words: ClassVar[str | None] = None
    instructs: ClassVar[bool] = False
    untuned: ClassVar[tuple[str, ...]] = ()
    own_steps: ClassVar[int | None] = None
    seeded: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def __call__(self, model: Model, task: Task) -> Outcome:
        """Carry out the edit."""
        raise TypeError(f"{type(self).__name__} does not say how it edits.")

    def check_steps(self, steps: int) -> None:
        """Refuse a number of steps that the method cannot work with, before any work is done."""

    def check(self, targets: Sequence[str]) -> None:
        """Refuse target prompts that the method cannot read, before any work is done."""
        return

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
    return Trajectory(
        latents=torch.cat(latents[::-1]),
        prompt=task.source,
        guidance=task.guidance,
        negative=task.negative,
    )
