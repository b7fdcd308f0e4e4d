"""What a method is, and the registry of methods."""

from dataclasses import dataclass

from torch import Tensor

from freeprompt.core import Control, Model, Site, Tape, Trajectory
from freeprompt.core.loop import Callback
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
    callback: Callback | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a method returns.

    Attributes:
        targets: Edited latents, (targets, channels, height, width).
        source: Latent of the generated source, or None for a real image.
        edited: The (step, site) pairs at which the edit acted.
    """

    targets: Tensor
    source: Tensor | None
    edited: tuple[tuple[int, Site], ...]


@dataclass(frozen=True, kw_only=True)
class Method(Parameters):
    """Base of all methods."""

    def __call__(self, model: Model, task: Task) -> Outcome:
        """Carry out the edit."""
        raise TypeError(f"{type(self).__name__} does not say how it edits.")

    def controls(self, model: Model, steps: int, tape: Tape | None = None) -> list[Control]:
        """Return what the method attaches for a run of `steps` steps."""
        return []

    def while_inverting(self, tape: Tape, steps: int) -> list[Control]:
        """Return observers for the inversion; none unless the method wants a recording."""
        return []


METHODS: Registry[Method] = Registry("method", UnknownMethod)
