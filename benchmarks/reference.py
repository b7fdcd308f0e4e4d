"""The released algorithm written out plainly, to compare with: every map in memory, no row saved.

Free-Prompt-Editing (arXiv:2403.03431) as its published code runs it on a pipeline of the Stable
Diffusion 1.x family with DDIM and noise prediction. All attention maps of all 32 attentions are
computed; for the first 80 % of the steps the conditional target's self-attention maps below the
finest grid are overwritten by the source's. Four rows go through the network to the last step, and
a real image is inverted with guidance, though both its halves have the empty prompt.

Independent of `freeprompt`: nothing of it is imported here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SHARE = 0.8
GUIDANCE = 7.5


@dataclass
class MapProcessor:
    """Computes attention by maps, and overwrites the conditional target's while `sharing`.

    Args:
        finest: Number of tokens of the finest grid, where nothing is overwritten.
    """

    finest: int
    sharing: bool = False

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in projected)
        maps = attn.get_attention_scores(q, k, attention_mask)
        if self.sharing and context is hidden_states and maps.shape[1] < self.finest:
            heads = len(maps) // 4
            maps[3 * heads :] = maps[2 * heads : 3 * heads]
        out: Tensor = attn.to_out[0](attn.batch_to_head_dim(maps @ v))
        return out


@contextmanager
def materialising(unet: Any, finest: int) -> Iterator[MapProcessor]:
    """Let every attention of a UNet go by maps."""
    saved = dict(unet.attn_processors)
    processor = MapProcessor(finest)
    unet.set_attn_processor(processor)
    try:
        yield processor
    finally:
        unet.set_attn_processor(saved)


def edit_generated(pipe: Any, source: str, target: str, noise: Tensor, steps: int) -> Tensor:
    """Return the latents of source and target, (2, channels, height, width)."""
    pipe.scheduler.set_timesteps(steps)
    text = encode(pipe, ["", "", source, target])
    x = noise.repeat(2, 1, 1, 1)
    with materialising(pipe.unet, noise[0, 0].numel()) as processor:
        for i, t in enumerate(pipe.scheduler.timesteps):
            processor.sharing = i < int(SHARE * steps)
            x = denoise(pipe, x, t, text)
    return x


def edit_real(pipe: Any, target: str, clean: Tensor, steps: int) -> Tensor:
    """Return the target's latents, (1, channels, height, width), from the image's."""
    trajectory = invert(pipe, clean, steps)
    text = encode(pipe, ["", "", "", target])
    x = trajectory[-1].repeat(2, 1, 1, 1)
    with materialising(pipe.unet, clean[0, 0].numel()) as processor:
        for i, t in enumerate(pipe.scheduler.timesteps):
            processor.sharing = i < int(SHARE * steps)
            x = torch.cat([trajectory[steps - i], x[1:]])
            x = denoise(pipe, x, t, text)
    return x[1:]


def invert(pipe: Any, clean: Tensor, steps: int) -> list[Tensor]:
    """Return the latents from clean to noise, found with two rows of the empty prompt.

    This part keeps the pipeline's own fused attention, as in the first edit of a process.
    """
    scheduler = pipe.scheduler
    scheduler.set_timesteps(steps)
    text = encode(pipe, ["", ""])
    latents = [clean]
    for t in scheduler.timesteps.flip(0):
        x, (before, after) = latents[-1], alphas(scheduler, int(t))
        noise = guided(pipe, x, t, text)
        image = (x - (1 - after) ** 0.5 * noise) / after**0.5
        latents.append(before**0.5 * image + (1 - before) ** 0.5 * noise)
    return latents


def alphas(scheduler: Any, t: int) -> tuple[float, float]:
    """Return the cumulative alphas at timestep `t` and one denoising step later."""
    after = t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    bar = scheduler.alphas_cumprod
    return float(bar[t]), float(bar[after] if after >= 0 else scheduler.final_alpha_cumprod)


def denoise(pipe: Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """Take one guided DDIM step."""
    out: Tensor = pipe.scheduler.step(guided(pipe, x, t, text), t, x).prev_sample
    return out


def guided(pipe: Any, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """Predict noise with guidance; the first half of `text` is unconditional."""
    both = pipe.unet(x.repeat(2, 1, 1, 1), t, encoder_hidden_states=text).sample
    uncond, cond = both.chunk(2)
    out: Tensor = uncond + GUIDANCE * (cond - uncond)
    return out


def encode(pipe: Any, prompts: Sequence[str]) -> Tensor:
    """Encode prompts, (prompts, tokens, width)."""
    length = pipe.tokenizer.model_max_length
    batch = pipe.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    out: Tensor = pipe.text_encoder(batch.input_ids)[0]
    return out
