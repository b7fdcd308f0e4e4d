"""SDEdit: noise on the source, and off again with the target's prompt."""

from dataclasses import dataclass

from freeprompt.core import TARGET, Model, denoise, step_count
from freeprompt.core.params import param
from freeprompt.methods.base import METHODS, Method, Outcome, Task, generated_source


@METHODS.register("sdedit")
@dataclass(frozen=True, kw_only=True)
class SDEdit(Method):
    """Add noise to the source and denoise it with the target prompt: diffusers' image-to-image.

    Touches no attention. The one number says how much of the source is forgotten.

    Preserves: coarse colour and layout.  Changes: everything, the more the stronger.
    Fails when: the edit must keep details and change much at once.

    Source: Meng et al., ICLR 2022, arXiv:2108.01073; strength 0.8 as in diffusers.
    """

    inverts = False

    strength: float = param(
        0.8,
        "Share of the steps that are run again; 1 forgets the source",
        low=0,
        high=1,
        unit="share",
        source="diffusers' default",
    )

    def __call__(self, model: Model, task: Task) -> Outcome:
        source = (task.trajectory or generated_source(model, task)).clean
        schedule = model.schedule(task.steps)
        start = task.steps - step_count(task.steps, self.strength)
        noisy = source.expand(len(task.targets), -1, -1, -1)
        if start < task.steps:
            noisy = schedule.noised(noisy, task.draw(noisy[:1], 1)[0].expand_as(noisy), start)
        done = denoise(
            model,
            schedule,
            {"target": noisy},
            text={"target": model.encode_text(task.targets)},
            null=model.encode_text([task.negative]),
            rows=task.shape(TARGET),
            guidance=task.guidance,
            start=start,
            callback=task.callback,
        )
        return Outcome(
            targets=done.state["target"],
            source=None if task.trajectory else source,
            edited=(),
            acted=start < task.steps,
        )
