"""Finding the sites of a UNet in execution order: down, middle, up.

diffusers registers the blocks as down, up, middle, so its own dictionaries end with the middle.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from freeprompt.core import Site
from freeprompt.core.sites import Kind


@dataclass(frozen=True)
class _Found:
    kind: Kind
    block: str
    halvings: int
    path: str


def unet_sites(unet: Any) -> tuple[Site, ...]:
    """Return all seams of a `UNet2DConditionModel`, self- and cross-attention and conv features.

    Args:
        unet: The network; only its module tree is read, so a meta-device copy will do.
    """
    found = list(_walk(unet))
    attention = [f.halvings for f in found if f.kind == "self"] or [0]
    number: Counter[str] = Counter()
    sites = []
    for f in found:
        number[f.kind] += 1
        scale = 2 ** max(0, f.halvings - min(attention))
        sites.append(
            Site(
                kind=f.kind,
                block=f.block,
                index=number[f.kind],
                scale=scale,
                halvings=f.halvings,
                path=f.path,
            )
        )
    return tuple(sites)


def _walk(unet: Any) -> Iterator[_Found]:
    halvings = 0
    for i, block in enumerate(unet.down_blocks):
        yield from _block(block, f"down_blocks.{i}", f"down.{i}", halvings)
        halvings += len(getattr(block, "downsamplers", None) or ())
    if unet.mid_block is not None:
        yield from _block(unet.mid_block, "mid_block", "mid", halvings)
    for i, block in enumerate(unet.up_blocks):
        yield from _block(block, f"up_blocks.{i}", f"up.{i}", halvings)
        halvings -= len(getattr(block, "upsamplers", None) or ())


def _block(block: Any, path: str, name: str, halvings: int) -> Iterator[_Found]:
    attentions = list(getattr(block, "attentions", None) or ())
    for j in range(max(len(block.resnets), len(attentions))):
        if j < len(block.resnets):
            conv = f"{path}.resnets.{j}.conv2"
            yield _Found("feature", f"{name}.{j}", halvings, conv)
        if j < len(attentions) and hasattr(attentions[j], "transformer_blocks"):
            yield from _transformer(
                attentions[j], f"{path}.attentions.{j}", f"{name}.{j}", halvings
            )


def _transformer(transformer: Any, path: str, name: str, halvings: int) -> Iterator[_Found]:
    blocks = transformer.transformer_blocks
    for k, block in enumerate(blocks):
        place = name if len(blocks) == 1 else f"{name}.{k}"
        for attribute in ("attn1", "attn2"):
            attention = getattr(block, attribute, None)
            if attention is not None:
                kind: Kind = "cross" if attention.is_cross_attention else "self"
                yield _Found(kind, place, halvings, f"{path}.transformer_blocks.{k}.{attribute}")
