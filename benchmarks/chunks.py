"""Attention without a fused kernel: whole, and with bounded scores.

    python benchmarks/chunks.py [--rows 2] [--repeats N] [--json FILE]

One attention evaluation at Stable Diffusion 1.5's finest grid for 512 pixels: 4096 tokens, eight
heads of width 40, float32. `fused` is torch's fused kernel; `whole` its math backend, which holds
all scores twice; the others the math backend under `attention_mib` (`freeprompt.models.chunks`).
Time is CPU time, all taking turns: the median ratio and its range. Memory is the peak beyond the
inputs, output included; `differs` is the largest difference from `whole`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from common import Ratio, Report, cpu_times, mebibytes, one_thread, parser, peak_bytes
from freeprompt.models.chunks import Chunked

HEADS, TOKENS, WIDTH = 8, 4096, 40
LIMITS = (256, 64, 16)  # MiB


def attention(q: Tensor, k: Tensor, v: Tensor, limit: int | None, fused: bool) -> Tensor:
    """Compute one attention, with bounded scores if there is a limit in MiB."""
    backend: AbstractContextManager[None] = nullcontext() if fused else sdpa_kernel(SDPBackend.MATH)
    with backend, Chunked(limit * 2**20) if limit else nullcontext():
        return F.scaled_dot_product_attention(q, k, v)


@torch.no_grad()
def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=2, metavar="N", help="batch rows (2)")
    options.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (3)")
    given = options.parse_args()
    one_thread()
    q, k, v = torch.randn(3, given.rows, HEADS, TOKENS, WIDTH).unbind(0)
    ways: dict[str, Callable[[], Tensor]] = {
        "fused": partial(attention, q, k, v, None, True),
        "whole": partial(attention, q, k, v, None, False),
        **{f"{limit} MiB": partial(attention, q, k, v, limit, False) for limit in LIMITS},
    }
    right = ways["whole"]()
    apart = {name: float((way() - right).abs().max()) for name, way in ways.items()}
    peaks = {name: peak_bytes(way) for name, way in ways.items()}
    times = cpu_times(ways, given.repeats, warm_up=False)
    rows = [
        {
            "way": name,
            "time / whole": Ratio.of(times, name, "whole"),
            "peak": mebibytes(peaks[name]),
            "differs": f"{apart[name]:.0e}",
        }
        for name in ways
    ]
    report = Report()
    report.add(f"{given.rows} rows, {HEADS} heads, {TOKENS} tokens x {WIDTH}, float32", rows)
    report.write(given.json)


if __name__ == "__main__":
    main()
