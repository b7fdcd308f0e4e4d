"""The skeleton that most methods share: source and target side by side, tied by controls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from freeprompt.core import PAIR, TARGET, TRIPLE, Control, Model, Rows, Site, denoise
from freeprompt.core.params import param
from freeprompt.core.rows import Branch
from freeprompt.methods.base import Method, Outcome, Task


@dataclass(frozen=True, kw_only=True)
class TwoBranch(Method):
    """Source and target denoised from the same noise in one batch, tied by controls.

    A generated source keeps both its rows to the end, because its picture is wanted. The source of
    a real image is pinned to the inversion's trajectory, so its own answer is never needed: it has
    rows only in the steps in which a control reads them, and an unconditional row only if a
    control reads that and it differs from the conditional one.
    """

    uses = ("null", "noises")
    seeded = False

    replay: bool = param(
        True,
        "Pin a real image's source to the inversion's trajectory, which is Direct Inversion; if "
        "not, the source is denoised on its own",
        source="released code; Ju et al., arXiv:2310.01506",
    )

    @property
    def pinned(self) -> bool:
        """Whether a real source follows its trajectory instead of its own denoising."""
        return self.replay

    @property
    def reads_uncond(self) -> bool:
        """Whether a control takes from the source's unconditional half."""
        return False

    def __call__(self, model: Model, task: Task) -> Outcome:
        controls = [*self.controls(model, task), *task.guides()]
        schedule = task.schedule(model)
        text = {
            "source": model.encode_text([task.source]),
            "target": model.encode_text(task.targets),
        }
        null = task.null(model)
        state: dict[Branch, Tensor] = {
            # a target may start from other noise than the trajectory that its source follows
            "source": task.start if task.trajectory is None else task.trajectory.start,
            "target": task.start.expand(len(task.targets), -1, -1, -1),
        }
        edited: list[tuple[int, Site]] = []
        for rows, start, stop in self._segments(controls, task):
            done = denoise(
                model,
                schedule,
                state,
                text=text,  # type: ignore[arg-type]
                null=null,
                rows=rows,
                controls=controls,
                guidance=task.guidance,
                start=start,
                stop=stop,
                replay=task.trajectory if self.pinned else None,
                callback=task.callback,
            )
            state = dict(done.state)
            edited += done.edited
        source = state["source"] if task.trajectory is None else None
        return Outcome(
            targets=state["target"], source=source, edited=tuple(edited), acted=bool(edited)
        )

    def _segments(self, controls: Sequence[Control], task: Task) -> Iterator[tuple[Rows, int, int]]:
        """Cut the run where the source enters or leaves the batch: (rows, start, stop)."""
        flags = {i: self._wants_source(controls, task, i) for i in range(task.first, task.steps)}
        for wanted, group in groupby(flags, key=flags.__getitem__):
            steps = list(group)
            yield self._rows(wanted, task), steps[0], steps[-1] + 1

    def _wants_source(self, controls: Sequence[Control], task: Task, step: int) -> bool:
        if task.trajectory is None:
            return True
        if task.tape is not None:
            return False
        if self.pinned:
            return any(c.sites and step in c.window for c in controls)
        # a source that is not pinned must keep walking until its last reader
        ahead = range(step, task.steps)
        return any(_reads_source(c) and i in c.window for c in controls for i in ahead)

    def _rows(self, with_source: bool, task: Task) -> Rows:
        if not with_source:
            rows = TARGET
        elif task.trajectory is None or self._guides_source(task) or self._halves_read(task):
            rows = PAIR
        else:
            rows = TRIPLE
        return task.shape(rows)

    def _guides_source(self, task: Task) -> bool:
        """Whether a real source is denoised with guidance, as null-text inversion found it."""
        return not self.pinned and task.trajectory is not None and task.trajectory.guidance > 1

    def _halves_read(self, task: Task) -> bool:
        """Whether a control reads the source's unconditional half, and it is one of its own."""
        found = task.trajectory is not None and task.trajectory.null is not None
        return self.reads_uncond and (found or task.source != task.negative)


def _reads_source(control: Control) -> bool:
    """Whether a control takes something of the source, be it in the network or of its latents."""
    return bool(control.sites) or type(control).latents is not Control.latents
