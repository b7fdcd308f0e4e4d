"""MasaCtrl: the target looks with its own queries at the source's keys and values."""

from dataclasses import dataclass

from freeprompt.core import Control, Model, Share, Sites, Window
from freeprompt.core.params import param, word_pair
from freeprompt.core.word_maps import SplitRegions, WordMaps
from freeprompt.methods.base import METHODS, Task
from freeprompt.methods.two_branch import TwoBranch


@METHODS.register("masactrl")
@dataclass(frozen=True, kw_only=True)
class MasaCtrl(TwoBranch):
    """Edit pose and shape by sharing self-attention keys and values: softmax(Q_tgt K_src^T) V_src.

    The opposite of FPE: the target decides where to look, and what it finds there is the source's
    own appearance. From a given step and layer on, in both halves of guidance, each from its own.
    With `mask_words`, foreground looks at foreground and background at background only.

    Preserves: texture, colour, identity.  Changes: pose, layout, number.
    Fails when: the edit asks for another colour or material.

    Source: Cao et al., ICCV 2023, arXiv:2304.08465; released code (start step 4, layer 10 of 16,
    counted from 0, which are layers 11-16).
    """

    object_words = "mask_words"

    sites: Sites = param(
        Sites("self:after.0.625"),
        "Which self-attention layers share; on SD 1 these are layers 11-16",
        source="released code",
    )
    start: int = param(4, "First step that shares", low=0, unit="steps", source="released code")
    half: str = param(
        "both",
        "Which half of the target's batch rows take the source's keys and values",
        choices=("cond", "uncond", "both"),
        source="released code",
    )

    mask_words: str = param(
        "",
        "Source and target word of the foreground, such as dog,rabbit: the mask-guided variant",
        source="paper, section 3.3",
    )
    mask_sites: Sites = param(
        Sites("cross:coarsest"),
        "Cross-attention layers that say where words look, all of one grid",
        source="paper: 16x16 maps at 512 pixels",
    )
    mask_threshold: float = param(
        0.1, "Of the masks, in a map stretched to 0..1", low=0, high=1, source="released code"
    )

    @property
    def reads_uncond(self) -> bool:
        return self.half != "cond"

    def controls(self, model: Model, task: Task) -> list[Control]:
        window = Window(self.start, task.steps)
        share = Share(names=("k", "v"), sites=self.sites, window=window, half=self.half)  # type: ignore[arg-type]
        return [share, *self._regions(model, task, window)]

    def _regions(self, model: Model, task: Task, window: Window) -> list[Control]:
        if not self.mask_words:
            return []
        kept, made = word_pair("mask_words", self.mask_words)
        maps = WordMaps(
            source_tokens=model.spell(task.source).tokens_of(kept),
            target_tokens=[model.spell(prompt).tokens_of(made) for prompt in task.targets],
            sites=self.mask_sites,
            window=Window(0, task.steps),
        )
        split = SplitRegions(
            maps=maps,
            sites=self.sites,
            window=window,
            half=self.half,  # type: ignore[arg-type]
            threshold=self.mask_threshold,
        )
        return [maps, split]
