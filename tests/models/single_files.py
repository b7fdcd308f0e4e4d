"""Tiny pipelines written as single files in the original layouts, block by block."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
XL = ("conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model.")


def original(pipe, *, open_clip=False):
    """Return the weights of a pipeline under their original names."""
    weights = {f"model.diffusion_model.{n}": x for n, x in unet(pipe.unet).items()}
    weights |= {f"first_stage_model.{n}": x for n, x in vae(pipe.vae).items()}
    if hasattr(pipe, "text_encoder_2"):
        weights |= {XL[0] + n: x for n, x in plain(pipe.text_encoder).items()}
        weights |= {XL[1] + n: x for n, x in open_text(pipe.text_encoder_2).items()}
    elif open_clip:
        weights |= {OPEN_CLIP + n: x for n, x in open_text(pipe.text_encoder).items()}
    else:
        weights |= {CLIP + n: x for n, x in plain(pipe.text_encoder).items()}
    return {name: x.detach().clone().contiguous() for name, x in weights.items()}


def write(pipe, path, *, open_clip=False, metadata=None, **more):
    """Write a pipeline as one safetensors file, with `more` tensors, and return the path."""
    save_file({**original(pipe, open_clip=open_clip), **more}, path, metadata=metadata)
    return path


def write_config(pipe, folder):
    """Write what a pipeline is made of, without any weight."""
    pipe.save_pretrained(folder)
    for weights in Path(folder).rglob("*.safetensors"):
        weights.unlink()
    return folder


def write_header(path, header, content=b""):
    """Write a safetensors file whose header says whatever it is told to say."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def under(prefix, module, names=()):
    """Return a module's weights below a prefix, with the starts of their names exchanged."""
    found = {}
    for name, value in module.state_dict().items():
        for ours, theirs in names:
            if name.startswith(ours + "."):
                name = theirs + name[len(ours) :]
                break
        found[f"{prefix}.{name}"] = value
    return found


RESNET = [
    *(("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1")),
    *(("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection")),
]


def unet(net):
    found = under("time_embed", net.time_embedding, [("linear_1", "0"), ("linear_2", "2")])
    found |= under("input_blocks.0.0", net.conv_in)
    if net.config.addition_embed_type:
        found |= under("label_emb.0", net.add_embedding, [("linear_1", "0"), ("linear_2", "2")])
    at = 1
    for block in net.down_blocks:
        for i, resnet in enumerate(block.resnets):
            found |= under(f"input_blocks.{at}.0", resnet, RESNET)
            if hasattr(block, "attentions"):
                found |= under(f"input_blocks.{at}.1", block.attentions[i])
            at += 1
        for sampler in block.downsamplers or ():
            found |= under(f"input_blocks.{at}.0.op", sampler.conv)
            at += 1
    found |= under("middle_block.0", net.mid_block.resnets[0], RESNET)
    found |= under("middle_block.1", net.mid_block.attentions[0])
    found |= under("middle_block.2", net.mid_block.resnets[1], RESNET)
    at = 0
    for block in net.up_blocks:
        for i, resnet in enumerate(block.resnets):
            modules = 1
            found |= under(f"output_blocks.{at}.0", resnet, RESNET)
            if hasattr(block, "attentions"):
                found |= under(f"output_blocks.{at}.1", block.attentions[i])
                modules = 2
            at += 1
        for sampler in block.upsamplers or ():
            found |= under(f"output_blocks.{at - 1}.{modules}.conv", sampler.conv)
    return {**found, **under("out.0", net.conv_norm_out), **under("out.2", net.conv_out)}


def vae(net):
    found = under("quant_conv", net.quant_conv) | under("post_quant_conv", net.post_quant_conv)
    for name, half in (("encoder", net.encoder), ("decoder", net.decoder)):
        found |= under(f"{name}.conv_in", half.conv_in) | under(f"{name}.conv_out", half.conv_out)
        found |= under(f"{name}.norm_out", half.conv_norm_out)
        shortcut = [("conv_shortcut", "nin_shortcut")]
        found |= under(f"{name}.mid.block_1", half.mid_block.resnets[0], shortcut)
        found |= under(f"{name}.mid.block_2", half.mid_block.resnets[1], shortcut)
        attention = under(
            f"{name}.mid.attn_1",
            half.mid_block.attentions[0],
            [
                *(("group_norm", "norm"), ("to_out.0", "proj_out")),
                *((f"to_{x}", x) for x in "qkv"),
            ],
        )
        found |= {n: x[:, :, None, None] if x.ndim == 2 else x for n, x in attention.items()}
        blocks = half.down_blocks if name == "encoder" else list(half.up_blocks)[::-1]
        side = "down" if name == "encoder" else "up"
        for level, block in enumerate(blocks):
            for i, resnet in enumerate(block.resnets):
                found |= under(f"{name}.{side}.{level}.block.{i}", resnet, shortcut)
            for sampler in getattr(block, f"{side}samplers") or ():
                found |= under(f"{name}.{side}.{level}.{side}sample.conv", sampler.conv)
    return found


def plain(encoder):
    return {n.removeprefix("text_model."): x for n, x in encoder.state_dict().items()}


def open_text(encoder):
    """Return a text encoder as OpenCLIP lays it out: q, k and v in one, the projection turned."""
    ours = plain(encoder)
    found = {
        "token_embedding.weight": ours["embeddings.token_embedding.weight"],
        "positional_embedding": ours["embeddings.position_embedding.weight"],
        "ln_final.weight": ours["final_layer_norm.weight"],
        "ln_final.bias": ours["final_layer_norm.bias"],
    }
    if "text_projection.weight" in ours:
        found["text_projection"] = ours["text_projection.weight"].T
    for i in range(encoder.config.num_hidden_layers):
        a, b = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            qkv = [ours[f"{a}self_attn.{x}_proj.{kind}"] for x in "qkv"]
            found[f"{b}attn.in_proj_{kind}"] = torch.cat(qkv)
            found[f"{b}attn.out_proj.{kind}"] = ours[f"{a}self_attn.out_proj.{kind}"]
            found[f"{b}ln_1.{kind}"] = ours[f"{a}layer_norm1.{kind}"]
            found[f"{b}ln_2.{kind}"] = ours[f"{a}layer_norm2.{kind}"]
            found[f"{b}mlp.c_fc.{kind}"] = ours[f"{a}mlp.fc1.{kind}"]
            found[f"{b}mlp.c_proj.{kind}"] = ours[f"{a}mlp.fc2.{kind}"]
    return found
