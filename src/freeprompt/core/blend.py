"""Keeping the source outside a mask: latents blended at the end of a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from freeprompt.core.attention import Call
from freeprompt.core.control import Control
from freeprompt.core.rows import Branch, Rows
from freeprompt.core.sites import Sites
from freeprompt.core.window import Window


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


@dataclass(frozen=True, kw_only=True)
class LocalBlend(Control):
    """Keep the source where neither the source's nor the target's words look.

    The maps of the words are averaged over heads, sites and the steps so far. It looks at maps
    after the controls that stand before it in the list, so behind `EditProbs` it sees edited ones,
    as the released code of Prompt-to-Prompt does.

    Args:
        source_tokens: Tokens of the source prompt that mark the object.
        target_tokens: The same for each target.
        sites: Cross-attention sites of one grid.
        window: Steps in which maps are collected, normally all.
        start: Step from which latents are blended.
        threshold: Of the mask, see `word_mask`.

    Source: Hertz et al., arXiv:2208.01626, section 3.2 ("local editing"); released code.
    """

    source_tokens: tuple[int, ...]
    target_tokens: Sequence[tuple[int, ...]]
    sites: Sites = field()
    window: Window = field()
    start: int = 0
    threshold: float = 0.3
    sums: dict[Branch, Tensor] = field(default_factory=dict, repr=False)
    needs_probs = True
    observes = True

    def probs(self, call: Call, probs: Tensor) -> Tensor:
        maps: dict[Branch, list[Tensor]] = {"source": [], "target": []}
        for i, row in enumerate(call.rows):
            if row.conditional:
                source = row.branch == "source"
                tokens = self.source_tokens if source else self.target_tokens[row.item]
                words = probs[i][..., list(tokens)].float().mean(0).sum(-1)
                maps[row.branch].append(words.view(call.grid))
        for branch, found in maps.items():
            if found:
                new = torch.stack(found)
                self.sums[branch] = self.sums[branch] + new if branch in self.sums else new
        return probs

    def latents(
        self, step: int, rows: Rows, state: Mapping[Branch, Tensor]
    ) -> Mapping[Branch, Tensor]:
        if step < self.start or set(self.sums) != {"source", "target"}:
            return state
        source, target = state["source"], state["target"]
        size = (target.shape[-2], target.shape[-1])
        kept = word_mask(self.sums["source"][0], size, self.threshold)
        blended = []
        for item, latent in enumerate(target):
            mask = word_mask(self.sums["target"][item], size, self.threshold)
            mask = torch.maximum(mask, kept).to(latent)
            blended.append(source[0] + mask * (latent - source[0]))
        return {**state, "target": torch.stack(blended)}
