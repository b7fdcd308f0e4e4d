"""One attention evaluation, and the one function that computes it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from freeprompt.core.rows import Rows
from freeprompt.core.sites import Site

if TYPE_CHECKING:
    from freeprompt.core.control import Control
    from freeprompt.core.run import Run


def take(x: Tensor, order: Sequence[int]) -> Tensor:
    """Return the rows `order` of `x`; slices and one copy, so no index travels to the device."""
    return torch.stack([x[i] for i in order])


@dataclass(frozen=True, kw_only=True)
class Call:
    """One evaluation of scaled dot-product attention, after projections, norms and rotary codes.

    Attributes:
        site: Where.
        run: The run it belongs to; `step` and `rows` are read from it.
        q: Queries, (batch, heads, query, head_dim).
        k: Keys, (batch, heads, key, head_dim).
        v: Values, (batch, heads, key, head_dim).
        mask: Boolean or additive mask, broadcastable to (batch, heads, query, key), or None.
        regions: For some batch rows, which keys each query may look at, boolean (query, key).
        scale: Factor on the scores; None means 1/sqrt(head_dim).
        grid: (height, width) of the query tokens at this site.
        options: Remaining keyword arguments for the fused kernel.
    """

    site: Site
    run: "Run"
    q: Float[Tensor, "batch heads query head_dim"]
    k: Float[Tensor, "batch heads key head_dim"]
    v: Float[Tensor, "batch heads key value_dim"]
    mask: Tensor | None = None
    regions: Mapping[int, Tensor] = field(default_factory=dict)
    scale: float | None = None
    grid: tuple[int, int] = (0, 0)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Index of the denoising step, 0 being the noisiest."""
        return self.run.step

    @property
    def rows(self) -> Rows:
        """What each batch row is."""
        return self.run.rows

    def with_(self, **changes: Any) -> "Call":
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def fused(self) -> Float[Tensor, "batch heads query value_dim"]:
        """Attention by the fused kernel; no map is ever in memory."""
        out = F.scaled_dot_product_attention(
            self.q, self.k, self.v, attn_mask=self.mask, scale=self.scale, **self.options
        )
        if not self.regions:
            return out
        # row by row, so that rows without a region stay bit for bit what they were
        rows = list(out)
        for i, allowed in self.regions.items():
            rows[i] = F.scaled_dot_product_attention(
                self.q[i], self.k[i], self.v[i], attn_mask=allowed, scale=self.scale
            )
        return torch.stack(rows)

    def probs(self) -> Float[Tensor, "batch heads query key"]:
        """Materialise the attention map: softmax over `key`, in float32 at least."""
        wide = torch.promote_types(self.q.dtype, torch.float32)
        scale = 1 / math.sqrt(self.q.shape[-1]) if self.scale is None else self.scale
        scores = self.q.to(wide) @ self.k.to(wide).transpose(-1, -2) * scale
        if self.mask is not None and self.mask.dtype == torch.bool:
            scores = scores.masked_fill(~self.mask, -torch.inf)
        elif self.mask is not None:
            scores = scores + self.mask
        if self.options.get("is_causal"):
            ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(ahead, -torch.inf)
        if self.regions:
            parts = list(scores)
            for i, allowed in self.regions.items():
                parts[i] = parts[i].masked_fill(~allowed, -torch.inf)
            scores = torch.stack(parts)
        return scores.softmax(-1)


def attend(call: Call, controls: "Sequence[Control]") -> Float[Tensor, "batch heads query dim"]:
    """Compute attention under `controls`: the only place where softmax(QK^T)V is computed.

    Controls change q, k, v first, in order. A map is materialised only if one of them asks for it,
    and only the rows whose map one of them rewrites are computed from it: looking changes no
    picture, and rows that are not edited stay bit for bit what they were.

    Args:
        call: The evaluation as the model meant it.
        controls: Those that act at this site and step.
    """
    for control in controls:
        call = control.qkv(call)
    mapped = [control for control in controls if control.needs_probs or control.edits_probs]
    if not mapped:
        return call.fused()
    probs = call.probs()
    for control in mapped:
        probs = control.probs(call, probs)
    rewritten = {i for c in controls if c.edits_probs for i in c.rewrites(call.rows)}
    out = call.fused()
    if not rewritten:
        return out
    rows = list(out)
    for i in rewritten:
        rows[i] = (probs[i] @ call.v[i].to(probs.dtype)).to(out.dtype)
    return torch.stack(rows)
