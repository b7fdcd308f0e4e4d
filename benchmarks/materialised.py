"""What every method costs with fused attention, and with every attention map in memory.

    python benchmarks/materialised.py [--size emoji-64] [--device cpu] [--steps N] [--json FILE]

Random weights, float32 on a CPU unless --dtype says otherwise and float16 on CUDA, guidance 7.5,
one target, defaults, a generated source, to pictures (or, with --latents, without the VAE). `maps`
is the same method under torch's math backend, which computes softmax(QK^T)V in so many words: every
map of every layer is in memory once, as in the released code of the field. Both run in one process,
taking turns.

Time is CPU time on a CPU, time until the device is done on CUDA; the median ratio and its range.
Memory is the peak of what tensors hold beyond the weights. `--size sd15` and `sdxl` are the real
anatomies at 512 and 1024 pixels: minutes on CUDA; on a CPU a few steps of a few methods, each way
run once (`--repeats 0`), so that no range is known.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import real_sizes
from common import Ratio, Report, counted, cpu_time, mebibytes, one_thread, parser, peak_bytes
from edit_cost import COMPARED, SIZES, SOURCE, TARGET, Size
from freeprompt import Editor
from freeprompt.methods import METHODS


def _real(name: str) -> Size:
    size = real_sizes.SIZES[name]
    build = partial(real_sizes.random_pipeline, size.config, device=torch.device("cpu"))
    return Size(size.summary, build, 10)


ALL_SIZES = {**SIZES, **{name: _real(name) for name in real_sizes.SIZES}}


@dataclass(frozen=True)
class Edit:
    """One method, with or without maps in memory."""

    editor: Editor
    method: str
    steps: int
    maps: bool

    def __call__(self) -> Any:
        steps = METHODS[self.method].own_steps or self.steps
        edit = partial(self.editor.edit, TARGET, source=SOURCE, method=self.method, steps=steps)
        if not self.maps:
            return edit()
        with sdpa_kernel(SDPBackend.MATH):
            return edit()


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Return what one run takes."""
    if device.type != "cuda":
        return cpu_time(work)
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def peak(work: Callable[[], Any], device: torch.device) -> int:
    """Return the most memory that tensors held at one time, beyond what was there."""
    if device.type != "cuda":
        return peak_bytes(work)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def _timed(way: Callable[[], Any], device: torch.device, times: list[float]) -> None:
    times.append(seconds(way, device))


def measure(editor: Editor, method: str, steps: int, repeats: int) -> dict[str, Any]:
    """Return one row: a method and its map-materialising version, in turns."""
    device = editor.model.device
    ways = {name: Edit(editor, method, steps, name == "maps") for name in ("fused", "maps")}
    times: dict[str, list[float]] = {name: [] for name in ways}
    peaks, samples = {}, 0
    for name, way in ways.items():
        with counted(editor.pipe.unet) as counter:
            timed = partial(_timed, way, device, times[name] if not repeats else [])
            peaks[name] = peak(timed, device)
        samples = counter.samples
    for _ in range(repeats):
        for name, way in ways.items():
            times[name].append(seconds(way, device))
    return {
        "method": method,
        "sample-forwards": samples,
        "seconds": f"{min(times['fused']):.2f}",
        "time, maps / fused": Ratio.of(times, "maps", "fused"),
        "peak": mebibytes(peaks["fused"]),
        "peak, maps / fused": f"{peaks['maps'] / peaks['fused']:.2f}",
    }


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--size", choices=ALL_SIZES, default="emoji-64")
    options.add_argument("--device", default="cpu")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=COMPARED)
    options.add_argument("--steps", type=int, default=10, metavar="N", help="a multiple of five")
    options.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (3)")
    options.add_argument("--dtype", choices=("float32", "float16", "bfloat16"))
    options.add_argument("--latents", action="store_true", help="leave the VAE out")
    given = options.parse_args()
    one_thread()
    size, device = ALL_SIZES[given.size], torch.device(given.device)
    dtype = getattr(torch, given.dtype or ("float16" if device.type == "cuda" else "float32"))
    pipe = size.build(dtype=dtype) if given.size in real_sizes.SIZES else size.build()
    pipe.to(device, dtype)
    pipe.set_progress_bar_config(disable=True)
    editor = Editor(pipe, name="random")
    if given.latents:
        editor.model.decode = lambda x: torch.zeros(len(x), 3, 8, 8)  # type: ignore[method-assign]
    rows = [measure(editor, name, given.steps, given.repeats) for name in given.methods]
    report = Report()
    report.add(f"{size.summary}, {given.steps} steps, {device}, {editor.model.dtype}", rows)
    report.write(given.json)


if __name__ == "__main__":
    main()
