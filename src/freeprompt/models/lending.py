"""Weights on loan: to be trained for a while, and given back as the very tensors they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from freeprompt.errors import ConfigError, UnsupportedModel
from freeprompt.models.seam import held

KINDS = ("all", "attention")


@contextmanager
def lend(denoiser: Any, kind: str, name: str) -> Iterator[dict[str, nn.Parameter]]:
    """Lend the weights of a network for training, for the length of a with-block.

    Whoever borrows them gives a parameter other values by putting another tensor into its `data`;
    writing into the tensor that is there would change it for good. On the way out, also after an
    exception, every parameter has the tensor it had and asks for gradients as it did. Meanwhile
    no other thread can attach controls to the network.

    Args:
        denoiser: The network.
        kind: `all` of them, or those of `attention` layers.
        name: The model's name, for messages.

    Raises:
        ConfigError: for float16, in which small updates vanish, or a model under CPU offload.
        UnsupportedModel: if there are no such weights.
        AlreadyAttached: if the network is in use.
    """
    denoiser = getattr(denoiser, "_orig_mod", denoiser)
    chosen = {n: p for n, p in denoiser.named_parameters() if kind == "all" or _attends(n)}
    _check(denoiser, chosen, kind, name)
    saved = [(p, p.data, p.requires_grad) for p in denoiser.parameters()]
    with held(denoiser, name):
        try:
            for parameter, _, _ in saved:
                parameter.requires_grad_(False)
            for parameter in chosen.values():
                parameter.requires_grad_(True)
            yield chosen
        finally:
            for parameter, data, asked in saved:
                parameter.data = data
                parameter.requires_grad_(asked)


def _attends(name: str) -> bool:
    return ".attn1." in name or ".attn2." in name


def _check(denoiser: Any, chosen: dict[str, nn.Parameter], kind: str, name: str) -> None:
    if not chosen:
        raise UnsupportedModel(f"{name!r} has no weights of the kind {kind!r} to train.")
    if any(parameter.dtype == torch.float16 for parameter in chosen.values()):
        raise ConfigError(
            f"{name!r} is loaded in float16, in which the small steps of a training are lost. Load "
            "it in float32 or bfloat16: --dtype bfloat16 (dtype='bfloat16')."
        )
    if hasattr(denoiser, "_hf_hook"):
        raise ConfigError(
            f"{name!r} is under CPU offload, which moves weights about while they are trained. "
            "Load it without."
        )
