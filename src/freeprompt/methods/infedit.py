"""InfEdit: no inversion at all; source and target share noise, and the source is always exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from freeprompt.core import (
    DDIM,
    PAIR,
    Control,
    Denoised,
    Model,
    Rows,
    Sites,
    Stochastic,
    Window,
    denoise,
    step_count,
)
from freeprompt.core.params import param
from freeprompt.core.rows import Branch
from freeprompt.core.unified import UnifiedCross, UnifiedSelf, WordBlend
from freeprompt.core.word_maps import WordMaps
from freeprompt.core.words import Spelling, align
from freeprompt.errors import ConfigError
from freeprompt.methods.base import METHODS, Method, Outcome, Task, generated_source


@dataclass(frozen=True, kw_only=True)
class Virtual(Control):
    """Replace the source's predicted noise by the true one, and correct the target's alike.

    The source latent was made by adding noise to a known image, so its true noise is known; what
    the network errs by on the source is taken off the target's prediction (DDCM).

    Args:
        clean: The source's clean latent.
        alphas: Cumulative alpha at the beginning of each step.
    """

    clean: Tensor
    alphas: tuple[float, ...]
    window: Window = field()

    def guide(
        self,
        step: int,
        rows: Rows,
        state: Mapping[Branch, Tensor],
        noise: Tensor,
        guided: Mapping[Branch, Tensor],
    ) -> Mapping[Branch, Tensor]:
        alpha, predicted = self.alphas[step], noise[rows.sources("cond")[0]]
        true = (state["source"] - alpha**0.5 * self.clean) / (1 - alpha) ** 0.5
        return {"source": true, "target": guided["target"] - predicted + true}


@METHODS.register("infedit")
@dataclass(frozen=True, kw_only=True)
class InfEdit(Method):
    """Edit without inversion: denoise the target beside a source whose noise is known.

    Every step renews all noise, the same for source and target, as consistency models do, so the
    source never leaves the image it was made from. Attention is controlled by way of a third
    branch, the layout.

    Preserves: what the prompts have in common, and the source's textures.
    Changes: what the new words name.  Fails when: the model needs many steps; it is made for
    consistency models (LCM), on which 12 to 15 steps are enough.

    Source: Xu et al., CVPR 2024, arXiv:2312.04965; defaults of the released code's PIE-Bench
    setting. Its authors use 12 steps and guidance 2.3 (1 on the source, as here).
    """

    inverts = False
    reads_prompts = True

    cross: float = param(
        0.7,
        "Share of the steps whose cross-attention maps come from source and layout",
        low=0,
        high=1,
        unit="share",
        source="released code, PIE-Bench",
    )
    share: float = param(
        0.7,
        "Share of the steps in which self-attention is the source's; after it the target looks"
        " with the layout's queries at the source's keys and values",
        low=0,
        high=1,
        unit="share",
        source="released code, PIE-Bench",
    )
    sites: Sites = param(
        Sites("self:all"), "Self-attention layers that are controlled", source="released code"
    )
    control: bool = param(
        True, "Control attention; without it only the noise is shared", source="paper, table 3"
    )
    strength: float = param(
        1.0,
        "Share of the steps that are run",
        low=0,
        high=1,
        unit="share",
        source="released code",
    )
    edit_words: str = param(
        "",
        "Target words that mark the edit, such as rabbit,hat: the rest of the picture is kept",
        source="released code: local",
    )
    keep_words: str = param(
        "", "Target words whose place is kept, such as grass", source="released code: mutual"
    )
    edit_threshold: float = param(
        0.55, "Of the edit words' mask", low=0, high=1, source="released code: thresh_e"
    )
    keep_threshold: float = param(
        0.6, "Of the kept words' mask", low=0, high=1, source="released code: thresh_m"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_words and not self.edit_words:
            raise ConfigError(
                f"keep_words={self.keep_words!r} takes places away from those of edit_words, and "
                "there are none, so it would have no effect. Give edit_words, too."
            )

    def __call__(self, model: Model, task: Task) -> Outcome:
        clean = (task.trajectory or generated_source(model, task)).clean
        start = task.steps - step_count(task.steps, self.strength)
        acted = start < task.steps
        edited = self._edited(model, task, clean, start) if acted else None
        count = len(task.targets)
        return Outcome(
            targets=edited.state["target"][:count] if edited else clean.expand(count, -1, -1, -1),
            source=None if task.trajectory else clean,
            edited=edited.edited if edited else (),
            acted=acted,
        )

    def _edited(self, model: Model, task: Task, clean: Tensor, start: int) -> Denoised:
        base = model.schedule(task.steps)
        first, *later = task.draw(clean, task.steps)
        later.append(torch.zeros_like(clean))  # nothing is added behind the last step
        begin = base.noised(clean, first, start)
        prompts = task.targets * self.branches
        return denoise(
            model,
            Stochastic(base=base, noises=torch.cat(later), renewal="full"),
            {"source": begin, "target": begin.expand(len(prompts), -1, -1, -1)},
            text={
                "source": model.encode_text([task.source]),
                "target": model.encode_text(prompts),
            },
            null=model.encode_text([task.negative]),
            rows=task.shape(PAIR, self.branches),
            controls=[self._virtual(base, clean), *self.controls(model, task)],
            guidance=task.guidance,
            start=start,
            callback=task.callback,
        )

    @property
    def branches(self) -> int:
        """Rows of a target in each half: itself, and its layout where attention is controlled."""
        return 2 if self.control else 1

    @staticmethod
    def _virtual(base: DDIM, clean: Tensor) -> Virtual:
        alphas = tuple(base.levels(i)[0] for i in range(base.steps))
        return Virtual(clean=clean, alphas=alphas, window=Window(0, base.steps))

    def controls(self, model: Model, task: Task) -> list[Control]:
        source = model.spell(task.source)
        targets = [model.spell(prompt) for prompt in task.targets]
        everywhere = Window(0, task.steps)
        controls: list[Control] = []
        if self.control:
            unified = UnifiedSelf(
                targets=len(targets),
                early=step_count(task.steps, self.share),
                sites=self.sites,
                window=everywhere,
            )
            cross = UnifiedCross(
                alignments=[align(source, target, "refine") for target in targets],
                sites=Sites("cross:all"),
                window=Window.until(self.cross, task.steps),
            )
            controls = [cross, unified]
        return controls + self._blend(targets * self.branches, everywhere)

    def _blend(self, targets: Sequence[Spelling], window: Window) -> list[Control]:
        if not self.edit_words:
            return []
        edited = self._maps(targets, self.edit_words, window)
        kept = self._maps(targets, self.keep_words, window) if self.keep_words else None
        blend = WordBlend(
            edited=edited,
            kept=kept,
            edited_threshold=self.edit_threshold,
            kept_threshold=self.keep_threshold,
            window=window,
        )
        return [edited, *([kept] if kept else []), blend]

    @staticmethod
    def _maps(targets: Sequence[Spelling], words: str, window: Window) -> WordMaps:
        named = [word for word in words.split(",") if word.strip()]
        tokens = [tuple(t for word in named for t in target.tokens_of(word)) for target in targets]
        return WordMaps(
            source_tokens=(),
            target_tokens=tokens,
            sites=Sites("cross:coarsest"),
            window=window,
        )
