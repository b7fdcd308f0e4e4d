"""Memory of collected cross-attention maps, at Stable Diffusion 1.5's size and 50 steps.

    python benchmarks/attention_maps.py [--words 6] [--steps 50] [--json FILE]

The sixteen cross-attention layers of a UNet in Stable Diffusion 1.5's anatomy are passed at every
step with random queries and keys of its shapes (512 pixels, eight heads, 77 tokens, conditional and
unconditional row), through `freeprompt.core.attend` and the observers that `Editor.attention` uses,
all of them at once. `held` is what each keeps at the end, and `handing over` what turning that into
`CrossMaps` takes beside it at the worst moment. What else tensors took while they were collected,
the map that is being reduced included, is given once for all. The network around
the attention is left out: it holds nothing that belongs to maps, and fifty steps of it take an hour
on a CPU.
"""

from functools import partial

import torch

from common import Report, mebibytes, one_thread, parser, peak_bytes
from freeprompt.analysis.maps import CrossMaps
from freeprompt.analysis.reduce import WatchCross
from freeprompt.core import TARGET, Call, Row, Run, Site, Sites, attend
from freeprompt.models.walk import unet_sites

TOKENS, HEADS, LATENT = 77, 8, (64, 64)
LIMIT = 200 * 10**6  # bytes: what all cross maps of a run may need
ROW = Row("target", True)


def sites() -> tuple[Site, ...]:
    """Return the cross-attention of Stable Diffusion 1.5's UNet, made without its weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=HEADS
        )
    return tuple(site for site in unet_sites(unet) if site.kind == "cross")


def passed(watches: list[WatchCross], run: Run, calls: list[Call], steps: int) -> None:
    """Pass all layers in every step."""
    for step in range(steps):
        with run.at(step, LATENT):
            for call in calls:
                run.hits.append(call.site)
                attend(call, watches)


def _call(site: Site, run: Run) -> Call:
    height, width = site.grid(*LATENT)
    channels = (320, 640, 1280, 1280)[site.halvings] // HEADS
    q = torch.randn(len(TARGET), HEADS, height * width, channels)
    k = torch.randn(len(TARGET), HEADS, TOKENS, channels)
    return Call(site=site, run=run, q=q, k=k, v=k, grid=(height, width))


def all_maps(known: tuple[Site, ...], steps: int) -> str:
    """Return what it would take to keep every cross map of one row, in float32."""
    cells = [h * w for h, w in (s.grid(*LATENT) for s in known)]
    return mebibytes(sum(cells) * TOKENS * HEADS * 4 * steps)


def main() -> None:
    """Measure and report."""
    options = parser(__doc__)
    options.add_argument("--words", type=int, default=6, help="words collected")
    options.add_argument("--steps", type=int, default=50, help="denoising steps")
    asked = options.parse_args()
    one_thread()
    known, report = sites(), Report()
    words = {f"word {i}": (slice(i, i + 1),) for i in range(1, asked.words + 1)}
    tokens = {f"token {i}": (slice(i, i + 1),) for i in range(TOKENS)}
    common = {"row": ROW, "sites": Sites("cross:all"), "budget": None}
    looks = {
        f"{asked.words} words, mean over steps and heads": WatchCross(**common, words=words),
        f"{asked.words} words, each step": WatchCross(**common, words=words, by_step=True),
        f"{asked.words} words, each step and head": WatchCross(
            **common, words=words, by_step=True, by_head=True
        ),
        f"all {TOKENS} tokens, mean over steps and heads": WatchCross(**common, words=tokens),
        f"all {TOKENS} tokens, each step": WatchCross(**common, words=tokens, by_step=True),
    }
    watches = list(looks.values())
    run = Run(watches, TARGET, known, "a UNet of sd-1.5's size")
    calls = [_call(site, run) for site in known]
    peak = peak_bytes(lambda: passed(watches, run, calls, asked.steps))
    rows = [
        {
            "kept": name,
            "held": mebibytes(watch.nbytes),
            "handing over": mebibytes(given := peak_bytes(partial(CrossMaps.of_cross, watch))),
            "under 200 MB": "yes" if watch.nbytes + given < LIMIT else "no",
        }
        for name, watch in looks.items()
    ]
    held = sum(watch.nbytes for watch in watches)
    report.add(
        f"{len(known)} layers, {asked.steps} steps, 512 pixels: all maps of one row would take "
        f"{all_maps(known, asked.steps)}; beside what is held, {mebibytes(peak - held)} at a time",
        rows,
    )
    report.write(asked.json)


if __name__ == "__main__":
    main()
