"""Attention maps computed by hand, from what the network's own modules are given."""

from collections import defaultdict
from contextlib import contextmanager

import torch


@contextmanager
def explicit_maps(model, kind):
    """Collect softmax(QK^T / sqrt d) of every call: site name -> list of (batch, heads, q, k).

    Nothing of the library is used but the sites' paths: the projections are applied here.
    """
    found = defaultdict(list)

    def hook(site):
        def compute(module, args, kwargs):
            x = args[0] if args else kwargs["hidden_states"]
            context = kwargs.get("encoder_hidden_states")
            found[site.name].append(softmax(module, x, x if context is None else context))

        return compute

    handles = [
        model.pipe.unet.get_submodule(s.path).register_forward_pre_hook(hook(s), with_kwargs=True)
        for s in model.sites
        if s.kind == kind
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def softmax(module, x, context):
    batch, heads = len(x), module.heads
    q, k = (
        y.double().reshape(batch, y.shape[1], heads, -1).transpose(1, 2)
        for y in (module.to_q(x), module.to_k(context))
    )
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
    exp = torch.exp(scores - scores.max(-1, keepdim=True).values)
    return exp / exp.sum(-1, keepdim=True)
