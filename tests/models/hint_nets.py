"""Random ControlNets and T2I-Adapters of the real classes, for the tiny models."""

import torch
from diffusers import ControlNetModel, T2IAdapter


def _plain(config):
    """A config without its list of what is by default, which would win over what is given."""
    return {name: value for name, value in config.items() if name != "_use_default_values"}


def tiny_controlnet(pipe, seed=0, loud=0.3, **config):
    """A ControlNet for a tiny pipeline; `loud` 0 leaves its outputs silent, as they start."""
    levels = len(pipe.vae.config.block_out_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ControlNetModel.from_unet(
            pipe.unet,
            load_weights_from_unet=False,
            conditioning_embedding_out_channels=(4, 8, 12, 16)[:levels],
        )
        if config:
            net = ControlNetModel.from_config({**_plain(net.config), **config})
        if loud:
            ends = [*net.controlnet_down_blocks, net.controlnet_mid_block]
            for layer in (*ends, net.controlnet_cond_embedding.conv_out):
                torch.nn.init.normal_(layer.weight, std=loud)
    return net.eval().requires_grad_(False)


def tiny_adapter(pipe, seed=0, kind="full_adapter", in_channels=3):
    """A T2I-Adapter for a tiny pipeline."""
    widths = list(pipe.unet.config.block_out_channels)
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    if kind == "full_adapter_xl":
        widths, factor = [*widths, widths[-1]], 2 * factor
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = T2IAdapter(
            in_channels=in_channels,
            channels=widths,
            num_res_blocks=2,
            downscale_factor=factor,
            adapter_type=kind,
        )
    return net.eval().requires_grad_(False)
