"""What an edit costs on a network too large to run it whole: counted passes times measured ones.

Every edit is a sequence of passes of few kinds: so many rows, with or without sharing, recording or
maps in memory. Each kind is run on its own, on start noise at the noisiest step, through the code
that an edit uses (`denoise`, or `reference` for the released algorithm), and the plan of the edit
says how many of each kind there are. The encoders and the VAE are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

import reference
from common import (
    Ratio,
    Times,
    Work,
    cpu_time,
    cpu_times,
    mebibytes,
    peak_bytes,
    weight_bytes,
)
from freeprompt.core import (
    PAIR,
    SOURCE,
    TARGET,
    TRIPLE,
    Control,
    Rows,
    Tape,
    Text,
    denoise,
    step_count,
)
from freeprompt.methods import FPE, Task
from freeprompt.models import UNetModel

STEPS = 50
WINDOW = step_count(STEPS, FPE().share)
REST = STEPS - WINDOW

PLANS: dict[str, dict[str, int]] = {
    "plain": {"4 rows": STEPS},
    "generated: edit": {"4 rows, sharing": WINDOW, "4 rows": REST},
    "generated: released": {"4 rows, maps overwritten": WINDOW, "4 rows, maps": REST},
    "real: edit": {"1 row": STEPS, "3 rows, sharing": WINDOW, "2 rows": REST},
    "real: recorded": {
        "1 row, recording": WINDOW,
        "1 row": REST,
        "2 rows, from tape": WINDOW,
        "2 rows": REST,
    },
    "real: released": {"2 rows": STEPS, "4 rows, maps overwritten": WINDOW, "4 rows, maps": REST},
}


@dataclass(frozen=True)
class Passes:
    """Single passes through one pipeline's network."""

    pipe: Any
    tape: Tape = field(default_factory=Tape)

    @cached_property
    def model(self) -> UNetModel:
        """The adapter."""
        return UNetModel(self.pipe, "random")

    @cached_property
    def noise(self) -> Tensor:
        """Start noise."""
        side = self.pipe.unet.config.sample_size
        return torch.randn((1, 4, side, side), generator=torch.Generator().manual_seed(0))

    @cached_property
    def text(self) -> Text:
        """Some prompt, encoded."""
        return self.model.encode_text(["a red car"])

    def kinds(self) -> dict[str, Work]:
        """Return every kind of pass by name; the name begins with its number of rows."""
        task = Task(targets=("",), source="", start=self.noise, steps=STEPS, guidance=7.5)
        share = FPE().controls(self.model, task)
        taped = FPE().controls(self.model, replace(task, tape=self.tape))
        record = FPE(record="inversion").while_inverting(self.tape, STEPS)
        return {
            "1 row": partial(self.ours, SOURCE),
            "1 row, recording": partial(self.ours, SOURCE, *record),
            "2 rows": partial(self.ours, TARGET),
            "2 rows, from tape": partial(self.ours, TARGET, *taped),
            "3 rows, sharing": partial(self.ours, TRIPLE, *share),
            "4 rows": partial(self.ours, PAIR),
            "4 rows, sharing": partial(self.ours, PAIR, *share),
            "4 rows, maps": partial(self.by_maps, sharing=False),
            "4 rows, maps overwritten": partial(self.by_maps, sharing=True),
        }

    def ours(self, rows: Rows, *controls: Control) -> None:
        """Take the first denoising step."""
        denoise(
            self.model,
            self.model.schedule(STEPS),
            {"source": self.noise, "target": self.noise},
            text={"source": self.text, "target": self.text},
            null=self.text,
            rows=rows,
            controls=controls,
            stop=1,
        )

    def by_maps(self, *, sharing: bool) -> None:
        """Take the same step as the released algorithm does."""
        self.pipe.scheduler.set_timesteps(STEPS)
        text = self.text.states.expand(4, -1, -1)
        with reference.materialising(self.pipe.unet, self.noise[0, 0].numel()) as processor:
            processor.sharing = sharing
            t = self.pipe.scheduler.timesteps[0]
            reference.denoise(self.pipe, self.noise.repeat(2, 1, 1, 1), t, text)


def measure(pipe: Any, repeats: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the table of the passes and that of the edits they make up.

    Without `repeats` the times are those of the profiled passes, on which the profiler's share is
    small when each takes seconds.
    """
    passes = Passes(pipe)
    kinds = passes.kinds()
    assert passes.noise.isfinite().all() and len(passes.text)  # made now, not within a measurement
    times: dict[str, list[float]] = {name: [] for name in kinds}
    peaks = {name: peak_bytes(partial(_timed, work, times[name])) for name, work in kinds.items()}
    if repeats:  # the profiled passes were the warm-up
        times = cpu_times(kinds, repeats, warm_up=False)
    tape, weights = passes.tape.nbytes * WINDOW, weight_bytes(pipe.unet)
    single = [
        {"pass": name, "time / 4 rows": Ratio.of(times, name, "4 rows"), "peak": mebibytes(peak)}
        for name, peak in peaks.items()
    ]
    return single, whole(times, peaks, tape, weights)


def _timed(work: Work, into: list[float]) -> None:
    into.append(cpu_time(work))


def whole(times: Times, peaks: Mapping[str, int], tape: int, weights: int) -> list[dict[str, Any]]:
    """Return the table of the edits, put together from the passes."""
    sums = {way: summed(times, plan) for way, plan in PLANS.items()}
    most = {way: max(peaks[kind] for kind in plan) for way, plan in PLANS.items()}
    most["real: recorded"] += tape
    plain = most["plain"]
    return [
        {
            "way": way,
            "sample-forwards": sum(int(kind.split()[0]) * n for kind, n in plan.items()),
            "time / plain": Ratio.of(sums, way, "plain"),
            "time / released": _over_released(sums, way),
            "peak": f"{mebibytes(weights + most[way])} ({mebibytes(most[way])})",
            "peak / plain": f"{(weights + most[way]) / (weights + plain):.2f}"
            f" ({most[way] / plain:.2f})",
        }
        for way, plan in PLANS.items()
    ]


def summed(times: Times, plan: Mapping[str, int]) -> list[float]:
    """Return the seconds of a plan, one figure a round."""
    rounds = len(next(iter(times.values())))
    return [sum(n * times[kind][i] for kind, n in plan.items()) for i in range(rounds)]


def _over_released(times: Times, way: str) -> Ratio | str:
    other = f"{way.partition(':')[0]}: released"
    return Ratio.of(times, way, other) if other in times else ""
