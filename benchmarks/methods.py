"""What every method costs, against plain generation: work, time and memory.

    python benchmarks/methods.py [--size emoji-64] [--steps N] [--repeats N] [--json FILE]

Random weights, float32, guidance 7.5, one target, defaults, to pictures; a real image with the
method's own inversion. `plain` is the stock `StableDiffusionPipeline`, one call with two prompts:
source and target. Sample-forwards are counted by a hook on the UNet; a pass with gradients counts
as one, so time tells more there. Time is CPU time, all taking turns: the median ratio and its
range. Memory is the peak of what tensors hold beyond the weights, relative to plain's.

Left out are methods that need a model of their own or train one (instruct-pix2pix, imagic).
Methods made for a number of steps of their own run with that. Ten steps have the mix of rows of the
usual fifty.
"""

from dataclasses import dataclass
from typing import Any

import torch

from common import Ratio, Report, counted, cpu_times, one_thread, parser, peak_bytes
from edit_cost import COMPARED, GUIDANCE, SIZES, SOURCE, TARGET, Bench
from freeprompt.methods import METHODS


@dataclass(frozen=True)
class Edit:
    """One method on one kind of source."""

    bench: Bench
    method: str
    real: bool

    def __call__(self) -> Any:
        steps = METHODS[self.method].own_steps or self.bench.steps
        given = {"image": self.bench.image} if self.real else {"latents": self.bench.noise}
        return self.bench.editor.edit(
            TARGET, source=SOURCE, method=self.method, steps=steps, guidance=GUIDANCE, **given
        )


def measure(bench: Bench, real: bool, repeats: int) -> list[dict[str, Any]]:
    """Return the table of one kind of source."""
    ways: dict[str, Any] = {"plain": bench.plain}
    ways |= {name: Edit(bench, name, real) for name in COMPARED}
    samples, peaks = {}, {}
    for name, way in ways.items():
        with counted(bench.pipe.unet) as counter:
            way()
        samples[name], peaks[name] = counter.samples, peak_bytes(way)
    times = cpu_times(ways, repeats, warm_up=False)
    return [
        {
            "method": name,
            "sample-forwards": samples[name],
            "time / plain": Ratio.of(times, name, "plain"),
            "peak / plain": f"{peaks[name] / peaks['plain']:.2f}",
        }
        for name in ways
    ]


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--size", choices=SIZES, default="emoji-64")
    options.add_argument("--steps", type=int, default=10, metavar="N", help="a multiple of five")
    options.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (3)")
    given = options.parse_args()
    one_thread()
    report, size = Report(), SIZES[given.size]
    bench = Bench(size.build(), given.steps, pictures=True)
    bench.prepare()
    bench.pipe.set_progress_bar_config(disable=True)
    for real in (False, True):
        what = "a real image" if real else "a generated image"
        title = f"{size.summary}, {given.steps} steps, {what}"
        report.add(title, measure(bench, real, given.repeats))
    report.write(given.json)


if __name__ == "__main__":
    with torch.no_grad():
        main()
