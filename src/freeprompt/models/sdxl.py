"""Stable Diffusion XL: two text encoders, a pooled embedding, the picture's size as a condition."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from freeprompt.core import Text
from freeprompt.models.text import tokenize
from freeprompt.models.unet import UNetModel

POOLED = "pooled"


class SDXLModel(UNetModel):
    """Adapter for `StableDiffusionXLPipeline`; fulfils `freeprompt.core.Model`.

    The size conditions (original size, crop, target size) are those of an uncropped picture of the
    size that is made, as in the stock pipeline. An empty prompt is encoded as zeros where the
    checkpoint was trained so.
    """

    TEXT_ENCODERS = ("text_encoder", "text_encoder_2")

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Encode prompts, one row each, (prompts, tokens, widths of both encoders together)."""
        states, pooled = [], torch.empty(0)
        for name in ("", "_2"):
            tokenizer = getattr(self.pipe, f"tokenizer{name}")
            ids = tokenize(tokenizer, prompts, self.cuts).to(self.device)
            out = getattr(self.pipe, f"text_encoder{name}")(ids, output_hidden_states=True)
            states.append(out.hidden_states[-2])
            pooled = out[0]  # that of the second encoder, which is the last
        joined = torch.cat(states, -1).to(self.dtype)
        said = self._said(prompts).to(joined)
        return Text(joined * said[:, None, None], {POOLED: pooled.to(self.dtype) * said[:, None]})

    def _said(self, prompts: Sequence[str]) -> Tensor:
        """Return 0 for prompts that are to be zeros, 1 for the others."""
        zeros = getattr(self.pipe.config, "force_zeros_for_empty_prompt", False)
        return torch.tensor([0.0 if zeros and not prompt else 1.0 for prompt in prompts])

    def decode(self, x: Tensor) -> Tensor:
        """Decode scaled latents; in float32 where half precision would overflow."""
        with self._wide_vae():
            return super().decode(x)

    def encode_image(self, x: Tensor) -> Tensor:
        """Encode a picture; in float32 where half precision would overflow."""
        with self._wide_vae():
            return super().encode_image(x)

    @contextmanager
    def _wide_vae(self) -> Iterator[None]:
        vae = self.pipe.vae
        narrow = vae.dtype == torch.float16 and vae.config.force_upcast
        try:
            if narrow:
                vae.to(torch.float32)
            yield
        finally:
            if narrow:
                vae.to(torch.float16)

    def conditions(self, x: Tensor, text: Text) -> dict[str, Any]:
        """Return what the network takes beside latents, timestep and text."""
        height, width = (side * self.granularity for side in x.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], device=x.device, dtype=x.dtype)
        added = {"text_embeds": text.extras[POOLED], "time_ids": sizes.expand(len(x), -1)}
        return {**super().conditions(x, text), "added_cond_kwargs": added}
