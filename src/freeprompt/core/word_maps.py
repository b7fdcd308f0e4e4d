"""Where words look: cross-attention maps of chosen words, summed while denoising."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from freeprompt.core.attention import Call
from freeprompt.core.control import Control
from freeprompt.core.rows import Branch, Half
from freeprompt.core.sites import Site, Sites
from freeprompt.core.window import Window
from freeprompt.errors import ConfigError


def check_word_sites(chosen: Collection[Site]) -> None:
    """Check that sites can say together where words look.

    Raises:
        ConfigError: if one is not of cross-attention, or they are not of one grid.
    """
    others = sorted(site.name for site in chosen if site.kind != "cross")
    grids = {s.halvings: s.name for s in sorted(chosen, key=lambda site: site.index)}
    advice = "Choose cross-attention of one grid, such as cross:coarsest or cross:scale.2,!mid."
    if others:
        raise ConfigError(
            f"{others[0]} looks at the picture and not at words, so it cannot say where words "
            f"look. {advice}"
        )
    if len(grids) > 1:
        one, other, *_ = grids.values()
        raise ConfigError(
            f"The maps that say where words look are added up, and those of {one} and {other} are "
            f"of different grids. {advice}"
        )


@dataclass(frozen=True, kw_only=True)
class WordMaps(Control):
    """Sum the maps of chosen words over heads, sites and the steps so far.

    It looks at maps after the controls that stand before it in the list, so behind `EditProbs` it
    sees edited ones, as the released code of Prompt-to-Prompt does.

    Args:
        source_tokens: Tokens of the source prompt.
        target_tokens: The same for each target.
        sites: Cross-attention sites of one grid.
        window: Steps in which maps are collected, normally all.

    Attributes:
        sums: Branch -> (items, height, width), float32, any scale.
    """

    source_tokens: tuple[int, ...]
    target_tokens: Sequence[tuple[int, ...]]
    sites: Sites = field()
    window: Window = field()
    sums: dict[Branch, Tensor] = field(default_factory=dict, repr=False)
    needs_probs = True
    observes = True

    def check(self, chosen: Collection[Site]) -> None:
        check_word_sites(chosen)

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

    @property
    def complete(self) -> bool:
        """Whether maps of both branches have been seen."""
        return set(self.sums) == {"source", "target"}


def foreground(
    maps: Float[Tensor, "height width"], size: tuple[int, int], threshold: float
) -> Bool[Tensor, "rows columns"]:
    """Return where a word's map, stretched to 0..1 and enlarged to `size`, reaches `threshold`."""
    stretched = (maps - maps.min()) / (maps.max() - maps.min()).clamp(min=1e-12)
    large = F.interpolate(stretched[None, None].float(), size=size, mode="bilinear")[0, 0]
    return large >= threshold


@dataclass(frozen=True, kw_only=True)
class SplitRegions(Control):
    """Let the target's foreground look at the source's foreground only, and background likewise.

    Two masked attentions, one for each region, composed by the target's mask, are one attention in
    which query and key must lie in equal regions; so one call of the fused kernel does both.
    Stands behind the `Share` of keys and values, whose keys are the source's.

    Args:
        maps: Observer of the words that mark the foreground; nothing is split before it has seen
            both branches.
        sites: Self-attention sites.
        window: When.
        half: Which target rows.
        threshold: Of the masks, see `foreground`.

    Source: Cao et al., arXiv:2304.08465, section 3.3 (mask-guided mutual self-attention).
    """

    maps: WordMaps
    sites: Sites = field()
    window: Window = field()
    half: Half = "both"
    threshold: float = 0.1

    def qkv(self, call: Call) -> Call:
        if not self.maps.complete:
            return call
        keys = foreground(self.maps.sums["source"][0], call.grid, self.threshold).flatten()
        regions = {}
        for i in call.rows.targets(self.half):
            item = call.rows.rows[i].item
            queries = foreground(self.maps.sums["target"][item], call.grid, self.threshold)
            same = queries.flatten()[:, None] == keys[None, :]
            # a region that the source does not have is looked for everywhere
            regions[i] = same | ~same.any(1, keepdim=True)
        return call.with_(regions=regions)
