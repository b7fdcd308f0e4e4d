"""What an edit or an observation is: an object with five moments, all identity by default."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from freeprompt.core.attention import Call, take
from freeprompt.core.rows import Branch, Half, Rows
from freeprompt.core.sites import Site, Sites
from freeprompt.core.tape import Tape, TapeKey
from freeprompt.core.window import Window
from freeprompt.errors import ConfigError, ControlNeverFired

TensorName = Literal["q", "k", "v"]
Origin = Literal["same", "cond"]
NOWHERE = Sites("none")
ALWAYS = Window(0, 2**31)


def order(rows: Rows, targets: Sequence[int], origin: Origin) -> list[int]:
    """Return which row each row is made of, when `targets` take the source's."""
    cond = True if origin == "cond" else None
    return [rows.source_of(i, cond=cond) if i in targets else i for i in range(len(rows))]


class Control:
    """Base of all controls. Override the moments you need; each returns what goes on.

    Attributes:
        sites: Where `qkv`, `probs` and `feature` are called. `none` for latents-only controls.
        window: The steps in which the control acts.
        needs_probs: Whether `probs` must be called, which materialises the map.
        edits_probs: Whether the output is computed from what `probs` returns.
        observes: Whether the control only looks; what it fires on is not counted as edited.
    """

    sites: Sites = NOWHERE
    window: Window = ALWAYS
    needs_probs: bool = False
    edits_probs: bool = False
    observes: bool = False

    def check(self, chosen: Collection[Site]) -> None:
        """Refuse the sites that were selected, before anything is computed."""
        return

    def qkv(self, call: Call) -> Call:
        """Change queries, keys or values before the attention is computed."""
        return call

    def probs(
        self, call: Call, probs: Float[Tensor, "batch heads query key"]
    ) -> Float[Tensor, "batch heads query key"]:
        """Read or change the attention map; each row sums to 1 over `key`."""
        return probs

    def rewrites(self, rows: Rows) -> tuple[int, ...]:
        """Return the batch rows whose map `probs` may change; all unless overridden."""
        return tuple(range(len(rows)))

    def feature(
        self, site: Site, step: int, rows: Rows, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Change a convolution feature."""
        return x

    def guide(
        self,
        step: int,
        rows: Rows,
        state: Mapping[Branch, Tensor],
        noise: Float[Tensor, "batch channels height width"],
        guided: Mapping[Branch, Tensor],
    ) -> Mapping[Branch, Tensor]:
        """Change the guided noise, after guidance and before the step is taken with it.

        Args:
            step: Index of the step.
            rows: What each row of `noise` is; `rows.find(branch, half)` picks some.
            state: Latents by branch at the beginning of the step, also of branches without rows.
            noise: Predicted noise of every batch row; float64 where it was converted.
            guided: Predicted noise by branch, (items, channels, height, width), the halves
                combined; it has the branches that have rows.

        Returns:
            The noise to take the step with: the branches of `guided`.
        """
        return guided

    def latents(
        self, step: int, rows: Rows, state: Mapping[Branch, Tensor]
    ) -> Mapping[Branch, Tensor]:
        """Change the latents at the end of a step; the source is already its exact self."""
        return state


def taking(rows: Rows, half: Half) -> tuple[int, ...]:
    """Return the batch indices of the target rows in `half`, of which there must be some.

    Raises:
        ControlNeverFired: if there is none.
    """
    targets = rows.targets(half)
    if not targets:
        raise ControlNeverFired(
            f"half={half!r} names no row of this batch, so nothing would be edited. At guidance 1 "
            "or below there are no unconditional rows; use half='cond'."
        )
    return targets


@dataclass(frozen=True, kw_only=True)
class Share(Control):
    """Give target rows the source's tensors: with q and k, the source's attention map.

    `softmax(Q_src K_src^T) V_tgt` is exactly the source's map applied to the target's values, so
    the fused kernel does what the literature does by overwriting maps.

    Args:
        names: Which of q, k, v are shared.
        sites: Where.
        window: When.
        half: Which target rows take: `cond`, `uncond` or `both`.
        origin: `same` takes each from the source's same half, `cond` all from its conditional one.
        tape: Where the source comes from; None means from source rows in the same batch.

    Raises:
        MissingSource: if there is neither a source row in the batch nor a record on the tape.
    """

    names: tuple[TensorName, ...] = ("q", "k")
    sites: Sites = field()  # field(): the base class's default must not become this one's
    window: Window = field()
    half: Half = "cond"
    origin: Origin = "same"
    tape: Tape | None = None

    def qkv(self, call: Call) -> Call:
        shared = {name: self._share(name, getattr(call, name), call) for name in self.names}
        return call.with_(**shared)

    def _share(self, name: str, x: Tensor, call: Call) -> Tensor:
        rows, targets = call.rows, taking(call.rows, self.half)
        if self.tape is None:
            return take(x, order(rows, targets, self.origin))
        parts = list(x)
        for i in targets:
            conditional = self.origin == "cond" or rows.rows[i].conditional
            key = TapeKey(call.step, call.site.name, name, conditional)
            parts[i] = self.tape.read(key, like=x)
        return torch.stack(parts)


@dataclass(frozen=True, kw_only=True)
class ShareFeature(Control):
    """Give target rows the source's convolution feature (Plug-and-Play, arXiv:2211.12572)."""

    sites: Sites = field()  # field(): the base class's default must not become this one's
    window: Window = field()
    half: Half = "both"
    origin: Origin = "same"

    def feature(self, site: Site, step: int, rows: Rows, x: Tensor) -> Tensor:
        return take(x, order(rows, taking(rows, self.half), self.origin))


@dataclass(frozen=True, kw_only=True)
class Record(Control):
    """Save the source rows' q, k or v to a tape."""

    names: tuple[TensorName, ...] = ("q", "k")
    sites: Sites = field()  # field(): the base class's default must not become this one's
    window: Window = field()
    tape: Tape
    observes = True

    def qkv(self, call: Call) -> Call:
        for i in call.rows.sources():
            for name in self.names:
                key = TapeKey(call.step, call.site.name, name, call.rows.rows[i].conditional)
                self.tape.write(key, getattr(call, name)[i])
        return call


@dataclass(frozen=True, kw_only=True)
class MapStore(Control):
    """Collect attention maps, averaged at capture so that a long run fits in memory.

    Observing: the output still comes from the fused kernel, bit for bit as without it.

    Args:
        sites: Where.
        window: When; maps are averaged over the steps of the window.
        heads: `"mean"` averages the heads, `"each"` keeps them.

    Attributes:
        maps: Site name -> running mean, float32 on the CPU, (batch, heads, query, key), heads being
            1 for `"mean"`. Each map sums to 1 over `key`.
        counts: Site name -> number of maps averaged.
    """

    sites: Sites = field()
    window: Window = ALWAYS
    heads: Literal["mean", "each"] = "mean"
    maps: dict[str, Tensor] = field(default_factory=dict, repr=False)
    counts: dict[str, int] = field(default_factory=dict, repr=False)
    needs_probs = True
    observes = True

    def probs(self, call: Call, probs: Tensor) -> Tensor:
        new = probs.detach()
        new = (new.mean(1, keepdim=True) if self.heads == "mean" else new).float().cpu()
        mean = self.maps.get(call.site.name, torch.zeros_like(new))
        if mean.shape != new.shape:
            raise ConfigError(
                f"Maps of {call.site.name} are {tuple(new.shape)} now and were {tuple(mean.shape)} "
                "(batch, heads, query, key): the batch or the picture has changed. Use one "
                "MapStore for each."
            )
        count = self.counts[call.site.name] = self.counts.get(call.site.name, 0) + 1
        self.maps[call.site.name] = mean + (new - mean) / count
        return probs
