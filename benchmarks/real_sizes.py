"""One edit at the sizes of real checkpoints: seconds and peak memory, against the stock pipeline.

    python benchmarks/real_sizes.py [--size sd15] [--ways stock edit] [--steps 2] [--json FILE]

Stable Diffusion 1.5's networks at 512 pixels (float32 on a CPU), SDXL's at 1024 (bfloat16), both
in bfloat16 on CUDA; their real configs, random weights, DDIM, guidance 7.5, one target, all steps
sharing, to pictures:

stock    the stock diffusers pipeline, one call with two prompts: source and target
edit     `Editor.edit(target, source=...)`, method fpe
real     `Editor.edit(target, image=...)`, method fpe
maps     `edit` under torch's math backend: every attention map is in memory once
chunks   `maps`, with attention_mib=256: where torch has no fused kernel, but scores are bounded

Each way runs once, in a process of its own. Memory is the most that the process ever held, weights,
libraries and the building of the model included; on CUDA, the most that tensors held. Time is CPU
time, and on CUDA the time until the device is done, of the second of two runs. On a CPU large
pictures are decoded in tiles if --vae-tiling says so, for every way alike.
"""

import json
import os
import resource
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel

from common import Report, counted, one_thread, parser
from freeprompt import Editor, Memory
from freeprompt.models.single import config_folder, empty_part
from freeprompt.models.tiny import sd_scheduler, tiny_tokenizer

SOURCE, TARGET, GUIDANCE = "a red car on the street", "a blue car on the street", 7.5
WAYS = ("stock", "edit", "real", "maps", "chunks")
GIB = 2**30


@dataclass(frozen=True)
class Size:
    """The size of a real checkpoint.

    Attributes:
        summary: For the table.
        config: Name of its configs in the package.
        dtype: What it is measured in on a CPU.
        limit: Bytes that an edit may take on a CPU.
    """

    summary: str
    config: str
    dtype: torch.dtype
    limit: int


SIZES = {
    "sd15": Size("Stable Diffusion 1.5's size, 512 pixels", "sd1", torch.float32, 12 * GIB),
    "sdxl": Size("SDXL's size, 1024 pixels", "sdxl", torch.bfloat16, 20 * GIB),
}


def random_pipeline(config: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Build a pipeline of a real config with random weights, holding no weight twice."""
    import diffusers

    folder, xl = config_folder(config), config == "sdxl"
    names = ["unet", "vae", "text_encoder", *(["text_encoder_2"] if xl else [])]
    parts = {name: filled(empty_part(folder, name), dtype, device) for name in names}
    parts |= {"tokenizer": tiny_tokenizer(), "scheduler": sd_scheduler()}
    if xl:
        kind: Any = partial(diffusers.StableDiffusionXLPipeline, add_watermarker=False)
        parts["tokenizer_2"] = tiny_tokenizer()
    else:
        none = {"safety_checker": None, "feature_extractor": None}
        kind = partial(diffusers.StableDiffusionPipeline, **none, requires_safety_checker=False)
    pipe = kind(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def filled(module: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Give an empty module weights of the usual spread: the same block of numbers over and over."""
    block = torch.rand(2**20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    module.to(dtype)
    module.to_empty(device=device)
    for name, weight in module.named_parameters():
        if weight.ndim == 1:
            weight.data.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        flat, spread = weight.data.view(-1), weight[0].numel() ** -0.5
        piece = (block * spread).to(device, dtype)
        for start in range(0, len(flat), len(piece)):
            flat[start : start + len(piece)] = piece[: len(flat) - start]
    for owner in module.modules():
        for name, value in owner.named_buffers(recurse=False):
            assert name == "position_ids", name
            value.copy_(torch.arange(value.shape[-1]))
    return module.eval().requires_grad_(False)


def work(pipe: Any, way: str, steps: int, memory: Memory) -> Callable[[], Any]:
    """Return what is measured."""
    editor = Editor(pipe, name="random")
    editor.model.memory = memory
    side = editor.model.native_size
    if way == "stock":
        noise = torch.randn(editor.model.latent_shape(side, side)).to(pipe.device, pipe.unet.dtype)
        return partial(
            pipe,
            [SOURCE, TARGET],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            latents=noise.repeat(2, 1, 1, 1),
        )
    given: dict[str, Any] = {"source": SOURCE}
    if way == "real":
        given = {"image": Image.linear_gradient("L").resize((side, side)).convert("RGB")}
    return partial(editor.edit, TARGET, steps=steps, guidance=GUIDANCE, share=1.0, **given)


def backend(way: str) -> AbstractContextManager[None]:
    """Return the attention that a way runs under."""
    return sdpa_kernel(SDPBackend.MATH) if way in ("maps", "chunks") else nullcontext()


@torch.no_grad()
def measured(size: Size, way: str, given: Namespace) -> dict[str, Any]:
    """Build, run and return the figures; in a process of its own."""
    one_thread()
    device = torch.device(given.device)
    cuda = device.type == "cuda"
    pipe = random_pipeline(size.config, torch.bfloat16 if cuda else size.dtype, device)
    memory = Memory(vae_tiling=given.vae_tiling, attention_mib=256 if way == "chunks" else 0)
    if given.vae_tiling:
        pipe.vae.enable_tiling()
    task = work(pipe, way, given.steps, memory)
    with counted(pipe.unet) as counter, backend(way):
        if cuda:
            task()
            counter.samples = 0
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
        wall, cpu = time.perf_counter(), time.process_time()
        task()
        if cuda:
            torch.cuda.synchronize(device)
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "samples": counter.samples,
        "seconds": time.perf_counter() - wall if cuda else time.process_time() - cpu,
        "peak": torch.cuda.max_memory_allocated(device) if cuda else process,
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
    }


def in_child(size: str, way: str, given: Namespace) -> dict[str, Any]:
    """Measure one way in a fresh process, whose peak memory is that way's alone."""
    options = ["--size", size, "--child", way, "--steps", str(given.steps)]
    options += ["--device", given.device, *(["--vae-tiling"] if given.vae_tiling else [])]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *options],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "TRANSFORMERS_VERBOSITY": "error"},
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {size} {way}: {found}", file=sys.stderr, flush=True)
    return found


def rows(found: dict[str, dict[str, Any]], size: Size, device: str) -> list[dict[str, Any]]:
    """Return the table of one size."""
    stock = found.get("stock")
    table = []
    for way, cost in found.items():
        row = {
            "way": way,
            "dtype": cost["dtype"],
            "sample-forwards": cost["samples"],
            "seconds": f"{cost['seconds']:.0f}" if device == "cpu" else f"{cost['seconds']:.2f}",
            "time / stock": f"{cost['seconds'] / stock['seconds']:.2f}" if stock else "",
            "peak": f"{cost['peak'] / GIB:.1f} GiB",
            "peak / stock": f"{cost['peak'] / stock['peak']:.2f}" if stock else "",
        }
        if device == "cpu":
            fits = "yes" if cost["peak"] < size.limit else "no"
            row[f"under {size.limit // GIB} GiB"] = fits
        table.append(row)
    return table


def options() -> Any:
    """Return the parser of the command line."""
    made = parser(__doc__)
    made.add_argument("--size", choices=SIZES, default="sd15")
    made.add_argument("--ways", nargs="+", choices=WAYS, default=["stock", "edit", "real"])
    made.add_argument("--steps", type=int, default=2, metavar="N")
    made.add_argument("--device", default="cpu")
    made.add_argument("--vae-tiling", action="store_true")
    made.add_argument("--child", choices=WAYS, help="measure this way here and print JSON")
    return made


def main() -> None:
    """Run the benchmark."""
    given = options().parse_args()
    size = SIZES[given.size]
    if given.child:
        print(json.dumps(measured(size, given.child, given)))
        return
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("No CUDA device is present here; --device cpu measures on the CPU.")
    if given.device == "cpu" and not torch.cuda.is_available():
        print("No CUDA device is present: measured on the CPU.", file=sys.stderr)
    found = {way: in_child(given.size, way, given) for way in given.ways}
    report = Report()
    title = f"{size.summary}, {given.steps} steps, {given.device}"
    report.add(
        title + (", VAE in tiles" if given.vae_tiling else ""), rows(found, size, given.device)
    )
    report.write(given.json)


if __name__ == "__main__":
    main()
