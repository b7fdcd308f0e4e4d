"""What one edit costs, against plain generation and against the released algorithm.

    python benchmarks/edit_cost.py [--sizes tiny emoji-64 emoji-128] [--repeats N] [--json FILE]
    python benchmarks/edit_cost.py --full          # a UNet of Stable Diffusion 1.5's size, slow

Random weights in Stable Diffusion 1's anatomy, float32, DDIM, guidance 7.5, one target; cost does
not depend on what a model has learnt. Generated source:

plain        the stock `StableDiffusionPipeline`, one call with two prompts
edit         `Editor.edit(target, source=...)`
released     the released algorithm, `reference.edit_generated`

Real image:

released     `reference.edit_real`: two rows while inverting, then four
edit         `Editor.edit(target, image=...)`
recorded     the same with record="inversion"

Each is measured `to pictures` (text encoding, and the VAE on both sides: plain and released decode
as the pipeline does, all pictures at once) and `latents only` (text encoding and denoising; a real
image starts from its latent). Sample-forwards are counted by a hook on the UNet. Time is CPU time,
the contenders taking turns: the median ratio and its range. Memory is the peak of what tensors
hold, weights included and in brackets beyond them; a tape grows with the steps and is counted at 50
of them. `same` is the largest difference of the target's latent from the released algorithm's,
relative to that latent's largest value.

A multiple of five steps has the same mix of rows as the usual fifty (80 % of them share), so ratios
of work are those of fifty. Single passes through the network are measured as well, and `--full`
measures nothing else: it counts them, see `passes`.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import passes
import reference
from common import (
    Ratio,
    Report,
    Times,
    counted,
    cpu_times,
    mebibytes,
    one_thread,
    parser,
    peak_bytes,
    weight_bytes,
)
from freeprompt import Editor
from freeprompt.core import Tape, step_count
from freeprompt.inversion import DDIMInversion
from freeprompt.methods import FPE, METHODS, Task
from freeprompt.models.tiny import tiny_sd
from freeprompt.train.config import ModelConfig, VAEConfig
from freeprompt.world import parse_scene

SOURCE, TARGET = "a red car on the street", "a blue car on the street"
GUIDANCE = reference.GUIDANCE
# without those that need a model of their own, or train one for minutes
COMPARED = [name for name in METHODS if not (METHODS[name].instructs or METHODS[name].trains)]
USUAL_STEPS = 50
FEW_STEPS = 5  # for memory: its peak does not grow with the steps, but the profiler's own does


def emoji(latent_size: int) -> Any:
    """Build a random pipeline of the bundled model's size."""
    config = ModelConfig()
    return tiny_sd(
        sample_size=latent_size,
        channels=config.channels,
        heads=config.heads,
        width=config.text_width,
        vae_channels=VAEConfig().channels,
    )


@dataclass(frozen=True)
class Size:
    """A model to build, and how many steps to run it for."""

    summary: str
    build: Callable[[], Any]
    steps: int


SIZES = {
    "tiny": Size("tiny-sd, 128 pixels", tiny_sd, 50),
    "emoji-64": Size("emoji-sd's size, 64 pixels", partial(emoji, 16), 50),
    "emoji-128": Size("emoji-sd's size, 128 pixels", partial(emoji, 32), 10),
}
FULL = partial(tiny_sd, channels=(320, 640, 1280, 1280), heads=8, width=768, sample_size=64)


@dataclass(frozen=True)
class Bench:
    """One model, one edit, and every way to make it; each returns pictures or the target latent."""

    pipe: Any
    steps: int
    pictures: bool

    @cached_property
    def editor(self) -> Editor:
        """An editor of the pipeline."""
        return Editor(self.pipe, name="random")

    @cached_property
    def noise(self) -> Tensor:
        """Start noise of a generated source."""
        side = self.pipe.unet.config.sample_size
        return torch.randn((1, 4, side, side), generator=torch.Generator().manual_seed(0))

    @cached_property
    def image(self) -> Image.Image:
        """A real image."""
        return Image.fromarray(parse_scene(SOURCE).render(self.editor.model.native_size).image)

    @cached_property
    def clean(self) -> Tensor:
        """Its latent."""
        pixels = torch.tensor(list(self.image.tobytes())).view(*self.image.size, 3) / 127.5 - 1
        return self.editor.model.encode_image(pixels.permute(2, 0, 1)[None])

    def prepare(self) -> None:
        """Make now what would otherwise be made within a measurement."""
        assert self.noise.isfinite().all() and self.clean.isfinite().all()

    def plain(self) -> Any:
        """Two plain generations."""
        return self.pipe(
            [SOURCE, TARGET],
            num_inference_steps=self.steps,
            guidance_scale=GUIDANCE,
            latents=self.noise.repeat(2, 1, 1, 1),
            output_type="pil" if self.pictures else "latent",
        ).images

    def generated(self) -> Any:
        """Our edit of a generated source."""
        if self.pictures:
            return self.editor.edit(TARGET, source=SOURCE, steps=self.steps, latents=self.noise)
        return FPE()(self.editor.model, self._task(source=SOURCE, start=self.noise)).targets

    def generated_released(self) -> Any:
        """The released algorithm on a generated source."""
        x = reference.edit_generated(self.pipe, SOURCE, TARGET, self.noise, self.steps)
        return self._decoded(x) if self.pictures else x[1:]

    def real(self, record: str = "none") -> Any:
        """Our edit of a real image."""
        if self.pictures:
            return self.editor.edit(TARGET, image=self.image, steps=self.steps, record=record)
        model, method, tape = self.editor.model, FPE(record=record), Tape()
        observers = method.while_inverting(tape, self.steps)
        found = DDIMInversion()(model, self.clean, steps=self.steps, controls=observers)
        task = self._task(source="", start=found.start)
        return method(
            model, replace(task, trajectory=found, tape=tape if observers else None)
        ).targets

    def real_released(self) -> Any:
        """The released algorithm on a real image."""
        if not self.pictures:
            return reference.edit_real(self.pipe, TARGET, self.clean, self.steps)
        clean = self._encoded(self.image)
        return self._decoded(reference.edit_real(self.pipe, TARGET, clean, self.steps))

    def _task(self, source: str, start: Tensor) -> Task:
        return Task(
            targets=(TARGET,), source=source, start=start, steps=self.steps, guidance=GUIDANCE
        )

    def _encoded(self, image: Image.Image) -> Tensor:
        x = self.pipe.image_processor.preprocess(image)
        out: Tensor = self.pipe.vae.encode(x).latent_dist.mean * self.pipe.vae.config.scaling_factor
        return out

    def _decoded(self, x: Tensor) -> Any:
        x = self.pipe.vae.decode(x / self.pipe.vae.config.scaling_factor).sample
        return self.pipe.image_processor.postprocess(x, output_type="pil")


WAYS: dict[str, Callable[[Bench], Any]] = {
    "plain": Bench.plain,
    "generated: edit": Bench.generated,
    "generated: released": Bench.generated_released,
    "real: edit": Bench.real,
    "real: recorded": partial(Bench.real, record="inversion"),
    "real: released": Bench.real_released,
}


@dataclass(frozen=True)
class Cost:
    """What one run needed, and what came of it."""

    samples: int
    peak: int
    out: Any


def cost(bench: Bench, way: Callable[[Bench], Any]) -> Cost:
    """Run once under the counter, and once more with few steps under the profiler."""
    with counted(bench.pipe.unet) as counter:
        out = way(bench)
    few = replace(bench, steps=FEW_STEPS)
    few.prepare()
    return Cost(samples=counter.samples, peak=peak_bytes(partial(way, few)), out=out)


def tape_bytes(bench: Bench, steps: int) -> int:
    """Return what the tape of an edit of `steps` steps holds, from that of one step."""
    tape = Tape()
    observers = FPE(record="inversion", share=1).while_inverting(tape, 1)
    DDIMInversion()(bench.editor.model, bench.clean, steps=1, controls=observers)
    return tape.nbytes * step_count(steps, FPE().share)


def measure(bench: Bench, repeats: int) -> list[dict[str, Any]]:
    """Return the table of one model."""
    ways = {name: partial(way, bench) for name, way in WAYS.items()}
    tape = {steps: tape_bytes(bench, steps) for steps in (FEW_STEPS, USUAL_STEPS)}
    costs = {name: cost(bench, way) for name, way in WAYS.items()}  # this is the warm-up, too
    times = cpu_times(ways, repeats, warm_up=False)
    weights = weight_bytes(bench.pipe.unet, bench.pipe.vae, bench.pipe.text_encoder)
    peaks = {name: found.peak for name, found in costs.items()}
    peaks["real: recorded"] += tape[USUAL_STEPS] - tape[FEW_STEPS]
    same = {} if bench.pictures else deviations(costs)
    return [
        {
            "way": name,
            "sample-forwards": costs[name].samples,
            "time / plain": Ratio.of(times, name, "plain"),
            "time / released": _over_released(times, name),
            "peak": f"{mebibytes(weights + peak)} ({mebibytes(peak)})",
            "peak / plain": _over_plain(peak, peaks["plain"], weights),
        }
        | ({} if bench.pictures else {"same": same.get(name, "")})
        for name, peak in peaks.items()
    ]


def _over_released(times: Times, name: str) -> Ratio | str:
    other = f"{name.partition(':')[0]}: released"
    return Ratio.of(times, name, other) if other in times else ""


def _over_plain(peak: int, plain: int, weights: int) -> str:
    return f"{(weights + peak) / (weights + plain):.2f} ({peak / plain:.2f})"


def deviations(costs: Mapping[str, Cost]) -> dict[str, str]:
    """Return how far each edit's latent is from the released algorithm's."""
    found = {}
    for name in ("generated: edit", "real: edit", "real: recorded"):
        right = costs[f"{name.partition(':')[0]}: released"].out
        found[name] = f"{float((costs[name].out - right).abs().max() / right.abs().max()):.0e}"
    return found


def run(size: Size, given: Namespace, report: Report) -> None:
    """Measure one size and report it."""
    steps = given.steps or size.steps
    pipe = size.build()
    for pictures in (True, False):
        what = "to pictures" if pictures else "latents only"
        rows = measure(Bench(pipe, steps, pictures), given.repeats)
        report.add(f"{size.summary}, {steps} steps, {what}", rows)
    single, _ = passes.measure(pipe, given.repeats)
    report.add(f"{size.summary}, one pass", single)


def run_full(given: Namespace, report: Report) -> None:
    """Measure a network of Stable Diffusion 1.5's size and report it."""
    single, whole = passes.measure(FULL(), given.repeats)
    report.add("Stable Diffusion 1.5's UNet, 512 pixels, one pass", single)
    report.add("Stable Diffusion 1.5's UNet, 512 pixels, 50 steps, latents only", whole)


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options.add_argument("--full", action="store_true", help="Stable Diffusion 1.5's size, only")
    options.add_argument("--steps", type=int, metavar="N", help="a multiple of five")
    options.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds (5)")
    given = options.parse_args()
    one_thread()
    report = Report()
    if given.full:
        run_full(given, report)
    for name in () if given.full else given.sizes:
        run(SIZES[name], given, report)
    report.write(given.json)


if __name__ == "__main__":
    with torch.no_grad():
        main()
