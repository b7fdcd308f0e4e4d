"""What an inversion is, and the registry of inversions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from freeprompt.core import Control, Model, Trajectory
from freeprompt.core.loop import Callback
from freeprompt.core.params import Parameters
from freeprompt.core.registry import Registry
from freeprompt.errors import UnknownInversion


@dataclass(frozen=True, kw_only=True)
class Inversion(Parameters):
    """Base of all inversions.

    Attributes:
        gives: What its trajectories hold beyond latents that a method must make use of: `null`
            (unconditional embeddings) or `noises`.
        needs_prompt: Whether it is nothing without a source prompt.
        tuned: Whether its trajectories hold for one guidance scale and negative prompt only.
    """

    gives: ClassVar[tuple[str, ...]] = ()
    needs_prompt: ClassVar[bool] = False
    tuned: ClassVar[bool] = False

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
        """Find a trajectory that ends at `clean`.

        Args:
            model: The model to invert.
            clean: The image's latent x_0, (1, channels, height, width), scaled.
            steps: Number of denoising steps of the edit that will follow.
            prompt: What the image shows; empty is FPE's choice and needs no knowledge.
            guidance: Guidance scale of the edit that will follow; used by those that are tuned.
            negative: Prompt of its unconditional rows; likewise.
            seed: Of noise that the inversion draws.
            controls: Observers to attach, such as `Record`.
            callback: Called after every step.
        """
        raise TypeError(f"{type(self).__name__} does not say how it inverts.")


INVERSIONS: Registry[Inversion] = Registry("inversion", UnknownInversion)
