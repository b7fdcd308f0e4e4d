"""Free-Prompt-Editing inside a mask, the source's own latents outside it."""

from dataclasses import dataclass, replace

from freeprompt.core import Control, Model, Share, Sites, Window, step_count
from freeprompt.core.blend import KeepOutside, LocalBlend, grown
from freeprompt.core.params import param, same, word_pair
from freeprompt.errors import ConfigError
from freeprompt.methods.base import METHODS, Outcome, Task, generated_source
from freeprompt.methods.fpe import FPE
from freeprompt.methods.masks import noise_difference
from freeprompt.methods.two_branch import TwoBranch


@METHODS.register("fpe-protect")
@dataclass(frozen=True, kw_only=True)
class ProtectedFPE(TwoBranch):
    """Edit as FPE does, and keep the background exactly: blend with the source outside a mask.

    The mask is the user's if there is one; else it is where named words look, as in
    Prompt-to-Prompt's local blend; else it is where source and target prompt predict different
    noise, as in DiffEdit. From `blend_start` on, every step ends with the source's latents outside.

    Preserves: layout, and all that lies outside the mask, to the bit of the latent.
    Changes: colour, material and kind of what lies inside.
    Fails when: the mask misses the object, or the new object must reach beyond it.

    Source: ours; Liu et al., arXiv:2403.03431 with the masks of arXiv:2208.01626 and
    arXiv:2210.11427, whose defaults it takes.
    """

    uses_mask = True
    object_words = "words"
    seeded = True  # the mask of the predicted noise

    share: float = same(FPE, "share")
    sites: Sites = same(FPE, "sites")
    half: str = same(FPE, "half")
    words: str = param(
        "",
        "Source word and target word that mark the object, such as dog,rabbit; none: the mask is "
        "the difference of the predicted noise",
        source="Prompt-to-Prompt: local blend",
    )
    word_sites: Sites = param(
        Sites("cross:coarsest"),
        "Cross-attention layers that say where words look, all of one grid",
        source="Prompt-to-Prompt: 16x16 maps at 512 pixels",
    )
    word_threshold: float = param(
        0.3, "Of the words' mask", low=0, high=1, source="Prompt-to-Prompt"
    )
    noise_level: float = param(
        0.5,
        "Noise level of the noise mask, as a share of the steps",
        low=0,
        high=1,
        unit="share",
        source="DiffEdit in diffusers",
    )
    noise_threshold: float = param(
        0.5, "Of the noise mask", low=0, high=1, source="DiffEdit in diffusers"
    )
    grow: int = param(
        1, "Latent cells by which a mask is enlarged", low=0, unit="cells", source="ours"
    )
    blend_start: float = param(
        0.2,
        "Share of the steps before blending",
        low=0,
        high=1,
        unit="share",
        source="Prompt-to-Prompt",
    )

    @property
    def reads_uncond(self) -> bool:
        return self.half != "cond"

    def __call__(self, model: Model, task: Task) -> Outcome:
        if task.trajectory is not None or task.mask is not None or self.words:
            return self._blended(super().__call__(model, task), task)
        # the noise mask is found on the clean source, so that must be there first
        source = generated_source(model, task)
        outcome = super().__call__(model, replace(task, trajectory=source))
        return self._blended(replace(outcome, source=source.clean), task)

    def _blended(self, outcome: Outcome, task: Task) -> Outcome:
        """Without shared maps it is still an edit as long as something is blended."""
        blends = step_count(task.steps, self.blend_start) < task.steps
        return replace(outcome, acted=outcome.acted or blends)

    def controls(self, model: Model, task: Task) -> list[Control]:
        window = Window.until(self.share, task.steps)
        share = Share(sites=self.sites, window=window, half=self.half)  # type: ignore[arg-type]
        return [share, self._protection(model, task)]

    def _protection(self, model: Model, task: Task) -> Control:
        start = step_count(task.steps, self.blend_start)
        if task.mask is None and self.words:
            return self._word_mask(model, task, start)
        masks = task.mask
        if masks is None:
            if task.trajectory is None:
                raise ConfigError(
                    "The noise mask is found on the finished source, which a stock pipeline call "
                    "does not have yet. Use Editor.edit."
                )
            masks = noise_difference(
                model,
                task,
                task.trajectory.clean,
                level=self.noise_level,
                draws=10,
                clamp=3.0,
                threshold=self.noise_threshold,
            )
        return KeepOutside(masks=grown(masks, self.grow), window=Window(start, task.steps))

    def _word_mask(self, model: Model, task: Task, start: int) -> Control:
        kept, made = word_pair("words", self.words)
        source = model.spell(task.source).tokens_of(kept) if task.source else ()
        return LocalBlend(
            source_tokens=source,
            target_tokens=[model.spell(prompt).tokens_of(made) for prompt in task.targets],
            sites=self.word_sites,
            window=Window(0, task.steps),
            start=start,
            threshold=self.word_threshold,
            grow=self.grow,
        )
