"""Rival methods written out by hand: every map materialised, nothing of ours imported.

One pair of branches, denoised by a plain DDIM loop. A method is a rule that is called with each
attention's name, kind, step and tensors, rows being [u_src, u_tgt, c_src, c_tgt], and returns what
to attend with.
"""

import torch
from tests.reference import Reference


class ByHand(Reference):
    """A two-branch edit of a generated image under a rule.

    Args:
        pipe: The pipeline.
        steps: DDIM steps.
        rule: `rule(name, cross, step, q, k, v, probs) -> (probs, v)`.
    """

    def __init__(self, pipe, steps, rule, guidance=7.5):
        super().__init__(pipe, steps, guidance)
        self.rule = rule

    def edit(self, source, target, start):
        """Return (source latent, target latent)."""
        rows = [("", 0), ("", 1), (source, 0), (target, 1)]
        saved = dict(self.unet.attn_processors)
        self.unet.set_attn_processor({name: _Ruled(name, self) for name in saved})
        x = torch.cat([start, start])
        try:
            for step, label in enumerate(reversed(self.labels)):
                self.step = step
                x = self.at_the_end(self._denoise(x, label, self._guided(x, label, rows)))
        finally:
            self.unet.set_attn_processor(dict(saved))
        return x[:1], x[1:]

    def at_the_end(self, x):
        """Whatever a method does to the latents after a step."""
        return x


class _Ruled:
    def __init__(self, name, run):
        self.name, self.run = name.removesuffix(".processor"), run

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        cross = encoder_hidden_states is not None
        context = encoder_hidden_states if cross else hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x, out_dim=4) for x in (q, k, v))
        probs = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        probs, v = self.run.rule(self.name, cross, self.run.step, q, k, v, probs)
        out = (probs @ v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))
