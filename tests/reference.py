"""An independent, slow Free-Prompt-Editing: every map materialised, nothing of ours imported.

It walks the UNet by itself, replaces each attention by a processor that computes softmax(QK^T)
in the open and overwrites the target's map, and runs its own DDIM loop in its own words. Slow,
plain and separately derived, so that agreement with the fused path means something.
"""

from dataclasses import dataclass, field

import torch


@dataclass
class MapSwap:
    """State that all materialising processors share during one forward."""

    pairs: list[tuple[int, int]]  # (row that gives its map, row that takes it)
    active: bool = False
    swaps: int = 0
    layers: set[str] = field(default_factory=set)


class MaterialisingProcessor:
    """Attention with its map in the open."""

    def __init__(self, name: str, swap: MapSwap):
        self.name, self.swap = name, swap

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x, out_dim=4) for x in (q, k, v))
        probs = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        if self.swap.active and self.name in self.swap.layers:
            for giver, taker in self.swap.pairs:
                probs = probs.clone()
                probs[taker] = probs[giver]
                self.swap.swaps += 1
        out = (probs @ v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


def below_top_layers(unet) -> set[str]:
    """Self-attentions outside the first down block and the last up block (SD 1's 64x64 grids)."""
    names = [n for n, _ in unet.named_modules() if n.endswith("attn1")]
    top = ("down_blocks.0.", f"up_blocks.{len(unet.up_blocks) - 1}.")
    return {n for n in names if not n.startswith(top)}


class Reference:
    """The released algorithm on a diffusers pipeline, in the pipeline's own dtype.

    Args:
        pipe: The pipeline.
        steps: DDIM steps, leading spacing, offset 1, last level at timestep 0.
        guidance: Guidance scale.
        share: Fraction of the steps at which the sharing of maps ends.
        start: Fraction of the steps at which it begins.
    """

    def __init__(self, pipe, steps: int, guidance: float = 7.5, share: float = 0.8, start=0):
        self.pipe, self.unet, self.guidance = pipe, pipe.unet, guidance
        self.shared_steps = range(int(steps * start), int(steps * share))
        self.alphas = pipe.scheduler.alphas_cumprod.double()
        self.stride = 1000 // steps
        self.labels = [i * self.stride + 1 for i in range(steps)]  # ascending noise
        self.v = pipe.scheduler.config.prediction_type == "v_prediction"

    def edit_generated(self, source, target, start):
        """Algorithm 1: returns (source latent, target latent)."""
        rows = [("", 0), ("", 1), (source, 0), (target, 1)]
        x = torch.cat([start, start])
        swap = MapSwap(pairs=[(2, 3)], layers=below_top_layers(self.unet))
        with self._materialised(swap):
            for i, label in enumerate(reversed(self.labels)):
                swap.active = i in self.shared_steps
                x = self._denoise(x, label, self._guided(x, label, rows))
        self.swaps = swap.swaps
        return x[:1], x[1:]

    def edit_real(self, clean, target):
        """Algorithm 2: returns (inversion latents from clean to noise, target latent)."""
        latents = [clean]
        with self._materialised(MapSwap(pairs=[])):
            for label in self.labels:
                answer = self._network(latents[-1], label, [("", 0)])
                latents.append(self._noise(latents[-1], label, answer))
        rows = [("", 0), ("", 1), ("", 0), (target, 1)]
        x = torch.cat([latents[-1], latents[-1]])
        swap = MapSwap(pairs=[(2, 3)], layers=below_top_layers(self.unet))
        with self._materialised(swap):
            for i, label in enumerate(reversed(self.labels)):
                swap.active = i in self.shared_steps
                x = self._denoise(x, label, self._guided(x, label, rows))
                x[:1] = latents[len(self.labels) - i - 1]
        self.swaps = swap.swaps
        return latents, x[1:]

    def _materialised(self, swap):
        return _Installed(self.unet, swap)

    def _text(self, prompts):
        ids = self.pipe.tokenizer(
            prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        return self.pipe.text_encoder(ids)[0]

    def _network(self, x, label, rows):
        batch = torch.cat([x[b : b + 1] for _, b in rows])
        return self.unet(batch, label, self._text([prompt for prompt, _ in rows])).sample

    def _guided(self, x, label, rows):
        answer = self._network(x, label, rows)
        uncond, cond = answer[:2], answer[2:]
        return uncond + self.guidance * (cond - uncond)

    def _split(self, x, label, answer):
        """Clean latent and noise that the network believes in."""
        a = self.alphas[label]
        x, answer = x.double(), answer.double()
        if self.v:
            return a.sqrt() * x - (1 - a).sqrt() * answer, a.sqrt() * answer + (1 - a).sqrt() * x
        return (x - (1 - a).sqrt() * answer) / a.sqrt(), answer

    def _level(self, label):
        return self.alphas[label] if label >= 0 else self.alphas[0]

    def _denoise(self, x, label, answer):
        clean, noise = self._split(x, label, answer)
        a = self._level(label - self.stride)
        return (a.sqrt() * clean + (1 - a).sqrt() * noise).to(x.dtype)

    def _noise(self, x, label, answer):
        """One step of inversion: the network saw the lower level under the upper label."""
        if self.v:
            a = self.alphas[label]
            noise = a.sqrt() * answer.double() + (1 - a).sqrt() * x.double()
        else:
            noise = answer.double()
        low, high = self._level(label - self.stride), self.alphas[label]
        clean = (x.double() - (1 - low).sqrt() * noise) / low.sqrt()
        return (high.sqrt() * clean + (1 - high).sqrt() * noise).to(x.dtype)


class _Installed:
    def __init__(self, unet, swap):
        self.unet, self.swap = unet, swap

    def __enter__(self):
        self.saved = dict(self.unet.attn_processors)
        self.unet.set_attn_processor(
            {n: MaterialisingProcessor(n.removesuffix(".processor"), self.swap) for n in self.saved}
        )

    def __exit__(self, *exc):
        self.unet.set_attn_processor(dict(self.saved))
