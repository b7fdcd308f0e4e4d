"""Negative-prompt inversion: the source prompt takes the place of the empty one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freeprompt.core import Control, Model, Trajectory
from freeprompt.core.loop import Callback
from freeprompt.core.params import param
from freeprompt.inversion.base import INVERSIONS
from freeprompt.inversion.ddim import DDIMInversion


@INVERSIONS.register("negative-prompt")
@dataclass(frozen=True, kw_only=True)
class NegativePromptInversion(DDIMInversion):
    """Invert by DDIM with the source prompt, and use that prompt on the unconditional rows.

    Null-text inversion ends near the embedding of the source prompt, so this takes it outright and
    optimises nothing. Guidance then contrasts the target prompt with the source prompt, and for
    the source itself does nothing at all, whatever the scale.

    With `proximal`, guidance leaves out what both prompts nearly agree on: from the difference of
    the two halves its own quantile is taken off.

    Source: Miyake et al., arXiv:2305.16807; proximal: Han et al., WACV 2024, arXiv:2306.05414.
    """

    proximal: float = param(
        0.0,
        "Quantile of the difference of the halves that is taken off it; 0 is no proximal guidance",
        low=0,
        high=1,
        source="0 is the first paper's; the second uses 0.7",
    )

    gives = ("null",)
    needs_prompt = True

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
        path = super().__call__(
            model, clean, steps=steps, prompt=prompt, controls=controls, callback=callback
        )
        return replace(
            path,
            null=model.encode_text([prompt]).states,
            negative=prompt,
            proximal=self.proximal if self.proximal > 0 else None,
        )
