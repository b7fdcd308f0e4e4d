"""What an inversion is, and the registry of inversions."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from freeprompt.core import Control, Model, Trajectory
from freeprompt.core.loop import Callback
from freeprompt.core.params import Parameters
from freeprompt.core.registry import Registry
from freeprompt.errors import UnknownInversion


@dataclass(frozen=True, kw_only=True)
class Inversion(Parameters):
    """Base of all inversions."""

    def __call__(
        self,
        model: Model,
        clean: Tensor,
        *,
        steps: int,
        prompt: str = "",
        controls: Sequence[Control] = (),
        callback: Callback | None = None,
    ) -> Trajectory:
        """Find a trajectory that ends at `clean`.

        Args:
            model: The model to invert.
            clean: The image's latent x_0, (1, channels, height, width), scaled.
            steps: Number of denoising steps of the edit that will follow.
            prompt: What the image shows; empty is FPE's choice and needs no knowledge.
            controls: Observers to attach, such as `Record`.
            callback: Called after every step.
        """
        raise TypeError(f"{type(self).__name__} does not say how it inverts.")


INVERSIONS: Registry[Inversion] = Registry("inversion", UnknownInversion)
