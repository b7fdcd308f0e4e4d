"""InstructPix2Pix: a model that was trained to follow instructions on a picture it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from freeprompt.core import Control, Model, Rows, Text, Window, denoise
from freeprompt.core.params import param
from freeprompt.core.rows import Branch, Row
from freeprompt.methods.base import METHODS, Method, Outcome, Task, generated_source


@dataclass(frozen=True, kw_only=True)
class ThreeWay(Control):
    """Guide by picture and by text, each with a scale of its own.

    Args:
        text: Scale of what the text adds to the picture.
        picture: Scale of what the picture adds to nothing.

    Source: Brooks et al., arXiv:2211.09800, eq. 3.
    """

    text: float
    picture: float
    window: Window = field()

    def guide(
        self,
        step: int,
        rows: Rows,
        state: Mapping[Branch, Tensor],
        noise: Tensor,
        guided: Mapping[Branch, Tensor],
    ) -> Mapping[Branch, Tensor]:
        nothing = noise[list(rows.targets("uncond"))]
        told, shown = (noise[list(group)] for group in zip(*rows.prompted("target"), strict=True))
        return {"target": nothing + self.text * (told - shown) + self.picture * (shown - nothing)}


@METHODS.register("instruct-pix2pix")
@dataclass(frozen=True, kw_only=True)
class InstructPix2Pix(Method):
    """Follow an instruction on a picture, with a model that was trained on pairs of pictures.

    The denoiser sees the picture in four more input channels, so nothing is inverted and no
    attention is shared; the target prompt is the instruction. Guidance has three rows: with text
    and picture, with the picture alone, and with neither.

    Preserves: what the model learnt to keep, the more the higher `image_guidance`.
    Changes: what the instruction says.
    Fails when: the model was not trained for it: its denoiser must take 8 input channels.

    Source: Brooks et al., CVPR 2023, arXiv:2211.09800, eq. 3; defaults of the released code.
    """

    inverts = False
    instructs = True

    image_guidance: float = param(
        1.5,
        "Scale of the picture: higher keeps more of it; guidance is the scale of the text",
        low=0,
        high=20,
        source="paper, section 3.2.1",
    )

    def __call__(self, model: Model, task: Task) -> Outcome:
        clean = (task.trajectory or generated_source(model, task)).clean
        count = len(task.targets)
        empty = model.encode_text([task.negative])
        spoken = Text.stack([model.encode_text(task.targets), empty])
        window = Window(0, task.steps)
        done = denoise(
            model,
            model.schedule(task.steps),
            {"target": task.draw(clean, 1)[0].expand(count, -1, -1, -1)},
            text={"target": model.shown(spoken, clean)},
            null=model.shown(empty, torch.zeros_like(clean)),
            rows=self.rows(count),
            controls=[ThreeWay(text=task.guidance, picture=self.image_guidance, window=window)],
            callback=task.callback,
        )
        return Outcome(
            targets=done.state["target"],
            source=None if task.trajectory else clean,
            edited=(),
            acted=True,
        )

    @staticmethod
    def rows(targets: int) -> Rows:
        """Return the batch: nothing, the instruction, and the picture alone, of each target."""
        items = range(targets)
        nothing = [Row("target", False, i) for i in items]
        told = [Row("target", True, i, entry=i) for i in items]
        shown = [Row("target", True, i, entry=targets) for i in items]
        return Rows((*nothing, *told, *shown))
