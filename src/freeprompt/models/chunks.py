"""Attention in chunks of queries, where torch has no kernel that keeps scores out of memory.

A query's row of scores depends on no other query, so attention over some queries at a time is
attention: only rounding differs, by the order in which a matrix product sums.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode

COPIES = 2  # of the scores that torch's plain attention holds: before softmax and after
WIDTH = 4  # bytes of a score: it computes them in float32 at least


class Chunked(TorchFunctionMode):
    """While it is entered, unfused attention holds a bounded number of scores at a time.

    It meets every call of `F.scaled_dot_product_attention`: those of diffusers' processors, those
    of `freeprompt.core.attend`, and those of the VAE.

    Args:
        limit: Bytes that the scores of one call may take.
    """

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return attention(self.limit, *args, **(kwargs or {}))


def attention(
    limit: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """Compute `F.scaled_dot_product_attention`, holding at most `limit` bytes of scores.

    Left to torch are calls that have a fused kernel or fit whole, and causal ones, whose mask
    counts queries. One query at a time is the least, whatever the limit.
    """
    given = {"dropout_p": dropout_p, "is_causal": is_causal, **options}
    count = queries_at_once(limit, query, key)
    if count >= query.shape[-2] or is_causal or fused(query, key, value, attn_mask, **given):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **given)
    out = query.new_empty((*query.shape[:-1], value.shape[-1]))
    for start in range(0, query.shape[-2], count):
        some = slice(start, start + count)
        mask = _of_queries(attn_mask, some)
        out[..., some, :] = F.scaled_dot_product_attention(
            query[..., some, :], key, value, attn_mask=mask, **given
        )
    return out


def queries_at_once(limit: int, query: Tensor, key: Tensor) -> int:
    """Return how many queries' scores fit into `limit` bytes; at least one."""
    each = query.shape[:-2].numel() * key.shape[-2] * WIDTH * COPIES
    return max(1, limit // each)


def fused(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **options: Any
) -> bool:
    """Return whether torch has a kernel for this call that keeps scores out of memory."""
    choice = getattr(torch, "_fused_sdp_choice", None)
    if choice is None or query.device.type == "mps":
        return False  # not known, and a chunk too many costs little
    known = {name: v for name, v in options.items() if name in ("scale", "enable_gqa")}
    found = choice(
        query, key, value, mask, options.get("dropout_p", 0.0), options["is_causal"], **known
    )
    return int(found) != SDPBackend.MATH.value


def _of_queries(mask: Tensor | None, some: slice) -> Tensor | None:
    """Return the part of a mask that some queries meet; one row may stand for all."""
    if mask is None or mask.ndim < 2 or mask.shape[-2] == 1:
        return mask
    return mask[..., some, :]
