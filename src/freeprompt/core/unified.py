"""InfEdit's unified attention control: a third, layout branch between source and target.

The layout branch has the target's prompt. Here it is one more item of the target branch: with n
targets, items 0 .. n-1 are the targets and item i + n is the layout of target i.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from freeprompt.core.attention import Call
from freeprompt.core.blend import outside, word_mask
from freeprompt.core.control import Control
from freeprompt.core.rows import Branch, Rows
from freeprompt.core.sites import Sites
from freeprompt.core.window import Window
from freeprompt.core.word_maps import WordMaps
from freeprompt.core.words import Alignment


def layout_of(rows: Rows, row: int, targets: int) -> int:
    """Return the batch row of a target row's layout, in the same half."""
    wanted = rows.rows[row]
    return next(
        i
        for i in rows.targets("cond" if wanted.conditional else "uncond")
        if rows.rows[i].item == wanted.item + targets
    )


def _finals(rows: Rows, targets: int) -> tuple[int, ...]:
    return tuple(i for i in rows.targets() if rows.rows[i].item < targets)


@dataclass(frozen=True, kw_only=True)
class UnifiedSelf(Control):
    """First the source's q, k and v everywhere; then layout's q with the source's k and v.

    Args:
        targets: Number of targets, layouts not counted.
        early: Step before which everything is the source's.
        sites: Self-attention sites.
        window: When.
    """

    targets: int
    early: int
    sites: Sites = field()
    window: Window = field()

    def qkv(self, call: Call) -> Call:
        rows = call.rows
        q, k, v = list(call.q), list(call.k), list(call.v)
        if call.step < self.early:
            for i in rows.targets():
                source = rows.source_of(i)
                q[i], k[i], v[i] = call.q[source], call.k[source], call.v[source]
        else:
            for i in _finals(rows, self.targets):
                source = rows.source_of(i)
                q[i] = call.q[layout_of(rows, i, self.targets)]
                k[i], v[i] = call.k[source], call.v[source]
        return call.with_(q=torch.stack(q), k=torch.stack(k), v=torch.stack(v))


@dataclass(frozen=True, kw_only=True)
class UnifiedCross(Control):
    """Give targets the source's cross maps for words in common, and the layout's for new ones.

    Args:
        alignments: Source prompt to each target prompt.
        sites: Cross-attention sites.
        window: When.
    """

    alignments: Sequence[Alignment]
    sites: Sites = field()
    window: Window = field()
    needs_probs = True
    edits_probs = True

    def rewrites(self, rows: Rows) -> tuple[int, ...]:
        return tuple(i for i in _finals(rows, len(self.alignments)) if rows.rows[i].conditional)

    def probs(self, call: Call, probs: Tensor) -> Tensor:
        rows, new = call.rows, list(probs)
        for i in self.rewrites(rows):
            alignment = self.alignments[rows.rows[i].item]
            layout = probs[layout_of(rows, i, len(self.alignments))]
            new[i] = alignment.apply(probs[rows.source_of(i)], layout)
        return torch.stack(new)


@dataclass(frozen=True, kw_only=True)
class WordBlend(Control):
    """Keep the source outside where some words look, and where other words look more.

    Args:
        edited: Maps of the words that mark the edit.
        kept: Maps of words whose place is kept, or None.
        edited_threshold: Of the first mask, relative to its largest value.
        kept_threshold: Of the second.
        window: When.
    """

    edited: WordMaps
    kept: WordMaps | None
    edited_threshold: float
    kept_threshold: float
    window: Window = field()

    def latents(
        self, step: int, rows: Rows, state: Mapping[Branch, Tensor]
    ) -> Mapping[Branch, Tensor]:
        target = state["target"]
        size = (target.shape[-2], target.shape[-1])
        masks = torch.stack(
            [word_mask(m, size, self.edited_threshold) for m in self.edited.sums["target"]]
        )
        if self.kept is not None:
            kept = [word_mask(m, size, self.kept_threshold) for m in self.kept.sums["target"]]
            masks = masks * (1 - torch.stack(kept))
        return {**state, "target": outside(masks[:, None], state["source"], target)}
