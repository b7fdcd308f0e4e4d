"""Several concepts pushed into, or out of, one picture, each only where it belongs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from freeprompt.core.attention import Call
from freeprompt.core.control import Control
from freeprompt.core.proximal import quantile
from freeprompt.core.rows import Branch, Rows
from freeprompt.core.sites import Site, Sites
from freeprompt.core.window import Window
from freeprompt.core.word_maps import check_word_sites

SIGMA = 0.5  # of the smoothing, in cells of the map


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One thing to bring in or to take away.

    Attributes:
        text: What it is.
        scale: Guidance scale; negative takes it away.
        tokens: Its tokens in its own prompt.
    """

    text: str
    scale: float
    tokens: tuple[int, ...]


def strongest(x: Float[Tensor, "height width"], share: float) -> Float[Tensor, "height width"]:
    """Return 1 where `x` reaches its quantile `share`, and 0 elsewhere."""
    return (x >= quantile(x[None], share)[0].to(x)).to(x)


def smoothed(x: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """Smooth by a 3x3 Gaussian, repeating the border."""
    weights = torch.exp(-(torch.arange(-1.0, 2.0, device=x.device) ** 2) / (2 * SIGMA**2)).to(x)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    padded = F.pad(x[None, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel[None, None])[0, 0]


def place_of_words(
    maps: Float[Tensor, "rows columns"], size: tuple[int, int], share: float
) -> Float[Tensor, "height width"]:
    """Return the mask of the places that look at words most: smoothed, cut, enlarged to `size`."""
    mask = strongest(smoothed(maps), share)
    return F.interpolate(mask[None, None], size=size, mode="nearest")[0, 0]


def place_of_change(
    change: Float[Tensor, "channels height width"], share: float
) -> Float[Tensor, "height width"]:
    """Return the mask of the places where the predicted noise changes most, over all channels."""
    return strongest(change.abs().sum(0), share)


@dataclass(frozen=True, kw_only=True)
class SemanticGuidance(Control):
    """Guide the target by the sum of its concepts, each inside a mask of its own.

    The noise becomes uncond + sum_i M_i scale_i (cond_i - uncond). M_i is the product of where
    the image looks at the concept's words in this step and where the concept changes the noise
    most. Outside `acts`, the noise is the unconditional one.

    Args:
        concepts: By `Row.entry` of the conditional target rows.
        acts: Steps in which concepts act.
        by_words: Whether the first mask is used; else `sites` should be `none`.
        by_noise: Whether the second mask is used.
        share: Quantile from which a place belongs to a mask.
        sites: Cross-attention sites of one grid.
        window: All steps of the run.

    Source: Brack et al., arXiv:2311.16711, section 4.2 and 4.3.
    """

    concepts: Sequence[Concept]
    acts: Window
    by_words: bool
    by_noise: bool
    share: float
    sites: Sites = field()
    window: Window = field()
    maps: dict[int, Tensor] = field(default_factory=dict, repr=False)
    needs_probs = True
    observes = True

    def check(self, chosen: Collection[Site]) -> None:
        check_word_sites(chosen)

    def probs(self, call: Call, probs: Tensor) -> Tensor:
        for i in call.rows.targets("cond"):
            entry = _entry(call.rows, i)
            words = probs[i][..., list(self.concepts[entry].tokens)].float().mean(0).sum(-1)
            new = words.view(call.grid)
            self.maps[entry] = self.maps[entry] + new if entry in self.maps else new
        return probs

    def guide(
        self,
        step: int,
        rows: Rows,
        state: Mapping[Branch, Tensor],
        noise: Tensor,
        guided: Mapping[Branch, Tensor],
    ) -> Mapping[Branch, Tensor]:
        moved = [noise[i] for i in rows.targets("uncond")]
        if step in self.acts:
            for item, found in enumerate(rows.prompted("target")):
                plain = moved[item]
                for i in found:
                    moved[item] = moved[item] + self._push(_entry(rows, i), noise[i] - plain)
        self.maps.clear()  # of this step; the next looks anew
        return {**guided, "target": torch.stack(moved)}

    def _push(self, entry: int, difference: Tensor) -> Tensor:
        """Return what one concept adds to the noise, (channels, height, width)."""
        push = self.concepts[entry].scale * difference
        mask = torch.ones_like(push[0])
        if self.by_words:
            size = (push.shape[-2], push.shape[-1])
            mask = mask * place_of_words(self.maps[entry], size, self.share).to(mask)
        if self.by_noise:
            mask = mask * place_of_change(push, self.share)
        return mask * push


def _entry(rows: Rows, index: int) -> int:
    row = rows.rows[index]
    return row.item if row.entry is None else row.entry
