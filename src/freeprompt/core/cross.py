"""Editing cross-attention maps: what Prompt-to-Prompt does to words."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from freeprompt.core.attention import Call
from freeprompt.core.control import Control
from freeprompt.core.rows import Half, Rows
from freeprompt.core.sites import Sites
from freeprompt.core.window import Window
from freeprompt.core.words import Alignment


@dataclass(frozen=True, kw_only=True)
class WordEdit:
    """What happens to one target's cross-attention maps.

    Attributes:
        alignment: How its columns are made from the source's.
        fade: For each step and target token, how much of the new map is taken, in [0, 1].
        weights: Factor on each target token's column; 1 leaves it.
    """

    alignment: Alignment
    fade: Float[Tensor, "steps tokens"]
    weights: Float[Tensor, " tokens"]

    def __call__(self, step: int, source: Tensor, target: Tensor) -> Tensor:
        """Return the target's new map from both maps, (heads, query, tokens) each."""
        fade, weights = self.fade[step].to(target), self.weights.to(target)
        new = self.alignment.apply(source, target) * weights
        return new * fade + target * (1 - fade)


@dataclass(frozen=True, kw_only=True)
class EditProbs(Control):
    """Rewrite the cross-attention maps of target rows from those of the source.

    Columns are not renormalised afterwards, as in the released code of Prompt-to-Prompt.

    Args:
        edits: One for each target item.
        sites: Cross-attention sites.
        window: When; `WordEdit.fade` says how much in each step.
        half: Which target rows.

    Raises:
        MissingSource: if the batch has no source row.
    """

    edits: Sequence[WordEdit]
    sites: Sites = field()
    window: Window = field()
    half: Half = "cond"
    needs_probs = True
    edits_probs = True

    def rewrites(self, rows: Rows) -> tuple[int, ...]:
        return rows.targets(self.half)

    def probs(self, call: Call, probs: Tensor) -> Tensor:
        rows = call.rows
        new = list(probs)
        for i in rows.targets(self.half):
            edit = self.edits[rows.rows[i].item]
            new[i] = edit(call.step, probs[rows.source_of(i)], probs[i])
        return torch.stack(new)
