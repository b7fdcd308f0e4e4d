"""DiffEdit: find where two prompts disagree, and change the picture only there."""

from dataclasses import dataclass

from freeprompt.core import TARGET, Model, Window, denoise, step_count
from freeprompt.core.blend import KeepOutside
from freeprompt.core.params import param
from freeprompt.methods.base import METHODS, Method, Outcome, Task, generated_source
from freeprompt.methods.masks import noise_difference


@METHODS.register("diffedit")
@dataclass(frozen=True, kw_only=True)
class DiffEdit(Method):
    """Change the picture only where source and target prompt predict different noise.

    The mask is the difference of the two predictions on the noised image, averaged over draws; a
    mask that the user gives takes its place. Outside it, every step ends at the source's own
    trajectory, so the background is kept exactly.

    Preserves: everything outside the mask, to the bit of the latent.  Changes: what is inside.
    Fails when: the mask misses the object, or the object must grow beyond it.

    Source: Couairon et al., ICLR 2023, arXiv:2210.11427; defaults of diffusers' pipeline.
    """

    uses_mask = True
    uses = ("null",)

    encode: float = param(
        0.8,
        "Share of the steps that are run again",
        low=0,
        high=1,
        unit="share",
        source="diffusers: inpaint_strength",
    )
    mask_level: float = param(
        0.5,
        "Noise level at which the mask is found, as a share of the steps",
        low=0,
        high=1,
        unit="share",
        source="diffusers: mask_encode_strength",
    )
    draws: int = param(10, "Noises that the mask is averaged over", low=1, source="diffusers")
    clamp: float = param(
        3.0, "Differences are cut at this many times their mean", low=0, source="diffusers"
    )
    threshold: float = param(
        0.5, "Of the mask, relative to its largest value", low=0, high=1, source="diffusers"
    )

    def __call__(self, model: Model, task: Task) -> Outcome:
        source = task.trajectory or generated_source(model, task)
        masks = task.mask
        if masks is None:
            masks = noise_difference(
                model,
                task,
                source.clean,
                level=self.mask_level,
                draws=self.draws,
                clamp=self.clamp,
                threshold=self.threshold,
            )
        start = task.steps - step_count(task.steps, self.encode)
        begin = source.latents[[task.steps - start]]
        done = denoise(
            model,
            model.schedule(task.steps),
            {"source": begin, "target": begin.expand(len(task.targets), -1, -1, -1)},
            text={"target": model.encode_text(task.targets)},
            null=task.null(model),
            rows=task.shape(TARGET),
            controls=[KeepOutside(masks=masks, window=Window(start, task.steps)), *task.guides()],
            guidance=task.guidance,
            start=start,
            replay=source,
            callback=task.callback,
        )
        return Outcome(
            targets=done.state["target"],
            source=None if task.trajectory else source.clean,
            edited=(),
            acted=start < task.steps and bool(masks.any()),
        )
