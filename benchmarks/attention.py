"""Sharing attention by the fused kernel against overwriting maps that lie in memory.

    python benchmarks/attention.py [--quick] [--repeats N] [--json FILE]

One attention evaluation of Stable Diffusion 1.5 at 512 pixels, random q, k and v, eight heads, four
batch rows [source and target unconditional, source and target conditional], the conditional target
taking the source's self-attention map. Three ways:

plain     the fused kernel, nothing shared: what the model would do anyway
share     `freeprompt.core.Share` through `attend`: SDPA(Q_source, K_source, V_target)
maps      as Prompt-to-Prompt and its descendants do it: all maps are computed, the target's is
          overwritten by the source's, and the result is multiplied with V

Time is CPU time, the three taking turns; shown is the median ratio to `share` and its range. Memory
is the peak of what tensors hold beyond q, k and v, the output included. The error is the largest
deviation of any element from the same computation in float64, from the same rounded inputs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from common import Ratio, Report, Work, cpu_times, mebibytes, one_thread, parser, peak_bytes
from freeprompt.core import PAIR, Call, Run, Share, Site, Sites, Window, attend

SHAPES = ((4096, 40), (1024, 80), (256, 160), (64, 160))
HEADS = 8
SOURCE_ROW, TARGET_ROW = PAIR.sources("cond")[0], PAIR.targets("cond")[0]
SHARE = Share(sites=Sites("self:all"), window=Window(0, 1))


@dataclass(frozen=True)
class Inputs:
    """Queries, keys and values, (batch, heads, tokens, head_dim)."""

    q: Tensor
    k: Tensor
    v: Tensor

    @classmethod
    def random(cls, tokens: int, width: int, dtype: torch.dtype) -> "Inputs":
        """Draw them with unit variance."""
        generator = torch.Generator().manual_seed(0)
        shape = len(PAIR), HEADS, tokens, width
        return cls(*(torch.randn(shape, generator=generator).to(dtype) for _ in range(3)))


def call_of(x: Inputs) -> Call:
    """Return the evaluation as the model adapter would hand it over."""
    side = math.isqrt(x.q.shape[2])
    site = Site(kind="self", block="down.0.0", index=1, scale=1, halvings=0, path="")
    run = Run([SHARE], PAIR, [site], "benchmark")
    run.step = 0
    return Call(site=site, run=run, q=x.q, k=x.k, v=x.v, grid=(side, side))


def maps(x: Inputs) -> Tensor:
    """Attend by maps: compute all of them, overwrite one, multiply."""
    found = (x.q * x.q.shape[-1] ** -0.5 @ x.k.transpose(-1, -2)).softmax(-1)
    found[TARGET_ROW] = found[SOURCE_ROW]
    out: Tensor = found @ x.v
    return out


def exact(x: Inputs) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (row, head, output) in float64, one head at a time to keep memory small."""
    for row in range(len(PAIR)):
        mapped = SOURCE_ROW if row == TARGET_ROW else row
        for head in range(HEADS):
            q, k, v = (t.double() for t in (x.q[mapped, head], x.k[mapped, head], x.v[row, head]))
            yield row, head, (q @ k.T * q.shape[-1] ** -0.5).softmax(-1) @ v


def largest_error(out: Tensor, x: Inputs) -> float:
    """Return the largest deviation from float64."""
    return max(float((out[r, h].double() - right).abs().max()) for r, h, right in exact(x))


def measure(tokens: int, width: int, dtype: torch.dtype, repeats: int) -> list[dict[str, object]]:
    """Return one row of the table for each way."""
    x = Inputs.random(tokens, width, dtype)
    call = call_of(x)
    ways: dict[str, Work] = {
        "plain": call.fused,
        "share": partial(attend, call, (SHARE,)),
        "maps": partial(maps, x),
    }
    times = cpu_times(ways, repeats, runs=max(1, 2**21 // tokens**2))
    errors = {"share": largest_error(attend(call, (SHARE,)), x), "maps": largest_error(maps(x), x)}
    name = str(dtype).removeprefix("torch.")
    return [
        {
            "tokens × head width": f"{tokens} × {width}",
            "dtype": name,
            "way": way,
            "time / share": Ratio.of(times, way, "share"),
            "peak": mebibytes(peak_bytes(work)),
            "largest error": f"{errors[way]:.1e}" if way in errors else "",
        }
        for way, work in ways.items()
    ]


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="leave out 4096 tokens")
    options.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds (7)")
    given = options.parse_args()
    one_thread()
    report = Report()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for tokens, width in SHAPES[1:] if given.quick else SHAPES:
            rows += measure(tokens, width, dtype, given.repeats)
    report.add("One shared attention evaluation", rows)
    report.write(given.json)


if __name__ == "__main__":
    with torch.no_grad():
        main()
