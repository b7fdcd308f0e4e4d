"""Small models of the real classes, a picture, and independent eyes on what a pipeline does."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from PIL import Image

from freeprompt.models.tiny import tiny_sd
from freeprompt.models.unet import UNetModel

SOURCE, TARGET, OTHER = "a red dog in the park", "a blue cat in the park", "a green car"
SIDE = 16  # native pixels of `small_sd`
SHARED = 4  # its self-attention layers below the finest grid


def small_unet(**changes):
    """A UNet of two levels: seven self-attentions, and a fraction of the time of sixteen."""
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return UNet2DConditionModel(**{**config, **changes}).eval().requires_grad_(False)


@cache
def template(prediction):
    """Made once, and never handed out."""
    pipe = tiny_sd(prediction=prediction, sample_size=8, vae_channels=(8, 8))
    pipe.unet = small_unet()
    return pipe


def small_sd(prediction="epsilon", **unet):
    """A random `StableDiffusionPipeline` for 16 x 16 pixels, 2 pixels a latent cell."""
    pipe = deepcopy(template(prediction))
    if unet:
        pipe.unet = small_unet(**unet)
    return pipe


def thin_sd(prediction="epsilon"):
    """Attention at the finest grid and in the middle only: cheaper, for what takes many steps."""
    return small_sd(
        prediction,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def photo(width=20, height=12, seed=0):
    """A picture of large soft blobs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def start_noise(seed=7, height=8, width=8):
    return torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(seed))


def same(a, b):
    """Whether two pictures are the same to the pixel."""
    return a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()


def distance(a, b):
    """Largest difference of two pictures in 8-bit levels."""
    pixels = [np.asarray(picture, dtype=int) for picture in (a, b)]
    return int(np.abs(pixels[0] - pixels[1]).max())


@dataclass
class Seen:
    """What a UNet was given, call by call."""

    batches: list[int] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def samples(self):
        return sum(self.batches)


@contextmanager
def watched(pipe) -> Iterator[Seen]:
    """Count independently what the denoiser evaluates."""
    seen = Seen()

    def hook(unet, args, kwargs, out):
        sample = kwargs["sample"] if "sample" in kwargs else args[0]
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        seen.batches.append(len(sample))
        seen.timesteps.append(float(torch.as_tensor(timestep).flatten()[0]))
        seen.sizes.append(tuple(sample.shape[-2:]))

    handle = pipe.unet.register_forward_hook(hook, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def state_of(pipe):
    """Everything about a pipeline that an edit could leave changed, in comparable form."""
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text": pipe.text_encoder}
    modules = {
        f"{part}.{name}": module
        for part, root in parts.items()
        for name, module in root.named_modules()
    }
    return {
        "processors": {name: id(p) for name, p in pipe.unet.attn_processors.items()},
        "hooks": {
            name: [len(v) for k, v in sorted(vars(module).items()) if k.endswith("_hooks")]
            for name, module in modules.items()
        },
        "patched": [name for name, module in modules.items() if "forward" in vars(module)],
        "training": {name: module.training for name, module in modules.items()},
        "gradients": {part: [p.requires_grad for p in m.parameters()] for part, m in parts.items()},
        "weights": {part: [p._version for p in m.parameters()] for part, m in parts.items()},
        "scheduler": id(pipe.scheduler),
        "config": dict(pipe.scheduler.config),
        "timesteps": getattr(pipe.scheduler, "timesteps", torch.zeros(0)).tolist(),
        "attributes": sorted(vars(pipe)),
        "grad mode": torch.is_grad_enabled(),
        "random state": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
    }


@contextmanager
def told() -> Iterator[list[str]]:
    """Collect what is warned of, without turning it into errors."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(w.message) for w in caught]


def counted_passes(monkeypatch) -> list[int]:
    """Return a list that gets the number of rows of every evaluation."""
    sizes, evaluate = [], UNetModel.evaluate

    def counted(self, asked):
        sizes.append(len(asked))
        return evaluate(self, asked)

    monkeypatch.setattr(UNetModel, "evaluate", counted)
    return sizes


def leave_room_for(rows: int, monkeypatch) -> None:
    """Let evaluations of more rows run out of memory."""
    evaluate = UNetModel.evaluate

    def small(self, asked):
        if len(asked) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return evaluate(self, asked)

    monkeypatch.setattr(UNetModel, "evaluate", small)
