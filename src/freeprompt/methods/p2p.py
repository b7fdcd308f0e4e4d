"""Prompt-to-Prompt: cross-attention maps edited word by word, self-attention maps shared."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freeprompt.core import Control, Model, Share, Sites, Window, step_count
from freeprompt.core.blend import LocalBlend
from freeprompt.core.cross import EditProbs, WordEdit
from freeprompt.core.params import named_numbers, param, word_pair
from freeprompt.core.words import Spelling, align
from freeprompt.errors import ConfigError
from freeprompt.methods.base import METHODS, Task
from freeprompt.methods.two_branch import TwoBranch


@METHODS.register("p2p")
@dataclass(frozen=True, kw_only=True)
class P2P(TwoBranch):
    """Edit by changing words, keeping the cross-attention maps of those that stay.

    For the first part of the steps the target's cross-attention maps are made from the source's,
    word by word, and its self-attention maps below the finest grid are the source's. Needs a
    source prompt that resembles the target.

    Preserves: layout, and what the common words name.  Changes: what the changed words name.
    Fails when: the prompts cannot be aligned, or the object must change its shape.

    Source: Hertz et al., arXiv:2208.01626; defaults of PIE-Bench's setting (cross 0.4, self 0.6).
    """

    mode: str = param(
        "refine",
        "'replace' pairs words by position, 'refine' keeps what both prompts have",
        choices=("replace", "refine"),
        source="ours: 'refine' fits any two prompts",
    )
    cross: float = param(
        0.4,
        "Share of the steps whose cross-attention maps come from the source",
        low=0,
        high=1,
        unit="share",
        source="PIE-Bench setting",
    )
    share: float = param(
        0.6,
        "Share of the steps that use the source's self-attention",
        low=0,
        high=1,
        unit="share",
        source="PIE-Bench setting",
    )
    sites: Sites = param(
        Sites("self:below-top"),
        "Which self-attention layers share",
        source="released code: maps of at most 32x32 tokens",
    )
    self_only: bool = param(
        False,
        "Leave cross-attention alone: with share=0.8 this is FPE",
        source="ours, to tell the two methods apart",
    )
    windows: str = param(
        "",
        "Windows of single target words, such as rabbit=0.2,park=0.8; the others take `cross`",
        source="released code",
    )
    reweight: str = param(
        "",
        "Factors on target words' maps, such as snowy=2,red=0.5",
        source="released code: 'reweight'",
    )
    blend_words: str = param(
        "",
        "Source word and target word that mark the object, such as dog,rabbit: the rest is kept",
        source="released code: local blend",
    )
    blend_start: float = param(
        0.2, "Share of the steps before blending", low=0, high=1, unit="share", source="released"
    )
    blend_threshold: float = param(
        0.3, "Of the blend's mask, relative to its largest value", low=0, high=1, source="released"
    )

    reads_prompts = True
    object_words = "blend_words"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("windows", "reweight", "blend_words"):
            if self.self_only and getattr(self, name):
                raise ConfigError(
                    f"self_only leaves cross-attention alone, so {name}={getattr(self, name)!r} "
                    "would have no effect. Leave out one of the two."
                )

    def controls(self, model: Model, task: Task) -> list[Control]:
        source = model.spell(task.source)
        targets = [model.spell(prompt) for prompt in task.targets]
        share = Share(sites=self.sites, window=Window.until(self.share, task.steps), tape=task.tape)
        if self.self_only:
            return [share]
        edits = [self._edit(source, target, task.steps) for target in targets]
        last = max(int(edit.fade.any(1).sum()) for edit in edits)
        cross = EditProbs(edits=edits, sites=Sites("cross:all"), window=Window(0, last))
        return [cross, share, *self._blend(source, targets, task.steps)]

    def _edit(self, source: Spelling, target: Spelling, steps: int) -> WordEdit:
        weights = torch.ones(target.length)
        for word, weight in named_numbers("reweight", self.reweight).items():
            weights[list(target.tokens_of(word))] = weight
        return WordEdit(
            alignment=align(source, target, self.mode),  # type: ignore[arg-type]
            fade=self._fade(target, steps),
            weights=weights,
        )

    def _fade(self, target: Spelling, steps: int) -> Tensor:
        """Return 1 in each token's window and 0 after it, (steps, tokens)."""
        ends = torch.full((target.length,), step_count(steps, self.cross))
        for word, share in named_numbers("windows", self.windows).items():
            ends[list(target.tokens_of(word))] = step_count(steps, share)
        return (torch.arange(steps)[:, None] < ends).float()

    def _blend(self, source: Spelling, targets: Sequence[Spelling], steps: int) -> list[Control]:
        if not self.blend_words:
            return []
        kept, made = word_pair("blend_words", self.blend_words)
        blend = LocalBlend(
            source_tokens=source.tokens_of(kept),
            target_tokens=[target.tokens_of(made) for target in targets],
            sites=Sites("cross:coarsest"),
            window=Window(0, steps),
            start=step_count(steps, self.blend_start),
            threshold=self.blend_threshold,
        )
        return [blend]
