"""Keeping the source outside a mask: latents blended at the end of a step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from freeprompt.core.control import Control
from freeprompt.core.rows import Branch, Rows
from freeprompt.core.window import Window
from freeprompt.core.word_maps import WordMaps


def word_mask(
    maps: Float[Tensor, "height width"], size: tuple[int, int], threshold: float
) -> Float[Tensor, "rows columns"]:
    """Turn a word's map into a mask: 3x3 maximum, enlarged, relative to its largest value.

    Args:
        maps: Attention that the word gets at each place; any scale, non-negative.
        size: (height, width) of the mask.
        threshold: Fraction of the largest value, in [0, 1].

    Returns:
        1 inside, 0 outside; float32.
    """
    pooled = F.max_pool2d(maps[None, None].float(), 3, stride=1, padding=1)
    large = F.interpolate(pooled, size=size, mode="nearest")[0, 0]
    return (large / large.max().clamp(min=1e-12) > threshold).float()


def grown(mask: Float[Tensor, "items 1 height width"], cells: int) -> Tensor:
    """Return a mask of 0 and 1 enlarged by a number of latent cells on every side."""
    return F.max_pool2d(mask, 2 * cells + 1, stride=1, padding=cells)


@dataclass(frozen=True, kw_only=True)
class LocalBlend(WordMaps):
    """Keep the source where neither the source's nor the target's words look.

    Args:
        start: Step from which latents are blended.
        threshold: Of the mask, see `word_mask`.
        grow: Latent cells by which the mask is enlarged.

    Source: Hertz et al., arXiv:2208.01626, section 3.2 ("local editing"); released code.
    """

    start: int = 0
    threshold: float = 0.3
    grow: int = 0

    def latents(
        self, step: int, rows: Rows, state: Mapping[Branch, Tensor]
    ) -> Mapping[Branch, Tensor]:
        if step < self.start or "target" not in self.sums:
            return state
        source, target = state["source"], state["target"]
        size = (target.shape[-2], target.shape[-1])
        # a source without rows in the batch has no maps of its own
        kept = [word_mask(maps, size, self.threshold) for maps in self.sums.get("source", ())]
        masks = torch.stack(
            [
                torch.stack([word_mask(maps, size, self.threshold), *kept]).amax(0)
                for maps in self.sums["target"]
            ]
        )
        return {**state, "target": outside(grown(masks[:, None], self.grow), source, target)}


@dataclass(frozen=True, kw_only=True)
class KeepOutside(Control):
    """Keep the source's latent outside a mask, at the end of every step.

    Attributes:
        masks: 1 where the target may change, (targets or 1, 1, height, width).
    """

    masks: Tensor
    window: Window = field()

    def latents(
        self, step: int, rows: Rows, state: Mapping[Branch, Tensor]
    ) -> Mapping[Branch, Tensor]:
        return {**state, "target": outside(self.masks, state["source"], state["target"])}


def outside(masks: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return `target` where a mask is 1 and `source` elsewhere, bit for bit."""
    return torch.where(masks.to(target.device) > 0, target, source.to(target))
