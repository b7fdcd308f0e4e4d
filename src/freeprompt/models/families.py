"""Which adapter a pipeline gets."""

from typing import Any

from freeprompt.errors import UnsupportedModel
from freeprompt.models.unet import UNetModel


def adapt(pipe: Any, name: str) -> UNetModel:
    """Wrap a diffusers pipeline in the adapter of its family.

    Args:
        pipe: A loaded pipeline.
        name: How messages and provenance call it.

    Raises:
        UnsupportedModel: if the family has no adapter; the message says which parts it looked at.
    """
    kind = type(pipe).__name__
    missing = [
        part
        for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        if getattr(pipe, part, None) is None
    ]
    if missing:
        raise UnsupportedModel(
            f"{name!r} is a {kind} without {', '.join(missing)}. freeprompt edits with UNet models "
            "of the Stable Diffusion 1.x and 2.x families."
        )
    config = pipe.unet.config
    if getattr(pipe, "text_encoder_2", None) is not None or config.addition_embed_type:
        raise UnsupportedModel(
            f"{name!r} is a {kind} with a second text encoder (the SDXL family), which has no "
            "adapter here. Use a Stable Diffusion 1.x or 2.x checkpoint."
        )
    if getattr(pipe, "controlnet", None) is not None or config.encoder_hid_dim_type:
        raise UnsupportedModel(
            f"{name!r} is a {kind} with a ControlNet or an IP-Adapter, whose image an edit would "
            "leave out without a word. Use the plain text-to-image pipeline."
        )
    if config.in_channels != pipe.vae.config.latent_channels:
        raise UnsupportedModel(
            f"{name!r} takes {config.in_channels} input channels where its VAE makes "
            f"{pipe.vae.config.latent_channels}: an inpainting or instruction model, not a "
            "text-to-image one. Use the text-to-image checkpoint it was made from."
        )
    return UNetModel(pipe, name)
