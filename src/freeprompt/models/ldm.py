"""The original layout of Stable Diffusion's single files: where each weight of ours lies there.

Nothing but names: `origin("unet", "conv_in.weight", ...)` is `model.diffusion_model.input_blocks
.0.0.weight`. The three layouts (SD 1, SD 2, SDXL) share UNet and VAE and differ in their text
encoders.

Source: the key names of the checkpoints by CompVis, Stability AI and OpenCLIP.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from freeprompt.models.stored import Shape, Stored

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
XL_CLIP = "conditioner.embedders.0.transformer."
XL_OPEN_CLIP = "conditioner.embedders.1.model."

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


@dataclass(frozen=True)
class Origin:
    """Where one weight lies in an original file.

    Attributes:
        names: Names it may have; checkpoints of different age differ.
        third: Which third of the tensor's rows it is: q, k and v may lie in one; None for all.
        turned: Whether it lies there transposed.
    """

    names: tuple[str, ...]
    third: int | None = None
    turned: bool = False

    def found(self, stored: Stored) -> str | None:
        """Return the name that it has in a file, if it is there."""
        return next((name for name in self.names if name in stored.shapes), None)

    def shape(self, shape: Shape, ends: int) -> Shape:
        """Return the shape that it has once read; `ends` is its number of dimensions."""
        while len(shape) > ends and shape[-1] == 1:  # a 1x1 convolution that is now linear
            shape = shape[:-1]
        if self.turned:
            return shape[::-1]
        return shape if self.third is None else (shape[0] // 3, *shape[1:])

    def value(self, stored: Tensor, shape: Shape) -> Tensor:
        """Return the weight, of that shape, from the tensor that holds it."""
        if self.turned:
            return stored.T.contiguous()
        if self.third is not None:
            stored = stored.chunk(3)[self.third].clone()
        return stored.reshape(shape)


def origin(part: str, name: str, config: Mapping[str, Any], *, xl: bool, open_clip: bool) -> Origin:
    """Say where a weight lies in an original file.

    Args:
        part: `unet`, `vae`, `text_encoder` or `text_encoder_2`.
        name: Name of the weight in the diffusers or transformers module.
        config: Config of that module.
        xl: Whether the file has SDXL's layout.
        open_clip: Whether its only text encoder is OpenCLIP's, as in SD 2.
    """
    if part == "unet":
        return Origin((UNET + _unet(name, config),))
    if part == "vae":
        return Origin((VAE + _vae(name, len(config["block_out_channels"])),))
    plain = name.removeprefix("text_model.")
    if part == "text_encoder_2":
        return _open_clip(XL_OPEN_CLIP, plain)
    if open_clip:
        return _open_clip(OPEN_CLIP, plain)
    start = XL_CLIP if xl else CLIP
    return Origin((f"{start}text_model.{plain}", f"{start}{plain}"))


def control_origin(name: str, config: Mapping[str, Any]) -> Origin:
    """Say where a weight of a ControlNet lies in an original file.

    Args:
        name: Name of the weight in diffusers' module.
        config: Config of that module.
    """
    edge = re.match(r"controlnet_cond_embedding\.(conv_in|blocks\.(\d+)|conv_out)\.(\w+)", name)
    hidden = 2 * (len(config["conditioning_embedding_out_channels"]) - 1)
    if edge:
        layer = {"conv_in": 0, "conv_out": hidden + 1}.get(edge[1], int(edge[2] or 0) + 1)
        place = f"input_hint_block.{2 * layer}.{edge[3]}"
    elif name.startswith("controlnet_down_blocks."):
        _, number, kind = name.split(".")
        place = f"zero_convs.{number}.0.{kind}"
    elif name.startswith("controlnet_mid_block."):
        place = f"middle_block_out.0.{name.rpartition('.')[2]}"
    else:
        place = _unet(name, config)
    return Origin((f"control_model.{place}", place))


def adapter_origin(name: str, resnets: int) -> Origin:
    """Say where a weight of a full T2I-Adapter lies in an original file.

    Args:
        name: Name of the weight in diffusers' module.
        resnets: Residual blocks a level: originally all stand in one list.
    """
    plain = name.removeprefix("adapter.")
    found = re.match(r"body\.(\d+)\.(?:in_conv|resnets\.(\d+)\.(block\d))\.(\w+)", plain)
    if found:
        place = int(found[1]) * resnets + int(found[2] or 0)
        plain = f"body.{place}.{found[3] or 'in_conv'}.{found[4]}"
    return Origin((plain, f"adapter.{plain}"))


def _unet(name: str, config: Mapping[str, Any]) -> str:
    module, _, kind = name.rpartition(".")
    if module in UNET_ENDS:
        return f"{UNET_ENDS[module]}.{kind}"
    head, rest = re.match(r"(mid_block|\w+_blocks\.\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
    inside, number, rest = rest.split(".", 2)
    place = _place(head, inside, int(number), config)
    if inside == "resnets":
        step, kind = rest.rsplit(".", 1)
        rest = f"{RESNET[step]}.{kind}"
    elif inside == "downsamplers":
        rest = rest.replace("conv", "op", 1)
    return f"{place}.{rest}"


def _place(head: str, inside: str, number: int, config: Mapping[str, Any]) -> str:
    """Return the numbered block of the original network, and the module in it."""
    if head == "mid_block":
        return f"middle_block.{1 if inside == 'attentions' else 2 * number}"
    side, block = head.split(".")
    length, i = config["layers_per_block"] + 1, int(block)
    module = {"resnets": 0, "attentions": 1, "downsamplers": 0}
    if side == "down_blocks":
        at = (i + 1) * length if inside == "downsamplers" else 1 + i * length + number
        return f"input_blocks.{at}.{module[inside]}"
    if inside == "upsamplers":  # the last in its block, after the attention where there is one
        return f"output_blocks.{(i + 1) * length - 1}.{1 + ('Attn' in config['up_block_types'][i])}"
    return f"output_blocks.{i * length + number}.{module[inside]}"


def _vae(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"\.resnets\.(\d+)", lambda m: f".block.{m[1]}", name)
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    name = re.sub(r"mid_block\.block\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    attention = re.match(r"(.*)mid_block\.attentions\.0\.(.*)\.(weight|bias)$", name)
    if attention:
        return f"{attention[1]}mid.attn_1.{VAE_ATTENTION[attention[2]]}.{attention[3]}"
    return name


def _open_clip(start: str, name: str) -> Origin:
    if name in OPEN_CLIP_ENDS:
        return Origin((start + OPEN_CLIP_ENDS[name],))
    if name == "text_projection.weight":
        return Origin((f"{start}text_projection",), turned=True)
    layer, rest = re.match(r"encoder\.layers\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
    block = f"{start}transformer.resblocks.{layer}."
    module, kind = rest.rsplit(".", 1)
    if module in OPEN_CLIP_LAYER:
        return Origin((f"{block}{OPEN_CLIP_LAYER[module]}.{kind}",))
    third = ("q_proj", "k_proj", "v_proj").index(module.removeprefix("self_attn."))
    return Origin((f"{block}attn.in_proj_{kind}",), third=third)
