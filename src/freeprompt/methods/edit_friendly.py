"""Edit-friendly DDPM editing: the source's own noises, and another prompt."""

from dataclasses import dataclass

from freeprompt.core import TARGET, Model, denoise
from freeprompt.methods.base import METHODS, Method, Outcome, Task


@METHODS.register("edit-friendly")
@dataclass(frozen=True, kw_only=True)
class EditFriendly(Method):
    """Denoise with the target prompt, adding at each step the noise that the inversion found.

    Touches no attention and has no parameters of its own. The source is written into the noises of
    every step, so the same steps with another prompt keep what that prompt does not contradict.
    The inversion's `skip` says how much is kept.

    Preserves: layout and texture, the more the larger `skip`.  Changes: what the prompts differ in.
    Fails when: the edit needs another layout, or guidance is too low to overrule the noises.

    Source: Huberman-Spiegelglas, Kulikov & Michaeli, CVPR 2024, arXiv:2304.06140; the authors use
    100 steps and guidance 15.
    """

    inversion = "edit-friendly"
    uses = needs = ("noises",)

    def __call__(self, model: Model, task: Task) -> Outcome:
        source = task.noisy()
        done = denoise(
            model,
            task.schedule(model),
            {"target": source.start.expand(len(task.targets), -1, -1, -1)},
            text={"target": model.encode_text(task.targets)},
            null=task.null(model),
            rows=task.shape(TARGET),
            guidance=task.guidance,
            start=source.first,
            callback=task.callback,
        )
        acted = source.first < task.steps
        return Outcome(targets=done.state["target"], source=None, edited=(), acted=acted)
